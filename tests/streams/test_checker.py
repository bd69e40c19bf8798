"""The whole stream under load, reconnects, kill -9 of the service, a restart of PostgreSQL and an open transaction."""

import asyncio
import os
import random
import signal
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import psycopg
from google.protobuf.duration_pb2 import Duration

from inventoryhold.v1 import (
    event_pb2,
    event_service_pb2,
    event_service_pb2_grpc,
    inventory_service_pb2_grpc,
    item_pb2,
    reservation_service_pb2_grpc,
)
from inventoryhold.v1 import inventory_service_pb2 as inventory
from inventoryhold.v1 import reservation_service_pb2 as pb
from tests.streams.books import Books
from tests.streams.readers import open_adjustment
from tests.streams.restarts import RestartableServer
from tests.support.ports import free_port

ROUNDS = int(os.environ.get("HOLDSVC_TEST_CHECKER_ROUNDS", "1"))
"""How often everything bad happens; more for a long run."""

CALLERS = 12
SKUS = [f"s{number}" for number in range(6)]
ANSWERED_MORE = 150
"""Changes between two bad things."""


SNAPSHOT = """
SELECT (SELECT array_agg(event_id ORDER BY event_id) FROM holdsvc.event),
       (SELECT json_agg(json_build_object('sku', sku, 'pool', pool, 'capacity', capacity, 'remaining', remaining,
                                          'held', held, 'confirmed', confirmed)) FROM holdsvc.item)
"""

CHANNEL = [
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 300),
]


class Process:
    """`holdsvc serve` on a port that stays the same."""

    def __init__(self, dsn: str) -> None:
        self.address = f"127.0.0.1:{free_port()}"
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("HOLDSVC_")},
            "HOLDSVC_LISTEN": self.address,
            "HOLDSVC_METRICS_LISTEN": "",
            "HOLDSVC_AUTH": "off",
            "HOLDSVC_DSN": dsn,
            "HOLDSVC_SWEEP_INTERVAL": "200ms",
        }

    def start(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "holdsvc", "serve"], env=self._environment, stdout=subprocess.DEVNULL
        )

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(60)


@contextmanager
def running(dsn: str) -> Iterator[Process]:
    process = Process(dsn)
    process.start()
    try:
        yield process
    finally:
        process.stop()


class Load:
    """Callers that change things and write down every answer; what fails they try again with the same request_id."""

    def __init__(self, channel: grpc.aio.Channel, seed: int) -> None:
        self._reservations = reservation_service_pb2_grpc.ReservationServiceStub(channel)
        self._inventory = inventory_service_pb2_grpc.InventoryServiceStub(channel)
        self._random = random.Random(seed)
        self.answers: list[tuple[str, int]] = []
        """Reservation and revision of every change that was answered."""
        self._stopping = False
        self._progress = asyncio.Event()

    async def _call(self, method: Any, request: Any) -> Any:
        """Calls until there is an answer; a refusal is one, and None."""
        while True:
            try:
                return await method(request, timeout=10, wait_for_ready=True)
            except grpc.aio.AioRpcError as error:
                if error.code() in (grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.NOT_FOUND):
                    return None
                if error.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.INTERNAL):
                    raise
                await asyncio.sleep(0.05)

    async def create_items(self) -> None:
        for sku in SKUS:
            item = item_pb2.Item(sku=sku, capacity=100_000)
            await self._inventory.CreateItem(inventory.CreateItemRequest(item=item), wait_for_ready=True)

    async def run(self) -> None:
        await asyncio.gather(*(self._buy() for _ in range(CALLERS)))

    def stop(self) -> None:
        self._stopping = True

    async def more(self, count: int) -> None:
        """Returns when that many more changes have been answered."""
        target = len(self.answers) + count
        while len(self.answers) < target:
            self._progress.clear()
            await self._progress.wait()

    def _note(self, answer: Any) -> bool:
        if answer is None:
            return False
        if not answer.replayed:
            self.answers.append((answer.reservation.reservation_id, answer.reservation.revision))
            self._progress.set()
        return True

    async def _buy(self) -> None:
        dice = self._random
        calls = self._reservations
        while not self._stopping:
            skus = dice.sample(SKUS, dice.randint(1, 3))
            lines = [item_pb2.ItemQuantity(sku=sku, quantity=dice.randint(1, 3)) for sku in skus]
            ttl = Duration(seconds=1 if dice.random() < 0.2 else 600)
            held = await self._call(calls.Reserve, pb.ReserveRequest(request_id=_id(), lines=lines, ttl=ttl))
            if not self._note(held):
                continue
            target = {"reservation_id": held.reservation.reservation_id}
            fate = dice.random()
            if fate < 0.2:
                self._note(await self._call(calls.Cancel, pb.CancelRequest(**target, request_id=_id())))
            elif fate < 0.7:
                if fate < 0.3:
                    extend = pb.ExtendRequest(**target, request_id=_id(), ttl=Duration(seconds=900))
                    self._note(await self._call(calls.Extend, extend))
                part = lines[:1] if fate < 0.5 else []
                confirm = pb.ConfirmRequest(**target, request_id=_id(), lines=part)
                if self._note(await self._call(calls.Confirm, confirm)) and fate < 0.6:
                    refund = pb.RefundRequest(**target, request_id=_id(), write_off=fate < 0.55)
                    self._note(await self._call(calls.Refund, refund))
            elif fate < 0.75:
                adjust = inventory.AdjustCapacityRequest(sku=skus[0], delta=dice.randint(1, 9), request_id=_id())
                await self._call(self._inventory.AdjustCapacity, adjust)


