"""One database for the tests of a file, emptied after each: a copy of its own would cost each test a quarter second.

After a test that changed the schema the next one gets a new copy. A folder of tests has it by importing both fixtures
in its conftest.py.
"""

from collections.abc import Iterator
from contextlib import ExitStack

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
_ACTIVE = (
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND backend_type = 'client backend'"
    " AND state <> 'idle' AND pid <> pg_backend_pid()"
)
_OURS = "SELECT oid FROM pg_class WHERE relnamespace = 'holdsvc'::regnamespace AND NOT relispartition"
_SHAPE = f"""SELECT ARRAY[
    (SELECT count(*) FROM pg_class JOIN pg_namespace AS place ON place.oid = relnamespace
     WHERE nspname !~ '^(pg_|information_schema)'),
    (SELECT sum(hashtext(concat(oid, xmin))) FROM pg_proc WHERE pronamespace::regnamespace::text LIKE 'holdsvc%'),
    (SELECT sum(hashtext(concat(attrelid, attnum, xmin))) FROM pg_attribute WHERE attrelid IN ({_OURS})),
    (SELECT sum(hashtext(concat(oid, xmin))) FROM pg_constraint WHERE conrelid IN ({_OURS})),
    (SELECT sum(hashtext(concat(oid, xmin))) FROM pg_trigger WHERE tgrelid IN ({_OURS}))
]"""
"""Another one after each change of a function, table, constraint or trigger, and with each new table."""


class SharedLedger:
    """A migrated database, and what empties it again."""

    def __init__(self, server_dsn: str, template: str) -> None:
        self._server_dsn, self._template = server_dsn, template
        self._created = ExitStack()
        self._make()

    def _make(self) -> None:
        self.dsn = self._created.enter_context(created(self._server_dsn, self._template))
        self._connect()
        tables = self._owner.execute(_TABLES).fetchall()
        empty = [t for t in tables if not self._owner.execute(f"SELECT EXISTS (SELECT FROM {t})".encode()).fetchone()]
        self._shape = self._owner.execute(_SHAPE.encode()).fetchone()
        self._empty = "; ".join([*(f"DELETE FROM {table}" for table in empty), _WALK, _CLOCK])

    def _connect(self) -> None:
        """One session for all tests of the file: a new one reads the catalogue of all tables anew, for 17 ms."""
        self._owner = psycopg.connect(self.dsn, autocommit=True, row_factory=scalar_row)

    def is_idle(self) -> bool:
        """Whether no session is in a transaction."""
        return self._owner.execute(_ACTIVE.encode()).fetchone() == 0

    def renew(self) -> None:
        """Makes it as it was."""
        try:
            same = self._emptied()
        except psycopg.OperationalError:
            # The test has ended all sessions of the database.
            self._owner.close()
            self._connect()
            same = self._emptied()
        if not same:
            self.drop()
            self._make()

    def _emptied(self) -> bool:
        """Empties the tables; false where the schema is another one."""
        same = bool(self._owner.execute(_SHAPE.encode()).fetchone() == self._shape)
        if same:
            self._owner.execute(self._empty.encode())
        return same

    def drop(self) -> None:
        """Removes it."""
        self._owner.close()
        self._created.close()


@pytest.fixture(scope="module")
def shared_ledger(server_dsn: str, _template: str) -> Iterator[SharedLedger]:
    """The database of the file."""
    ledger = SharedLedger(server_dsn, _template)
    yield ledger
    ledger.drop()


@pytest.fixture
def ledger_dsn(shared_ledger: SharedLedger) -> Iterator[str]:
    """The owner's DSN of an empty ledger."""
    yield shared_ledger.dsn
    shared_ledger.renew()
