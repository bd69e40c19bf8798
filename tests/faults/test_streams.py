"""Readers of streams that misbehave, or are many: memory stays bounded and the others are served."""

import asyncio
import gc
import os
import time
from contextlib import suppress
from typing import Any

import grpc
import grpc.aio
import psutil

from inventoryhold.v1 import event_service_pb2 as epb
from inventoryhold.v1 import inventory_service_pb2 as ipb
from inventoryhold.v1 import item_pb2
from inventoryhold.v1 import reservation_service_pb2 as pb
from inventoryhold.v1.event_service_pb2_grpc import EventServiceStub
from inventoryhold.v1.inventory_service_pb2_grpc import InventoryServiceStub
from tests.support.harness import Harness, StartService

WATCHERS = int(os.environ.get("HOLDSVC_TEST_WATCHERS", "300"))
REOPENINGS = int(os.environ.get("HOLDSVC_TEST_REOPENINGS", "1000"))
CHANGES = int(os.environ.get("HOLDSVC_TEST_CHANGES", "6000"))

WAVE = 1000
MEGABYTE = 1024 * 1024
GROWTH_MAX = (15 if REOPENINGS <= 1000 else 30) * MEGABYTE
"""Of streams that are opened and cancelled."""


def memory() -> int:
    gc.collect()
    return int(psutil.Process().memory_info().rss)


async def change(service: Harness, sku: str, count: int) -> None:
    """So many holds on an item, a batch at a time."""
    one = pb.ReserveRequest(lines=[item_pb2.ItemQuantity(sku=sku, quantity=1)])
    for start in range(0, count, 500):
        await service.reservations.BatchReserve(pb.BatchReserveRequest(requests=[one] * min(500, count - start)))


async def test_readers_that_never_read_cost_bounded_memory_and_hinder_nobody(service: Harness) -> None:
    await service.create_item("seat", 10_000_000)
    silent: list[Any] = []
    async with service.new_channel() as channel, service.new_channel() as other:
        # A stub of generated types is that of both kinds of channel.
        inventory: Any = InventoryServiceStub(channel)
        events: Any = EventServiceStub(channel)
        for _ in range(20):
            silent += [
                inventory.WatchInventory(ipb.WatchInventoryRequest()),
                events.StreamEvents(epb.StreamEventsRequest()),
            ]
        for stream in silent:
            await stream.read()
        before = memory()
        reader: Any = InventoryServiceStub(other)
        watch = reader.WatchInventory(ipb.WatchInventoryRequest())
        await change(service, "seat", CHANGES)
        async with asyncio.timeout(100):
            async for message in watch:
                if any(item.held == CHANGES for item in message.items):
                    break
        grown = memory() - before
        print(f"{len(silent)} silent readers, {CHANGES} changes: {grown / MEGABYTE:.0f} MB more")  # noqa: T201
        assert grown < 150 * MEGABYTE
        for stream in (*silent, watch):
            stream.cancel()


async def test_many_watchers_all_see_a_change_soon(start_service: StartService) -> None:
    service = await start_service(streams_max=WATCHERS + 10)
    await service.create_item("seat", 1000)
    before = memory()
    channels = [service.new_channel() for _ in range(1 + WATCHERS // 90)]
    stubs: list[Any] = [InventoryServiceStub(channel) for channel in channels]
    request = ipb.WatchInventoryRequest(items=[item_pb2.ItemKey(sku="seat")])
    watches: list[Any] = []

    async def until(watch: Any, held: int) -> None:
        while True:
            message = await watch.read()
            assert message is not grpc.aio.EOF
            if any(item.held == held for item in message.items):
                return

    async with asyncio.timeout(60 + WATCHERS / 20):
        # Wave by wave: of more than `queue_max` at once the service would refuse some, to come again later.
        for first in range(0, WATCHERS, WAVE):
            opened = [stubs[n % len(stubs)].WatchInventory(request) for n in range(first, min(first + WAVE, WATCHERS))]
            await asyncio.gather(*(until(watch, 0) for watch in opened))
            watches += opened
        start = time.monotonic()
        await service.reserve({"seat": 1})
        await asyncio.gather(*(until(watch, 1) for watch in watches))
    took_s = time.monotonic() - start
    each_kb = (memory() - before) / WATCHERS / 1024
    print(f"{WATCHERS} watchers (and their clients here): all told in {took_s:.2f} s, {each_kb:.0f} kB each")  # noqa: T201
    assert each_kb < 400
    for watch in watches:
        watch.cancel()
    for channel in channels:
        await channel.close()


async def test_opening_and_cancelling_streams_again_and_again_leaks_nothing(service: Harness) -> None:
    await service.create_item("seat", 1000)

    async def open_and_cancel(number: int) -> None:
        if number % 2:
            stream: Any = service.inventory.WatchInventory(ipb.WatchInventoryRequest())
        else:
            stream = service.events.StreamEvents(epb.StreamEventsRequest())
        if number % 3:
            await stream.read()
        stream.cancel()
        with suppress(asyncio.CancelledError, grpc.RpcError):
            await stream.code()

    async def many(count: int) -> None:
        for start in range(0, count, 20):
            await asyncio.gather(*(open_and_cancel(start + n) for n in range(20)))

    await many(REOPENINGS // 4)
    before = memory()
    await many(REOPENINGS)
    grown = memory() - before
    print(f"{REOPENINGS} streams opened and cancelled: {grown / MEGABYTE:.1f} MB more")  # noqa: T201
    assert grown < GROWTH_MAX
    await service.reserve({"seat": 1})
