"""Services that listen for HTTP too."""

import pytest

from tests.support.harness import Harness, StartService


@pytest.fixture
async def service(start_service: StartService) -> Harness:
    """A running service without authentication and without a background sweep."""
    return await start_service(http_listen="127.0.0.1:0")


@pytest.fixture
async def guarded(start_service: StartService) -> Harness:
    """One that asks for keys."""
    return await start_service(http_listen="127.0.0.1:0", auth="api-key")
