"""Which tenants are in a cell: their states, and where an operator places them. Rules: see functions/tenants.sql."""

import json
from datetime import date, datetime
from enum import StrEnum
from typing import NamedTuple, Self
from uuid import UUID

from holdsvc.ledger.binding import Nothing, Statements, bind, bind_out, bind_scalar

PAGE = 1000

CELL_NAME_MAX = 63


class Moved(Exception):
    """A change or read of a tenant that is not in this cell, or a change where it is about to leave; nothing ran."""

    SQLSTATE = "HS001"
    """That of require_tenant, which enter_tenant and may_read call."""

    def __init__(self, state: str | None, cell: str | None, version: int | None) -> None:
        super().__init__(f"{state or 'unknown'} {cell or ''}".strip())
        self.state = state
        """A `State`; None: the cell does not know the tenant."""
        self.cell = cell
        """The cell that it comes from (COPYING) or goes to (FROZEN, MOVED)."""
        self.version = version
        """That of its state."""

    @classmethod
    def told(cls, detail: str | None) -> Self:
        """What the function tells in the detail of its error."""
        return cls(**json.loads(detail or ""))


class CellError(Exception):
    """What an operator asked for cannot be done; the message says why."""


class State(StrEnum):
    """What a cell has to do with a tenant. A later release may know more states."""

    HERE = "HERE"
    COPYING = "COPYING"
    FROZEN = "FROZEN"
    MOVED = "MOVED"


class TenantState(NamedTuple):
    """A tenant's state in a cell."""

    tenant: str
    state: str
    other_cell: str | None
    """The cell that it comes from (COPYING) or goes to (FROZEN, MOVED)."""
    version: int
    """The highest among all cells is right."""
    move_id: UUID | None
    change_time: datetime


class States(NamedTuple):
    """The states of a cell's tenants."""

    cell: str | None
    """Its name; None: it is the only one, and a tenant without a state is in it."""
    tenants: list[TenantState]


class Mark(NamedTuple):
    """Up to where a process has read the states of a cell."""

    history: str
    """Of the database; in another one `since` means nothing."""
    since: str


class Arrival(NamedTuple):
    """Where a tenant's events go on that came from another cell."""

    history: str
    """The history of events there."""
    last_event_id: int
    """Its last event there."""
    begin_event_id: int
    """Its events here come after this place."""
    begin_day: date


class _Name(NamedTuple):
    name: str | None


_CELL = bind_scalar("cell_name", _Name)
_STATE = bind("tenant_state_here", TenantState, "tenant")
_STATES = bind("tenant_states", TenantState, "after", "limit")
_CHANGES = bind("tenant_changes", TenantState, "since", "after", "limit")
_MARK = bind_out("tenants_mark", Mark)
_TELL = bind_scalar("tell_moved", Nothing, "tenant", "cell", "version")
_ARRIVAL = bind_out("tenant_arrival", Arrival, "tenant")
_CLAIM = bind_scalar("claim_cell", _Name, "name")
_KEEP_HERE = bind("keep_here", TenantState, "tenant")
_PLACE = bind("place_tenant", TenantState, "tenant")


async def cell_name(connection: Statements) -> str | None:
    """The name that a cell has; None: it has none."""
    return (await _CELL.one(connection)).name


async def check_cell(connection: Statements, name: str, *, joining: bool = False) -> None:
    """Raises CellError where a database is not the cell of this name; `joining`: it may have no name yet."""
    present = await cell_name(connection)
    if present is None:
        if joining:
            return
        raise CellError(f"the database of {name} is no cell yet: run `holdsvc migrate up`")
    if present != name:
        raise CellError(f"the database of {name} is the cell {present!r}: correct its DSN")


async def state_of(connection: Statements, tenant: str) -> TenantState | None:
    """A tenant's state in a cell; None: it has none. For the schema's owner."""
    rows = await _STATE.fetch(connection, tenant=tenant)
    return rows[0] if rows else None


async def read_states(connection: Statements) -> States:
    """The states of all tenants that the cell knows, by tenant."""
    cell = await cell_name(connection)
    tenants: list[TenantState] = []
    while True:
        page = await read_page(connection, None, tenants[-1].tenant if tenants else "")
        tenants += page
        if len(page) < PAGE:
            return States(cell, tenants)


async def read_mark(connection: Statements) -> Mark:
    """A mark for a later `read_page`: states that are read after it and before then have not changed since."""
    return await _MARK.one(connection)


async def read_page(connection: Statements, since: Mark | None, after: str) -> list[TenantState]:
    """The next PAGE states after a tenant, of those that have changed since a mark; None: of all."""
    if since is None:
        return await _STATES.fetch(connection, after=after, limit=PAGE)
    return await _CHANGES.fetch(connection, since=since.since, after=after, limit=PAGE)


async def tell_moved(connection: Statements, tenant: str, cell: str, version: int) -> None:
    """Tells a cell that a tenant lives in another one, with a version that is later than what it knows."""
    await _TELL.fetch(connection, tenant=tenant, cell=cell, version=version)


async def keep_here(connection: Statements, tenant: str) -> TenantState:
    """Lets a tenant live here, whatever others say: an operator's decision. For the schema's owner.

    Raises CellError where there are no rows of it, or half of them.
    """
    rows = await _KEEP_HERE.fetch(connection, tenant=tenant)
    if not rows or rows[0].state != State.HERE:
        raise CellError(f"the tenant {tenant!r} is {rows[0].state if rows else 'not known'} here: its rows are not")
    return rows[0]


async def arrival(connection: Statements, tenant: str) -> Arrival | None:
    """Where the events of a tenant go on; None: it came from no other cell."""
    rows = await _ARRIVAL.fetch(connection, tenant=tenant)
    return rows[0] if rows else None


async def claim_cell(connection: Statements, name: str) -> None:
    """Names a cell, once; the tenants that it has are HERE from then on. For the schema's owner.

    Raises CellError where it has another name.
    """
    if not 1 <= len(name) <= CELL_NAME_MAX:
        raise CellError(f"a cell's name has 1 to {CELL_NAME_MAX} characters, not {len(name)}")
    present = (await _CLAIM.one(connection, name=name)).name
    if present != name:
        raise CellError(f"this database is the cell {present!r} already: it cannot become {name!r}")


async def place(connection: Statements, tenant: str) -> TenantState:
    """Lets a new tenant in; one that is here already stays. For the schema's owner, who has asked the other cells.

    Raises CellError where the cell has no name, or the tenant has left it or is on its way.
    """
    rows = await _PLACE.fetch(connection, tenant=tenant)
    if not rows:
        raise CellError("this database has no cell's name: every tenant is in it already")
    if rows[0].state != State.HERE:
        raise CellError(f"the tenant {tenant!r} is {rows[0].state} here, with the cell {rows[0].other_cell!r}")
    return rows[0]
