"""What the engine's tests share: a pool on a real database, requests, and an observer that remembers."""

from collections.abc import AsyncIterator

import pytest

from holdsvc.ledger.database import Database
from holdsvc.settings import Settings
from tests.engine.lanes import Observed


@pytest.fixture
def settings() -> Settings:
    return Settings.load(pool_size=4, pool_timeout="2s", auth="off")


@pytest.fixture
async def database(ledger_dsn: str, settings: Settings) -> AsyncIterator[Database]:
    pool = Database(settings, ledger_dsn)
    await pool.open()
    yield pool
    await pool.close()


@pytest.fixture
def observed() -> Observed:
    return Observed()
