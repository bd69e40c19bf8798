"""Readers that are slow, many, or cut off: memory stays bounded and what they hear in the end is true."""

import asyncio

import pytest

from holdsvc.streams import events
from inventoryhold.v1 import inventory_service_pb2 as pb
from inventoryhold.v1 import item_pb2
from inventoryhold.v1 import reservation_service_pb2 as reservations
from tests.streams.readers import FAST, Watch, consuming, watching
from tests.support.harness import Harness

BATCH = reservations.BatchReserveRequest(
    requests=[reservations.ReserveRequest(lines=[item_pb2.ItemQuantity(sku="hot", quantity=1)])] * 200
)


async def test_two_hundred_watchers_of_a_hot_item_all_end_on_its_final_state(service: Harness) -> None:
    await service.create_item("hot", 10_000)
    calls = [service.inventory.WatchInventory(pb.WatchInventoryRequest(min_interval=FAST)) for _ in range(200)]
    watchers = [await Watch(call).snapshot() for call in calls]
    following = [asyncio.create_task(watch.until("hot", remaining=8_000)) for watch in watchers]
    for _ in range(10):
        await service.reservations.BatchReserve(BATCH)
    final = await service.item("hot")
    async with asyncio.timeout(100):
        assert all(item == final for item in await asyncio.gather(*following))
    # All of them are one topic, which remembers one state.
    [topic] = service.cell.streams.watch._topics.by_selection.values()
    assert len(topic._changes) == 1
    for call in calls:
        call.cancel()


async def test_a_watcher_that_does_not_read_gets_the_newest_state_and_not_the_history(service: Harness) -> None:
    await service.create_item("hot", 10_000)
    async with watching(service) as watch:
        for _ in range(10):
            await service.reservations.BatchReserve(BATCH)
        await watch.until("hot", remaining=8_000)
        assert len(watch.messages) < 100


async def test_a_watcher_that_falls_behind_what_is_remembered_reads_the_present_state_again(service: Harness) -> None:
    await service.create_item("a", 10)
    await service.create_item("gone", 10)
    async with watching(service) as watch:
        hub = service.cell.streams.watch
        await service.reserve({"a": 1})
        await watch.until("a", remaining=9)
        service.sql("UPDATE holdsvc.item SET delete_time = now(), capacity = 0, remaining = 0 WHERE sku = 'gone'")
        service.sql("UPDATE holdsvc.item SET revision = revision + 1 WHERE sku = 'gone'")
        hub._resync()
        while ("gone", "") in watch.items:
            await watch.read()
        await service.reserve({"a": 1})
        await watch.until("a", remaining=8)
        assert sum(message.snapshot_complete for message in watch.messages) == 1


async def test_a_consumer_that_does_not_read_holds_nobody_up_and_misses_nothing(
    service: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "KEPT_BYTES", 200_000)
    await service.create_item("hot", 100_000)
    async with consuming(service) as slow, consuming(service) as quick:
        for number in range(12):
            await service.reservations.BatchReserve(BATCH)
            await quick.take(200 * (number + 1))
        # Kept in memory is the newest part alone; the rest it gets from the database.
        [group] = service.cell.streams.events._groups.values()
        assert len(group.events) <= 1000
        told = await slow.take(2400)
        assert [event.event_id for event in told] == [event.event_id for event in quick.events]
