"""Migration files: `NNNN_name.sql` with a `-- migrate:up` and a `-- migrate:down` part; errors of migrating.

A line `-- compatible since: NNNN` names the oldest schema version whose code still runs on the schema that the file
makes. With `transaction:false` behind its marker a part is one statement outside a transaction, as CREATE INDEX
CONCURRENTLY needs it; that statement must be repeatable.
"""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent / "schema"

_FILE_NAME = re.compile(r"(\d+)_(\w+)\.sql", re.ASCII)
_MARKER = re.compile(r"^-- migrate:(up|down)([^\n]*)$", re.MULTILINE)
_COMPATIBLE_SINCE = re.compile(r"^-- compatible since: (\d+)$", re.MULTILINE)


class MigrationError(Exception):
    """A migration cannot be run; the message says what to do."""


class ConnectionRefused(MigrationError):
    """The database cannot be reached, perhaps because it is still starting."""


class MigrationChanged(MigrationError):
    """An applied migration's file is not what it was."""


class DatabaseNewer(MigrationError):
    """The database's schema no longer serves code of this version."""


@dataclass(frozen=True)
class Part:
    """What one direction of a migration runs."""

    sql: str
    transaction: bool
    line: int
    """Where the part starts in its file."""


@dataclass(frozen=True)
class Migration:
    """One migration file."""

    version: str
    name: str
    sha256: str
    compatible_since: str
    up: Part
    down: Part


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
    since = _COMPATIBLE_SINCE.findall(text)
    if len(since) != 1 or int(since[0]) > int(match[1]):
        raise MigrationError(f"{path.name} needs one line `-- compatible since: NNNN`, a version up to its own")
    ends = [markers[1].start(), len(text)]
    parts = []
    for marker, end in zip(markers, ends, strict=True):
        option = marker[2].strip()
        if option not in ("", "transaction:false", "transaction:true"):
            raise MigrationError(f"{path.name}: unknown option {option!r}; there is transaction:false only")
        line = text.count("\n", 0, marker.end()) + 1
        parts.append(Part(text[marker.end() : end], option != "transaction:false", line))
    digest = hashlib.sha256(text.encode()).hexdigest()
    return Migration(match[1], match[2], digest, since[0].zfill(len(match[1])), parts[0], parts[1])
