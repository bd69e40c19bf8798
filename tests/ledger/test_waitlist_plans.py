"""Waitlists read by index alone on tables never analysed, and of a long queue as little as they need."""

from collections.abc import Awaitable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import product
from typing import Any

import psycopg
import pytest

from holdsvc.change_requests import Join
from holdsvc.commands import target
from holdsvc.entries import EntryState, WaitlistEntry
from holdsvc.ledger import holds, items, waitlist
from holdsvc.ledger.database import Connection
from holdsvc.model import Done, Line, Part
from tests.support.holds import CALLER, new_id, reserves, stock

WAITERS = 300
SOON = 10
"""Of them so many have a time at which they lapse."""
READ = (
    "SELECT relname, sum(idx_tup_read)::bigint FROM pg_stat_user_indexes"
    " WHERE schemaname = 'holdsvc' AND relname IN ('item', 'waitlist_entry', 'waitlist_line') GROUP BY relname"
)
SCANNED = "SELECT relname FROM pg_stat_user_tables WHERE schemaname = 'holdsvc' AND seq_tup_read > 0"
ROWS_READ_AT_MOST = 40
"""Rows of a table that one change of one entry may read."""


def _join(number: int, end: datetime | None, quantity: int = 1, **fields: Any) -> Join:
    join = Join(
        caller=CALLER,
        request_id="",
        fingerprint=b"",
        entry_id=new_id(),
        lines=[Line("seat", "", quantity)],
        holder=f"holder-{number}",
        reference="",
        priority=0,
        offer_ttl_us=3_600_000_000,
        expire_time=end,
        metadata={},
    )
    return replace(join, **fields)


async def test_who_leaves_lapses_or_is_served_reads_nothing_of_the_others_in_the_queue(
    connection: Connection, ledger_dsn: str
) -> None:
    with psycopg.connect(ledger_dsn, autocommit=True) as owner:
        await items.create(connection, CALLER, stock(["seat", *(f"other-{n}" for n in range(WAITERS))]))
        owner.execute("UPDATE holdsvc.item SET waitlist_policy = 3, capacity = 1, remaining = 1 WHERE sku = 'seat'")
        [hold] = await holds.reserve(connection, "default", reserves(["seat"]))
        assert isinstance(hold, Done)
        end = datetime.now(UTC) + timedelta(hours=1)
        joins = [_join(n, end if n < SOON else None) for n in range(WAITERS)]
        assert all(isinstance(joined, Done) for joined in await waitlist.join(connection, "default", joins))
        owner.execute("UPDATE holdsvc.waitlist_entry SET expire_time = clock_timestamp() WHERE expire_time IS NOT NULL")

        async def settle() -> dict[str, int]:
            await connection.fetch("SELECT pg_stat_force_next_flush()")
            return dict(owner.execute(READ).fetchall())

        await settle()
        owner.execute("SELECT pg_stat_reset()")
        last = await waitlist.get(connection, "default", joins[-1].entry_id)
        assert last is not None
        assert last.position == WAITERS
        assert max((await settle()).values()) <= ROWS_READ_AT_MOST

        owner.execute("SELECT pg_stat_reset()")
        assert isinstance(await waitlist.leave(connection, CALLER, joins[-1].entry_id, ""), Done)
        assert max((await settle()).values()) <= ROWS_READ_AT_MOST

        owner.execute("SELECT pg_stat_reset()")
        assert (await waitlist.sweep(connection, None)).lapsed_count == SOON
        assert max((await settle()).values()) <= SOON * ROWS_READ_AT_MOST / 2

        owner.execute(
            "UPDATE holdsvc.item SET capacity = 2, remaining = 1, serve_time = '-infinity' WHERE sku = 'seat'"
        )
        owner.execute("SELECT pg_stat_reset()")
        assert len((await waitlist.serve(connection, "default", [new_id()], skip_busy=False)).waited_us) == 1
        assert max((await settle()).values()) <= 3 * ROWS_READ_AT_MOST

        owner.execute("SELECT pg_stat_reset()")
        assert await waitlist.purge(connection, timedelta()) == SOON + 1
        await settle()
        assert owner.execute(SCANNED).fetchall() == []


async def test_a_queue_of_many_different_quantities_is_not_stepped_through(
    connection: Connection, ledger_dsn: str
) -> None:
    with psycopg.connect(ledger_dsn, autocommit=True) as owner:
        await items.create(connection, CALLER, stock(["seat"]))
        owner.execute("UPDATE holdsvc.item SET waitlist_policy = 2, capacity = 0, remaining = 0 WHERE sku = 'seat'")
        # The first wants most, so that an order of quantities would show.
        joins = [_join(n, None, 3 * WAITERS - n) for n in range(3 * WAITERS)]
        assert all(isinstance(joined, Done) for joined in await waitlist.join(connection, "default", joins))
        owner.execute(
            "UPDATE holdsvc.item SET capacity = %(free)s, remaining = %(free)s, serve_time = '-infinity'",
            {"free": 3 * WAITERS},
        )
        # What the joins read is not to be counted later.
        await connection.fetch("SELECT pg_stat_force_next_flush()")
        owner.execute("SELECT pg_stat_reset()")
        assert len((await waitlist.serve(connection, "default", [new_id()], skip_busy=False)).waited_us) == 1
        await connection.fetch("SELECT pg_stat_force_next_flush()")
        read: dict[str, int] = dict(owner.execute(READ).fetchall())
    offered = await waitlist.get(connection, "default", joins[0].entry_id)
    assert offered is not None
    assert offered.state is EntryState.OFFERED
    # Some 100 quantities, looked at twice for each of two things.
    assert read["waitlist_line"] <= 500


