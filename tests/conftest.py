"""What all tests share: one embedded PostgreSQL for the run and a fresh database for each test that asks."""

import gc
import os

# Before gRPC is imported: tests start PostgreSQL beside running servers, and gRPC's fork handlers sometimes ended the
# child before it was PostgreSQL (epoll_wait: Bad file descriptor).
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"
# Programs that tests start keep their compiled modules, also where the environment forbids it, as images often do: else
# each start compiles the service anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import hypothesis  # noqa: F401 - its plugin would import it at the very end, among what is being torn down
import psycopg
import pytest
import structlog

from holdsvc.embedded.server import EmbeddedServer
from holdsvc.ledger import migrate
from holdsvc.ledger.database import Database
from holdsvc.process.worker import GC_THRESHOLD
from holdsvc.settings import Settings
from holdsvc.telemetry import logs
from tests.support import memory_folder
from tests.support.alone import Turns
from tests.support.databases import created, database_of
from tests.support.harness import TEST_CLOCK, Harness, StartService, services
from tests.support.wide_schema import widen

# As the service logs: structlog's own default draws every frame with its values, for seconds.
structlog.configure(
    processors=[
        structlog.processors.add_log_level,
        structlog.processors.ExceptionRenderer(logs.without_words),
        structlog.processors.KeyValueRenderer(),
    ]
)


@pytest.fixture(scope="session", autouse=True)
def _log_stays() -> Iterator[None]:
    """A command that runs in the tests' own process leaves the log as it is here, for every later test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logs, "configure", lambda *_: None)
        yield


UNSAFE = {"fsync": "off", "full_page_writes": "off"}
"""What is written outlives no crash of the machine, and need not be flushed."""


def pytest_configure(config: pytest.Config) -> None:
    """Registers what keeps measuring tests alone, and chooses the place of temporary files before pytest does."""
    memory_folder.use()
    assert config.cache is not None
    config.pluginmanager.register(Turns(config.cache.mkdir("turns")))


def pytest_collection_finish() -> None:
    """What is there for the whole run is no work of the garbage collector, as in a worker."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD)


@pytest.fixture(scope="session")
def server_dsn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The DSN of a superuser on the run's own server."""
    folder: Path = tmp_path_factory.mktemp("server")
    server = EmbeddedServer(folder, settings=UNSAFE)
    yield server.start()
    server.stop()


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with a migrated database, to copy from."""
    folder = tmp_path_factory.mktemp("prepared") / "data"
    server = EmbeddedServer(folder, settings=UNSAFE)
    migrate.up(server.start())
    server.stop()
    return folder


@pytest.fixture
def database_dsn(server_dsn: str) -> Iterator[str]:
    """The DSN of an empty database of the test's own."""
    with created(server_dsn) as dsn:
        yield dsn


@pytest.fixture(scope="session")
def _migrated(server_dsn: str) -> Iterator[str]:
    """The name of a migrated database, to copy from: a copy costs a third of the migrations."""
    with created(server_dsn) as dsn:
        migrate.up(dsn)
        yield database_of(dsn)


@pytest.fixture
def migrated(server_dsn: str, _migrated: str) -> Iterator[str]:
    """The owner's DSN of a migrated database of the test's own, as an operator has it."""
    with created(server_dsn, _migrated) as dsn:
        yield dsn


@pytest.fixture(scope="session")
def _template(server_dsn: str, _migrated: str) -> Iterator[str]:
    """The name of a migrated database whose clock a test can put forward, to copy from."""
    with created(server_dsn, _migrated) as dsn:
        if os.environ.get("TEST_WIDE_SCHEMA"):
            widen(dsn)
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute(TEST_CLOCK.encode())
        yield database_of(dsn)


@pytest.fixture
def ledger_dsn(server_dsn: str, _template: str) -> Iterator[str]:
    """The owner's DSN of a migrated database of the test's own."""
    with created(server_dsn, _template) as dsn:
        yield dsn


@pytest.fixture
async def database(ledger_dsn: str, settings: Settings) -> AsyncIterator[Database]:
    """An open pool on the test's database; the file or its folder has the fixture `settings`."""
    pool = Database(settings, ledger_dsn)
    await pool.open()
    yield pool
    await pool.close()


@pytest.fixture
async def start_service(ledger_dsn: str) -> AsyncIterator[StartService]:
    """Starts services on the test's database: settings as keywords, `sweeping` for the background sweep."""
    async with services(ledger_dsn) as start:
        yield start


@pytest.fixture
async def service(start_service: StartService) -> Harness:
    """A running service without authentication and without a background sweep."""
    return await start_service()
