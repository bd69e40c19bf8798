"""One service for the tests of a file, on one loop: one of its own would cost each test a tenth of a second.

A folder of tests has it by importing the fixtures, and those of `shared_ledger`, in its conftest.py, and the hook
`on_one_loop`. After a test that stopped the service or changed the schema, the next one gets a new one.
"""

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from tests.support.harness import Harness, StartService, services, started
from tests.support.polling import until
from tests.support.shared_ledger import SharedLedger


def on_one_loop(conftest: str) -> Callable[[list[pytest.Item]], None]:
    """A hook that gives each file of the folder one loop for all of its tests."""
    folder = Path(conftest).parent

    def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
        for item in items:
            if item.path.parent == folder and pytest_asyncio.is_async_test(item):
                item.add_marker(pytest.mark.asyncio(loop_scope="module"), append=False)

    return pytest_collection_modifyitems


class SharedService:
    """Runs from the first test that asks for it."""

    def __init__(self) -> None:
        self._running: Harness | None = None

    async def of(self, dsn: str) -> Harness:
        """The running service, on this database."""
        if self._running is None or self._running.owner_dsn != dsn or self._running.stopped:
            await self.stop()
            self._running = await started(dsn)
        # As at a start: the test before may have been in the future.
        cell = self._running.cell
        cell.engine.new_id.observe(await cell.database.now_s())
        return self._running

    async def stop(self) -> None:
        """Ends it."""
        if self._running is not None:
            await self._running.stop()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared() -> AsyncIterator[SharedService]:
    """The service of the file."""
    found = SharedService()
    yield found
    await found.stop()


@pytest_asyncio.fixture(loop_scope="module")
async def service(ledger_dsn: str, shared_ledger: SharedLedger, shared: SharedService) -> AsyncIterator[Harness]:
    """A running service without authentication and without a background sweep."""
    harness = await shared.of(ledger_dsn)
    yield harness
    # What is under way must not meet the next test's rows, nor what was read for streams its readers.
    await until(shared_ledger.is_idle)
    harness.cell.streams.events._reads.clear()


@pytest_asyncio.fixture(loop_scope="module")
async def start_service(ledger_dsn: str) -> AsyncIterator[StartService]:
    """Starts services on the test's database: settings as keywords, `sweeping` for the background sweep."""
    async with services(ledger_dsn) as start:
        yield start
