"""How far a long command is: a bar on a terminal, a line now and then elsewhere; always on standard error."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic

Progress = Callable[[str, int, int], None]
"""Told what is being done, how much of it is, and how much there is."""

LINE_INTERVAL_S = 5.0


def silent(_what: str, _done: int, _total: int) -> None:
    """Shows nothing."""


@contextmanager
def shown() -> Iterator[Progress]:
    """Shows progress on standard error."""
    if sys.stderr.isatty():
        with _bar() as progress:
            yield progress
    else:
        yield _Lines()


class _Lines:
    """A line every few seconds, for logs."""

    def __init__(self) -> None:
        self._last = monotonic()

    def __call__(self, what: str, done: int, total: int) -> None:
        if monotonic() - self._last >= LINE_INTERVAL_S:
            self._last = monotonic()
            print(f"{what}: {done} of {total}", file=sys.stderr, flush=True)  # noqa: T201 - that is what it is for


@contextmanager
def _bar() -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Bars(*columns, console=Console(stderr=True)) as bars:
        tasks: dict[str, TaskID] = {}

        def progress(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what)
            bars.update(tasks[what], completed=done, total=total)

        yield progress
