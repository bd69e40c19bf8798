"""One database, one service and one loop for the tests of a file."""

from tests.support import shared_service
from tests.support.shared_ledger import ledger_dsn, shared_ledger
from tests.support.shared_service import service, shared, start_service

__all__ = ["ledger_dsn", "service", "shared", "shared_ledger", "start_service"]

pytest_collection_modifyitems = shared_service.on_one_loop(__file__)
