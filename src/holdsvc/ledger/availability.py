"""Why so many units of an item are available, and when more will be."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from holdsvc.ledger import arrays
from holdsvc.ledger.binding import bind_out
from holdsvc.ledger.database import Connection
from holdsvc.ledger.failures import Conflict, Failed, NothingRan, Unknown
from holdsvc.ledger.requests import pool_list
from holdsvc.ledger.reservations import Result
from holdsvc.model import Caller, ItemKey, Refused, SaleState, ShortLine

STEPS_MAX = 20
OWN_HOLDS_MAX = 100

EXPLAINED_HOLDS_MAX = 50_000
"""Holds of a sku that an explanation looks at."""

OWN_WALK_MAX = 10_000
"""Holds of the item among which the caller's own ones are looked for: each costs the look at its reservation."""

SHORT_LINES_MAX = 50
"""Short lines of a batch that are told when their units come free."""

WALK_MAX = 10_000
"""Holds that are looked at for all of them together: some 10 ms."""


class FreeStep(NamedTuple):
    """Units of holds that end by a time."""

    time: datetime
    quantity: int


class OwnHold(NamedTuple):
    """What a caller holds of an item in one reservation."""

    reservation_id: str
    reference: str
    quantity: int
    expire_time: datetime


@dataclass(slots=True)
class Explanation:
    """Why so much of an item can be had: max(0, `remaining` + `oversell` - `buffer` + `lapsed`) while it is OPEN."""

    available: int
    remaining: int
    oversell: int
    buffer: int
    lapsed: int
    sale_state: SaleState
    waiters: int
    """Waitlist entries that wait for the item."""
    held: list[FreeStep]
    held_later: int
    """Units of holds that are not among those looked at."""
    own_holds: list[OwnHold]
    read_time: datetime


class _Explained(NamedTuple):
    available: int | None
    """None: there is no such item, and the columns that follow but for the last are None or empty."""
    remaining: int
    oversell: int
    buffer: int
    lapsed: int
    sale_state: int
    waiters: int
    step_time: list[datetime]
    step_quantity: list[int]
    later: int
    own_id: list[UUID]
    own_reference: list[str]
    own_quantity: list[int]
    own_expire_time: list[datetime]
    read_time: datetime


class _NextFree(NamedTuple):
    free_time: list[datetime | None]
    free_quantity: list[int | None]


_EXPLAIN = bind_out(
    "explain_availability",
    _Explained,
    *("tenant", "client", "pools", "sku", "pool", "walk_max", "steps", "own_walk_max", "own_max"),
)
_NEXT_FREE = bind_out("next_free", _NextFree, "tenant", "sku", "pool", "missing", "own_id", "walk_max")


async def explain(
    connection: Connection, caller: Caller, key: ItemKey, walk_max: int = EXPLAINED_HOLDS_MAX
) -> Explanation | None:
    """Why so much of an item can be had; None: there is no such item."""
    row = await _EXPLAIN.one(
        connection,
        tenant=caller.tenant,
        client=caller.client,
        pools=pool_list(caller),
        sku=key.sku,
        pool=key.pool,
        walk_max=walk_max,
        steps=STEPS_MAX,
        own_walk_max=OWN_WALK_MAX,
        own_max=OWN_HOLDS_MAX,
    )
    if row.available is None:
        return None
    own = zip(map(str, row.own_id), row.own_reference, row.own_quantity, row.own_expire_time, strict=True)
    return Explanation(
        available=row.available,
        remaining=row.remaining,
        oversell=row.oversell,
        buffer=row.buffer,
        lapsed=row.lapsed,
        sale_state=SaleState(row.sale_state),
        waiters=row.waiters,
        held=[FreeStep(*step) for step in zip(row.step_time, row.step_quantity, strict=True)],
        held_later=row.later,
        own_holds=[OwnHold(*hold) for hold in own],
        read_time=row.read_time,
    )


async def with_next_free(
    connection: Connection, tenant: str, results: list[Result], own_ids: Sequence[str | None] | None = None
) -> list[Result]:
    """The results; short lines say when the missing units come free, the first ones of the batch.

    `own_ids` has the hold of each request that has one: what it holds itself does not come free to it.
    """
    # The same refusal may answer many requests.
    refusals: dict[int, tuple[Refused, str | None]] = {}
    for index, result in enumerate(results):
        if isinstance(result, Refused) and result.shortfall:
            refusals.setdefault(id(result), (result, own_ids[index] if own_ids else None))
    if not refusals:
        return results
    lines = [(line, own_id) for refused, own_id in refusals.values() for line in refused.shortfall][:SHORT_LINES_MAX]
    items = len({(line.sku, line.pool, own_id) for line, own_id in lines})
    try:
        row = await _NEXT_FREE.one(
            connection,
            tenant=tenant,
            sku=arrays.texts(line.sku for line, _ in lines),
            pool=arrays.texts(line.pool for line, _ in lines),
            missing=arrays.plain(line.requested - line.available for line, _ in lines),
            own_id=arrays.plain(own_id for _, own_id in lines),
            walk_max=WALK_MAX // items,
        )
    except (NothingRan, Unknown, Conflict, Failed):
        # The batch is committed: an error here must not make all of it look undone.
        return results
    told = iter(zip(row.free_time, row.free_quantity, strict=True))
    said = {
        key: replace(refused, shortfall=[_told(line, next(told, None)) for line in refused.shortfall])
        for key, (refused, _) in refusals.items()
    }
    return [said.get(id(result), result) for result in results]


def _told(line: ShortLine, free: tuple[datetime | None, int | None] | None) -> ShortLine:
    """A short line with when its units come free; `free` None: it was not asked."""
    if free is None or free[0] is None:
        return line
    time, quantity = free
    return line._replace(next_free_time=time, next_free_quantity=line.available + (quantity or 0))
