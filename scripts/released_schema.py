"""Writes the snapshot of the schema that the next releases must stay compatible with; a part of `make released`."""

import sys
import tempfile
from pathlib import Path

import psycopg

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from holdsvc.embedded.server import EmbeddedServer
from holdsvc.ledger import migrate, schema_files
from tests.support import schema_snapshot


def main() -> None:
    """Migrates an empty database and writes down what its tables promise."""
    with tempfile.TemporaryDirectory() as folder:
        server = EmbeddedServer(Path(folder))
        try:
            dsn = server.start()
            migrate.up(dsn)
            with psycopg.connect(dsn) as owner:
                snapshot = schema_snapshot.take(owner, max(schema_files.read()))
        finally:
            server.stop()
    schema_snapshot.SNAPSHOT.write_text(schema_snapshot.as_text(snapshot))


if __name__ == "__main__":
    main()
