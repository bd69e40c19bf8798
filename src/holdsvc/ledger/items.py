"""The changes of items and reading them."""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import NamedTuple

from holdsvc import errors
from holdsvc.change_requests import Adjust, Transfer
from holdsvc.ledger import arrays
from holdsvc.ledger.binding import Function, bind, bind_out
from holdsvc.ledger.database import Connection
from holdsvc.ledger.requests import columns, inactive_feature, pool_list
from holdsvc.model import (
    Again,
    Answer,
    Caller,
    Done,
    Item,
    ItemKey,
    Line,
    Outcome,
    Part,
    Refused,
    SaleState,
    Sweep,
    Transferred,
    WaitlistPolicy,
)

LOOKED_MAX = 10_000
"""Items that one statement of a list looks at."""

Result = Outcome[Item]


class ItemAnswer(NamedTuple):
    """A row of type item_answer; `outcome` None: done."""

    ix: int | None
    outcome: str | None
    requested: int | None
    available: int | None
    sku: str
    pool: str
    display_name: str
    capacity: int | None
    """None: there is no such item, and the columns that follow are None too."""
    remaining: int
    held: int
    confirmed: int
    oversell_limit: int
    sale_state: int
    buffer: int
    low_at: int | None
    return_pool: str | None
    return_time: datetime | None
    waitlist_policy: int
    waiting: int
    revision: int
    create_time: datetime
    update_time: datetime
    count_time: datetime | None


class _Place(NamedTuple):
    sku: str | None
    pool: str | None


class _Available(NamedTuple):
    available: list[int | None]


class Expired(NamedTuple):
    """What a sweep on demand has done."""

    expired: int
    due: bool
    """Whether units are due to those who wait for them."""


_BATCH = ("client", "key_id", "request_id", "request_key", "fingerprint")
_SET = (
    *("display_name", "capacity", "oversell_limit", "sale_state", "buffer", "low_at", "return_pool", "return_time"),
    "waitlist_policy",
)
"""What callers set of an item."""
_CREATE = bind("create_items", ItemAnswer, "tenant", "client", "key_id", "sku", "pool", *_SET)
_UPDATE = bind(
    "update_item", ItemAnswer, "tenant", "client", "key_id", "sku", "pool", "sets", *_SET, "revision", "pools"
)
_DELETE = bind("delete_item", ItemAnswer, "tenant", "client", "key_id", "sku", "pool")
_ADJUST = bind("adjust_capacity", ItemAnswer, "tenant", *_BATCH, "sku", "pool", "delta", "reason", "effective_time")
_TRANSFER = bind(
    "transfer_capacity", ItemAnswer, "tenant", *_BATCH, "sku", "from_pool", "to_pool", "quantity", "reason"
)
_GET = bind("get_items", ItemAnswer, "tenant", "sku", "pool")
_RANGE = ("tenant", "from_sku", "from_pool", "last_sku")
LIST = (*_RANGE, "pools", "limit", "looked_max")
"""Arguments of the functions that list items, see `list_rows`."""
_LIST = bind("list_items", ItemAnswer, *LIST)
_LOOKED_TO = bind_out("items_looked_to", _Place, *_RANGE, "looked_max")
_CHECK = bind_out("check_availability", _Available, "tenant", "sku", "pool")
_SWEEP = bind_out("sweep_items", Expired, "tenant", "sku", "pool", "max_count")

SWEEP_MAX = 1000
"""Holds that one sweep on demand expires at most."""


async def create(connection: Connection, caller: Caller, items: Sequence[Item]) -> Answer[list[Item]]:
    """Creates all of the items or none; their counters, revisions and times are ignored."""
    rows = await _CREATE.fetch(
        connection,
        tenant=caller.tenant,
        client=caller.client,
        key_id=caller.key_id,
        sku=arrays.texts(item.sku for item in items),
        pool=arrays.texts(item.pool for item in items),
        display_name=arrays.texts(item.display_name for item in items),
        capacity=arrays.plain(item.capacity for item in items),
        oversell_limit=arrays.plain(item.oversell_limit for item in items),
        sale_state=arrays.plain(int(item.sale_state) for item in items),
        buffer=arrays.plain(item.buffer for item in items),
        low_at=arrays.plain(item.low_at for item in items),
        return_pool=arrays.texts(item.return_pool for item in items),
        return_time=arrays.times(item.return_time for item in items),
        waitlist_policy=arrays.plain(int(item.waitlist_policy) for item in items),
    )
    if rows[0].outcome is not None:
        there = {(row.sku, row.pool) for row in rows}
        first = next(item for item in items if (item.sku, item.pool) in there)
        return errors.item_already_exists(first.sku, first.pool)
    return Done([item_of(row) for row in rows], replayed=False)


