"""A move of a tenant from one cell to another: its steps, how it goes on after a crash, and how it is given up.

Each step can be done twice. What the two databases say decides what comes next, so a process that was killed leaves
nothing that another one has to know. Until the tenant has left, the move can be given up; from then on it only goes on.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from time import monotonic
from typing import NamedTuple, TypeVar
from uuid import UUID, uuid4

from holdsvc.ledger import feed, owner_sessions, tenant_copy, upkeep
from holdsvc.ledger.binding import Nothing, bind, bind_scalar
from holdsvc.ledger.database import Connection
from holdsvc.ledger.failures import NothingRan
from holdsvc.ledger.primary import find_primary
from holdsvc.ledger.tenant_copy import Progress, Side
from holdsvc.ledger.tenants import CellError, State, TenantState, check_cell, state_of
from holdsvc.model import Cause

T = TypeVar("T")

LOCK_TRIES = 60
"""Tries to freeze a tenant, of a second each, while its changes are under way; and to lift a sequence."""

LOCK_PAUSE_S = 0.1
"""Pause between two of them, in which the changes that waited go on."""

ABORT_ROUNDS = 3

TOLD_S = 0.3
"""The shortest freeze: within 0.1 s streams are told the last event of the cell; its token goes on in the other."""


class Cell(NamedTuple):
    """One cell of a move."""

    side: Side
    session: Connection

    @property
    def name(self) -> str:
        """As its database has it."""
        return self.side.name


@asynccontextmanager
async def opened(name: str, dsn: str) -> AsyncIterator[Cell]:
    """A cell with a session of the schema's owner."""
    chosen = await find_primary(dsn)
    async with owner_sessions.opened(chosen) as session:
        yield Cell(Side(name, chosen), session)


class Moving(NamedTuple):
    """What a move has done."""

    version: int
    row_count: int
    """Rows that were taken along; 0: a process before had done that."""
    ahead_s: float
    """What the copy before the freeze took."""
    frozen_s: float


_EXPECT = bind("expect_tenant", TenantState, "tenant", "from", "version", "move_id")
_FREEZE = bind("freeze_tenant", TenantState, "tenant", "to", "move_id")
_NOTE = bind("note_history", TenantState, "tenant", "history", "move_id")
_LEAVE = bind("leave_tenant", TenantState, "tenant", "move_id")
_ADMIT = bind("admit_tenant", TenantState, "tenant", "from", "version")
_TAKE_OVER = bind("take_over_move", TenantState, "tenant", "former_id", "move_id")
_FORGET = bind("forget_tenant", TenantState, "tenant", "move_id")
_KEEP = bind("keep_tenant", TenantState, "tenant", "move_id")
_CLEANED = bind("mark_cleaned", TenantState, "tenant", "move_id")
_LIFT = bind_scalar("lift_sequences", Nothing, "event_id", "waitlist_sequence")


async def move(source: Cell, sink: Cell, tenant: str, progress: Progress) -> Moving:
    """Moves a tenant, from where a move before has ended; raises CellError for what stands in the way."""
    await _check_names(source, sink)
    here = await state_of(source.session, tenant)
    if here is None or here.state == State.COPYING or (here.state != State.HERE and here.other_cell != sink.name):
        raise CellError(f"{tenant!r} cannot leave {source.name}: there it is {_words(here)}")
    if here.state == State.MOVED:
        return Moving(await _admit(source, sink, tenant), 0, 0.0, 0.0)
    # What a mover before has left is removed: the age of its copy is not known.
    await abort(source, sink, tenant, progress)
    here = await state_of(source.session, tenant)
    if here is None or here.state != State.HERE:
        raise _taken_over(tenant)
    move_id = uuid4()
    await _expect(source, sink, here, move_id)
    began = monotonic()
    mark = await tenant_copy.copy_ahead(source.side, sink.side, tenant, move_id, progress)
    frozen_at = monotonic()
    await _freeze(source, sink, tenant, move_id)
    await tenant_copy.copy_rest(source.side, sink.side, tenant, move_id, mark, progress)
    event_id, sequence = await tenant_copy.drawn(source.side)
    await _locked(lambda: _LIFT.fetch(sink.session, event_id=event_id, waitlist_sequence=sequence))
    history = (await feed.identity(source.session)).history
    await _NOTE.fetch(sink.session, tenant=tenant, history=history, move_id=move_id)
    row_count = await _verify(source, sink, tenant, progress)
    await asyncio.sleep(max(0.0, frozen_at + TOLD_S - monotonic()))
    left = _only(await _LEAVE.fetch(source.session, tenant=tenant, move_id=move_id))
    if left is None or (left.state, left.move_id) != (State.MOVED, move_id):
        raise _taken_over(tenant)
    version = await _admit(source, sink, tenant)
    return Moving(version, row_count, frozen_at - began, monotonic() - frozen_at)


