"""What all tests share: one embedded PostgreSQL for the run and a fresh database for each test that asks."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from holdsvc.ledger.embedded import EmbeddedServer

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def server_dsn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The DSN of a superuser on the run's own server. Nothing there outlives the run, so nothing is flushed."""
    folder: Path = tmp_path_factory.mktemp("server")
    server = EmbeddedServer(folder, settings={"fsync": "off", "full_page_writes": "off"})
    yield server.start()
    server.stop()


@pytest.fixture
def database_dsn(server_dsn: str) -> Iterator[str]:
    """The DSN of an empty database of the test's own."""
    name = f"test_{next(_numbers)}"
    with psycopg.connect(server_dsn, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
    yield make_conninfo(server_dsn, dbname=name)
    with psycopg.connect(server_dsn, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())
