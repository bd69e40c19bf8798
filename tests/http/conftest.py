"""Services that listen for HTTP too."""

from collections.abc import AsyncIterator

import pytest

from tests.support.harness import Harness, StartService
from tests.support.http import Connect, Wire
from tests.support.shared_ledger import ledger_dsn, shared_ledger

__all__ = ["connect", "guarded", "ledger_dsn", "service", "shared_ledger"]


@pytest.fixture
async def service(start_service: StartService) -> Harness:
    """A running service without authentication and without a background sweep."""
    return await start_service(http_listen="127.0.0.1:0")


@pytest.fixture
async def guarded(start_service: StartService) -> Harness:
    """One that asks for keys."""
    return await start_service(http_listen="127.0.0.1:0", auth="api-key")


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    """Opens bare connections."""
    opened: list[Wire] = []

    async def open_one(service: Harness) -> Wire:
        opened.append(await Wire.open(service))
        return opened[-1]

    yield open_one
    for wire in opened:
        await wire.close()