async def abort(source: Cell, sink: Cell, tenant: str, progress: Progress) -> None:
    """Gives a move up: its rows there are removed first, then the tenant is HERE again.

    Raises CellError where the tenant has left already.
    """
    await _check_names(source, sink)
    for _ in range(ABORT_ROUNDS):
        here, there = await state_of(source.session, tenant), await state_of(sink.session, tenant)
        if here is None or here.state not in (State.HERE, State.FROZEN):
            raise CellError(f"{tenant!r} is {_words(here)} in {source.name}: such a move can only go on")
        leaving = here.state == State.FROZEN and here.other_cell == sink.name
        arriving = there is not None and there.state == State.COPYING and there.other_cell == source.name
        if not leaving and not arriving:
            return
        move_id = uuid4()
        # Where it leaves first: then no other process can decide while its rows there are removed.
        if leaving and (await _take_over(source, here, move_id)).state == State.MOVED:
            raise CellError(f"{tenant!r} has left {source.name} meanwhile: such a move can only go on")
        if there is not None and arriving:
            await _take_over(sink, there, move_id)
            await tenant_copy.clean(sink.side, tenant, State.COPYING, move_id, progress)
            await _FORGET.fetch(sink.session, tenant=tenant, move_id=move_id)
        if leaving:
            await _KEEP.fetch(source.session, tenant=tenant, move_id=move_id)
    raise _taken_over(tenant)


async def clean(source: Cell, sink: Cell, tenant: str, progress: Progress, *, untold: bool = False) -> None:
    """Removes the rows of a tenant that has moved to the other cell; raises CellError where something still needs them.

    That it has gone stays known. `untold`: also what relays and webhooks were not told yet.
    """
    await _check_names(source, sink)
    here, there = await state_of(source.session, tenant), await state_of(sink.session, tenant)
    if here is None or here.state != State.MOVED or here.other_cell != sink.name:
        raise CellError(f"{tenant!r} is {_words(here)} in {source.name}: nothing can be removed")
    if there is None or there.state == State.COPYING or there.version < here.version:
        raise CellError(f"{tenant!r} is {_words(there)} in {sink.name}: run the move again first")
    behind = await tenant_copy.readers_behind(source.side, tenant)
    if behind and not untold:
        raise CellError(
            f"not told yet of all that {tenant!r} did in {source.name}: {', '.join(behind)}; try again later"
        )
    await tenant_copy.clean(source.side, tenant, State.MOVED, here.move_id, progress)
    await _CLEANED.fetch(source.session, tenant=tenant, move_id=here.move_id)


async def _check_names(source: Cell, sink: Cell) -> None:
    if source.name == sink.name:
        raise CellError(f"{source.name} is the cell where the tenant is")
    for cell in (source, sink):
        await check_cell(cell.session, cell.name)


async def _take_over(cell: Cell, state: TenantState, move_id: UUID) -> TenantState:
    """Takes a move over in one cell; the state is MOVED where the process before has just decided."""
    found = _only(await _TAKE_OVER.fetch(cell.session, tenant=state.tenant, former_id=state.move_id, move_id=move_id))
    if found is None or (found.state != State.MOVED and found.move_id != move_id):
        raise _taken_over(state.tenant)
    return found


