"""One database for the tests of a file."""

from tests.support.shared_ledger import ledger_dsn, shared_ledger

__all__ = ["ledger_dsn", "shared_ledger"]
