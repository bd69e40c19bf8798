"""The cells of a process: databases, in each of which some tenants live whole, and which tenant lives where.

No table says so: each database knows the state of its tenants (`ledger/tenants.py`), a process reads all of them at its
start and what has changed every READ_S, and of several states of a tenant the one with the highest version is right.
A process may not know yet of a move: the cell then refuses the calls of the tenant that has left, and the call follows
it. A cell may not know of a move either, after it was restored from a backup: processes tell it which tenants live
elsewhere.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from hashlib import sha256
from pathlib import Path
from time import monotonic
from typing import NamedTuple, Protocol, TypeVar

import structlog

from holdsvc import outages
from holdsvc.api.known_tenants import Home, KnownTenants
from holdsvc.engine.engine import Engine
from holdsvc.errors import HoldError
from holdsvc.ledger import tenants
from holdsvc.ledger.database import Connection
from holdsvc.ledger.tenants import Mark, Moved, State
from holdsvc.ledger.webhooks import Attempt, Webhook
from holdsvc.streams.hub import Streams

T = TypeVar("T")

log = structlog.get_logger(__name__)

READ_S = 5.0
"""Time between two readings of the states."""

READ_AGAIN_S = 0.5
"""The shortest time between two readings that calls ask for, of tenants that a cell knows nothing of."""

READ_TIMEOUT_S = 5.0
"""The longest that a page of states, or telling a cell of a tenant, may take."""

TELL_MAX = 100
"""Tenants of which cells are told after one reading."""

FIRST_VERSION = 1
"""That of a tenant that has never moved."""

_REMEMBERED = ""
"""Beside the names of the cells: what this machine remembers."""

TAG_CHARS = 4
"""Characters of the tag in a tenant's keys: with 65,536 tags a key is looked up in one cell, seldom in two."""

_RANKS = (State.COPYING, State.FROZEN, State.MOVED, State.HERE)
"""Of states of the same version, the last of these is right."""


class Sender(Protocol):
    """Sends to webhooks."""

    async def reaches(self, tenant: str, url: str) -> bool:
        """Whether a webhook may have this URL, as far as its name says so now."""

    async def test(self, tenant: str, webhook: Webhook, secret: bytes) -> Attempt:
        """Sends a test event to a webhook and tells what came of it."""


class Cell(Protocol):
    """One database, and what of this process works on it."""

    @property
    def name(self) -> str:
        """As the operator calls it; empty: the only one, which needs no name."""

    @property
    def engine(self) -> Engine:
        """Runs changes and reads."""

    @property
    def streams(self) -> Streams:
        """Tells what happens."""

    @property
    def sender(self) -> Sender:
        """Sends to webhooks."""

    @property
    def away(self) -> bool:
        """Whether the database did not answer when it was last asked."""


class _Seen(NamedTuple):
    """A tenant's state in a cell."""

    version: int
    state: str
    other_cell: str | None

    @property
    def rank(self) -> tuple[int, int]:
        known = self.state in _RANKS
        return self.version, _RANKS.index(State(self.state)) if known else -1


def tag_of(tenant: str) -> str:
    """The part of a key's id that says where to look for it: short, and no tenant's name."""
    return sha256(tenant.encode()).hexdigest()[:TAG_CHARS]


