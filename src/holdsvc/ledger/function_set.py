"""Function sets: the ledger's functions of one release, in a schema of their own that is named by their text.

A set is installed once, beside those of other releases, and never altered. Code calls the functions of its own set by
name, so old and new processes run side by side, and the old ones need nothing to be put back. A set counts as installed
when it has a row in the registry, belongs to the owner of the schema `holdsvc`, and its catalogue (names, arguments,
bodies, settings, rights) has the digest that the row recorded.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from importlib.metadata import version
from pathlib import Path

import psycopg
from psycopg import errors
from psycopg.rows import class_row, scalar_row
from psycopg.sql import SQL, Identifier

from holdsvc.ledger import schema_files
from holdsvc.ledger.schema_files import MigrationError

FOLDER = Path(__file__).parent / "functions"

TOUCH_INTERVAL_S = 600.0
"""How often a process says that it uses its set."""

IN_USE = timedelta(minutes=30)
"""A process that ended without saying so counts for this long after it last touched its set."""

KEPT = timedelta(days=1)
"""`migrate prune` keeps a set for this long after its last use."""

CREATE_REGISTRY = """
CREATE TABLE IF NOT EXISTS holdsvc_migrations.function_set (
  name text PRIMARY KEY,
  release text NOT NULL,
  -- The version of the schema that the set was written for: it needs this one or a newer one that is compatible.
  schema_version text NOT NULL,
  digest text NOT NULL,
  -- What the set consists of, as DROP names it: pruning drops these and nothing else.
  functions text[] NOT NULL,
  types text[] NOT NULL,
  install_time timestamptz NOT NULL DEFAULT clock_timestamp(),
  last_use_time timestamptz
);
-- The processes that use a set now; one that ends takes its row away.
CREATE TABLE IF NOT EXISTS holdsvc_migrations.function_set_use (
  process_id uuid PRIMARY KEY,
  name text NOT NULL,
  last_use_time timestamptz NOT NULL
);
GRANT SELECT ON holdsvc_migrations.function_set, holdsvc_migrations.function_set_use TO PUBLIC;
"""

_FIRST = ("answers", "steps")
_LAST = ("entrances", "rights")


@dataclass(frozen=True)
class FunctionSet:
    """The text of a set."""

    name: str
    schema_version: str
    files: tuple[tuple[str, str], ...]
    """Names and texts, in the order in which they are run."""


@dataclass(frozen=True)
class Installed:
    """A row of the registry."""

    name: str
    release: str
    schema_version: str
    digest: str
    functions: Sequence[str]
    types: Sequence[str]
    install_time: datetime
    last_use_time: datetime
    """That of its installation, where no process has used it yet."""
    age: timedelta
    """Since its last use."""
    processes: int
    """How many processes use it."""


@cache
def shipped() -> FunctionSet:
    """The set that belongs to this code."""
    return read(FOLDER, max(schema_files.read()))


def read(folder: Path, schema_version: str) -> FunctionSet:
    """Reads a set from its files."""
    found = {path.stem: path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.sql"))}
    middle = [name for name in found if name not in (*_FIRST, *_LAST)]
    files = tuple((name, found[name]) for name in (*_FIRST, *middle, *_LAST) if name in found)
    digest = hashlib.sha256(json.dumps([schema_version, *files]).encode()).hexdigest()
    return FunctionSet(f"holdsvc_{digest[:12]}", schema_version, files)


def registry(connection: psycopg.Connection) -> list[Installed]:
    """Every registered set, oldest first."""
    if connection.execute("SELECT to_regclass('holdsvc_migrations.function_set')").fetchone() == (None,):
        return []
    with connection.cursor(row_factory=class_row(Installed)) as cursor:
        return cursor.execute(
            "SELECT s.name, s.release, s.schema_version, s.digest, s.functions, s.types, s.install_time,"
            " coalesce(s.last_use_time, s.install_time) AS last_use_time,"
            " clock_timestamp() - coalesce(s.last_use_time, s.install_time) AS age,"
            " (SELECT count(*) FROM holdsvc_migrations.function_set_use u"
            "  WHERE u.name = s.name AND u.last_use_time > clock_timestamp() - %s::interval) AS processes"
            " FROM holdsvc_migrations.function_set s ORDER BY s.install_time, s.name",
            (IN_USE,),
        ).fetchall()


def is_installed(connection: psycopg.Connection, wanted: FunctionSet) -> bool:
    """Whether the set is there as it was installed; any role may ask."""
    row = next((row for row in registry(connection) if row.name == wanted.name), None)
    return row is not None and bool(_is_owners(connection, row.name)) and digest(connection, row.name) == row.digest


def install(connection: psycopg.Connection, wanted: FunctionSet) -> None:
    """Installs a set, or repairs it where it is not as it was installed. The caller holds the migration lock.

    Raises MigrationError where a schema of that name is not ours to repair.
    """
    become_owner(connection)
    row = next((row for row in registry(connection) if row.name == wanted.name), None)
    owners = _is_owners(connection, wanted.name)
    if owners is False or (owners and row is None):
        raise MigrationError(
            f"The schema {wanted.name} exists and was not installed by this database's holdsvc: find out who made it,"
            " drop it, and start again"
        )
    if row is not None and owners:
        _drop_objects(connection, row)
        functions, types = _objects(connection, wanted.name)
        left = functions + types
        if left:
            raise MigrationError(
                f"The schema {wanted.name} holds what holdsvc did not make: {', '.join(left)}. Drop it and start again"
            )
    elif not owners:
        connection.execute(SQL("CREATE SCHEMA {}").format(Identifier(wanted.name)))
    _create_objects(connection, wanted)
    _register(connection, wanted)
    if row is None:
        point_entrances(connection, wanted.name)
        connection.execute(SQL("SELECT {}.create_event_partitions()").format(Identifier(wanted.name)))


def point_entrances(connection: psycopg.Connection, name: str) -> None:
    """Makes the operators' entrances in `holdsvc` call this set."""
    connection.execute(SQL("SELECT {}.point_entrances()").format(Identifier(name)))


