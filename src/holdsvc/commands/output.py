"""What commands write: JSON lines on standard output, and on standard error how far a long command is.

Progress is a bar on a terminal and a line now and then elsewhere.
"""

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from time import monotonic
from typing import Any, BinaryIO

Progress = Callable[[str, int, int], None]
"""Told what is being done, how much of it is done, and how much there is in all: 0 where that is not known."""

LINE_INTERVAL_S = 5.0


def write_lines(objects: Iterable[Mapping[str, Any]], sink: BinaryIO | None = None) -> None:
    """Writes each object as a line of JSON in UTF-8; a time is written in ISO 8601. Without a sink: standard output."""
    (sink or sys.stdout.buffer).writelines(_ENCODER.encode(each).encode() + b"\n" for each in objects)


def _time(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(type(value).__name__)


_ENCODER = json.JSONEncoder(ensure_ascii=False, default=_time)


def silent(_what: str, _done: int, _total: int) -> None:
    """Shows nothing."""


@contextmanager
def progress() -> Iterator[Progress]:
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
            print(f"{what}: {done} of {total}" if total else f"{what}: {done}", file=sys.stderr, flush=True)  # noqa: T201


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
                tasks[what] = bars.add_task(what, total=None)
            bars.update(tasks[what], completed=done, total=total or None)

        yield progress
