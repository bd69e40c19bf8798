"""The service's way to PostgreSQL: a pool of connections whose role may only execute the ledger's functions."""

import asyncio
import math
import os
import socket
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import psycopg
from psycopg import AsyncConnection
from psycopg.errors import Diagnostic, InvalidSchemaName, UndefinedFunction
from psycopg_pool import PoolTimeout

from holdsvc.ledger import function_set, pooler, tenants
from holdsvc.ledger.binding import bind_scalar
from holdsvc.ledger.failures import Failed, NothingRan, Unknown, Unreplicated, failure_of
from holdsvc.ledger.primary import ADMIT_S, LOOK_S, STATE_SQL, Primary, State
from holdsvc.ledger.session import (
    SETTINGS,
    Pool,
    PoolUse,
    Row,
    is_cut,
    make_pool,
    milliseconds,
    setting,
    use_of,
    waits,
)
from holdsvc.ledger.tenants import CellError
from holdsvc.model import Cause
from holdsvc.settings import Settings
from holdsvc.telemetry import tracing
from holdsvc.telemetry.tracing import Host, Place

SERVICE_ROLE = "holdsvc_service"

SILENCE_GRACE_S = 2.0
"""How much longer than `statement_timeout` an answer may take: after that the database is not slow but silent."""

RESERVED_CONNECTIONS = 2
"""Connections beside the pool, for health checks and for looking up keys: no other work keeps these two waiting."""

OPEN_TIMEOUT_S = 5.0
"""The longest wait for the first connections; then a start tries again."""


class _Mark(NamedTuple):
    restore_mark: int


_MAY_READ = f"WHERE {function_set.shipped().name}.may_read(%s)"
"""Looks, in the snapshot of a read, whether its tenant is in this cell."""

_RESTORE_MARK = bind_scalar("restore_mark", _Mark)


class Connection:
    """One connection of the pool, in autocommit: a function call is a transaction, in one round trip."""

    def __init__(
        self,
        connection: AsyncConnection[Row],
        silence_max_s: float | None = None,
        on_silence: Callable[[], None] = lambda: None,
        own_settings: Mapping[str, str] | None = None,
        *,
        prepare: bool | None = None,
        reads_of: str = "",
    ) -> None:
        self._connection = connection
        self._prepare = prepare
        self._reads_of = reads_of
        self._own_settings = own_settings
        self._silence_max_s = silence_max_s
        self._on_silence = on_silence
        self._unreplicated = False

    async def fetch(self, sql: str, parameters: Sequence[Any] = ()) -> list[Row]:
        """Runs one statement and returns its rows.

        Raises `NothingRan`, `Unknown`, `Conflict` or `Moved` for what the statement is not to blame for, and `Failed`
        for what it is. A cancelled task cancels its statement in the database and waits for its end.
        """
        if self._reads_of:
            sql, parameters = f"{sql} {_MAY_READ}", [*parameters, self._reads_of]
        if tracing.active is None:
            return await self._fetch(sql, parameters)
        with tracing.active.statement(sql, self._place()):
            return await self._fetch(sql, parameters)

    def _place(self) -> Place | None:
        """The database; None of a connection that is closed, which libpq knows nothing of any more."""
        info = self._connection.info
        return None if self._connection.closed else Place(Host(info.host, info.port), info.dbname)

    async def _fetch(self, sql: str, parameters: Sequence[Any]) -> list[Row]:
        if self._silence_max_s is None:
            return await self._execute(sql, parameters)
        alarm = asyncio.get_running_loop().call_later(self._silence_max_s, self._be_silent)
        try:
            return await self._execute(sql, parameters)
        finally:
            alarm.cancel()

    def _be_silent(self) -> None:
        self._on_silence()
        self.hang_up()

    def hang_up(self) -> None:
        """Ends a connection whose other side is silent or not to be trusted, as if that side had closed it.

        Neither a cancel nor a timeout of psycopg's ends one: both wait for the server to answer.
        """
        if not self._connection.closed:
            with socket.socket(fileno=os.dup(self._connection.fileno())) as line, suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)

    def notice(self, notice: Diagnostic) -> None:
        """Takes note of a cancelled wait for a standby: the server acknowledges that commit, with a warning."""
        self._unreplicated |= notice.source_function == "SyncRepWaitForLSN"

    async def _execute(self, sql: str, parameters: Sequence[Any]) -> list[Row]:
        try:
            if self._own_settings is not None:
                rows = await self._execute_apart(self._own_settings, sql, parameters)
            else:
                cursor = await self._connection.execute(sql, parameters, binary=True, prepare=self._prepare)
                rows = await cursor.fetchall()
        except psycopg.Error as error:
            failure = failure_of(error, closed=self._connection.closed)
            if isinstance(failure, Unknown):
                await self._connection.close()
            raise failure from error
        if self._unreplicated:
            await self._connection.close()
            raise Unreplicated
        return rows

    async def _execute_apart(self, settings: Mapping[str, str], sql: str, parameters: Sequence[Any]) -> list[Row]:
        """Runs a statement with settings of its own: one transaction, and in a pipeline one round trip too."""
        async with self._connection.pipeline():
            await self._connection.execute(*setting(settings, local=True), prepare=self._prepare)
            cursor = await self._connection.execute(sql, parameters, binary=True, prepare=self._prepare)
            return await cursor.fetchall()


