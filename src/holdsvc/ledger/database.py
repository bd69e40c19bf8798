"""The service's way to PostgreSQL: a pool of connections whose role may only execute the ledger's functions."""

import asyncio
import os
import select
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import psycopg
from psycopg import AsyncConnection, errors
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from holdsvc.settings import Settings
from holdsvc.telemetry import tracing

Row = tuple[Any, ...]

SERVICE_ROLE = "holdsvc_service"

SILENCE_GRACE_S = 2.0
"""How much longer than `statement_timeout` an answer may take: then the database is not slow, nobody is there."""

PING_TIMEOUT_S = 2.0


class NothingRan(Exception):
    """The database refused or could not be reached before anything could take effect."""


class Unknown(Exception):
    """The connection broke while a change was under way: it took effect or it did not."""


class Conflict(Exception):
    """The database undid the change for the sake of another one (deadlock, serialization): do it again."""


class Failed(Exception):
    """The database refused the statement, through a fault of ours or of one request; nothing of it took effect."""


class PoolUse(NamedTuple):
    """Connections of the pool, and those who wait for one."""

    size: int
    size_max: int
    idle: int
    waiting: int


class Connection:
    """One connection of the pool, in autocommit: a function call is a transaction, in one round trip."""

    def __init__(
        self,
        connection: AsyncConnection[Row],
        silence_max_s: float | None = None,
        on_silence: Callable[[], None] = lambda: None,
    ) -> None:
        self._connection = connection
        self._silence_max_s = silence_max_s
        self._on_silence = on_silence

    async def fetch(self, sql: str, parameters: Sequence[Any] = ()) -> list[Row]:
        """Runs one statement and returns its rows.

        Raises `NothingRan`, `Unknown` or `Conflict` for what is nobody's fault, and `Failed` for what is the
        statement's.
        """
        if tracing.active is None:
            return await self._fetch(sql, parameters)
        with tracing.active.statement(sql):
            return await self._fetch(sql, parameters)

    async def _fetch(self, sql: str, parameters: Sequence[Any]) -> list[Row]:
        if self._silence_max_s is None:
            return await self._execute(sql, parameters)
        alarm = asyncio.get_running_loop().call_later(self._silence_max_s, self._hang_up)
        try:
            return await self._execute(sql, parameters)
        finally:
            alarm.cancel()

    def _hang_up(self) -> None:
        """Ends a connection whose other side is silent, as if that side had closed it.

        Neither a cancel nor a timeout of psycopg's ends one: both wait for the server to answer.
        """
        self._on_silence()
        if not self._connection.closed:
            with socket.socket(fileno=os.dup(self._connection.fileno())) as line:
                line.shutdown(socket.SHUT_RDWR)

    async def _execute(self, sql: str, parameters: Sequence[Any]) -> list[Row]:
        try:
            cursor = await self._connection.execute(sql, parameters, binary=True)
            return await cursor.fetchall()
        except (errors.DeadlockDetected, errors.SerializationFailure) as error:
            raise Conflict from error
        except (
            errors.QueryCanceled,
            errors.LockNotAvailable,
            errors.ReadOnlySqlTransaction,
            errors.InsufficientResources,
            errors.DiskFull,
            errors.OutOfMemory,
        ) as error:
            if self._connection.closed:
                raise Unknown from error
            raise NothingRan from error
        except psycopg.Error as error:
            if self._connection.closed:
                raise Unknown from error
            raise Failed(str(error)) from error


