"""The migration runner: dbmate's file format, one transaction each, safe to start many times at once.

A file `NNNN_name.sql` has a `-- migrate:up` and a `-- migrate:down` part; dbmate itself can run the same files on the
same table (`--migrations-table holdsvc_migrations.schema_migrations`). With `transaction:false` behind the marker a
part is ONE statement outside a transaction, as CREATE INDEX CONCURRENTLY needs it; it must bear to be run twice.
"""

import hashlib
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal

import psycopg
from psycopg import errors

from holdsvc.postgres import check_version

FOLDER = Path(__file__).parent / "migrations"

_LOCK_KEY = 0x686F6C6473766300  # "holdsvc"; any constant of our own
_LOCK_WAIT = timedelta(minutes=10)  # for another runner: its migration may be long
_POLL_SECONDS = 0.05
_STATEMENT_LOCK_WAIT = "10s"  # for a table: behind a waiting ALTER TABLE every call queues up

_FILE_NAME = re.compile(r"(\d+)_(\w+)\.sql", re.ASCII)
_MARKER = re.compile(r"^-- migrate:(up|down)([^\n]*)$", re.MULTILINE)

_CREATE_TABLE = """
CREATE SCHEMA IF NOT EXISTS holdsvc_migrations;
CREATE TABLE holdsvc_migrations.schema_migrations (
  version text PRIMARY KEY,
  name text, -- this and sha256 are null where dbmate applied the file
  sha256 text,
  applied_time timestamptz NOT NULL DEFAULT clock_timestamp()
);
-- Every role may see that nothing is pending, so that a service whose role may not migrate can start.
GRANT USAGE ON SCHEMA holdsvc_migrations TO PUBLIC;
GRANT SELECT ON holdsvc_migrations.schema_migrations TO PUBLIC;
"""


class MigrationError(Exception):
    """A migration cannot be run; the message says what to do."""


class ConnectionRefused(MigrationError):
    """The database cannot be reached, perhaps because it is still starting."""


class MigrationChanged(MigrationError):
    """An applied migration's file is not what it was."""


class DatabaseNewer(MigrationError):
    """The database has migrations that this version does not know."""


@dataclass(frozen=True)
class Part:
    """What one direction of a migration runs."""

    sql: str
    transaction: bool
    line: int  # where the part starts in its file


@dataclass(frozen=True)
class Migration:
    """One migration file."""

    version: str
    name: str
    sha256: str
    up: Part
    down: Part


@dataclass(frozen=True)
class Status:
    """One migration as file and database together see it."""

    version: str
    name: str
    state: Literal["applied", "pending", "changed", "unknown"]
    applied_time: datetime | None


@dataclass(frozen=True)
class _Applied:
    version: str
    name: str | None
    sha256: str | None
    time: datetime


def up(dsn: str, to: str | None = None, *, folder: Path = FOLDER) -> list[Migration]:
    """Applies the pending migrations, up to the version `to`, and returns those that this call applied."""
    migrations = read(folder)
    last = max(migrations) if to is None else to.zfill(len(max(migrations)))
    if last not in migrations:
        raise MigrationError(f"There is no migration {to}: the versions are {', '.join(migrations)}")
    done: list[Migration] = []
    with _connect(dsn) as connection:
        # Looked at before the lock is taken: where nothing is pending, the role needs no right to migrate.
        while _pending(connection, migrations, last):
            with _locked(connection):
                if not _has_table(connection):
                    connection.execute(_CREATE_TABLE)
                pending = _pending(connection, migrations, last)
                if pending:
                    _run(dsn, connection, pending[0], pending[0].up)
                    connection.execute(
                        "INSERT INTO holdsvc_migrations.schema_migrations (version, name, sha256) VALUES (%s, %s, %s)",
                        (pending[0].version, pending[0].name, pending[0].sha256),
                    )
            done += pending[:1]
    return done


def down(dsn: str, steps: int, *, folder: Path = FOLDER) -> list[Migration]:
    """Takes back the newest `steps` applied migrations, data with them, and returns those that this call took back."""
    if steps < 1:
        raise MigrationError(f"{steps} steps down make no sense: give 1 or more")
    migrations = read(folder)
    done: list[Migration] = []
    with _connect(dsn) as connection:
        while len(done) < steps:
            with _locked(connection):
                applied = _read_applied(connection)
                _check(migrations, applied)
                if not applied:
                    return done
                newest = migrations[max(applied)]
                _run(dsn, connection, newest, newest.down)
                connection.execute(
                    "DELETE FROM holdsvc_migrations.schema_migrations WHERE version = %s", (newest.version,)
                )
            done.append(newest)
    return done


def status(dsn: str, *, folder: Path = FOLDER) -> list[Status]:
    """Returns every migration that the files or the database know, oldest first; changes nothing."""
    migrations = read(folder)
    with _connect(dsn) as connection:
        applied = _read_applied(connection)
    return [
        _status(version, migrations.get(version), applied.get(version)) for version in sorted({*migrations, *applied})
    ]


def read(folder: Path = FOLDER) -> dict[str, Migration]:
    """Reads the migration files by version, oldest first."""
    migrations: dict[str, Migration] = {}
    for path in sorted(folder.glob("*.sql")):
        migration = _parse(path)
        if migration.version in migrations:
            raise MigrationError(f"Two files have the version {migration.version}: rename {path.name}")
        migrations[migration.version] = migration
    if not migrations:
        raise MigrationError(f"There are no migrations in {folder}")
    if len({len(version) for version in migrations}) > 1:
        raise MigrationError(f"Versions in {folder} differ in length, so their order is not that of their names")
    return migrations


