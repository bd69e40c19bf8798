"""Sessions of the schema's owner, for commands: with the primary among the hosts of a DSN, set as the service's own.

A commit that a standby has not got raises Unknown here too: its wait ends only where an operator cancels it.
"""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import psycopg
from psycopg import AsyncConnection
from psycopg.rows import tuple_row

from holdsvc.ledger.database import Connection
from holdsvc.ledger.primary import chosen_dsn, find_primary
from holdsvc.ledger.session import SETTINGS, setting
from holdsvc.postgres import check_version


@asynccontextmanager
async def opened(dsn: str) -> AsyncIterator[Connection]:
    """A session with the primary.

    Raises OperationalError where no host is the primary, and ValueError where its PostgreSQL is too old.
    """
    async with await AsyncConnection.connect(
        await find_primary(dsn), autocommit=True, row_factory=tuple_row
    ) as connection:
        check_version(connection.info.server_version)
        await connection.execute(*setting(SETTINGS, local=False))
        session = Connection(connection)
        connection.add_notice_handler(session.notice)
        yield session


@contextmanager
def placing(dsn: str, tenant: str) -> Iterator[None]:
    """Keeps out other commands that would place the same tenant, where they ask for it in the same database."""
    with psycopg.connect(chosen_dsn(dsn)) as connection:
        connection.execute("SELECT pg_advisory_xact_lock(hashtext('holdsvc placing'), hashtext(%s))", (tenant,))
        yield
