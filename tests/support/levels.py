"""LEVEL_CHANGED by the tables alone: every crossing is told once, and the last one leads to where the item stands."""

from collections.abc import Callable
from typing import Any

Sql = Callable[[str], list[tuple[Any, ...]]]

CREATED, UPDATED, DELETED, LEVEL_CHANGED = 7, 8, 9, 16
AVAILABLE, LOW, OUT = 1, 2, 3


def level(free: int, low_at: int | None) -> int:
    """The level of an item by what new holds may take of it."""
    if free <= 0:
        return OUT
    return LOW if low_at is not None and free <= low_at else AVAILABLE


def check_levels(sql: Sql, tenant: str = "default") -> None:
    """Raises AssertionError where an item's events and counters tell of different levels."""
    twice = sql(
        f"SELECT line_sku[1], line_pool[1], count(*) FROM holdsvc.event WHERE tenant = '{tenant}' AND type = 16"
        " GROUP BY line_sku[1], line_pool[1], xmin::text HAVING count(*) > 1"
    )
    assert twice == [], "more than one event for an item in one transaction"
    told: dict[tuple[str, str], tuple[int | None, int | None]] = {}
    """Of each item: the level as told, None: not known; and low_at."""
    for sku, pool, kind, before, after, low_at, free in sql(
        "SELECT line_sku[1], line_pool[1], type, from_level, to_level, low_at, remaining + oversell_limit - buffer"
        f" FROM holdsvc.event WHERE tenant = '{tenant}' AND reservation_id IS NULL ORDER BY event_id"
    ):
        stands, followed = told.get((sku, pool), (None, None))
        if kind == LEVEL_CHANGED:
            assert low_at is not None, (sku, pool)
            assert before != after, (sku, pool, before)
            assert stands in (None, before), f"{sku, pool}: told {stands}, then from {before} to {after}"
            told[sku, pool] = after, low_at
        elif kind == CREATED:
            told[sku, pool] = (None if low_at is None else level(free, low_at)), low_at
        elif low_at != followed:
            # Set, moved or taken away: the event that follows says from where.
            told[sku, pool] = (None if low_at is None or followed is None else stands), low_at
    for sku, pool, low_at, free, deleted in sql(
        "SELECT sku, pool, low_at, remaining + oversell_limit - buffer, delete_time IS NOT NULL FROM holdsvc.item"
        f" WHERE tenant = '{tenant}' AND low_at IS NOT NULL"
    ):
        stands = told[sku, pool][0]
        now = OUT if deleted else level(free, low_at)
        assert stands in (None, now), f"{sku, pool}: told {stands}, stands at {now}"
