"""What the tests of the ledger share."""

from collections.abc import AsyncIterator

import pytest

from holdsvc.ledger.database import Connection, Database
from holdsvc.settings import Settings


@pytest.fixture
async def connection(ledger_dsn: str) -> AsyncIterator[Connection]:
    """A connection of the service's role, for statements that take long."""
    pool = Database(Settings.load(auth="off", pool_size=2, statement_timeout="60s"), ledger_dsn)
    await pool.open()
    try:
        async with pool.connection() as connection:
            yield connection
    finally:
        await pool.close()