def entrances_set(connection: psycopg.Connection) -> str | None:
    """The set that the operators' entrances call."""
    with connection.cursor(row_factory=scalar_row) as cursor:
        setting: str | None = cursor.execute(
            "SELECT substring(c FROM '^search_path=(holdsvc_\\w+),') FROM pg_proc p, unnest(p.proconfig) c"
            " WHERE p.pronamespace = to_regnamespace('holdsvc') AND c LIKE 'search_path=holdsvc\\_%' LIMIT 1"
        ).fetchone()
    return setting


def drop(connection: psycopg.Connection, row: Installed) -> bool:
    """Drops a set's own functions and types, then its schema; False, and nothing done: other objects depend on them."""
    try:
        with connection.transaction():
            if _is_owners(connection, row.name):
                _drop_objects(connection, row)
                connection.execute(SQL("DROP SCHEMA {} RESTRICT").format(Identifier(row.name)))
            connection.execute("DELETE FROM holdsvc_migrations.function_set WHERE name = %s", (row.name,))
    except errors.DependentObjectsStillExist:
        return False
    return True


def prune(connection: psycopg.Connection, own: FunctionSet) -> tuple[list[Installed], list[Installed]]:
    """Drops the sets that are no longer needed; returns those dropped, and those kept because others depend on them.

    It keeps this code's set, those used within a day, the one that the entrances call, and the last used one of
    another release, so that a rollback finds it.
    """
    rows = registry(connection)
    kept = {own.name, entrances_set(connection)} | {row.name for row in rows if row.age < KEPT}
    others = [row for row in rows if row.release != release() and row.name != own.name]
    if others:
        kept.add(max(others, key=lambda row: row.last_use_time).name)
    dropped: list[Installed] = []
    in_the_way: list[Installed] = []
    for row in rows:
        if row.name not in kept:
            (dropped if drop(connection, row) else in_the_way).append(row)
    return dropped, in_the_way


def release() -> str:
    """The release of this code."""
    return version("holdsvc")


def digest(connection: psycopg.Connection, name: str) -> str:
    """What the catalogue says of a set's functions and types. Owners are not named, so a restored dump has the same."""
    rows = connection.execute(_CATALOGUE, {"schema": name}).fetchall()
    return hashlib.sha256(json.dumps(rows, default=str).encode()).hexdigest()


