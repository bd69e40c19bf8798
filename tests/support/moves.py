"""Moves of a tenant between two databases of a test: the cells `a` and `b`, callers at both, and a mover to be killed.

As a program: moves a tenant and kills itself with SIGKILL in the middle of the copy.
"""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import Any

import pytest

from holdsvc.ledger import holds, tenant_move, tenants
from holdsvc.ledger.binding import Function
from holdsvc.ledger.tenant_move import Cell
from holdsvc.ledger.tenants import Moved
from holdsvc.model import Done
from tests.support.holds import reserves
from tests.support.polling import until


def silent(_what: str, _done: int, _total: int) -> None:
    """Shows nothing."""


@asynccontextmanager
async def two_cells(*dsns: str) -> AsyncIterator[tuple[Cell, Cell]]:
    """The databases as the cells `a` and `b`."""
    async with AsyncExitStack() as stack:
        cells = [
            await stack.enter_async_context(tenant_move.opened(name, dsn)) for name, dsn in zip("ab", dsns, strict=True)
        ]
        for cell in cells:
            await tenants.claim_cell(cell.session, cell.name)
        yield cells[0], cells[1]


class Killed(BaseException):
    """Ends a mover in the middle, as a kill does: nothing handles it."""


@contextmanager
def killed_after(step: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A mover ends when this function of the database has been carried out."""
    fetch = Function.fetch

    async def noted(self: Function[Any], connection: Any, **arguments: object) -> list[Any]:
        rows = await fetch(self, connection, **arguments)
        if self.name == step:
            raise Killed
        return rows

    with monkeypatch.context() as patch:
        patch.setattr(Function, "fetch", noted)
        try:
            yield
        except Killed:
            return
    raise AssertionError(f"{step} was not called")


PAUSE_S = 0.005
"""Between two calls of a caller: without it they take the processor from the move that they are made beside."""


class Callers:
    """Callers that reserve without end in both cells, one unit each, whatever they know of the tenant."""

    def __init__(self, *dsns: str) -> None:
        self._dsns = dsns
        self._ended = False
        self.held: dict[str, list[str]] = {dsn: [] for dsn in dsns}
        """The ids of the holds that each cell has acknowledged."""
        self.refused = 0

    async def run(self) -> None:
        """Reserves until `end`."""
        await asyncio.gather(*(self._call(dsn) for dsn in self._dsns for _ in range(2)))

    def end(self) -> None:
        """No further call is made."""
        self._ended = True

    async def progress(self) -> None:
        """Returns when each caller has been answered a few times more."""
        enough = self.count + 20
        await until(lambda: self.count >= enough)

    @property
    def count(self) -> int:
        """Answers, of whatever kind."""
        return self.refused + sum(len(ids) for ids in self.held.values())

    async def _call(self, dsn: str) -> None:
        async with tenant_move.opened("", dsn) as cell:
            while not self._ended:
                [request] = reserves(["seat"])
                try:
                    [result] = await holds.reserve(cell.session, "default", [request])
                except Moved:
                    self.refused += 1
                else:
                    assert isinstance(result, Done), result
                    self.held[dsn].append(result.value.reservation_id)
                await asyncio.sleep(PAUSE_S)


async def _main(source: str, sink: str) -> None:
    def kill(what: str, _done: int, _total: int) -> None:
        if what == "copy item":
            os.kill(os.getpid(), signal.SIGKILL)

    async with two_cells(source, sink) as (a, b):
        await tenant_move.move(a, b, "default", kill)


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:]))