async def update(connection: Connection, caller: Caller, new: Item, sets: Collection[str], revision: int) -> Result:
    """Sets the fields that `sets` names, as in the update mask; a revision other than 0 must be the item's."""
    row = await _UPDATE.one(
        connection,
        tenant=caller.tenant,
        client=caller.client,
        key_id=caller.key_id,
        sku=new.sku,
        pool=new.pool,
        sets=arrays.texts(sets),
        display_name=new.display_name,
        capacity=new.capacity,
        oversell_limit=new.oversell_limit,
        sale_state=int(new.sale_state),
        buffer=new.buffer,
        low_at=new.low_at,
        return_pool=new.return_pool,
        return_time=new.return_time,
        waitlist_policy=int(new.waitlist_policy),
        revision=revision,
        pools=pool_list(caller),
    )
    if row.outcome == "RETURN_POOL":
        return errors.returns_to_itself("item.return_pool")
    if row.outcome == "RETURN_POOL_NOT_FOUND":
        return errors.item_not_found(new.sku, (new.return_pool if "return_pool" in sets else row.return_pool) or "")
    return _result(row, "")


async def delete(connection: Connection, caller: Caller, key: ItemKey) -> Outcome[None]:
    """Deletes an item with nothing held or confirmed."""
    row = await _DELETE.one(
        connection, tenant=caller.tenant, client=caller.client, key_id=caller.key_id, sku=key.sku, pool=key.pool
    )
    return Done(None, replayed=False) if row.outcome is None else not_done(row, "")


async def adjust(connection: Connection, tenant: str, requests: Sequence[Adjust]) -> list[Result]:
    """Changes capacities by differences."""
    rows = await _ADJUST.fetch(
        connection,
        tenant=tenant,
        **columns(tenant, requests),
        sku=arrays.texts(r.sku for r in requests),
        pool=arrays.texts(r.pool for r in requests),
        delta=arrays.plain(r.delta for r in requests),
        reason=arrays.texts(r.reason or None for r in requests),
        effective_time=arrays.times(r.effective_time for r in requests),
    )
    return [_result(row, request.request_id, "delta") for request, row in zip(requests, rows, strict=True)]


async def transfer(connection: Connection, tenant: str, requests: Sequence[Transfer]) -> list[Outcome[Transferred]]:
    """Moves units of capacity between pools; answers with the giving and the taking item."""
    rows = await _TRANSFER.fetch(
        connection,
        tenant=tenant,
        **columns(tenant, requests),
        sku=arrays.texts(r.sku for r in requests),
        from_pool=arrays.texts(r.from_pool for r in requests),
        to_pool=arrays.texts(r.to_pool for r in requests),
        quantity=arrays.plain(r.quantity for r in requests),
        reason=arrays.texts(r.reason or None for r in requests),
    )
    n = len(requests)
    results: list[Outcome[Transferred]] = []
    for request, giving_row, taking_row in zip(requests, rows[:n], rows[n:], strict=True):
        giving, taking = _result(giving_row, request.request_id), _result(taking_row, request.request_id)
        if not isinstance(giving, Done):
            results.append(giving)
        elif not isinstance(taking, Done):
            results.append(taking)
        else:
            due = giving.due or taking.due
            results.append(Done(Transferred(giving.value, taking.value), giving.replayed, due=due))
    return results


def _result(row: ItemAnswer, request_id: str, units_field: str = "quantity") -> Result:
    """The outcome of a change of one item."""
    # A replay may find the item deleted since.
    if row.outcome in (None, "REPLAYED") and row.capacity is not None:
        return Done(item_of(row), replayed=row.outcome is not None, due=row.waiting > 0)
    return not_done(row, request_id, units_field)


