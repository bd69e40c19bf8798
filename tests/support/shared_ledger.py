"""One database for the tests of a file, emptied after each: a copy of its own would cost each test a quarter second.

A folder of tests has it by importing both fixtures in its conftest.py.
"""

from collections.abc import Iterator

import psycopg
import pytest
from psycopg.rows import scalar_row

from tests.support.databases import created

_TABLES = (
    "SELECT oid::regclass::text FROM pg_class"
    " WHERE relnamespace = 'holdsvc'::regnamespace AND relkind IN ('r', 'p') AND NOT relispartition ORDER BY 1"
)
_WALK = "UPDATE holdsvc.retention_walk SET after_id = NULL, begin_time = NULL"
_CLOCK = "UPDATE public.test_clock SET ahead = '0'"


@pytest.fixture(scope="module")
def shared_ledger(server_dsn: str, _template: str) -> Iterator[tuple[str, str]]:
    """The owner's DSN, and the statements that empty what was empty."""
    with created(server_dsn, _template) as dsn:
        with psycopg.connect(dsn, autocommit=True, row_factory=scalar_row) as owner:
            tables = owner.execute(_TABLES).fetchall()
            empty = [t for t in tables if not owner.execute(f"SELECT EXISTS (SELECT FROM {t})".encode()).fetchone()]
        yield dsn, "; ".join([*(f"DELETE FROM {table}" for table in empty), _WALK, _CLOCK])


@pytest.fixture
def ledger_dsn(shared_ledger: tuple[str, str]) -> Iterator[str]:
    """The owner's DSN of an empty ledger. A test that changes its schema changes it back."""
    dsn, empty = shared_ledger
    yield dsn
    with psycopg.connect(dsn, autocommit=True) as owner:
        owner.execute(empty.encode())
