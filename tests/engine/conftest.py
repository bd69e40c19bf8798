"""Settings and an observer for the tests of the engine."""

import pytest

from holdsvc.settings import Settings
from tests.engine.lanes import Observed
from tests.support.shared_ledger import ledger_dsn, shared_ledger

__all__ = ["ledger_dsn", "observed", "settings", "shared_ledger"]


@pytest.fixture
def settings() -> Settings:
    return Settings.load(pool_size=4, pool_timeout="2s", auth="off")


@pytest.fixture
def observed() -> Observed:
    return Observed()
