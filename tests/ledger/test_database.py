"""The pool: what an error of the database means for a change, and what it does when the database is not there."""

import asyncio

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from holdsvc.ledger import database as database_module
from holdsvc.ledger.database import Connection, Database
from holdsvc.ledger.failures import Conflict, Failed, NothingRan, Unknown
from holdsvc.model import Cause
from holdsvc.settings import Settings
from tests.support.polling import until


@pytest.fixture
def settings() -> Settings:
    return Settings.load(pool_size=2, pool_timeout="200ms", auth="off")


async def fail(connection: Connection, sqlstate: str) -> None:
    """Has the database raise an error on an open connection."""
    await connection.fetch(f"DO $$ BEGIN RAISE 'raised' USING ERRCODE = '{sqlstate}'; END $$")


@pytest.mark.parametrize("sqlstate", ["08000", "08003", "08006", "08P01", "57P01", "57P02", "57P03", "57P04", "57P05"])
async def test_after_an_error_of_a_dying_server_or_connection_the_outcome_is_unknown(
    database: Database, sqlstate: str
) -> None:
    async with database.connection() as connection:
        with pytest.raises(Unknown):
            await fail(connection, sqlstate)
    # The connection is not lent again.
    for _ in range(5):
        assert await database.fetch("SELECT 1") == [(1,)]


@pytest.mark.parametrize(
    ("sqlstate", "cause"),
    [
        ("57014", Cause.STATEMENT_TIMEOUT),
        ("55P03", Cause.LOCK_WAIT),
        ("25006", Cause.DATABASE_REFUSED),
        ("53100", Cause.DATABASE_REFUSED),
        ("53200", Cause.DATABASE_REFUSED),
        ("53300", Cause.DATABASE_REFUSED),
    ],
)
async def test_an_error_that_undid_everything_names_its_cause(database: Database, sqlstate: str, cause: Cause) -> None:
    async with database.connection() as connection:
        with pytest.raises(NothingRan) as raised:
            await fail(connection, sqlstate)
    assert raised.value.cause is cause


@pytest.mark.parametrize(
    ("sqlstate", "kind"), [("40001", Conflict), ("40P01", Conflict), ("22012", Failed), ("P0001", Failed)]
)
async def test_other_errors_are_a_conflict_or_the_statements_own(
    database: Database, sqlstate: str, kind: type[Exception]
) -> None:
    async with database.connection() as connection:
        with pytest.raises(kind):
            await fail(connection, sqlstate)


async def test_a_lock_is_waited_for_as_long_as_the_borrower_says(database: Database) -> None:
    async def wait_s() -> str:
        async with database.connection() as connection:
            return str((await connection.fetch("SHOW lock_timeout"))[0][0])

    async with database.connection(0.1) as connection:
        assert await connection.fetch("SHOW lock_timeout") == [("100ms",)]
    async with database.connection(2.0) as connection:
        assert await connection.fetch("SHOW lock_timeout") == [("2s",)]
    assert await wait_s() in ("100ms", "2s", "10s")


async def test_a_pool_in_use_is_told_from_a_database_that_is_away(database: Database) -> None:
    async def busy(seconds: float) -> None:
        async with database.connection() as connection:
            await connection.fetch("SELECT pg_sleep(%s)", (seconds,))

    # A statement ends while the third borrower waits: the database answers.
    held = [asyncio.ensure_future(busy(0.1)), asyncio.ensure_future(busy(1.0))]
    await until(lambda: database.pool_use().idle == 0)
    queued = [asyncio.ensure_future(busy(1.0)) for _ in range(2)]
    results = await asyncio.gather(*queued, return_exceptions=True)
    await asyncio.gather(*held)
    causes = [result.cause for result in results if isinstance(result, NothingRan)]
    assert causes == [Cause.POOL_EXHAUSTED]
    await database.close()
    with pytest.raises(NothingRan) as raised:
        await database.fetch("SELECT 1")
    assert raised.value.cause is Cause.DATABASE_AWAY


async def test_a_pool_whose_first_start_failed_opens_later(
    server_dsn: str, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_module, "OPEN_TIMEOUT_S", 0.3)
    pool = Database(settings, make_conninfo(server_dsn, dbname="made_later"))
    for _ in range(2):
        with pytest.raises(NothingRan):
            await pool.open()
    with psycopg.connect(server_dsn, autocommit=True) as owner:
        owner.execute("CREATE DATABASE made_later")
    try:
        await pool.open()
        assert await pool.fetch("SELECT 1") == [(1,)]
        await pool.ping()
    finally:
        await pool.close()
        with psycopg.connect(server_dsn, autocommit=True) as owner:
            owner.execute("DROP DATABASE made_later WITH (FORCE)")
