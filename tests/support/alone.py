"""Tests marked `alone` measure time: with several processes of pytest they run while no other test does.

Others share a lock, a measuring test has it alone. Who wants the lock passes a gate first, so that those who share it
cannot pass one who waits. Measuring tests come first and follow one another in one turn: if others ran in between, each
would wait for the longest of them, and a processor would be idle.
"""

import fcntl
from collections.abc import Generator
from pathlib import Path

import pytest

MARK = "alone"


def _measures(item: pytest.Item) -> bool:
    return item.get_closest_marker(MARK) is not None


class Turns:
    """A plugin of pytest; the processes of a run share `folder`."""

    def __init__(self, folder: Path) -> None:
        self._gate = (folder / "gate").open("w")
        self._room = (folder / "room").open("w")
        self._goes_on = False

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(
        self, item: pytest.Item, nextitem: pytest.Item | None
    ) -> Generator[None, object, object]:
        """A whole test is one turn, with its fixtures; the wait is not part of its time."""
        if not self._goes_on:
            fcntl.flock(self._gate, fcntl.LOCK_EX)
            fcntl.flock(self._room, fcntl.LOCK_EX if _measures(item) else fcntl.LOCK_SH)
            fcntl.flock(self._gate, fcntl.LOCK_UN)
        self._goes_on = _measures(item) and nextitem is not None and _measures(nextitem)
        try:
            return (yield)
        finally:
            if not self._goes_on:
                fcntl.flock(self._room, fcntl.LOCK_UN)

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """They come first, all in the part of one process: it goes on with the others, which it shares out then."""
        items.sort(key=_measures, reverse=True)
