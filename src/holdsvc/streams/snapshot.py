"""The present state of what a watcher asks for, read in pages."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from datetime import datetime
from functools import partial
from typing import TypeVar

from holdsvc.engine.engine import Engine
from holdsvc.ledger import feed
from holdsvc.ledger.database import Connection
from holdsvc.model import ItemKey
from holdsvc.streams.topic import BATCH_MAX, Wanted

T = TypeVar("T")

READ_TIMEOUT_S = 30.0

Page = tuple[list[feed.Watched], datetime]
"""States, and a time since which they are not older."""


async def pages(engine: Engine, wanted: Wanted) -> AsyncGenerator[Page]:
    """Reads what matches, deleted items too."""
    names = sorted(wanted.keys)
    for start in range(0, len(names), BATCH_MAX):
        part = names[start : start + BATCH_MAX]
        yield await read(engine, _timed(partial(feed.watch_items, tenant=wanted.tenant, keys=part)))
    if wanted.prefix is None:
        return
    pools = sorted(wanted.pools) or None
    after = ItemKey("", "")
    while True:
        listed = partial(
            feed.list_watched,
            tenant=wanted.tenant,
            prefix=wanted.prefix,
            pools=pools,
            after=after,
            limit=BATCH_MAX,
        )
        page, read_time = await read(engine, _timed(listed))
        yield page, read_time
        if len(page) < BATCH_MAX:
            return
        after = ItemKey(page[-1].item.sku, page[-1].item.pool)


async def read(engine: Engine, run: Callable[[Connection], Awaitable[T]]) -> T:
    """Reads within the time that a stream may wait."""
    return await engine.read("", run, asyncio.get_running_loop().time() + READ_TIMEOUT_S)


def _timed(run: Callable[[Connection], Awaitable[T]]) -> Callable[[Connection], Awaitable[tuple[T, datetime]]]:
    """Reads the time, then the rest: the state is at least that new."""

    async def timed(connection: Connection) -> tuple[T, datetime]:
        read_time = await feed.clock(connection)
        return await run(connection), read_time

    return timed
