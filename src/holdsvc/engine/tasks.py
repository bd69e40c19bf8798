"""Ending background tasks."""

import asyncio
from collections.abc import Iterable
from typing import Any

REPEAT_S = 0.1


async def end(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancels tasks until they have ended, whatever they end with.

    Once is not enough: asyncio.wait_for before Python 3.12, by which psycopg_pool waits, loses a cancel that comes at
    the same moment as what it waits for (bpo-37658). A drain hung for ever on such a task.
    """
    pending = set(tasks)
    while pending:
        for task in pending:
            task.cancel()
        done, pending = await asyncio.wait(pending, timeout=REPEAT_S)
        for task in done:
            if not task.cancelled():
                # Asked for, so that nobody calls it lost.
                task.exception()
