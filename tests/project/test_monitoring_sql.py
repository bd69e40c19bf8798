"""docs/monitoring.sql: every query runs, and those on reservations say what is so."""

import asyncio
import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from google.protobuf.duration_pb2 import Duration
from psycopg.rows import dict_row

from inventoryhold.v1 import reservation_service_pb2 as pb
from tests.support import sessions
from tests.support.harness import Harness

FILE = Path(__file__).resolve().parents[2] / "docs" / "monitoring.sql"
VARIABLES = {"tenant": "default", "reference": "cart-42"}


def _queries() -> dict[str, str]:
    """Each query by what its comment says before the colon."""
    found = {}
    for part in FILE.read_text().split("\n\n")[1:]:
        name, _, sql = part.strip().removeprefix("-- ").partition("\n")
        found[name.partition(":")[0]] = sql
    return found


def _rows(service: Harness, name: str) -> list[dict[str, Any]]:
    sql = re.sub(r":'(\w+)'", lambda variable: f"'{VARIABLES[variable[1]]}'", _queries()[name])
    # Tests put the ledger's clock forward; an operator's is the real one.
    sql = sql.replace("clock_timestamp()", "holdsvc.wall_clock()")
    with psycopg.connect(service.owner_dsn, autocommit=True, row_factory=dict_row) as connection:
        return connection.execute(sql.encode()).fetchall()


@pytest.mark.parametrize("name", list(_queries()))
async def test_every_query_runs(service: Harness, name: str) -> None:
    _rows(service, name)


async def test_a_lapsed_hold_counts_as_expired_before_it_is_swept(service: Harness) -> None:
    await service.create_item("seat", 10)
    await service.reserve({"seat": 1}, reference="cart-42", ttl=Duration(seconds=30))
    await service.reserve({"seat": 2}, reference="cart-42", ttl=Duration(seconds=7200))
    sold = await service.reserve({"seat": 3}, reference="cart-42")
    await service.reservations.Confirm(pb.ConfirmRequest(reservation_id=sold.reservation_id))
    service.clock.advance(timedelta(minutes=5))
    assert [row["state"] for row in _rows(service, "reservations of a reference")] == ["CONFIRMED", "HELD", "EXPIRED"]
    [row] = _rows(service, "references by state")
    assert row == {
        "reference": "cart-42",
        "held": 1,
        "confirmed": 1,
        "cancelled": 0,
        "expired": 1,
        "refunded": 0,
        "fulfilled": 0,
    }
    [late] = _rows(service, "lapsed holds")
    assert late["late"] > timedelta(minutes=4)


async def test_the_most_reserved_item_comes_first(service: Harness) -> None:
    for sku, units in (("few", 1), ("many", 7), ("none", 0)):
        await service.create_item(sku, 10)
        if units:
            await service.reserve({sku: units})
    rows = _rows(service, "most reserved items")
    assert [(row["sku"], row["held"], float(row["percent_taken"])) for row in rows] == [
        ("many", 7, 70.0),
        ("few", 1, 10.0),
        ("none", 0, 0.0),
    ]
    assert [row["sku"] for row in _rows(service, "most reserved items of the last hour")] == ["many", "few"]


async def test_who_blocks_whom_names_the_session_to_end(service: Harness) -> None:
    await service.create_item("seat", 10)
    with psycopg.connect(service.owner_dsn, application_name="forgotten") as blocker:
        blocker.execute("UPDATE holdsvc.item SET display_name = 'x'")
        pid = blocker.info.backend_pid
        task = asyncio.ensure_future(service.reserve({"seat": 1}))
        await sessions.until_blocked(service.owner_dsn)
        [row] = _rows(service, "who blocks whom")
        assert (row["blocking_pid"], row["blocking"], row["blocking_state"]) == (
            pid,
            "forgotten",
            "idle in transaction",
        )
        blocker.rollback()
        await task