_CATALOGUE = """
SELECT 'function' AS kind, p.proname::text AS name, p.prosrc,
  jsonb_build_array(
    l.lanname, p.prokind, p.prosecdef, p.provolatile, p.proisstrict, p.proretset, p.proargnames, p.proargmodes,
    (SELECT array_agg(y.typname ORDER BY a.ix)
     FROM unnest(coalesce(p.proallargtypes, p.proargtypes::oid[])) WITH ORDINALITY a (type, ix)
     JOIN pg_type y ON y.oid = a.type),
    r.typname, p.pronargdefaults, p.proconfig, p.proowner = n.nspowner,
    (SELECT array_agg(
       CASE x.grantee WHEN 0 THEN 'PUBLIC' WHEN p.proowner THEN 'OWNER' ELSE x.grantee::regrole::text END
       || ':' || x.privilege_type ORDER BY 1)
     FROM aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) x)
  )::text AS properties
FROM pg_proc p
JOIN pg_namespace n ON n.oid = p.pronamespace
JOIN pg_language l ON l.oid = p.prolang
JOIN pg_type r ON r.oid = p.prorettype
WHERE n.nspname = %(schema)s
UNION ALL
SELECT 'type', c.relname::text, '', (
  SELECT jsonb_agg(jsonb_build_array(a.attname, y.typname) ORDER BY a.attnum)::text
  FROM pg_attribute a JOIN pg_type y ON y.oid = a.atttypid WHERE a.attrelid = c.oid
)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = %(schema)s
ORDER BY 1, 2, 4
"""


def _is_owners(connection: psycopg.Connection, name: str) -> bool | None:
    """Whether the schema belongs to the owner of `holdsvc`; None: there is no such schema."""
    row = connection.execute(
        "SELECT n.nspowner = (SELECT h.nspowner FROM pg_namespace h WHERE h.nspname = 'holdsvc')"
        " FROM pg_namespace n WHERE n.nspname = %s",
        (name,),
    ).fetchone()
    return None if row is None else bool(row[0])


def become_owner(connection: psycopg.Connection) -> None:
    """Functions run as their owner: a superuser who migrates must not become theirs."""
    row = connection.execute(
        "SELECT nspowner::regrole::text, nspowner = current_user::regrole FROM pg_namespace WHERE nspname = 'holdsvc'"
    ).fetchone()
    if row is not None and not row[1]:
        connection.execute(f"SET LOCAL ROLE {row[0]}".encode())


def _create_objects(connection: psycopg.Connection, wanted: FunctionSet) -> None:
    # Bodies name functions of later files.
    connection.execute("SET LOCAL check_function_bodies = off")
    connection.execute(SQL("SET LOCAL search_path = {}, holdsvc, pg_temp").format(Identifier(wanted.name)))
    for name, text in wanted.files:
        try:
            connection.execute(text.encode())
        except errors.InsufficientPrivilege:
            raise
        except psycopg.Error as error:
            position = error.diag.statement_position
            line = text[: int(position) - 1].count("\n") + 1 if position else 1
            raise MigrationError(f"functions/{name}.sql failed near line {line}: {str(error).strip()}") from error


def _register(connection: psycopg.Connection, wanted: FunctionSet) -> None:
    functions, types = _objects(connection, wanted.name)
    connection.execute(
        "INSERT INTO holdsvc_migrations.function_set AS s (name, release, schema_version, digest, functions, types)"
        " VALUES (%s, %s, %s, %s, %s, %s) ON CONFLICT (name) DO UPDATE SET"
        " digest = excluded.digest, functions = excluded.functions, types = excluded.types",
        (wanted.name, release(), wanted.schema_version, digest(connection, wanted.name), functions, types),
    )


def _objects(connection: psycopg.Connection, name: str) -> tuple[list[str], list[str]]:
    """A set's functions with their argument types, and its types, as DROP names them."""
    functions = connection.execute(
        "SELECT quote_ident(proname) || '(' || pg_get_function_identity_arguments(oid) || ')'"
        " FROM pg_proc WHERE pronamespace = %s::regnamespace ORDER BY 1",
        (name,),
    ).fetchall()
    types = connection.execute(
        "SELECT quote_ident(relname) FROM pg_class WHERE relnamespace = %s::regnamespace AND relkind = 'c' ORDER BY 1",
        (name,),
    ).fetchall()
    return [row[0] for row in functions], [row[0] for row in types]


def _drop_objects(connection: psycopg.Connection, row: Installed) -> None:
    """Drops what the registry names, as far as it is there, and nothing else."""
    connection.execute(SQL("SET LOCAL search_path = {}, pg_temp").format(Identifier(row.name)))
    functions, types = _objects(connection, row.name)
    schema = Identifier(row.name).as_string(connection)
    for kind, names, there in (("FUNCTION", row.functions, functions), ("TYPE", row.types, types)):
        own = [f"{schema}.{name}" for name in names if name in there]
        if own:
            connection.execute(f"DROP {kind} {', '.join(own)} RESTRICT".encode())
