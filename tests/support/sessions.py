"""Database sessions of a test: transactions that hold locks, waiting for a call to reach such a lock, plain SQL."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import psycopg

from holdsvc.ledger.database import Connection, Database
from holdsvc.settings import Settings
from tests.support.polling import until

_WAITING = (
    "SELECT count(*) FROM pg_stat_activity"
    " WHERE datname = current_database() AND wait_event_type = 'Lock' AND pid <> pg_backend_pid()"
)


@contextmanager
def transaction(dsn: str) -> Iterator[psycopg.Connection]:
    """An open transaction of the schema's owner, rolled back at the end."""
    with psycopg.connect(dsn) as connection:
        yield connection
        connection.rollback()


async def until_blocked(dsn: str, count: int = 1) -> None:
    """Returns when `count` sessions of the database wait for a lock."""
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:

        async def are_blocked() -> bool:
            row = await (await connection.execute(_WAITING)).fetchone()
            return row is not None and row[0] >= count

        await until(are_blocked, pause_s=0.005)


@asynccontextmanager
async def pooled(dsn: str, **settings: str) -> AsyncIterator[Connection]:
    """One connection of the service's pool."""
    database = Database(Settings.load(pool_size=2, auth="off", **settings), dsn)
    await database.open()
    try:
        async with database.connection() as connection:
            yield connection
    finally:
        await database.close()


def sql_of(dsn: str) -> Any:
    """Runs SQL as the schema's owner."""

    def run(query: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(dsn, autocommit=True) as connection:
            return connection.execute(query.encode()).fetchall()

    return run


@contextmanager
def snapshot(dsn: str) -> Iterator[Any]:
    """Runs SQL as `sql_of` does, on one state of the tables, whatever sweeps and callers do meanwhile."""
    with psycopg.connect(dsn) as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        yield lambda query: connection.execute(query.encode()).fetchall()
