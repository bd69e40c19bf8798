"""Tests marked `alone` measure time: with several processes of pytest they run while no other test does.

Others share a lock, a measuring test has it alone. It gets it once all others are done, or all pause at one moment: so
that the measuring ones follow one another at the end, and no processor is idle before that.
"""

import fcntl
from collections.abc import Generator
from pathlib import Path

import pytest

MARK = "alone"


class Turns:
    """A plugin of pytest; the processes of a run share `folder`."""

    def __init__(self, folder: Path) -> None:
        self._room = (folder / "room").open("w")

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        """The whole test is one turn, with its fixtures; the wait is not part of its time."""
        fcntl.flock(self._room, fcntl.LOCK_EX if item.get_closest_marker(MARK) else fcntl.LOCK_SH)
        try:
            return (yield)
        finally:
            fcntl.flock(self._room, fcntl.LOCK_UN)

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """They come last, so that the others are not held up in between."""
        items.sort(key=lambda item: item.get_closest_marker(MARK) is not None)
