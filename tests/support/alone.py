"""Tests marked `alone` measure time: with several processes of pytest they run while no other test does.

Others share a lock, a measuring test has it alone. Who wants the lock passes a gate first, so that those who share it
cannot pass one who waits.
"""

import fcntl
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

import pytest

MARK = "alone"


@contextmanager
def _locked(file: IO[str], how: int) -> Generator[None]:
    fcntl.flock(file, how)
    try:
        yield
    finally:
        fcntl.flock(file, fcntl.LOCK_UN)


class Turns:
    """A plugin of pytest; the processes of a run share `folder`."""

    def __init__(self, folder: Path) -> None:
        self._gate = (folder / "gate").open("w")
        self._room = (folder / "room").open("w")

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        """The whole test is one turn, with its fixtures; the wait is not part of its time."""
        how = fcntl.LOCK_EX if item.get_closest_marker(MARK) else fcntl.LOCK_SH
        with ExitStack() as turn:
            with _locked(self._gate, fcntl.LOCK_EX):
                turn.enter_context(_locked(self._room, how))
            return (yield)

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """They come last, so that the others are not held up in between."""
        items.sort(key=lambda item: item.get_closest_marker(MARK) is not None)
