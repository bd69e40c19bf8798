"""Sessions of the service in PostgreSQL: how their connections are made and kept, and what is set in them."""

import select
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple

from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool

SETTINGS = {"synchronous_commit": "on", "TimeZone": "UTC", "default_transaction_isolation": "read committed"}
"""What every session relies on, whatever the role or the database says."""

Row = tuple[Any, ...]
Pool = AsyncConnectionPool[AsyncConnection[Row]]


class PoolUse(NamedTuple):
    """Connections of the pool, and the borrowers that wait for one."""

    size: int
    size_max: int
    idle: int
    waiting: int


def make_pool(
    name: str,
    size: tuple[int, int],
    *,
    conninfo: Callable[[], Awaitable[str]],
    configure: Callable[[AsyncConnection[Row]], Awaitable[None]],
    prepares: bool,
    wait_s: float,
) -> Pool:
    """A pool of so many connections, at least and at most; it is not open yet."""
    return AsyncConnectionPool(
        conninfo,
        min_size=size[0],
        max_size=size[1],
        timeout=wait_s,
        reconnect_timeout=0.0,
        max_lifetime=3600.0,
        open=False,
        name=name,
        kwargs={
            "autocommit": True,
            "prepare_threshold": 0 if prepares else None,
            "application_name": "holdsvc",
        },
        configure=configure,
    )


def use_of(pool: Pool) -> PoolUse:
    """How much of a pool is in use at this moment."""
    stats = pool.get_stats()
    return PoolUse(
        size=stats.get("pool_size", 0),
        size_max=stats.get("pool_max", 0),
        idle=stats.get("pool_available", 0),
        waiting=stats.get("requests_waiting", 0),
    )


def setting(values: Mapping[str, str], *, local: bool) -> tuple[str, list[str]]:
    """A statement that sets parameters for the session or, `local`, for the transaction; and its arguments."""
    calls = ", ".join(f"set_config('{name}', %s, {str(local).lower()})" for name in values)
    return f"SELECT {calls}", list(values.values())


def waits(lock_s: float, statement_s: float) -> dict[str, str]:
    """The parameters that bound a wait for a lock, and a statement."""
    return {"lock_timeout": milliseconds(lock_s), "statement_timeout": milliseconds(statement_s)}


def milliseconds(seconds: float) -> str:
    """A time as PostgreSQL's parameters take it."""
    return f"{int(seconds * 1000)}ms"


def is_cut(connection: AsyncConnection[Row]) -> bool:
    """Whether the server has ended the session while it was idle: a server that waits for a command sends nothing."""
    if connection.closed:
        return True
    idle = select.poll()
    idle.register(connection.fileno(), select.POLLIN)
    return bool(idle.poll(0))
