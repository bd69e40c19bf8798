"""What the tests of the ledger share."""

from collections.abc import AsyncIterator

import pytest

from holdsvc.ledger.database import Connection
from tests.support.sessions import pooled


@pytest.fixture
async def connection(ledger_dsn: str) -> AsyncIterator[Connection]:
    """A connection of the service's pool, for statements that take long."""
    async with pooled(ledger_dsn, statement_timeout="60s") as connection:
        yield connection