async def _expect(source: Cell, sink: Cell, here: TenantState, move_id: UUID) -> None:
    """Step 1."""
    [there] = await _EXPECT.fetch(
        sink.session, tenant=here.tenant, **{"from": source.name}, version=here.version, move_id=move_id
    )
    if (there.state, there.move_id) == (State.COPYING, move_id):
        return
    if there.state == State.MOVED:
        raise CellError(f"rows of {here.tenant!r} are left in {sink.name} from before: run `holdsvc tenants clean`")
    raise CellError(f"{here.tenant!r} is {_words(there)} in {sink.name}: it cannot come there")


async def _freeze(source: Cell, sink: Cell, tenant: str, move_id: UUID) -> None:
    """Step 2."""
    [frozen] = await _locked(lambda: _FREEZE.fetch(source.session, tenant=tenant, to=sink.name, move_id=move_id))
    if (frozen.state, frozen.move_id) != (State.FROZEN, move_id):
        raise CellError(f"{tenant!r} is {_words(frozen)} in {source.name}: another process moves it")


async def _verify(source: Cell, sink: Cell, tenant: str, progress: Progress) -> int:
    """Compares both sides: the number of rows of every table, and what a recount of the ledger says.

    Returns the number of rows.
    """
    wanted, present, of_source, of_sink = await asyncio.gather(
        tenant_copy.counts(source.side, tenant, arrived=False),
        tenant_copy.counts(sink.side, tenant, arrived=True),
        _recount(source, tenant, progress),
        _recount(sink, tenant, progress),
    )
    differing = [f"{name}: {number} and {present[name]}" for name, number in wanted.items() if number != present[name]]
    if differing:
        raise CellError(f"rows of {tenant!r} differ between {source.name} and {sink.name}: {'; '.join(differing)}")
    if of_source != of_sink:
        raise CellError(f"a recount of {tenant!r} differs between {source.name} and {sink.name}: run `holdsvc verify`")
    return sum(wanted.values())


async def _recount(cell: Cell, tenant: str, progress: Progress) -> tuple[int, int, list[upkeep.Drift]]:
    item_count = reservation_count = 0
    drifts: list[upkeep.Drift] = []
    after: str | None = ""
    while after is not None:
        step = await upkeep.verify_step(cell.session, tenant, after)
        item_count += step.item_count
        reservation_count += step.reservation_count
        drifts += step.drifts
        after = step.last_sku
        progress(f"verify {cell.name}", item_count, 0)
    return item_count, reservation_count, drifts


async def _admit(source: Cell, sink: Cell, tenant: str) -> int:
    """Step 5: the tenant is let in where it has come to; returns its version. It may have been let in before."""
    left = await state_of(source.session, tenant)
    if left is None or (left.state, left.other_cell) != (State.MOVED, sink.name):
        raise CellError(f"{tenant!r} is {_words(left)} in {source.name}: it has not left")
    await _ADMIT.fetch(sink.session, tenant=tenant, **{"from": source.name}, version=left.version)
    there = await state_of(sink.session, tenant)
    if there is None or there.state == State.COPYING or there.version < left.version:
        raise CellError(f"{tenant!r} has left {source.name} for {sink.name}, where it is {_words(there)}")
    return left.version


async def _locked(step: Callable[[], Awaitable[T]]) -> T:
    """Runs a step again while it does not get its lock."""
    for _ in range(LOCK_TRIES):
        try:
            return await step()
        except NothingRan as error:
            if error.cause is not Cause.LOCK_WAIT:
                raise
        await asyncio.sleep(LOCK_PAUSE_S)
    raise CellError("transactions under way keep a lock: end them (see pg_stat_activity), and go on or abort")


def _taken_over(tenant: str) -> CellError:
    return CellError(f"another process moves {tenant!r}, or has given that up: look at `holdsvc tenants list`")


def _words(state: TenantState | None) -> str:
    if state is None:
        return "not known"
    return f"{state.state} ({state.other_cell})" if state.other_cell else state.state


def _only(rows: list[TenantState]) -> TenantState | None:
    return rows[0] if rows else None
