"""What the tables of a schema promise to the functions of released sets, and what of it a later schema takes away.

The snapshot of the last release lies in src/holdsvc/ledger/released.json; `make released` renews it.
"""

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psycopg

from holdsvc.ledger import schema_files

SNAPSHOT = schema_files.FOLDER.parent / "released.json"

_WIDENS = re.compile(r"^-- widens: (\w+)$", re.MULTILINE)


@dataclass(frozen=True)
class Column:
    """A column as statements rely on it."""

    type: str
    required: bool
    """NOT NULL."""
    default: bool


@dataclass(frozen=True)
class Snapshot:
    """The tables of a schema version."""

    version: str
    columns: dict[str, dict[str, Column]]
    constraints: dict[str, str]
    """CHECKs, keys and other constraints by table and name, with their definitions."""
    sequences: list[str]


def take(connection: psycopg.Connection[Any], version: str) -> Snapshot:
    """Reads the catalogue."""
    columns: dict[str, dict[str, Column]] = {}
    for table, name, type_, required, default in connection.execute(_COLUMNS):
        columns.setdefault(table, {})[name] = Column(type_, required, default)
    constraints = {f"{table}.{name}": definition for table, name, definition in connection.execute(_CONSTRAINTS)}
    sequences = [name for (name,) in connection.execute(_SEQUENCES)]
    return Snapshot(version, columns, constraints, sequences)


def as_text(snapshot: Snapshot) -> str:
    """The snapshot as its file has it."""
    return json.dumps(asdict(snapshot), indent=1, sort_keys=True) + "\n"


def released() -> Snapshot:
    """The snapshot of the last release."""
    found = json.loads(SNAPSHOT.read_text())
    columns = {
        table: {name: Column(**column) for name, column in of_table.items()}
        for table, of_table in found["columns"].items()
    }
    return Snapshot(found["version"], columns, found["constraints"], found["sequences"])


def widened(since: str, folder: Path = schema_files.FOLDER) -> set[str]:
    """The constraints that migrations after a version say to widen, by a line `-- widens: name`."""
    texts = [path.read_text() for path in sorted(folder.glob("*.sql")) if path.name.partition("_")[0] > since]
    return {name for text in texts for name in _WIDENS.findall(text)}


def breaks(before: Snapshot, after: Snapshot, widened: set[str]) -> list[str]:
    """What a set of the schema `before` cannot work with in the schema `after`, each in a sentence."""
    found = [f"table {table} is gone" for table in before.columns if table not in after.columns]
    for table, columns in after.columns.items():
        if table in before.columns:
            found += _broken_columns(table, before.columns[table], columns)
    for key, definition in after.constraints.items():
        table, _, name = key.partition(".")
        if table in before.columns and before.constraints.get(key) != definition and name not in widened:
            found.append(f"constraint {name} of {table} is new or changed: write `-- widens: {name}` if it only widens")
    for key, definition in before.constraints.items():
        # A CHECK that is gone only widens; a key may be one that ON CONFLICT of a released function names.
        if key not in after.constraints and not definition.startswith("CHECK"):
            found.append(f"key {key} is gone")
    found += [f"sequence {name} is gone" for name in before.sequences if name not in after.sequences]
    return found


def _broken_columns(table: str, before: dict[str, Column], after: dict[str, Column]) -> list[str]:
    found = [f"column {table}.{name} is gone" for name in before if name not in after]
    for name, now in after.items():
        column = before.get(name)
        if column is None:
            if now.required and not now.default:
                found.append(f"new column {table}.{name} is NOT NULL and has no default")
        elif now.type != column.type:
            found.append(f"column {table}.{name} was {column.type} and is {now.type}")
        elif now.required and not column.required:
            found.append(f"column {table}.{name} takes no NULL any more")
        elif column.default and not now.default:
            found.append(f"column {table}.{name} has lost its default")
    return found


_COLUMNS = """
SELECT c.relname, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull,
       a.atthasdef OR a.attidentity <> '' OR a.attgenerated <> ''
FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
WHERE c.relnamespace = 'holdsvc'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition
"""

# The NOT NULL of a column is read with the column; PostgreSQL 18 lists it as a constraint too.
_CONSTRAINTS = """
SELECT c.relname, k.conname, pg_get_constraintdef(k.oid)
FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid
WHERE k.connamespace = 'holdsvc'::regnamespace AND NOT c.relispartition AND k.contype <> 'n'
UNION ALL
SELECT c.relname, x.relname, pg_get_indexdef(x.oid)
FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid JOIN pg_class x ON x.oid = i.indexrelid
WHERE c.relnamespace = 'holdsvc'::regnamespace AND NOT c.relispartition AND i.indisunique
  AND NOT EXISTS (SELECT 1 FROM pg_constraint k WHERE k.conindid = x.oid)
"""

_SEQUENCES = "SELECT sequencename::text FROM pg_sequences WHERE schemaname = 'holdsvc' ORDER BY 1"
