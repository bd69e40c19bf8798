"""The migration runner: schema migrations, each in a transaction, then the function set. Safe to start many at once."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal, TypeVar

import psycopg
from psycopg import errors

from holdsvc.ledger import features, function_set, schema_files
from holdsvc.ledger.database import SERVICE_ROLE
from holdsvc.ledger.features import Feature
from holdsvc.ledger.function_set import FunctionSet, Installed
from holdsvc.ledger.primary import chosen_dsn
from holdsvc.ledger.schema_files import (
    FOLDER,
    ConnectionRefused,
    DatabaseNewer,
    Migration,
    MigrationChanged,
    MigrationError,
    Part,
)
from holdsvc.postgres import check_version

T = TypeVar("T")

_LOCK_KEY = 0x686F6C6473766300
"""The advisory lock of all runners: "holdsvc"; any constant of our own would do."""

_LOCK_WAIT = timedelta(minutes=10)
"""For another runner: its migration may be long."""

_POLL_SECONDS = 0.05

_TABLE_LOCK_TRY = timedelta(milliseconds=50)
"""For a table's lock: every call queues up behind a waiting ALTER TABLE. On a miss the migration is undone and tried
again."""

_TABLE_LOCK_WAIT = timedelta(minutes=1)
"""For all tries together."""

_CREATE_TABLES = f"""
CREATE SCHEMA IF NOT EXISTS holdsvc_migrations;
CREATE TABLE IF NOT EXISTS holdsvc_migrations.schema_migrations (
  version text PRIMARY KEY,
  name text NOT NULL,
  sha256 text NOT NULL,
  -- The oldest schema version whose code still runs on this one.
  compatible_since text NOT NULL,
  applied_time timestamptz NOT NULL DEFAULT clock_timestamp()
);
-- Every role may see that nothing is pending, so that a service whose role may not migrate can start.
GRANT USAGE ON SCHEMA holdsvc_migrations TO PUBLIC;
GRANT SELECT ON holdsvc_migrations.schema_migrations TO PUBLIC;
{function_set.CREATE_REGISTRY}
{features.CREATE_TABLE}
"""


@dataclass(frozen=True)
class Done:
    """What a run of `up` did."""

    migrations: list[Migration]
    function_set: str | None
    """The set that it installed or repaired; None: it was there."""


@dataclass(frozen=True)
class MigrationStatus:
    """One migration as file and database together see it."""

    version: str
    name: str
    state: Literal["applied", "pending", "changed", "unknown"]


@dataclass(frozen=True)
class Status:
    """What files and database together say."""

    migrations: list[MigrationStatus]
    function_sets: list[Installed]
    features: list[Feature]
    compatible_since: str
    """The oldest schema version whose code may serve this database; empty: there is no schema yet."""


@dataclass(frozen=True)
class _Applied:
    version: str
    name: str
    sha256: str
    compatible_since: str
    applied_time: datetime


class _TableLocked(Exception):
    """A table's lock was not free: everything is undone."""


def up(dsn: str, to: str | None = None, *, folder: Path = FOLDER, functions: FunctionSet | None = None) -> Done:
    """Applies the pending migrations up to the version `to`, and with the newest one installs the function set.

    Without `functions` it is the shipped set, and none with another folder than the shipped one.
    """
    migrations = schema_files.read(folder)
    newest = max(migrations)
    last = newest if to is None else to.zfill(len(newest))
    if last not in migrations:
        raise MigrationError(f"There is no migration {to}: the versions are {', '.join(migrations)}")
    if functions is None and folder == FOLDER:
        functions = function_set.shipped()
    done: list[Migration] = []
    installed = None
    with _connect(dsn) as connection:
        # Looked at before the lock is taken: where nothing is pending, the role needs no right to migrate.
        while _pending(connection, migrations, last):
            applied = _again_while_tables_are_locked(lambda: _apply_next(dsn, connection, migrations, last))
            done += [applied] if applied else []
        if functions is not None and last == newest and not function_set.is_installed(connection, functions):
            with _locked(connection):
                connection.execute(_CREATE_TABLES)
                if not function_set.is_installed(connection, functions):
                    function_set.install(connection, functions)
                    installed = functions.name
    return Done(done, installed)


def _apply_next(
    dsn: str, connection: psycopg.Connection, migrations: dict[str, Migration], last: str
) -> Migration | None:
    with _locked(connection):
        connection.execute(_CREATE_TABLES)
        pending = _pending(connection, migrations, last)
        if not pending:
            return None
        _run(dsn, connection, pending[0], pending[0].up)
        connection.execute(
            "INSERT INTO holdsvc_migrations.schema_migrations (version, name, sha256, compatible_since)"
            " VALUES (%s, %s, %s, %s)",
            (pending[0].version, pending[0].name, pending[0].sha256, pending[0].compatible_since),
        )
    return pending[0]


