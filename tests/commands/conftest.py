"""What the tests of commands share."""

from typing import Any

import pytest
from typer.testing import CliRunner, Result

from holdsvc.commands.cli import program
from tests.support.shared_ledger import ledger_dsn, shared_ledger

__all__ = ["ledger_dsn", "run", "shared_ledger"]


@pytest.fixture
def run(ledger_dsn: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs a command on the test's database."""
    monkeypatch.setenv("HOLDSVC_DSN", ledger_dsn)

    def command(*arguments: str) -> Result:
        return CliRunner().invoke(program(arguments), arguments)

    return command
