"""What a start does to the databases of cells: migrations, their names, and what they share.

Each cell is prepared by a thread of its own, for as long as that takes: one that does not answer keeps no other
waiting, and is prepared when it comes.
"""

import threading
import time
from collections.abc import Callable, Sequence
from functools import partial

import structlog

from holdsvc.cell_file import CellAddress
from holdsvc.ledger import joining, migrate
from holdsvc.ledger.schema_files import ConnectionRefused, MigrationError

log = structlog.get_logger(__name__)

PAUSE_S = 2.0
"""Between two attempts to prepare a cell."""

AWAIT_ALL_S = 10.0
AWAIT_ANY_S = 60.0
"""How long a start waits for all cells, and for the first of them."""

TICK_S = 0.05


class Preparation:
    """Prepares the cells of a start. One at a time: `run`."""

    def __init__(self, addresses: Sequence[CellAddress], stopping: Callable[[], bool], *, open_to_all: bool) -> None:
        """`open_to_all`: calls are of the tenant `default`, which no key places."""
        self._addresses = addresses
        self._stopping = stopping
        self._open_to_all = open_to_all
        self._prepared: set[str] = set()
        self._placing = threading.Lock()
        self._error: MigrationError | None = None

    def run(self) -> None:
        """Returns when all cells are prepared, or some of them and the others do not answer soon.

        Raises why none of them could be prepared.
        """
        for address in self._addresses:
            work = partial(self._keep_on, address)
            threading.Thread(target=work, name=f"prepare {address.name}", daemon=True).start()
        began = time.monotonic()
        while len(self._prepared) < len(self._addresses) and not self._stopping():
            waited_s = time.monotonic() - began
            if self._prepared and waited_s > AWAIT_ALL_S:
                return
            if waited_s > AWAIT_ANY_S and self._error is not None:
                raise self._error
            time.sleep(TICK_S)

    def _keep_on(self, address: CellAddress) -> None:
        words = {"cell": address.name}
        while not self._stopping():
            try:
                self._prepare(address)
            except ConnectionRefused as error:
                self._error = error
                log.warning("database.awaited", error=str(error).partition("\n")[0], **words)
            except MigrationError as error:
                self._error = error
                log.error("database.not_prepared", error=str(error), **words)  # noqa: TRY400 - the message says it all
            except Exception as error:
                # A thread that ended would leave the cell away for good.
                log.exception("database.not_prepared", **words)
                self._error = MigrationError(f"{address.name}: {type(error).__name__}")
            else:
                return
            time.sleep(PAUSE_S)

    def _prepare(self, address: CellAddress) -> None:
        first = self._addresses[0]
        tell(migrate.up(address.owner), cell=address.name)
        if joining.join(address.owner, address.name, first.owner):
            log.info("cell.joined", cell=address.name)
        with self._placing:
            if self._open_to_all and len(self._prepared) + 1 == len(self._addresses):
                joining.place_default([each.owner for each in self._addresses])
            self._prepared.add(address.name)


def tell(done: migrate.Done, **words: str) -> None:
    """Logs what a migration did."""
    if done.migrations:
        log.info("database.migrated", applied=len(done.migrations), version=done.migrations[-1].version, **words)
    if done.function_set:
        log.info("database.functions_installed", set=done.function_set, **words)
