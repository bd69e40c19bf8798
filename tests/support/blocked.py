"""Locks that a test holds: how it knows that a call has come as far as one of them."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

_WAITING = (
    "SELECT count(*) FROM pg_stat_activity"
    " WHERE datname = current_database() AND wait_event_type = 'Lock' AND pid <> pg_backend_pid()"
)


@contextmanager
def transaction(dsn: str) -> Iterator[psycopg.Connection]:
    """An open transaction of the schema's owner; what it locked is free at the end, when it is undone."""
    with psycopg.connect(dsn) as connection:
        yield connection
        connection.rollback()


async def until_blocked(dsn: str, count: int = 1) -> None:
    """Returns when `count` sessions of the database wait for a lock."""
    async with asyncio.timeout(60), await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        while True:
            cursor = await connection.execute(_WAITING)
            row = await cursor.fetchone()
            if row is not None and row[0] >= count:
                return
            await asyncio.sleep(0.005)
