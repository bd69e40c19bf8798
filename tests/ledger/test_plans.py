"""Plans: as good on tables never analysed as on analysed ones, at 100,000 reservations, and never a scan.

A cached plan made on empty tables once chose scans: 30 holds a second instead of 2,000, until autovacuum came by.
"""

import random
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from holdsvc.change_requests import Cancel, Confirm, Reserve
from holdsvc.embedded.server import EmbeddedServer
from holdsvc.ledger import changes, items, migrate, reservation_lists, reservations, upkeep
from holdsvc.ledger.database import Connection
from holdsvc.ledger.holds import reserve
from holdsvc.model import Done, ItemKey
from tests.support import holds
from tests.support.databases import copy_rows
from tests.support.holds import CALLER, new_id
from tests.support.polling import wait_until
from tests.support.processor import backend_of, processor_s
from tests.support.sessions import pooled

RESERVATIONS = 100_000
ITEMS = 5_000
BATCH = 100
ROUNDS = 7
ATTEMPTS = 4
SLOWER_AT_MOST = 1.2
ROWS_READ_AT_MOST = 40
"""Rows that one change of one reservation may read through all indexes: replays, locks, lines, claims, answers."""

PAGE = 50
ROWS_LISTED_AT_MOST = 10
"""Rows that a list may read through all indexes for each reservation of its page."""

PAGES_AT_MOST = 60
"""Pages of indexes that one change of one reservation may read: each of its searches reads two or three."""

LAPSED = 20_000
ROWS_SWEPT_AT_MOST = 10
"""Rows that a sweep may read through all indexes for each hold that it releases."""

SCANNED = "SELECT relname, seq_tup_read FROM pg_stat_user_tables WHERE schemaname = 'holdsvc' AND seq_tup_read > 0"
READ = "SELECT coalesce(sum(idx_tup_read), 0)::bigint FROM pg_stat_user_indexes WHERE schemaname = 'holdsvc'"

PAGES = "SELECT sum(idx_blks_hit + idx_blks_read)::bigint FROM pg_statio_user_indexes WHERE schemaname = 'holdsvc'"

Choose = Callable[[], str]
Step = Callable[[], Awaitable[None]]


def hot() -> str:
    return "item-00000"


def uniform() -> str:
    return f"item-{random.randrange(1, ITEMS):05}"


def reserves(choose: Choose, count: int, **how: int) -> list[Reserve]:
    return holds.reserves([choose() for _ in range(count)], **how)


def confirms(ids: Sequence[str]) -> list[Confirm]:
    return [
        Confirm(CALLER, f"confirm {id_}", b"confirm", id_, None, new_id(), True, "Name", "name@example.com", [])
        for id_ in ids
    ]


def cancels(ids: Sequence[str]) -> list[Cancel]:
    return [Cancel(CALLER, f"cancel {id_}", b"cancel", id_, None, "") for id_ in ids]


def done(results: Sequence[reservations.Result]) -> list[str]:
    finished = [result for result in results if isinstance(result, Done)]
    assert len(finished) == len(results), results[0]
    return [result.value.reservation_id for result in finished]


async def stock_up(connection: Connection) -> None:
    """Makes the items."""
    stock = holds.stock(f"item-{number:05}" for number in range(ITEMS))
    for start in range(0, ITEMS, 1000):
        await items.create(connection, CALLER, stock[start : start + 1000])


async def fill(connection: Connection) -> None:
    """Makes the reservations: half of them on the hot item."""
    for start in range(0, RESERVATIONS, 1000):
        choose = hot if start % 2000 else uniform
        done(await reserve(connection, "default", reserves(choose, 1000)))


async def turn(connection: Connection, choose: Choose, times: dict[str, list[float]]) -> None:
    """Runs every call once, a batch each, and notes what processor time each took of the database."""
    backend = await backend_of(connection)

    async def timed(name: str, work: Awaitable[list[Any]]) -> list[Any]:
        start = processor_s(backend)
        results = await work
        times.setdefault(name, []).append(processor_s(backend) - start)
        return results

    sold = done(await timed("reserve", reserve(connection, "default", reserves(choose, BATCH))))
    done(await timed("confirm", changes.confirm(connection, "default", confirms(sold), rescue_window_us=0)))
    assert all(await timed("get", reservations.get(connection, "default", sold)))
    kept = done(await timed("reserve", reserve(connection, "default", reserves(choose, BATCH))))
    done(await timed("cancel", changes.cancel(connection, "default", cancels(kept))))


