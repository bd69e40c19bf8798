"""One database for the tests of a file, emptied after each: a copy of its own would cost each test a quarter second."""

from collections.abc import Iterator

import psycopg
import pytest

from tests.support.databases import created

_EMPTY = "; ".join(
    f"DELETE FROM holdsvc.{table}"
    for table in (
        *("item", "reservation", "reservation_line", "sales_order", "request", "event", "api_key"),
        *("stock_move", "quarantine"),
        *("hold_limit", "limit_subject", "limit_use", "limit_change"),
        *("waitlist_entry", "waitlist_line"),
    )
)
_WALK = "UPDATE holdsvc.retention_walk SET after_id = NULL, begin_time = NULL"
_CLOCK = "UPDATE public.test_clock SET ahead = '0'"


@pytest.fixture(scope="module")
def _shared_dsn(server_dsn: str, _template: str) -> Iterator[str]:
    with created(server_dsn, _template) as dsn:
        yield dsn


@pytest.fixture
def ledger_dsn(_shared_dsn: str) -> Iterator[str]:
    """The owner's DSN of an empty ledger. A test that changes its schema changes it back."""
    yield _shared_dsn
    with psycopg.connect(_shared_dsn, autocommit=True) as connection:
        connection.execute(f"{_EMPTY}; {_WALK}; {_CLOCK}".encode())
