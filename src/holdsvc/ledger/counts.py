"""Capacities from counts of stock made elsewhere."""

from collections.abc import Sequence
from datetime import timedelta
from typing import NamedTuple

from holdsvc import errors
from holdsvc.change_requests import SetStock
from holdsvc.ledger import arrays
from holdsvc.ledger.binding import bind
from holdsvc.ledger.database import Connection
from holdsvc.ledger.items import ItemAnswer, item_of, not_done
from holdsvc.model import Done, Item, Outcome


class Counted(NamedTuple):
    """What a count made of its item."""

    item: Item
    superseded: bool
    """A later count had been there, and nothing changed."""


_SET = bind(
    "set_stock",
    ItemAnswer,
    *("tenant", "client", "key_id", "sku", "pool", "on_hand", "count_time", "revision", "max_age", "dry_run"),
)


async def set_stock(
    connection: Connection, tenant: str, requests: Sequence[SetStock], *, max_age: timedelta, dry_run: bool = False
) -> list[Outcome[Counted]]:
    """Sets capacities from counts that are no older than `max_age`; `dry_run` judges them only."""
    rows = await _SET.fetch(
        connection,
        tenant=tenant,
        client=arrays.texts(r.caller.client for r in requests),
        key_id=arrays.texts(r.caller.key_id for r in requests),
        sku=arrays.texts(r.sku for r in requests),
        pool=arrays.texts(r.pool for r in requests),
        on_hand=arrays.plain(r.on_hand for r in requests),
        count_time=arrays.times(r.count_time for r in requests),
        revision=arrays.plain(r.revision for r in requests),
        max_age=max_age,
        dry_run=dry_run,
    )
    return [_result(row, max_age) for row in rows]


def _result(row: ItemAnswer, max_age: timedelta) -> Outcome[Counted]:
    if row.outcome in (None, "SUPERSEDED"):
        counted = Counted(item_of(row), superseded=row.outcome is not None)
        return Done(counted, replayed=False, due=row.waiting > 0)
    if row.outcome == "COUNT_TIME_FUTURE":
        return errors.invalid_field("count_time", "must not be in the future", row.outcome)
    if row.outcome == "COUNT_TIME_OLD":
        hours = max_age / timedelta(hours=1)
        return errors.invalid_field("count_time", f"must not be more than {hours:g} hours ago", row.outcome)
    return not_done(row, "", "on_hand")
