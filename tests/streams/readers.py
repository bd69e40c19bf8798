"""What tests of streams share: watchers and consumers that check what they are told, transactions that stay open."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import psycopg
from google.protobuf.duration_pb2 import Duration
from psycopg.rows import tuple_row

from holdsvc.change_requests import Adjust
from holdsvc.ledger import items
from holdsvc.ledger.database import Connection
from holdsvc.model import Caller
from inventoryhold.v1 import event_pb2, item_pb2
from inventoryhold.v1 import event_service_pb2 as events_pb
from inventoryhold.v1 import inventory_service_pb2 as pb
from tests.support.harness import Harness

FAST = Duration(nanos=10_000_000)
READ_TIMEOUT_S = 60


class Watch:
    """A watcher that keeps what it was told and checks that no revision goes back."""

    def __init__(self, call: Any) -> None:
        self.call = call
        self.items: dict[tuple[str, str], item_pb2.Item] = {}
        self.revisions: dict[tuple[str, str], int] = {}
        self.messages: list[pb.WatchInventoryResponse] = []

    async def read(self) -> pb.WatchInventoryResponse:
        async with asyncio.timeout(READ_TIMEOUT_S):
            message = await self.call.read()
        assert isinstance(message, pb.WatchInventoryResponse), message
        self.messages.append(message)
        for item in message.items:
            key = (item.sku, item.pool)
            assert item.revision >= self.revisions.get(key, 0), "a revision went back"
            assert item.capacity == item.remaining + item.held + item.confirmed
            self.revisions[key] = item.revision
            self.items[key] = item
        for deleted in message.deleted_items:
            self.items.pop((deleted.sku, deleted.pool), None)
        return message

    async def snapshot(self) -> "Watch":
        while not (await self.read()).snapshot_complete:
            pass
        return self

    async def until(self, sku: str, pool: str = "", **counters: int) -> item_pb2.Item:
        """Reads until the item is like this."""
        while True:
            item = self.items.get((sku, pool))
            if item is not None and all(getattr(item, name) == value for name, value in counters.items()):
                return item
            await self.read()


@asynccontextmanager
async def watching(service: Harness, **request: Any) -> AsyncIterator[Watch]:
    request.setdefault("min_interval", FAST)
    call = service.inventory.WatchInventory(pb.WatchInventoryRequest(**request))
    try:
        yield await Watch(call).snapshot()
    finally:
        call.cancel()


class Consumer:
    """An event consumer that keeps what it was told, and the last token."""

    def __init__(self, call: Any) -> None:
        self.call = call
        self.events: list[event_pb2.Event] = []
        self.token = ""

    async def read(self) -> events_pb.StreamEventsResponse:
        """Reads a message; event ids grow, and every message has a token."""
        async with asyncio.timeout(READ_TIMEOUT_S):
            message = await self.call.read()
        assert isinstance(message, events_pb.StreamEventsResponse), message
        assert message.resume_token
        assert message.heartbeat == (not message.events)
        for event in message.events:
            assert not self.events or event.event_id > self.events[-1].event_id, "out of order or twice"
            self.events.append(event)
        self.token = message.resume_token
        return message

    async def take(self, count: int) -> list[event_pb2.Event]:
        """Reads until there are that many events."""
        while len(self.events) < count:
            await self.read()
        return self.events


@asynccontextmanager
async def consuming(service: Harness, metadata: Any = None, **request: Any) -> AsyncIterator[Consumer]:
    """Streams events; the first message, which tells the stream's place, has been read."""
    call = service.events.StreamEvents(events_pb.StreamEventsRequest(**request), metadata=metadata)
    try:
        consumer = Consumer(call)
        await consumer.read()
        yield consumer
    finally:
        call.cancel()


@asynccontextmanager
async def open_adjustment(dsn: str, sku: str, delta: int) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
    """A change of capacity whose event has its id, in a transaction that has not committed yet."""
    connection = await psycopg.AsyncConnection.connect(dsn, row_factory=tuple_row)
    async with connection:
        caller = Caller("default", "slow", "", frozenset())
        [result] = await items.adjust(Connection(connection), "default", [Adjust(caller, "", b"", sku, "", delta, "")])
        assert not isinstance(result, Exception), result
        yield connection