class Database:
    """The pool. Open it, lend connections, close it. The name of a cell tells its primary from those of others."""

    def __init__(self, settings: Settings, dsn: str, cell: str = "") -> None:
        self.primary = Primary(settings, dsn, cell, _state, self._abandon)
        self._cell = cell
        self._size = settings.pool_size
        self._wait_s = settings.pool_timeout.total_seconds()
        self._time_limit_s = settings.statement_timeout.total_seconds()
        self._silence_max_s = self._time_limit_s + SILENCE_GRACE_S
        self._lock_timeout_s = settings.lock_timeout.total_seconds()
        self._made_s: WeakKeyDictionary[AsyncConnection[Row], float] = WeakKeyDictionary()
        self._waits_s: WeakKeyDictionary[AsyncConnection[Row], tuple[float, float]] = WeakKeyDictionary()
        """The timeouts of locks and of statements that each connection has now."""
        self._lent: set[Connection] = set()
        self._trusted_from_s = 0.0
        self._answered_s = -math.inf
        self._given_up = False
        self._keeps_sessions = settings.prepare
        self._session = {
            "statement_timeout": milliseconds(self._time_limit_s),
            "lock_timeout": milliseconds(self._lock_timeout_s),
            "idle_in_transaction_session_timeout": milliseconds(self._time_limit_s),
            **SETTINGS,
            "role": SERVICE_ROLE,
        }
        self._pool, self._reserved = self._make_pools()

    def _make_pools(self) -> tuple[Pool, Pool]:
        return (
            self._make_pool("holdsvc", min(2, self._size), self._size),
            self._make_pool("holdsvc reserved", 0, RESERVED_CONNECTIONS),
        )

    def _make_pool(self, name: str, min_size: int, max_size: int) -> Pool:
        return make_pool(
            name,
            (min_size, max_size),
            conninfo=self.primary.conninfo,
            configure=self._configure,
            prepares=self._keeps_sessions,
            wait_s=self._wait_s,
        )

    async def _configure(self, connection: AsyncConnection[Row]) -> None:
        if self._keeps_sessions:
            await connection.execute(*setting(self._session, local=False), prepare=False)
        await self.primary.admit(connection)
        self._waits_s[connection] = (self._lock_timeout_s, self._time_limit_s)
        self._made_s[connection] = _now_s()

    def _distrust(self) -> None:
        """One silent connection means that the others are silent too: none of them is used again."""
        self._trusted_from_s = _now_s()

    def _abandon(self) -> None:
        """Ends every connection, those in use at once: they lead to a server that is not the primary any more."""
        self._distrust()
        for lent in self._lent:
            lent.hang_up()

    def give_up(self, *, away: bool) -> None:
        """Lets nobody wait for a database that does not answer; nothing but `ping` is tried while it is `away`."""
        if away and not self._given_up:
            self._abandon()
        self._given_up = away

    async def look(self) -> float:
        """Asks who the primary is; returns when that is due again."""
        if self.primary.alone:
            await self.primary.ask_patroni()
            await self.ping()
        else:
            await self.primary.look()
        return LOOK_S

    async def open(self) -> None:
        """Opens the pool and waits for its first connections; after a failure it can be called again.

        Raises CellError where the database is another cell than the one that it is taken for.
        """
        try:
            await self._pool.open(wait=True, timeout=OPEN_TIMEOUT_S)
            await self._reserved.open()
            if self._keeps_sessions:
                await self._refuse_shared_sessions()
            if self._cell:
                async with self.connection(reserved=True) as connection:
                    await tenants.check_cell(connection, self._cell)
        except CellError:
            await self._begin_anew()
            raise
        except PoolTimeout as error:
            await self._begin_anew()
            raise NothingRan(self._why_none()) from error

    async def _begin_anew(self) -> None:
        """Replaces the pools: one that was opened cannot be opened again."""
        await self.close()
        self._pool, self._reserved = self._make_pools()

    async def _refuse_shared_sessions(self) -> None:
        pair = [await self._borrow(self._reserved) for _ in range(RESERVED_CONNECTIONS)]
        try:
            await pooler.refuse_shared_sessions(pair)
        except psycopg.OperationalError as error:
            raise NothingRan from error
        finally:
            for each in pair:
                await self._reserved.putconn(each)

    async def close(self) -> None:
        """Closes the pool without waiting for borrowers."""
        await self._reserved.close(timeout=2.0)
        await self._pool.close(timeout=2.0)
        await self.primary.close()

    @asynccontextmanager
    async def connection(
        self,
        lock_wait_s: float | None = None,
        *,
        time_limit_s: float | None = None,
        reserved: bool = False,
        reads_of: str = "",
    ) -> AsyncIterator[Connection]:
        """Lends a connection; raises `NothingRan` when there is none in time.

        Its statements wait for a lock for `lock_wait_s` at most; None is for statements that take no locks. They run
        for `time_limit_s` at most, or STATEMENT_TIMEOUT; those that take no locks may have the limit of the borrower
        before. The server ends them, never a cancel: that would also end the wait of a commit for a standby.
        `reserved` takes a connection of the health checks and keys. `reads_of`: it calls functions that read, for this
        tenant, and each raises `Moved` where that has gone to another cell; a database without a name does not look.
        """
        pool = self._reserved if reserved else self._pool
        connection = await self._borrow(pool)
        wait_s = self._lock_timeout_s if lock_wait_s is None else lock_wait_s
        waits_s = (wait_s, min(self._time_limit_s, time_limit_s or self._time_limit_s))
        own_settings = None if self._keeps_sessions else {**self._session, **waits(*waits_s)}
        reads_of = reads_of if self._cell else ""
        lent = Connection(connection, self._silence_max_s, self._distrust, own_settings, reads_of=reads_of)
        self._lent.add(lent)
        connection.add_notice_handler(lent.notice)
        try:
            if self._keeps_sessions and lock_wait_s is not None and self._waits_s.get(connection) != waits_s:
                await self._set_waits(connection, lent, waits_s)
            yield lent
            self._answered_s = _now_s()
        finally:
            connection.remove_notice_handler(lent.notice)
            self._lent.discard(lent)
            await pool.putconn(connection)

    async def _set_waits(
        self, connection: AsyncConnection[Row], lent: Connection, waits_s: tuple[float, float]
    ) -> None:
        self._waits_s.pop(connection, None)
        try:
            await lent.fetch(*setting(waits(*waits_s), local=False))
        except Unknown as error:
            raise NothingRan from error
        self._waits_s[connection] = waits_s

    async def _borrow(self, pool: Pool, *, judging: bool = False, wait_s: float | None = None) -> AsyncConnection[Row]:
        while True:
            if not judging and (cause := self.primary.cause) is not None:
                raise NothingRan(cause)
            if not judging and self._given_up:
                raise NothingRan
            try:
                connection = await pool.getconn(timeout=wait_s or self._wait_s)
            except PoolTimeout as error:
                raise NothingRan(self._why_none()) from error
            except psycopg.OperationalError as error:
                raise NothingRan from error
            # Nothing is sent over a connection that is cut or not trusted: one that breaks during a statement would
            # leave a change in doubt.
            if self._made_s.get(connection, 0.0) >= self._trusted_from_s and not is_cut(connection):
                return connection
            await connection.close()
            await pool.putconn(connection)

    def heard_within(self, seconds: float) -> bool:
        """Whether it has answered something in the last seconds."""
        return _now_s() - self._answered_s < seconds

    def _why_none(self) -> Cause:
        """Why there was no connection: a database that answered others meanwhile is not away."""
        answered = self.heard_within(self._wait_s)
        if (cause := self.primary.cause) is not None:
            return cause
        return Cause.POOL_EXHAUSTED if answered else Cause.DATABASE_AWAY

    async def fetch(self, sql: str, parameters: Sequence[Any] = ()) -> list[Row]:
        """Runs one statement on a connection of the pool."""
        async with self.connection() as connection:
            return await connection.fetch(sql, parameters)

    def pool_use(self) -> PoolUse:
        """How much of the pool is in use at this moment."""
        return use_of(self._pool)

    async def now_s(self) -> float:
        """The database's time, seconds since 1970."""
        [[now]] = await self.fetch("SELECT extract(epoch FROM clock_timestamp())::float8")
        return float(now)

    async def ping(self, answer_s: float | None = None) -> None:
        """Returns when the primary answers; raises what `fetch` raises, also where it does not answer in time.

        A slow answer ends its connection, but says nothing of the others.
        """
        connection = await self._borrow(self._reserved, judging=True, wait_s=answer_s)
        try:
            await self.primary.admit(connection, answer_s or ADMIT_S)
        except psycopg.OperationalError as error:
            raise NothingRan(self._why_none()) from error
        finally:
            await self._reserved.putconn(connection)


async def _state(connection: AsyncConnection[Row], answer_s: float) -> State:
    """What a server says of itself; one without the functions of this release has never been put back."""
    # Not prepared: it may be a pooler of transactions that is asked here, and is refused in words later.
    [row] = await Connection(connection, answer_s, prepare=False).fetch(STATE_SQL)
    try:
        asked = Connection(connection, answer_s, own_settings={"role": SERVICE_ROLE}, prepare=False)
        mark = await _RESTORE_MARK.one(asked)
    except Failed as error:
        if not isinstance(error.__cause__, (InvalidSchemaName, UndefinedFunction)):
            raise
        mark = _Mark(0)
    return State._make((*row, *mark))


def _now_s() -> float:
    return asyncio.get_running_loop().time()
