"""Logs: one JSON object a line, on standard output.

An exception is written as its kind and where it happened, never with its message: a database error quotes the row that
it is about, and with it customers and metadata.
"""

import asyncio
import logging
import re
import sys
import traceback
from contextlib import suppress
from types import TracebackType
from typing import Any, TextIO

import structlog

from holdsvc.telemetry import tracing

log = structlog.get_logger(__name__)

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


class Patient:
    """A stream that loses what it cannot write: a full disk under the log must not fail the calls."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Writes, or loses it."""
        with suppress(OSError):
            return self._stream.write(text)
        return 0

    def flush(self) -> None:
        """Flushes, or loses it."""
        with suppress(OSError):
            self._stream.flush()


def configure(level: str, stream: TextIO | None = None) -> None:
    """Sends every log line of the process, those of libraries too, through structlog as JSON."""
    output: Any = Patient(stream or sys.stdout)
    number = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        processors=[*_PROCESSORS, structlog.processors.JSONRenderer()],
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
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    # A library's chatter is never more detailed than a warning's worth: a lost connection is logged by the pool itself.
    root.setLevel(max(number, logging.WARNING))
    logging.getLogger("holdsvc").setLevel(number)