def query(dsn: str, sql: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(dsn, autocommit=True) as owner:
        cursor = owner.execute(sql.encode())
        return cursor.fetchall() if cursor.description else []


TABLES = (
    "SELECT t.oid::regclass, string_agg(c.attname, ', ' ORDER BY c.attnum)"
    " FROM pg_class AS t JOIN pg_attribute AS c ON c.attrelid = t.oid AND c.attnum > 0 AND NOT c.attisdropped"
    " WHERE t.relnamespace = 'holdsvc'::regnamespace AND t.relkind IN ('r', 'p') AND NOT t.relispartition"
    " AND c.attgenerated = '' GROUP BY t.oid"
)
"""With the columns that are not generated."""
SEQUENCES = (
    "SELECT 'holdsvc.' || sequencename, last_value FROM pg_sequences WHERE schemaname = 'holdsvc' AND last_value > 0"
)


def copy(source: str, target: str) -> None:
    """Makes the rows of one database those of another, which takes half as long as the calls that made them.

    What this reads is not counted in their statistics.
    """
    options = "-c track_counts=off -c session_replication_role=replica"
    with psycopg.connect(source, options=options) as reading, psycopg.connect(target, options=options) as writing:
        for table, columns in reading.execute(TABLES.encode()).fetchall():
            writing.execute(f"DELETE FROM {table}".encode())
            copy_rows(reading, writing, table, columns)
        for sequence, last in reading.execute(SEQUENCES.encode()).fetchall():
            writing.execute("SELECT setval(%s::regclass, %s)", (sequence, last))


def count_anew(dsn: str) -> None:
    """Forgets what was read, once the sessions that read it have ended: they report at their end."""
    others = (
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        " AND backend_type = 'client backend'"
    )
    wait_until(lambda: not query(dsn, others))
    query(dsn, "SELECT pg_stat_reset()")


@pytest.fixture
def plain_dsn(tmp_path: Path) -> Iterator[str]:
    """A server without autovacuum."""
    server = EmbeddedServer(
        tmp_path / "data", settings={"autovacuum": "off", "fsync": "off", "full_page_writes": "off"}
    )
    yield server.start()
    server.stop()


def database_of(dsn: str, name: str) -> str:
    with psycopg.connect(dsn, autocommit=True) as owner:
        owner.execute(f"CREATE DATABASE {name}".encode())
    made = make_conninfo(dsn, dbname=name)
    migrate.up(made)
    # The installation of the functions reads the feed's one row.
    count_anew(made)
    return made


async def test_tables_never_analysed_are_as_fast_as_analysed_ones_and_nothing_is_scanned(plain_dsn: str) -> None:
    random.seed(20)
    fresh_dsn, analysed_dsn = database_of(plain_dsn, "fresh"), database_of(plain_dsn, "analysed")
    async with pooled(fresh_dsn) as fresh:
        # Every plan of this session is made while the tables are empty, and stays.
        await stock_up(fresh)
        for choose in (hot, uniform):
            await turn(fresh, choose, {})
        await fill(fresh)
        copy(fresh_dsn, analysed_dsn)
        query(analysed_dsn, "ANALYZE")
        async with pooled(analysed_dsn) as analysed:
            slower = await compare(fresh, analysed)
    assert not slower, slower
    assert query(fresh_dsn, SCANNED) == []

    # Sessions report their counts at their end; this one plans on large tables, as after a restart.
    count_anew(fresh_dsn)
    async with pooled(fresh_dsn) as restarted:
        for choose in (hot, uniform):
            await turn(restarted, choose, {})
    assert query(fresh_dsn, SCANNED) == []
    [(rows_read,)] = query(fresh_dsn, READ)
    assert rows_read < ROWS_READ_AT_MOST * BATCH * 10, "of 2 shapes with 5 calls each"

    for dsn in (fresh_dsn, analysed_dsn):
        count_anew(dsn)
        async with pooled(dsn) as lister:
            await list_pages(lister)
        assert query(dsn, SCANNED) == []
        [(rows_read,)] = query(dsn, READ)
        assert rows_read < ROWS_LISTED_AT_MOST * PAGE * 4, "of 4 lists"


async def test_a_sweep_and_a_read_read_no_more_than_they_need_however_much_has_lapsed(plain_dsn: str) -> None:
    dsn = database_of(plain_dsn, "lapsed")
    async with pooled(dsn) as connection:
        await items.create(connection, CALLER, holds.stock([hot()]))
        for _ in range(LAPSED // 1000):
            done(await reserve(connection, "default", reserves(hot, 1000, ttl_us=1)))
    [(lapsed,)] = query(dsn, "SELECT array_agg(reservation_id::text) FROM (TABLE holdsvc.reservation LIMIT 10) r")
    # As where there are a million of them: the planner then weighs other indexes.
    query(dsn, "UPDATE pg_class SET relpages = 100, reltuples = 1000000 WHERE oid = 'holdsvc.reservation'::regclass")
    count_anew(dsn)
    async with pooled(dsn) as reading:
        assert all(await reservations.get(reading, "default", lapsed))
    [(rows_read,)] = query(dsn, READ)
    assert rows_read < ROWS_READ_AT_MOST * len(lapsed)
    count_anew(dsn)
    async with pooled(dsn) as sweeping:
        assert (await upkeep.release_expired(sweeping, None, BATCH)).expired_count == BATCH
        on_demand = (await items.sweep(sweeping, "default", [ItemKey(hot(), "")])).expired
    assert query(dsn, SCANNED) == []
    [(rows_read,)] = query(dsn, READ)
    assert rows_read < ROWS_SWEPT_AT_MOST * (BATCH + on_demand)


async def test_tables_analysed_while_there_was_one_item_are_as_good_when_there_are_many(plain_dsn: str) -> None:
    dsn = database_of(plain_dsn, "grown")
    async with pooled(dsn) as connection:
        await stock_up(connection)
        for _ in range(20):
            done(await reserve(connection, "default", reserves(hot, 1000)))
        query(dsn, "VACUUM ANALYZE")
        for _ in range(20):
            done(await reserve(connection, "default", reserves(uniform, 1000, ttl_us=1)))
    count_anew(dsn)
    async with pooled(dsn) as grown:
        for choose in (hot, uniform):
            await turn(grown, choose, {})
        assert (await upkeep.release_expired(grown, None, BATCH)).expired_count == BATCH
    assert query(dsn, SCANNED) == []
    [(pages_read,)] = query(dsn, PAGES)
    assert pages_read < PAGES_AT_MOST * BATCH * 11, "of 2 shapes with 5 calls each, and a sweep"


async def list_pages(connection: Connection) -> None:
    """Reads a page by each filter that drives a list: half of all reservations are on the hot item."""
    everything = dict.fromkeys(("client", "states", "sku", "pool", "holder", "reference", "order_id", "pools"))
    for wanted in ({}, {"client": "dev"}, {"sku": hot()}, {"sku": hot(), "pool": ""}):
        filter_ = reservation_lists.Filter(**{**everything, **wanted})  # type: ignore[arg-type]
        found = await reservation_lists.list_page(connection, "default", filter_, None, PAGE)
        assert len(found.rows) == PAGE


async def compare(fresh: Connection, analysed: Connection) -> dict[str, list[float]]:
    """The calls that were slower in every attempt, with how much by their medians; machines are noisy."""
    suspects: dict[str, list[float]] | None = None
    for _ in range(ATTEMPTS):
        slower: dict[str, list[float]] = {}
        for choose in (hot, uniform):
            times: list[dict[str, list[float]]] = [{}, {}]
            for number in range(ROUNDS):
                pairs = [(fresh, times[0]), (analysed, times[1])]
                for connection, noted in pairs if number % 2 else reversed(pairs):
                    await turn(connection, choose, noted)
            for name in times[0]:
                call = f"{name}, {choose.__name__}"
                ratio = median(times[0][name]) / median(times[1][name])
                if ratio > SLOWER_AT_MOST and (suspects is None or call in suspects):
                    slower[call] = [*(suspects or {}).get(call, []), ratio]
        suspects = slower
        if not suspects:
            break
    return suspects or {}