def down(dsn: str, steps: int, *, folder: Path = FOLDER) -> list[Migration]:
    """Takes back the newest `steps` applied migrations, data with them, and returns those that this call took back.

    The function sets that need them are dropped too; while a process uses one, nothing is done.
    """
    if steps < 1:
        raise MigrationError(f"{steps} steps down make no sense: give 1 or more")
    migrations = schema_files.read(folder)
    done: list[Migration] = []
    with _connect(dsn) as connection:
        while len(done) < steps:
            taken = _again_while_tables_are_locked(lambda: _take_back_newest(dsn, connection, migrations))
            if taken is None:
                break
            done.append(taken)
    return done


def _take_back_newest(dsn: str, connection: psycopg.Connection, migrations: dict[str, Migration]) -> Migration | None:
    with _locked(connection):
        applied = _read_applied(connection, migrations)
        _check(migrations, applied)
        if not applied:
            return None
        version = max(applied)
        if version not in migrations:
            raise DatabaseNewer(
                f"The newest migration is {version}, which this version of holdsvc does not know: take it back with the"
                " version that brought it"
            )
        connection.execute(_CREATE_TABLES)
        _drop_sets_that_need(connection, version)
        _run(dsn, connection, migrations[version], migrations[version].down)
        connection.execute("DELETE FROM holdsvc_migrations.schema_migrations WHERE version = %s", (version,))
    return migrations[version]


def _drop_sets_that_need(connection: psycopg.Connection, version: str) -> None:
    # No process starts to use a set from here to the end of the transaction.
    connection.execute("LOCK TABLE holdsvc_migrations.function_set_use IN SHARE MODE")
    sets = function_set.registry(connection)
    needing = [row for row in sets if row.schema_version >= version]
    features.refuse_while_in_use(needing, f"needs the migration {version}")
    entrances = function_set.entrances_set(connection)
    others = [row.name for row in sets if row not in needing]
    for row in needing:
        if row.name == entrances and others:
            function_set.point_entrances(connection, others[-1])
        if not function_set.drop(connection, row):
            raise MigrationError(f"Other objects of the database depend on {row.name}: drop them first")


def status(dsn: str, *, folder: Path = FOLDER) -> Status:
    """Returns every migration, function set and feature that the files or the database know; changes nothing."""
    migrations = schema_files.read(folder)
    with _connect(dsn) as connection:
        applied = _read_applied(connection, migrations)
        return Status(
            [_status(v, migrations.get(v), applied.get(v)) for v in sorted({*migrations, *applied})],
            function_set.registry(connection),
            features.read(connection),
            _compatible_since(connection, applied),
        )


def prune(dsn: str) -> tuple[list[Installed], list[Installed]]:
    """Drops the function sets that are no longer needed; see `function_set.prune`."""
    with _connect(dsn) as connection, _locked(connection):
        function_set.become_owner(connection)
        return function_set.prune(connection, function_set.shipped())


def activate(dsn: str, feature: str) -> None:
    """Turns a feature on; see `features.activate`."""
    with _connect(dsn) as connection, _locked(connection):
        features.activate(connection, feature)


def create_service_role(dsn: str) -> None:
    """Creates the service's role where the cluster does not have it: a dump carries no roles."""
    with _connect(dsn) as connection, connection.transaction():
        if connection.execute("SELECT FROM pg_roles WHERE rolname = %s", (SERVICE_ROLE,)).fetchone() is not None:
            return
        connection.execute(f"CREATE ROLE {SERVICE_ROLE} NOLOGIN".encode())
        if connection.execute("SELECT FROM pg_roles WHERE rolname = current_user AND rolsuper").fetchone() is None:
            connection.execute(f"GRANT {SERVICE_ROLE} TO current_user".encode())