class Cells:
    """Finds the cell of a tenant. A loop runs `step` where cells have names; a cell without one is the only one."""

    def __init__(self, cells: Sequence[Cell], folder: Path | None = None) -> None:
        """`folder`: where the processes of this machine remember which tenants have moved."""
        self.all = list(cells)
        self._first = self.all[0]
        self.named = bool(self._first.name)
        self._by_name = {cell.name: cell for cell in self.all}
        self._seen: dict[str, dict[str, _Seen]] = {cell.name: {} for cell in self.all}
        """By cell and tenant; of a cell that is away, the states that it told last."""
        self._marks: dict[str, Mark] = {}
        """By cell, up to where its states have been read."""
        self._known = KnownTenants(folder if self.named else None)
        self._untold: set[tuple[str, str]] = set()
        """Cells, and tenants of which they may not have heard that they live elsewhere."""
        self._homes: dict[str, Cell | None] = {}
        """By tenant; None: a cell that this process does not know."""
        self._tags: dict[str, list[Cell]] = {}
        self._lost: set[str] = set()
        """Tenants of which their cell knows nothing."""
        self._reading: asyncio.Task[None] | None = None
        self._read_s = -READ_AGAIN_S
        self._settle(self._known.homes)

    def of(self, tenant: str) -> Cell:
        """Where a tenant lives, the first cell if nothing is known of it.

        Raises DATABASE_UNAVAILABLE where that does not answer, and TENANT_MOVED where it is a cell of others.
        """
        if not self.named:
            return self._first
        home = self._homes.get(tenant, self._first)
        if home is None:
            raise HoldError(outages.tenant_moved())
        if home.away:
            raise HoldError(outages.database_unavailable())
        return home

    def is_home(self, tenant: str, cell: Cell) -> bool:
        """Whether a tenant lives in a cell, as far as anything is known of it."""
        return not self.named or self._homes.get(tenant, cell) is cell

    def for_key(self, key_id: str) -> tuple[list[Cell], list[Cell]]:
        """The cells that have a tenant of the key's tag, and the others."""
        likely = self._tags.get(key_id[:TAG_CHARS], [])
        return likely, [cell for cell in self.all if cell not in likely]

    def note(self, tenant: str, cell: Cell) -> None:
        """A key of the tenant was found in a cell; what is known of the tenant stays."""
        if self.named:
            self._homes.setdefault(tenant, cell)

    def left(self, cell: Cell, tenant: str, moved: Moved) -> None:
        """A call met a tenant that is not in the cell any more, or is about to leave."""
        if moved.state is None:
            self._lost.add(tenant)
        else:
            self._seen[cell.name][tenant] = _Seen(moved.version or 0, moved.state, moved.cell)
            self._settle([tenant])

    async def after(self, cell: Cell, tenant: str) -> Cell | None:
        """Where a tenant lives that the cell has refused; None: it has not left it yet, or nothing else is known."""
        if tenant in self._lost:
            await self.read_again()
        home = self.of(tenant)
        return None if home is cell else home

    async def read_again(self) -> None:
        """Reads all states once for all who ask, and not again right after that."""
        if self._reading is None:
            if monotonic() < self._read_s + READ_AGAIN_S:
                return
            self._reading = asyncio.create_task(self._read_all())
            self._reading.add_done_callback(self._has_read)
        await asyncio.wait([self._reading])

    def _has_read(self, task: asyncio.Task[None]) -> None:
        self._reading = None
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("cells.not_read", exc_info=error)

    async def step(self) -> float:
        """Reads which states have changed, and tells it on; returns the pause until the next time."""
        await self._read_all()
        self._share()
        await self._tell()
        return READ_S

    async def _read_all(self) -> None:
        self._read_s = monotonic()
        self._lost.clear()
        await asyncio.gather(*(self._read(cell) for cell in self.all if not cell.away))

    async def _read(self, cell: Cell) -> None:
        seen = self._seen[cell.name]
        try:
            mark = await self._ask(cell, tenants.read_mark)
            since = self._marks.get(cell.name)
            if since is not None and since.history != mark.history:
                since = None
            gone = set(seen) if since is None else set()
            after: str | None = ""
            while after is not None:
                page = await self._ask(cell, partial(tenants.read_page, since=since, after=after))
                seen.update({each.tenant: _Seen(each.version, each.state, each.other_cell) for each in page})
                self._settle(each.tenant for each in page)
                gone.difference_update(each.tenant for each in page)
                after = page[-1].tenant if len(page) == tenants.PAGE else None
        except HoldError as error:
            log.warning("cell.not_read", cell=cell.name, reason=error.reason)
            return
        for tenant in gone:
            del seen[tenant]
        self._settle(gone)
        self._marks[cell.name] = mark

    async def _ask(self, cell: Cell, read: Callable[[Connection], Awaitable[T]]) -> T:
        return await cell.engine.look_up(read, asyncio.get_running_loop().time() + READ_TIMEOUT_S)

    def _settle(self, names: Iterable[str]) -> None:
        """Decides anew where these tenants live."""
        for tenant in names:
            heard = {name: seen[tenant] for name, seen in self._seen.items() if tenant in seen}
            known = self._known.homes.get(tenant)
            if known is not None:
                heard[_REMEMBERED] = _Seen(known.version, State.MOVED, known.cell)
            if not heard:
                self._homes.pop(tenant, None)
                continue
            source = max(heard, key=lambda name: heard[name].rank)
            right = heard[source]
            name = (right.other_cell or "") if right.state in (State.MOVED, State.COPYING) else source
            home = self._by_name.get(name)
            if home is None and self._homes.get(tenant, self._first) is not None:
                log.error("tenant.in_unknown_cell", tenant=tenant, cell=name)
            self._homes[tenant] = home
            homes = self._tags.setdefault(tag_of(tenant), [])
            if home is not None and home not in homes:
                homes.append(home)
            if right.version > FIRST_VERSION and right.state != State.COPYING:
                self._known.learn(tenant, Home(right.version, name))
                self._untold.update((cell.name, tenant) for cell in self.all if self._is_behind(cell.name, tenant))

    def _share(self) -> None:
        """Remembers with the other processes of this machine."""
        self._settle(self._known.share())

    def _is_behind(self, name: str, tenant: str) -> bool:
        """Whether a cell has not heard that a tenant lives in another one."""
        home, seen = self._known.homes[tenant], self._seen[name].get(tenant)
        return name != home.cell and (seen is None or (seen.version < home.version and seen.state != State.COPYING))

    async def _tell(self) -> None:
        """Tells cells what they have not heard: one that was put back to a time before a move must not sell.

        One that did not take part in a move hears of it too, and tells it when the tenant's own cell is silent.
        """
        ready = {cell.name for cell in self.all if cell.name in self._marks and not cell.away}
        for name, tenant in sorted(each for each in self._untold if each[0] in ready)[:TELL_MAX]:
            home, seen = self._known.homes[tenant], self._seen[name].get(tenant)
            if self._is_behind(name, tenant):
                if seen is not None and seen.state == State.HERE:
                    log.error("tenant.lives_elsewhere", tenant=tenant, cell=name, home=home.cell, version=home.version)
                tell = partial(tenants.tell_moved, tenant=tenant, cell=home.cell, version=home.version)
                try:
                    await self._ask(self._by_name[name], tell)
                except HoldError as error:
                    log.warning("cell.not_told", cell=name, tenant=tenant, reason=error.reason)
                    continue
            self._untold.discard((name, tenant))
