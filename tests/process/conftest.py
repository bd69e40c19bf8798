"""What the process tests share."""

from pathlib import Path

import pytest

from holdsvc.embedded.server import EmbeddedServer
from holdsvc.ledger import migrate


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with a migrated database, to copy from."""
    folder = tmp_path_factory.mktemp("prepared") / "data"
    server = EmbeddedServer(folder)
    migrate.up(server.start())
    server.stop()
    return folder