def _matches(entry: WaitlistEntry, wanted: waitlist.Filter, pools: str | None) -> bool:
    of_item = any(line.sku == wanted.sku and wanted.pool in (None, line.pool) for line in entry.lines)
    return (
        wanted.client in (None, entry.client)
        and entry.state in wanted.states
        and wanted.holder in (None, entry.holder)
        and (wanted.sku is None or of_item)
        and (pools is None or all(f"\x1f{line.pool}\x1f" in pools for line in entry.lines))
    )


async def test_lists_that_look_at_few_entries_at_once_show_the_same_in_more_parts(
    connection: Connection, ledger_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = [("seat", ""), ("seat", "web"), ("bed", "web")]
    lines = [[Line(*key, 1)] for key in keys] + [[Line(*key, 1) for key in keys]]
    for key in keys:
        await items.create(connection, CALLER, [replace(one, pool=key[1]) for one in stock([key[0]])])
    with psycopg.connect(ledger_dsn, autocommit=True) as owner:
        owner.execute("UPDATE holdsvc.item SET waitlist_policy = 2, capacity = 0, remaining = 0")
    joins = [
        _join(
            n,
            None,
            lines=lines[3 if n % 7 == 3 else n % 3],
            holder=f"holder-{-n if n % 7 == 3 else n // 6}",
            caller=replace(CALLER, client=CALLER.client if n // 3 % 2 else "kiosk"),
            priority=n % 2,
        )
        for n in range(24)
    ]
    joined = await waitlist.join(connection, "default", joins)
    assert all(isinstance(one, Done) for one in joined), joined
    for join in joins[::6]:
        assert isinstance(await waitlist.leave(connection, join.caller, join.entry_id, ""), Done)
    gotten = [await waitlist.get(connection, "default", join.entry_id) for join in joins]
    entries = sorted((one for one in gotten if one), key=lambda one: (-one.priority, one.sequence))
    empty = 0
    for looked_max, states, (sku, pool), holder, client, pools in product(
        (1, 4), ([1], [1, 5]), [(None, None), ("seat", None), ("seat", "web")], (None, "holder-2"), (None, "kiosk"),
        (None, "\x1fweb\x1f", "\x1fnone\x1f"),
    ):  # fmt: skip
        monkeypatch.setattr(waitlist, "LOOKED_MAX", looked_max)
        wanted = waitlist.Filter(client, [EntryState(state) for state in states], sku, pool, holder)

        def read(after: list[str] | None) -> Awaitable[Part[WaitlistEntry]]:
            return waitlist.list_page(connection, "default", wanted, pools, after, 2)  # noqa: B023

        parts = [part async for part in target.parts(read)]
        expected = [one.entry_id for one in entries if _matches(one, wanted, pools)]
        assert [one.entry_id for part in parts for one in part] == expected, (wanted, pools)
        empty += len([part for part in parts[:-1] if not part])
    assert empty


async def test_a_list_of_which_nothing_matches_looks_at_a_bounded_number_of_entries(
    connection: Connection, ledger_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waitlist, "LOOKED_MAX", 20)
    with psycopg.connect(ledger_dsn, autocommit=True) as owner:
        await items.create(connection, CALLER, stock(["seat"]))
        owner.execute("UPDATE holdsvc.item SET waitlist_policy = 2, capacity = 0, remaining = 0")
        joins = [_join(n, None, holder="many", caller=replace(CALLER, client=f"c{n}")) for n in range(WAITERS)]
        assert all(isinstance(joined, Done) for joined in await waitlist.join(connection, "default", joins))
        for sku, holder in ((None, None), ("seat", None), (None, "many")):
            await connection.fetch("SELECT pg_stat_force_next_flush()")
            owner.execute("SELECT pg_stat_reset()")
            wanted = waitlist.Filter(None, [EntryState.WAITING], sku, None, holder)
            found = await waitlist.list_page(connection, "default", wanted, "\x1fnone\x1f", None, 10)
            assert found.rows == []
            assert found.looked_to is not None
            await connection.fetch("SELECT pg_stat_force_next_flush()")
            assert max(dict(owner.execute(READ).fetchall()).values()) <= 3 * 20, (sku, holder)
        assert owner.execute(SCANNED).fetchall() == []