def _parse(path: Path) -> Migration:
    match = _FILE_NAME.fullmatch(path.name)
    if not match:
        raise MigrationError(f"{path.name} is not named NNNN_name.sql")
    text = path.read_text(encoding="utf-8")
    markers = list(_MARKER.finditer(text))
    if [marker[1] for marker in markers] != ["up", "down"]:
        raise MigrationError(f"{path.name} needs one line `-- migrate:up` and after it one line `-- migrate:down`")
    ends = [markers[1].start(), len(text)]
    parts = []
    for marker, end in zip(markers, ends, strict=True):
        option = marker[2].strip()
        if option not in ("", "transaction:false", "transaction:true"):
            raise MigrationError(f"{path.name}: unknown option {option!r}; there is transaction:false only")
        line = text.count("\n", 0, marker.end()) + 1
        parts.append(Part(text[marker.end() : end], option != "transaction:false", line))
    digest = hashlib.sha256(text.encode()).hexdigest()
    return Migration(match[1], match[2], digest, parts[0], parts[1])


@contextmanager
def _connect(dsn: str) -> Iterator[psycopg.Connection]:
    try:
        connection = psycopg.connect(dsn, autocommit=True, application_name="holdsvc migrate")
    except psycopg.OperationalError as error:
        raise ConnectionRefused(
            f"No connection to the database to migrate: {str(error).strip()}\nThe role and the database must exist;"
            " check HOLDSVC_MIGRATE_DSN, or HOLDSVC_DSN where that is empty"
        ) from error
    with connection:
        try:
            check_version(connection.info.server_version)
        except ValueError as error:
            raise MigrationError(str(error)) from None
        try:
            yield connection
        except errors.InsufficientPrivilege as error:
            raise MigrationError(
                f"The role {connection.info.user} may not migrate: {error.diag.message_primary}."
                " Set HOLDSVC_MIGRATE_DSN to a DSN of the schema's owner"
            ) from error


@contextmanager
def _locked(connection: psycopg.Connection) -> Iterator[None]:
    """Opens a transaction that no other runner is in. A lock of a transaction cannot leak through a pooler.

    The lock is tried, not waited for: the snapshot of one who waits would stop another's CREATE INDEX CONCURRENTLY,
    for which he waits, and the database does not see that as a deadlock.
    """
    connection.execute("RESET ALL")  # what an earlier migration may have SET
    deadline = time.monotonic() + _LOCK_WAIT.total_seconds()
    while True:
        with connection.transaction():
            connection.execute("SET LOCAL statement_timeout = 0")
            connection.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
            if connection.execute("SELECT pg_try_advisory_xact_lock(%s)", (_LOCK_KEY,)).fetchone() == (True,):
                yield
                return
        if time.monotonic() > deadline:
            raise MigrationError(f"Another run of migrations does not end within {_LOCK_WAIT}: see to it")
        time.sleep(_POLL_SECONDS)


def _has_table(connection: psycopg.Connection) -> bool:
    row = connection.execute(
        "SELECT 1 FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE n.nspname = 'holdsvc_migrations' AND c.relname = 'schema_migrations'"
    ).fetchone()
    return row is not None


def _pending(connection: psycopg.Connection, migrations: dict[str, Migration], last: str) -> list[Migration]:
    applied = _read_applied(connection)
    _check(migrations, applied)
    return [m for version, m in migrations.items() if version not in applied and version <= last]


def _read_applied(connection: psycopg.Connection) -> dict[str, _Applied]:
    if not _has_table(connection):
        return {}
    rows = connection.execute("SELECT version, name, sha256, applied_time FROM holdsvc_migrations.schema_migrations")
    return {row[0]: _Applied(*row) for row in rows}


def _check(migrations: dict[str, Migration], applied: dict[str, _Applied]) -> None:
    unknown = sorted(version for version in applied if version not in migrations)
    if unknown:
        raise DatabaseNewer(
            f"The database has the migrations {', '.join(unknown)}, which this version of holdsvc does not know:"
            " run the newer version, or take them back with its `holdsvc migrate down`"
        )
    for version, row in sorted(applied.items()):
        if _status(version, migrations[version], row).state == "changed":
            raise MigrationChanged(
                f"The file of migration {version}_{migrations[version].name} was changed after it was applied:"
                " restore it and write a new migration for the change"
            )


def _status(version: str, migration: Migration | None, row: _Applied | None) -> Status:
    if migration is None:
        return Status(version, (row and row.name) or "", "unknown", row.time if row else None)
    if row is None:
        return Status(version, migration.name, "pending", None)
    changed = row.sha256 not in (None, migration.sha256)
    return Status(version, migration.name, "changed" if changed else "applied", row.time)


def _run(dsn: str, connection: psycopg.Connection, migration: Migration, part: Part) -> None:
    """Runs one part inside the lock's transaction, or beside it where the part wants none."""
    try:
        if part.transaction:
            connection.execute("SELECT set_config('lock_timeout', %s, true)", (_STATEMENT_LOCK_WAIT,))
            connection.execute(part.sql.encode())
        else:
            with _connect(dsn) as beside:
                beside.execute("SET statement_timeout = 0")
                beside.execute(part.sql.encode())
    except errors.LockNotAvailable as error:
        raise MigrationError(
            f"Migration {migration.version}_{migration.name} waited {_STATEMENT_LOCK_WAIT} for a lock that others"
            " hold: nothing was changed, try again at a quieter time"
        ) from error
    except errors.InsufficientPrivilege:
        raise
    except psycopg.Error as error:
        position = error.diag.statement_position
        line = part.line + part.sql[: int(position) - 1].count("\n") if position else part.line
        raise MigrationError(
            f"Migration {migration.version}_{migration.name}.sql failed near line {line}: {str(error).strip()}"
        ) from error
