"""Waitlists read by index alone on tables never analysed, and of a long queue as little as they need."""

from datetime import UTC, datetime, timedelta

import psycopg

from holdsvc.change_requests import Join
from holdsvc.entries import EntryState
from holdsvc.ledger import holds, items, waitlist
from holdsvc.ledger.database import Connection
from holdsvc.model import Done, Line
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


def _join(number: int, end: datetime | None, quantity: int = 1) -> Join:
    return Join(
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