class Database:
    """The pool. Open it, lend connections, close it."""

    def __init__(self, settings: Settings, dsn: str) -> None:
        self._wait_s = settings.pool_timeout.total_seconds()
        self._silence_max_s = settings.statement_timeout.total_seconds() + SILENCE_GRACE_S
        self._made_s: WeakKeyDictionary[AsyncConnection[Row], float] = WeakKeyDictionary()
        self._trusted_from_s = 0.0
        options = {
            "statement_timeout": settings.statement_timeout,
            "lock_timeout": settings.lock_timeout,
            "idle_in_transaction_session_timeout": settings.statement_timeout,
        }
        self._session = "; ".join(
            [f"SET {name} = {int(value.total_seconds() * 1000)}" for name, value in options.items()]
            + [
                "SET TIME ZONE 'UTC'",
                "SET default_transaction_isolation = 'read committed'",
                f"SET ROLE {SERVICE_ROLE}",
            ]
        )
        self._pool: AsyncConnectionPool[AsyncConnection[Row]] = AsyncConnectionPool(
            dsn,
            min_size=min(2, settings.pool_size),
            max_size=settings.pool_size,
            timeout=self._wait_s,
            reconnect_timeout=0.0,
            max_lifetime=3600.0,
            open=False,
            name="holdsvc",
            kwargs={
                "autocommit": True,
                "prepare_threshold": 0,
                "application_name": "holdsvc",
                "connect_timeout": 5,
                "keepalives_idle": 10,
                "keepalives_interval": 5,
                "keepalives_count": 3,
                "tcp_user_timeout": 20000,
            },
            configure=self._configure,
        )

    async def _configure(self, connection: AsyncConnection[Row]) -> None:
        await connection.execute(self._session, prepare=False)
        self._made_s[connection] = asyncio.get_running_loop().time()

    def _distrust(self) -> None:
        """One silent connection means that its sisters are silent too: none of them is used again."""
        self._trusted_from_s = asyncio.get_running_loop().time()

    async def open(self) -> None:
        """Opens the pool and waits for its first connections."""
        await self._pool.open(wait=True, timeout=30.0)

    async def close(self) -> None:
        """Closes the pool; waits for nobody."""
        await self._pool.close(timeout=2.0)

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """Lends a connection; raises `NothingRan` when there is none to be had in time."""
        connection = await self._borrow()
        try:
            yield Connection(connection, self._silence_max_s, self._distrust)
        finally:
            await self._pool.putconn(connection)

    async def _borrow(self) -> AsyncConnection[Row]:
        while True:
            try:
                connection = await self._pool.getconn(timeout=self._wait_s)
            except (PoolTimeout, psycopg.OperationalError) as error:
                raise NothingRan from error
            # Nothing is sent over one that is cut or not trusted: unlike one that breaks under way, it leaves nobody in
            # doubt.
            if self._made_s.get(connection, 0.0) >= self._trusted_from_s and not _is_cut(connection):
                return connection
            await connection.close()
            await self._pool.putconn(connection)

    async def fetch(self, sql: str, parameters: Sequence[Any] = ()) -> list[Row]:
        """Runs one statement on a connection of the pool."""
        async with self.connection() as connection:
            return await connection.fetch(sql, parameters)

    def pool_use(self) -> PoolUse:
        """How much of the pool is in use at this moment."""
        stats = self._pool.get_stats()
        return PoolUse(
            size=stats.get("pool_size", 0),
            size_max=stats.get("pool_max", 0),
            idle=stats.get("pool_available", 0),
            waiting=stats.get("requests_waiting", 0),
        )

    async def now_s(self) -> float:
        """The database's time, seconds since 1970."""
        [[now]] = await self.fetch("SELECT extract(epoch FROM clock_timestamp())::float8")
        return float(now)

    async def ping(self) -> None:
        """Returns when the database answers; raises what `fetch` raises.

        A slow answer ends its connection, but says nothing of the others.
        """
        connection = await self._borrow()
        try:
            await Connection(connection, PING_TIMEOUT_S).fetch("SELECT 1")
        finally:
            await self._pool.putconn(connection)


def _is_cut(connection: AsyncConnection[Row]) -> bool:
    """Whether the server has ended the session while it lay idle: a server that waits for a command says nothing."""
    if connection.closed:
        return True
    idle = select.poll()
    idle.register(connection.fileno(), select.POLLIN)
    return bool(idle.poll(0))