@contextmanager
def _connect(dsn: str) -> Iterator[psycopg.Connection]:
    try:
        dsn = chosen_dsn(dsn)
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

    The lock is tried, not waited for: the snapshot of a runner that waits would stop another's CREATE INDEX
    CONCURRENTLY, which waits for that runner, and the database does not see that as a deadlock.
    """
    connection.execute("RESET ALL")  # what an earlier migration may have SET
    deadline = time.monotonic() + _LOCK_WAIT.total_seconds()
    while True:
        with connection.transaction():
            connection.execute("SET LOCAL statement_timeout = 0")
            connection.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
            connection.execute("SET LOCAL client_min_messages = warning")
            connection.execute("SET LOCAL synchronous_commit = on")
            if connection.execute("SELECT pg_try_advisory_xact_lock(%s)", (_LOCK_KEY,)).fetchone() == (True,):
                yield
                return
        if time.monotonic() > deadline:
            raise MigrationError(f"Another run of migrations does not end within {_LOCK_WAIT}: see to it")
        time.sleep(_POLL_SECONDS)


def _again_while_tables_are_locked(run: Callable[[], T]) -> T:
    """Runs a transaction again until it gets its tables' locks: between two tries the calls that wait go on."""
    deadline = time.monotonic() + _TABLE_LOCK_WAIT.total_seconds()
    while True:
        try:
            return run()
        except _TableLocked as locked:
            if time.monotonic() > deadline:
                raise MigrationError(
                    f"{locked} got no lock on a table within {_TABLE_LOCK_WAIT}: nothing was changed, try again at a"
                    " quieter time"
                ) from locked.__cause__
        time.sleep(_POLL_SECONDS)


def _pending(connection: psycopg.Connection, migrations: dict[str, Migration], last: str) -> list[Migration]:
    applied = _read_applied(connection, migrations)
    _check(migrations, applied)
    compatible_since = _compatible_since(connection, applied)
    if max(migrations) < compatible_since:
        raise DatabaseNewer(
            f"The database serves code of schema version {compatible_since} and newer, and this version of holdsvc has"
            f" {max(migrations)}: run a newer version"
        )
    pending = [m for version, m in migrations.items() if version not in applied and version <= last]
    if pending and applied and pending[0].version < max(applied):
        raise DatabaseNewer(
            f"The database has the migration {max(applied)} and lacks {pending[0].version}: it was migrated by another"
            " line of versions"
        )
    return pending


def _compatible_since(connection: psycopg.Connection, applied: dict[str, _Applied]) -> str:
    active = [feature.since for feature in features.read(connection) if feature.activate_time is not None]
    return max([row.compatible_since for row in applied.values()] + active, default="")


def _read_applied(connection: psycopg.Connection, migrations: dict[str, Migration]) -> dict[str, _Applied]:
    if connection.execute("SELECT to_regclass('holdsvc_migrations.schema_migrations')").fetchone() == (None,):
        return {}
    versions = connection.execute("SELECT version FROM holdsvc_migrations.schema_migrations").fetchall()
    if any(version < min(migrations) for (version,) in versions):
        raise MigrationError(
            "The database was made by an unreleased version of holdsvc: start with another DATA_DIR, or with another"
            " database"
        )
    rows = connection.execute(
        "SELECT version, name, sha256, compatible_since, applied_time FROM holdsvc_migrations.schema_migrations"
    )
    return {row[0]: _Applied(*row) for row in rows}


def _check(migrations: dict[str, Migration], applied: dict[str, _Applied]) -> None:
    for version, row in sorted(applied.items()):
        if version in migrations and _status(version, migrations[version], row).state == "changed":
            raise MigrationChanged(
                f"The file of migration {version}_{migrations[version].name} was changed after it was applied:"
                " restore it and write a new migration for the change"
            )


def _status(version: str, migration: Migration | None, row: _Applied | None) -> MigrationStatus:
    if migration is None:
        return MigrationStatus(version, row.name if row else "", "unknown")
    if row is None:
        return MigrationStatus(version, migration.name, "pending")
    return MigrationStatus(version, migration.name, "applied" if row.sha256 == migration.sha256 else "changed")


def _run(dsn: str, connection: psycopg.Connection, migration: Migration, part: Part) -> None:
    """Runs one part inside the lock's transaction, or beside it where the part wants none."""
    name = f"Migration {migration.version}_{migration.name}"
    try:
        if part.transaction:
            timeout = f"{_TABLE_LOCK_TRY.total_seconds() * 1000:.0f}ms"
            connection.execute("SELECT set_config('lock_timeout', %s, true)", (timeout,))
            connection.execute(part.sql.encode())
            connection.execute("SELECT set_config('lock_timeout', '0', true)")
        else:
            with _connect(dsn) as beside:
                beside.execute("SET statement_timeout = 0")
                beside.execute(part.sql.encode())
    except errors.LockNotAvailable as error:
        raise _TableLocked(name) from error
    except errors.InsufficientPrivilege:
        raise
    except psycopg.Error as error:
        position = error.diag.statement_position
        line = part.line + part.sql[: int(position) - 1].count("\n") if position else part.line
        raise MigrationError(f"{name}.sql failed near line {line}: {str(error).strip()}") from error
