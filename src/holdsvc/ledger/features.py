"""Features: new values and new refusals, off until every function set in use knows them.

A migration brings a feature with `INSERT INTO holdsvc_migrations.feature (name, since) VALUES ('name', 'NNNN')`, where
NNNN is its own version: every set of that schema version or a newer one knows the feature. Functions ask
`feature_refusal('name')`, whose answer is the outcome of the request until the feature is active. Activating it also
raises the version from which on code is compatible: a set that does not know the feature must not start from then on.
"""

from dataclasses import dataclass
from datetime import datetime

import psycopg
from psycopg.rows import class_row

from holdsvc.ledger import function_set
from holdsvc.ledger.schema_files import MigrationError

CREATE_TABLE = """
CREATE TABLE IF NOT EXISTS holdsvc_migrations.feature (
  name text PRIMARY KEY,
  since text NOT NULL,
  activate_time timestamptz
);
GRANT SELECT ON holdsvc_migrations.feature TO PUBLIC;
"""


@dataclass(frozen=True)
class Feature:
    """What the database knows of a feature."""

    name: str
    since: str
    """The schema version from which on function sets know it."""
    activate_time: datetime | None


def read(connection: psycopg.Connection) -> list[Feature]:
    """Every feature, in the order in which migrations brought them."""
    if connection.execute("SELECT to_regclass('holdsvc_migrations.feature')").fetchone() == (None,):
        return []
    with connection.cursor(row_factory=class_row(Feature)) as cursor:
        return cursor.execute(
            "SELECT name, since, activate_time FROM holdsvc_migrations.feature ORDER BY since, name"
        ).fetchall()


def activate(connection: psycopg.Connection, name: str) -> None:
    """Turns a feature on. The caller holds the migration lock.

    Raises MigrationError where there is no such feature, and while a set in use does not know it.
    """
    found = {feature.name: feature for feature in read(connection)}
    if name not in found:
        raise MigrationError(f"There is no feature {name}: there are {', '.join(found) or 'none'}")
    # No process starts to use a set from here to the end of the transaction.
    connection.execute("LOCK TABLE holdsvc_migrations.function_set_use IN SHARE MODE")
    refuse_while_in_use(
        [row for row in function_set.registry(connection) if row.schema_version < found[name].since],
        f"does not know {name}",
    )
    connection.execute(
        "UPDATE holdsvc_migrations.feature SET activate_time = coalesce(activate_time, clock_timestamp())"
        " WHERE name = %s",
        (name,),
    )


def refuse_while_in_use(rows: list[function_set.Installed], why: str) -> None:
    """Raises MigrationError when a process uses one of these sets."""
    for row in rows:
        if row.processes:
            raise MigrationError(
                f"{row.processes} processes of release {row.release} use {row.name}, which {why}: stop them first."
                f" One that was killed counts for {function_set.IN_USE} after {row.last_use_time:%Y-%m-%d %H:%M} UTC"
            )
