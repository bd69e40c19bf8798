"""Rows loaded before a measurement, and the counts taken after it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg

from benchmark.messages import ENTRIES_MAX, UNIFORM_COUNT
from benchmark.stage import TENANT, query

HELD, CONFIRMED, CANCELLED, EXPIRED = 1, 2, 3, 4
HISTORY = (CONFIRMED,) * 12 + (CANCELLED,) * 4 + (EXPIRED,) * 3 + (HELD,)
"""The states in a shop's tables, a twentieth each: most sold, the others cancelled or expired, few still open."""

CHUNK = 50_000

_SQL = Path(__file__).parent / "sql"


def items(dsn: str) -> None:
    """Creates the items of the load."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute((_SQL / "items.sql").read_bytes(), {"tenant": TENANT, "count": UNIFORM_COUNT})


def reservations(dsn: str, first: int, count: int, states: Sequence[int], *, lives: timedelta) -> None:
    """Loads `count` reservations, numbered from `first`, made an hour ago, that expire `lives` from now."""
    now = datetime.now(UTC)
    parameters = {
        "tenant": TENANT,
        "states": list(states),
        "items": UNIFORM_COUNT,
        "create_time": now - timedelta(hours=1),
        "expire_time": now + lives,
    }
    sql = (_SQL / "reservations.sql").read_bytes()
    with psycopg.connect(dsn, autocommit=True) as connection:
        for start in range(first, first + count, CHUNK):
            last = min(start + CHUNK, first + count) - 1
            connection.execute(sql, {**parameters, "first": start, "last": last})


def batches(dsn: str, first: int, count: int, size: int, state: int, *, lives: timedelta) -> None:
    """Loads the reservations of `count` batches of `size`, numbered from `first`: each has `ENTRIES_MAX` numbers."""
    for number in range(first, first + count):
        reservations(dsn, number * ENTRIES_MAX, size, [state], lives=lives)


@dataclass(frozen=True)
class Count:
    """Holds as the ledger counts them."""

    reservations: int
    """Made by the service."""
    held: int
    """Units held, as the items say."""

    def __sub__(self, other: "Count") -> "Count":
        return Count(self.reservations - other.reservations, self.held - other.held)


def count(dsn: str) -> Count:
    """Counts the holds; reservations loaded in bulk have older ids and do not count."""
    reservations = query(
        dsn, "SELECT count(*) FROM holdsvc.reservation WHERE reservation_id > '01910000-0000-0000-0000-000000000000'"
    )
    held = query(dsn, "SELECT sum(held)::bigint FROM holdsvc.item WHERE tenant = %s", (TENANT,))
    return Count(int(reservations[0][0]), int(held[0][0]))


def in_state(dsn: str, state: int) -> int:
    """Reservations in a state."""
    return int(query(dsn, "SELECT count(*) FROM holdsvc.reservation WHERE state = %s", (state,))[0][0])


def changed(dsn: str) -> dict[str, int]:
    """Reservations whose state a call has changed, by rpc; reservations loaded in bulk have no such times."""
    row = query(
        dsn,
        "SELECT count(*) FILTER (WHERE state = 2 AND confirm_time > create_time),"
        " count(*) FILTER (WHERE state = 3 AND cancel_time > create_time), count(*) FILTER (WHERE state = 5)"
        " FROM holdsvc.reservation",
    )[0]
    return dict(zip(("Confirm", "Cancel", "Refund"), (int(value) for value in row), strict=True))