def _id() -> str:
    return str(uuid.uuid4())


class Follower:
    """Reads the whole stream and reopens it at random points with its last token."""

    def __init__(self, address: str, seed: int) -> None:
        self._address = address
        self._random = random.Random(seed)
        self.events: list[event_pb2.Event] = []
        self.connects = 0
        self._token = ""
        self._progress = asyncio.Event()

    async def run(self) -> None:
        while True:
            self.connects += 1
            async with self._stream() as messages:
                await self._read(messages, self._random.randint(1, 60))

    @asynccontextmanager
    async def _stream(self) -> AsyncIterator[Any]:
        async with grpc.aio.insecure_channel(self._address, CHANNEL) as channel:
            request = event_service_pb2.StreamEventsRequest(resume_token=self._token, from_oldest=not self._token)
            call = event_service_pb2_grpc.EventServiceStub(channel).StreamEvents(request)
            yield call
            call.cancel()

    async def _read(self, messages: Any, count: int) -> None:
        try:
            async for message in messages:
                for event in message.events:
                    assert not self.events or event.event_id > self.events[-1].event_id, "out of order or twice"
                    self.events.append(event)
                self._token = message.resume_token
                self._progress.set()
                count -= 1
                if not count:
                    return
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE:
                raise
            await asyncio.sleep(0.05)

    async def until(self, event_id: int) -> None:
        """Returns when the stream has told everything up to this event."""
        while not self.events or self.events[-1].event_id < event_id:
            self._progress.clear()
            await self._progress.wait()


async def _all_goes_wrong(load: Load, process: Process, server: RestartableServer) -> None:
    await load.more(ANSWERED_MORE)
    async with open_adjustment(server.dsn, "slow", 1) as transaction:
        await load.more(ANSWERED_MORE)
        await transaction.commit()
    await load.more(ANSWERED_MORE)
    process.kill()
    process.start()
    await load.more(ANSWERED_MORE)
    await server.restart()
    await load.more(ANSWERED_MORE)
    await server.crash()
    await load.more(ANSWERED_MORE)


async def test_every_committed_change_is_told_exactly_once_and_in_order_whatever_happens(tmp_path: Path) -> None:
    with RestartableServer(tmp_path) as server, running(server.dsn) as process:
        async with grpc.aio.insecure_channel(process.address, CHANNEL) as channel:
            load, follower = Load(channel, seed=1), Follower(process.address, seed=2)
            await load.create_items()
            create = inventory.CreateItemRequest(item=item_pb2.Item(sku="slow", capacity=1))
            await inventory_service_pb2_grpc.InventoryServiceStub(channel).CreateItem(create)
            async with asyncio.timeout(200 * ROUNDS), asyncio.TaskGroup() as tasks:
                following = tasks.create_task(follower.run())
                buying = tasks.create_task(load.run())
                for _ in range(ROUNDS):
                    await _all_goes_wrong(load, process, server)
                load.stop()
                await buying
                # One statement, one snapshot: the sweep goes on meanwhile.
                [[committed, rows]] = _sql(server.dsn, SNAPSHOT)
                await follower.until(committed[-1])
                following.cancel()
    told = [event for event in follower.events if event.event_id <= committed[-1]]
    _judge(told, load.answers, [item_pb2.Item(**row) for row in rows], committed)
    assert follower.connects > 5


def _judge(
    events: list[event_pb2.Event], answers: list[tuple[str, int]], items: list[item_pb2.Item], committed: list[int]
) -> None:
    assert [event.event_id for event in events] == committed
    books = Books()
    for event in events:
        books.add(event)
    told = {(event.reservation.reservation_id, event.reservation.revision) for event in events}
    assert not set(answers) - told, "an answered change is not in the stream"
    assert len(answers) >= 6 * ANSWERED_MORE
    assert {event_pb2.EVENT_TYPE_EXPIRED, event_pb2.EVENT_TYPE_REFUNDED} <= {event.type for event in events}
    assert len(items) == len(SKUS) + 1
    books.check(items)


def _sql(dsn: str, query: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        return connection.execute(query.encode()).fetchall()
