"""The changes of items and reading them."""

from collections.abc import Sequence

from holdsvc import errors
from holdsvc.ledger import arrays
from holdsvc.ledger.database import Connection, Row
from holdsvc.ledger.requests import columns
from holdsvc.model import (
    Adjust,
    Again,
    Answer,
    Caller,
    Done,
    Item,
    ItemKey,
    Line,
    Outcome,
    Refused,
    Sweep,
    Transfer,
    Transferred,
)

Result = Outcome[Item]

_CREATE = "SELECT * FROM holdsvc.create_items(%s, %s, %s, %s, %s, %s, %s, %s)"
_UPDATE = "SELECT * FROM holdsvc.update_item(%s, %s, %s, %s, %s, %s, %s, %s, %s)"
_DELETE = "SELECT * FROM holdsvc.delete_item(%s, %s, %s, %s, %s)"
_ADJUST = "SELECT * FROM holdsvc.adjust_capacity(%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)"
_TRANSFER = "SELECT * FROM holdsvc.transfer_capacity(%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)"
_GET = "SELECT * FROM holdsvc.get_items(%s, %s, %s)"
_LIST = "SELECT * FROM holdsvc.list_items(%s, %s, %s, %s, %s, %s)"
_CHECK = "SELECT * FROM holdsvc.check_availability(%s, %s, %s)"
_SWEEP = "SELECT * FROM holdsvc.sweep_items(%s, %s, %s)"


async def create(connection: Connection, caller: Caller, items: Sequence[Item]) -> Answer[list[Item]]:
    """Creates all of the items or none; their counters, revisions and times are ignored."""
    rows = await connection.fetch(
        _CREATE,
        (
            caller.tenant,
            caller.client,
            caller.key_id,
            arrays.texts(item.sku for item in items),
            arrays.texts(item.pool for item in items),
            arrays.texts(item.display_name for item in items),
            arrays.plain(item.capacity for item in items),
            arrays.plain(item.oversell_limit for item in items),
        ),
    )
    if rows[0][1] is not None:
        there = {(row[4], row[5]) for row in rows}
        first = next(item for item in items if (item.sku, item.pool) in there)
        return errors.item_already_exists(first.sku, first.pool)
    return Done([_item(row) for row in rows], replayed=False)


async def update(
    connection: Connection,
    caller: Caller,
    key: ItemKey,
    *,
    display_name: str | None,
    capacity: int | None,
    oversell_limit: int | None,
    revision: int,
) -> Result:
    """Sets what is not None; a revision other than 0 must be the item's."""
    [row] = await connection.fetch(
        _UPDATE,
        (caller.tenant, caller.client, caller.key_id, *key, display_name, capacity, oversell_limit, revision),
    )
    return _result(row, "")


async def delete(connection: Connection, caller: Caller, key: ItemKey) -> Outcome[None]:
    """Deletes an item with nothing held or confirmed."""
    [row] = await connection.fetch(_DELETE, (caller.tenant, caller.client, caller.key_id, *key))
    return Done(None, replayed=False) if row[1] is None else _not_done(row, "")


async def adjust(connection: Connection, tenant: str, requests: Sequence[Adjust]) -> list[Result]:
    """Changes capacities by differences."""
    rows = await connection.fetch(
        _ADJUST,
        (
            tenant,
            *columns(tenant, requests),
            arrays.texts(r.sku for r in requests),
            arrays.texts(r.pool for r in requests),
            arrays.plain(r.delta for r in requests),
            arrays.texts(r.reason or None for r in requests),
        ),
    )
    return [_result(row, request.request_id, "delta") for request, row in zip(requests, rows, strict=True)]


async def transfer(connection: Connection, tenant: str, requests: Sequence[Transfer]) -> list[Outcome[Transferred]]:
    """Moves units of capacity between pools; answers with the giving and the taking item."""
    rows = await connection.fetch(
        _TRANSFER,
        (
            tenant,
            *columns(tenant, requests),
            arrays.texts(r.sku for r in requests),
            arrays.texts(r.from_pool for r in requests),
            arrays.texts(r.to_pool for r in requests),
            arrays.plain(r.quantity for r in requests),
            arrays.texts(r.reason or None for r in requests),
        ),
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
            results.append(Done(Transferred(giving.value, taking.value), giving.replayed))
    return results


def _result(row: Row, request_id: str, units_field: str = "quantity") -> Result:
    """The outcome of a change, from a row of type item_answer."""
    outcome = row[1]
    # A replay may find the item deleted since.
    if (outcome is None or outcome == "REPLAYED") and row[7] is not None:
        return Done(_item(row), replayed=outcome is not None)
    return _not_done(row, request_id, units_field)


def _not_done(row: Row, request_id: str, units_field: str = "quantity") -> Refused | Sweep | Again:
    outcome, requested, available, sku, pool = row[1:6]
    if outcome == "RETRY":
        return Again()
    if outcome == "SWEEP":
        return Sweep([ItemKey(sku, pool)])
    if outcome is None or outcome in ("REPLAYED", "ITEM_NOT_FOUND"):
        return errors.item_not_found(sku, pool)
    if outcome == "CAPACITY_IN_USE":
        return errors.capacity_in_use(sku, pool, abs(requested), available)
    if outcome == "REVISION_MISMATCH":
        return errors.revision_mismatch(sku, pool, row[12])
    if outcome == "CAPACITY_LIMIT":
        return errors.invalid_field(units_field, "the capacity would exceed 10^15 units", "CAPACITY_LIMIT")
    assert outcome == "REQUEST_ID_REUSED", outcome
    return errors.request_id_reused(request_id)


def _item(row: Row) -> Item:
    return Item(*row[4:15])


async def get(connection: Connection, tenant: str, keys: Sequence[ItemKey]) -> list[Item | None]:
    """Reads items by name, in order; None where there is none."""
    rows = await connection.fetch(
        _GET, (tenant, arrays.texts(key.sku for key in keys), arrays.texts(key.pool for key in keys))
    )
    return [_item(row) if row[7] is not None else None for row in rows]


async def list_page(
    connection: Connection, tenant: str, sku_prefix: str, pools: Sequence[str] | None, after: ItemKey, limit: int
) -> list[Item]:
    """One page in order of sku and pool, after the item `after`; `pools` None: of all."""
    rows = await connection.fetch(
        _LIST, (tenant, sku_prefix, None if pools is None else arrays.texts(pools), *after, limit)
    )
    return [_item(row) for row in rows]


async def check(connection: Connection, tenant: str, lines: Sequence[Line]) -> list[int | None]:
    """What can be had of each line's item, in order; None where there is none."""
    [[available]] = await connection.fetch(
        _CHECK, (tenant, arrays.texts(line.sku for line in lines), arrays.texts(line.pool for line in lines))
    )
    return list(available)


async def sweep(connection: Connection, tenant: str, keys: Sequence[ItemKey]) -> int:
    """Expires lapsed holds on these items, waiting for their locks; returns how many."""
    [[expired]] = await connection.fetch(
        _SWEEP, (tenant, arrays.texts(key.sku for key in keys), arrays.texts(key.pool for key in keys))
    )
    return int(expired)