def not_done(row: ItemAnswer, request_id: str, units_field: str = "quantity") -> Refused | Sweep | Again:
    """Why a change of an item was not made; `units_field` is the request's field with the units."""
    outcome = row.outcome
    if outcome == "RETRY":
        return Again()
    if outcome == "SWEEP":
        return Sweep([ItemKey(row.sku, row.pool)])
    if outcome is None or outcome in ("REPLAYED", "ITEM_NOT_FOUND"):
        return errors.item_not_found(row.sku, row.pool)
    if outcome == "CAPACITY_IN_USE":
        return errors.capacity_in_use(row.sku, row.pool, abs(row.requested or 0), row.available or 0)
    if outcome == "REVISION_MISMATCH":
        return errors.revision_mismatch(row.sku, row.pool, row.revision)
    if outcome == "EFFECTIVE_TIME":
        return errors.effective_time_ahead()
    if outcome == "CAPACITY_LIMIT":
        return errors.capacity_limit(units_field)
    if outcome == "REQUEST_ID_REUSED":
        return errors.request_id_reused(request_id)
    refused = inactive_feature(outcome)
    assert refused is not None, outcome
    return refused


def item_of(row: ItemAnswer) -> Item:
    """The item of a row that has one."""
    assert row.capacity is not None
    return Item(
        sku=row.sku,
        pool=row.pool,
        display_name=row.display_name,
        capacity=row.capacity,
        remaining=row.remaining,
        held=row.held,
        confirmed=row.confirmed,
        oversell_limit=row.oversell_limit,
        revision=row.revision,
        create_time=row.create_time,
        update_time=row.update_time,
        sale_state=SaleState(row.sale_state),
        buffer=row.buffer,
        count_time=row.count_time,
        low_at=row.low_at,
        return_pool=row.return_pool,
        return_time=row.return_time,
        waitlist_policy=WaitlistPolicy(row.waitlist_policy),
        waiting=row.waiting,
    )


async def get(connection: Connection, tenant: str, keys: Sequence[ItemKey]) -> list[Item | None]:
    """Reads items by name, in order; None where there is none."""
    rows = await _GET.fetch(
        connection,
        tenant=tenant,
        sku=arrays.texts(key.sku for key in keys),
        pool=arrays.texts(key.pool for key in keys),
    )
    return [item_of(row) if row.capacity is not None else None for row in rows]


async def list_page(
    connection: Connection,
    tenant: str,
    sku_prefix: str,
    pools: Sequence[str] | None,
    after: Sequence[str] | None,
    limit: int,
) -> Part[Item]:
    """A part of the list in order of sku and pool, after the item with these; `pools` None: of all."""
    rows, looked_to = await list_rows(_LIST, connection, tenant, sku_prefix, pools, after, limit)
    return Part([item_of(row) for row in rows], looked_to)


async def list_rows(
    function: Function[ItemAnswer],
    connection: Connection,
    tenant: str,
    sku_prefix: str,
    pools: Sequence[str] | None,
    after: Sequence[str] | None,
    limit: int,
) -> Part[ItemAnswer]:
    """What a function with the arguments LIST answers: a part of a list in order of sku and pool."""
    # In the order of the index no text is between a pool and itself with U+0001.
    from_sku, from_pool = (after[0], f"{after[1]}\x01") if after else (sku_prefix, "")
    place = {"from_sku": from_sku, "from_pool": from_pool, "last_sku": sku_prefix + "\U0010ffff" * 128}
    rows = await function.fetch(
        connection,
        tenant=tenant,
        **place,
        pools=None if pools is None else arrays.texts(pools),
        limit=limit,
        looked_max=LOOKED_MAX,
    )
    if len(rows) == limit:
        return Part(rows, [rows[-1].sku, rows[-1].pool])
    last = await _LOOKED_TO.one(connection, tenant=tenant, **place, looked_max=LOOKED_MAX)
    return Part(rows, None if last.sku is None else [last.sku, last.pool or ""])


async def check(connection: Connection, tenant: str, lines: Sequence[Line]) -> list[int | None]:
    """What can be had of each line's item, in order; None where there is none."""
    row = await _CHECK.one(
        connection,
        tenant=tenant,
        sku=arrays.texts(line.sku for line in lines),
        pool=arrays.texts(line.pool for line in lines),
    )
    return row.available


async def sweep(connection: Connection, tenant: str, keys: Sequence[ItemKey]) -> Expired:
    """Expires lapsed holds on these items, waiting for their locks."""
    return await _SWEEP.one(
        connection,
        tenant=tenant,
        sku=arrays.texts(key.sku for key in keys),
        pool=arrays.texts(key.pool for key in keys),
        max_count=SWEEP_MAX,
    )
