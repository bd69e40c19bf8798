"""Background tasks: loops that outlive a failed step, and ending tasks."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import NoReturn

import structlog

from holdsvc.ledger.failures import Conflict, NothingRan, Unknown
from holdsvc.telemetry.counters import LOOP_FAILURES

log = structlog.get_logger(__name__)

PAUSE_MIN_S = 0.1
PAUSE_MAX_S = 5.0
"""Pause after a failed step: it doubles with each failure in a row."""

CANCEL_AGAIN_S = 0.1


async def forever(name: str, step: Callable[[], Awaitable[float]]) -> NoReturn:
    """Runs `step` until it is cancelled; `step` returns the seconds to pause before the next run.

    A step that raises is logged and counted under `name`, and the loop goes on. Every background loop of a process runs
    here, so that none can end unnoticed.
    """
    failures = LOOP_FAILURES.labels(name)
    failed_in_a_row = 0
    while True:
        try:
            pause_s = await step()
            failed_in_a_row = 0
        except Exception as error:  # noqa: BLE001 - whatever it is, the loop goes on
            _log(name, error)
            failures.inc()
            pause_s = min(PAUSE_MAX_S, PAUSE_MIN_S * 2.0 ** min(failed_in_a_row, 10))
            failed_in_a_row += 1
        await asyncio.sleep(pause_s)


def _log(name: str, error: Exception) -> None:
    if isinstance(error, NothingRan):
        log.warning("loop.failed", loop=name, error=type(error).__name__, cause=error.cause)
    elif isinstance(error, Unknown | Conflict):
        log.warning("loop.failed", loop=name, error=type(error).__name__, cause=type(error.__cause__).__name__)
    else:
        log.error("loop.failed", loop=name, exc_info=error)


async def end(tasks: Iterable[asyncio.Task[object]]) -> None:
    """Cancels tasks and returns when all of them have ended, however they end.

    It cancels again and again: asyncio.wait_for before Python 3.12, which psycopg_pool uses, loses a cancel that comes
    at the moment at which its result is there (bpo-37658). A drain once waited for such a task without end.
    """
    pending = set(tasks)
    while pending:
        for task in pending:
            task.cancel()
        done, pending = await asyncio.wait(pending, timeout=CANCEL_AGAIN_S)
        for task in done:
            if not task.cancelled():
                # Read, so that asyncio does not report it as never retrieved.
                task.exception()
