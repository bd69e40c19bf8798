"""Sessions of the schema's owner, for commands: with the primary among the hosts of a DSN, set as the service's own.

A commit that a standby has not got raises Unknown here too: its wait ends only where an operator cancels it.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from psycopg import AsyncConnection
from psycopg.rows import tuple_row

from holdsvc.ledger.database import Connection
from holdsvc.ledger.primary import find_primary
from holdsvc.ledger.session import SETTINGS, setting
from holdsvc.postgres import check_version


@asynccontextmanager
async def opened(dsn: str) -> AsyncIterator[Connection]:
    """A session with the primary.

    Raises OperationalError where there is none, and ValueError where it is too old.
    """
    async with await AsyncConnection.connect(
        await find_primary(dsn), autocommit=True, row_factory=tuple_row
    ) as connection:
        check_version(connection.info.server_version)
        await connection.execute(*setting(SETTINGS, local=False))
        session = Connection(connection)
        connection.add_notice_handler(session.notice)
        yield session
