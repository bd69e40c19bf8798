"""A service on two cells."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import pytest

from holdsvc.cell_file import CellAddress
from holdsvc.settings import Settings
from tests.support.cells import TwoCells
from tests.support.databases import created, database_of
from tests.support.harness import Harness

StartCells = Callable[..., Awaitable[Harness]]
"""The fixture `start_cells`: settings as keywords, `addresses` for other cells than those of the test."""


@pytest.fixture(scope="session")
def _joined(server_dsn: str, _template: str) -> Iterator[TwoCells]:
    """Two databases that are cells, with no tenants, to copy from."""
    with created(server_dsn, _template) as north, created(server_dsn, _template) as south:
        yield TwoCells.joined(north, south)


@pytest.fixture
def cells(server_dsn: str, _joined: TwoCells) -> Iterator[TwoCells]:
    """Two cells of the test's own, with no tenants."""
    with ExitStack() as stack:
        dsns = [stack.enter_context(created(server_dsn, database_of(cell.owner))) for cell in _joined]
        yield TwoCells.of(*dsns)


@pytest.fixture
async def start_cells(cells: TwoCells) -> AsyncIterator[StartCells]:
    """Starts services on the cells."""
    started: list[Harness] = []

    async def start(addresses: Sequence[CellAddress] = (), **settings: Any) -> Harness:
        values = {"listen": "127.0.0.1:0", "metrics_listen": "", "drain_grace": "2s", **settings}
        harness = Harness(Settings.load(**values), "", cells.north.owner, addresses or list(cells))
        await harness.start(sweeping=False)
        started.append(harness)
        return harness

    yield start
    await asyncio.gather(*(harness.stop() for harness in started))
