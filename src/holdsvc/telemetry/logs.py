"""Logs, on standard output: one JSON object a line, or lines for people where it is a terminal.

An exception is written as its kind and where it happened, never with its message: a database error quotes the row that
it is about, and with it customers and metadata.
"""

import asyncio
import atexit
import json
import logging
import os
import re
import select
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, TextIO

import structlog

from holdsvc.telemetry import tracing

log = structlog.get_logger(__name__)

WAITING_BYTES_MAX = 1024 * 1024
"""Of lines that wait for the log's reader; what comes then is dropped."""

DRAIN_S = 1.0
"""The longest that the end of a process waits for the log's reader."""

_SQL_FUNCTION = re.compile(r"^PL/pgSQL function ([\w.]+)\(.*\) line (\d+)", re.MULTILINE)

_ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None]


def without_words(exc_info: _ExcInfo) -> str:
    """An exception and what led to it: kinds and places, no messages."""
    parts: list[str] = []
    error: BaseException | None = exc_info[1]
    while error is not None:
        frames = "".join(traceback.format_tb(error.__traceback__))
        parts.append(f"Traceback (most recent call last):\n{frames}{_kind(error)}")
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return "\nwhile handling:\n".join(parts)


def _kind(error: BaseException) -> str:
    """Its class and, of a database's error, what names no value: code, constraint, functions."""
    kind = type(error)
    facts = []
    if getattr(error, "sqlstate", None):
        facts.append(str(error.sqlstate))  # type: ignore[attr-defined]
    diagnosis = getattr(error, "diag", None)
    if diagnosis is not None:
        facts += [diagnosis.constraint_name] if diagnosis.constraint_name else []
        facts += [f"{name} line {line}" for name, line in _SQL_FUNCTION.findall(diagnosis.context or "")]
    return ": ".join([f"{kind.__module__}.{kind.__qualname__}", *([", ".join(facts)] if facts else [])])


def unhandled(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """An event loop's exception handler; asyncio's own writes the exception's words."""
    log.error("loop.unhandled", exc_info=context.get("exception"))


_PROCESSORS: list[Any] = [
    structlog.contextvars.merge_contextvars,
    structlog.processors.add_log_level,
    tracing.add_ids,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    structlog.processors.ExceptionRenderer(without_words),
]


class Outlet:
    """Writes lines to a file descriptor from a thread of its own, so that no caller waits for the log's reader.

    Lines that find no room are dropped and counted; once the reader takes lines again, one says how many. Lines that
    the system refuses (a full disk) are lost.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._lines: deque[bytes] = deque()
        self._size = 0
        self._changed = threading.Condition()
        self._writing = False
        self._dropped = 0
        self._count: Callable[[int], object] | None = None
        threading.Thread(target=self._run, name="holdsvc log", daemon=True).start()

    def count_with(self, count: Callable[[int], object]) -> None:
        """Has dropped lines counted, those of before too."""
        with self._changed:
            self._count = count
            count(self._dropped)

    def write(self, text: str) -> int:
        """Takes a line; never waits for its reader."""
        line = text.encode(errors="backslashreplace")
        with self._changed:
            if self._size + len(line) > WAITING_BYTES_MAX:
                self._dropped += 1
                if self._count is not None:
                    self._count(1)
            else:
                self._lines.append(line)
                self._size += len(line)
                self._changed.notify_all()
        return len(text)

    def flush(self) -> None:
        """Does nothing: nothing is kept back."""

    def drain(self) -> None:
        """Waits until everything is written, for a short while: a process calls it before it ends."""
        with self._changed:
            self._changed.wait_for(lambda: not self._lines and not self._writing, DRAIN_S)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._lines)
                data = self._take()
                self._writing = True
            self._put(data)
            with self._changed:
                self._writing = False
                self._changed.notify_all()
                if self._dropped and self._size < WAITING_BYTES_MAX // 2:
                    self._lines.append(_dropped_line(self._dropped))
                    self._dropped = 0

    def _take(self) -> bytes:
        """Whole lines, as many as the system writes in one piece: several processes share a pipe."""
        data = self._lines.popleft()
        while self._lines and len(data) + len(self._lines[0]) <= select.PIPE_BUF:
            data += self._lines.popleft()
        self._size = max(0, self._size - len(data))
        return data

    def _put(self, data: bytes) -> None:
        with suppress(OSError):
            while data:
                try:
                    data = data[os.write(self._descriptor, data) :]
                except BlockingIOError:
                    select.select([], [self._descriptor], [])


def _dropped_line(count: int) -> bytes:
    time = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    line = {"count": count, "pid": os.getpid(), "event": "log.dropped", "level": "warning", "timestamp": time}
    return json.dumps(line).encode() + b"\n"


def _is_news(record: logging.LogRecord) -> bool:
    """Not so what gRPC says of an answer whose caller has gone meanwhile: its callers' deadlines are no errors here."""
    return not (record.exc_info and record.exc_info[0] and record.exc_info[0].__name__ == "ExecuteBatchError")


_outlets: list[Outlet] = []


def count_dropped(count: Callable[[int], object]) -> None:
    """Has dropped lines of this process counted, once its metrics may be imported."""
    for outlet in _outlets:
        outlet.count_with(count)


def drain() -> None:
    """Waits until everything is written, for a short while."""
    for outlet in _outlets:
        outlet.drain()


def _renderer(descriptor: int) -> Any:
    if os.isatty(descriptor):
        # Values are quoted, so that none can send a control sequence to the terminal.
        return structlog.dev.ConsoleRenderer(colors="NO_COLOR" not in os.environ, repr_native_str=True)
    return structlog.processors.JSONRenderer()


def configure(level: str, stream: TextIO | None = None) -> None:
    """Sends every log line of the process, those of libraries too, through structlog."""
    descriptor = (stream or sys.stdout).fileno()
    output: Any = Outlet(descriptor)
    renderer = _renderer(descriptor)
    _outlets[:] = [output]
    atexit.register(output.drain)
    number = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        processors=[*_PROCESSORS, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        # Line and line end in one write: several processes share the output.
        logger_factory=structlog.WriteLoggerFactory(output),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(output)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *_PROCESSORS],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                renderer,
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    # A library's chatter is never more detailed than a warning's worth: a lost connection is logged by the pool itself.
    root.setLevel(max(number, logging.WARNING))
    logging.getLogger("holdsvc").setLevel(number)
    logging.getLogger("grpc._cython.cygrpc").addFilter(_is_news)
