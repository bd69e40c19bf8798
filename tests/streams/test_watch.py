"""WatchInventory: the present state, then every change, the newest state of each item, never back."""

import asyncio
import time

import grpc
from google.protobuf.duration_pb2 import Duration

from inventoryhold.v1 import inventory_service_pb2 as pb
from inventoryhold.v1 import item_pb2, reservation_service_pb2
from tests.streams.readers import open_adjustment, watching
from tests.support.harness import Harness, StartService, refused


async def test_the_present_state_comes_first_and_then_what_changes(service: Harness) -> None:
    await service.create_item("a", 10)
    await service.create_item("b", 20)
    async with watching(service) as watch:
        assert {key: item.remaining for key, item in watch.items.items()} == {("a", ""): 10, ("b", ""): 20}
        assert watch.messages[-1].HasField("read_time")
        await service.reserve({"a": 3})
        item = await watch.until("a", remaining=7)
        assert (item.capacity, item.held) == (10, 3)
        assert item == await service.item("a")


async def test_items_that_nobody_asked_for_are_not_sent(service: Harness) -> None:
    for sku in ("cup-1", "cup-2", "mug"):
        await service.create_item(sku, 5)
    keys = [item_pb2.ItemKey(sku="mug"), item_pb2.ItemKey(sku="later")]
    async with watching(service, items=keys) as by_name, watching(service, sku_prefix="cup") as by_prefix:
        assert set(by_name.items) == {("mug", "")}
        assert set(by_prefix.items) == {("cup-1", ""), ("cup-2", "")}
        await service.reserve({"cup-1": 1, "mug": 1})
        await service.create_item("later", 1)
        await service.create_item("cup-3", 1)
        await by_name.until("later", remaining=1)
        await by_prefix.until("cup-3", remaining=1)
        assert set(by_name.items) == {("mug", ""), ("later", "")}
        assert set(by_prefix.items) == {("cup-1", ""), ("cup-2", ""), ("cup-3", "")}
        await by_name.until("mug", remaining=4)
        await by_prefix.until("cup-1", remaining=4)


async def test_a_deleted_item_is_told_and_its_revision_goes_on_when_it_comes_back(service: Harness) -> None:
    created = await service.create_item("a", 1)
    async with watching(service) as watch:
        await service.inventory.DeleteItem(pb.DeleteItemRequest(sku="a"))
        while watch.items:
            await watch.read()
        assert watch.messages[-1].deleted_items == [item_pb2.ItemKey(sku="a")]
        await service.create_item("a", 9)
        assert (await watch.until("a", capacity=9)).revision > created.revision
    async with watching(service) as watch:
        assert set(watch.items) == {("a", "")}


async def test_units_that_a_partial_confirm_releases_are_told_of_every_line(service: Harness) -> None:
    await service.create_item("a", 5)
    await service.create_item("b", 5)
    held = await service.reserve({"a": 2, "b": 3})
    async with watching(service) as watch:
        await service.reservations.Confirm(
            reservation_service_pb2.ConfirmRequest(
                reservation_id=held.reservation_id, lines=[item_pb2.ItemQuantity(sku="a", quantity=1)]
            )
        )
        await watch.until("a", confirmed=1, held=0)
        await watch.until("b", remaining=5, held=0)


async def test_a_change_made_through_one_service_reaches_watchers_of_another(start_service: StartService) -> None:
    one, other = await start_service(), await start_service()
    await one.create_item("a", 3)
    async with watching(other) as watch:
        await one.reserve({"a": 1})
        await watch.until("a", remaining=2)
        await other.reserve({"a": 1})
        await watch.until("a", remaining=1)


async def test_a_change_that_commits_late_is_told_although_later_ones_came_first(service: Harness) -> None:
    await service.create_item("late", 5)
    await service.create_item("early", 5)
    async with watching(service) as watch, open_adjustment(service.owner_dsn, "late", 4) as transaction:
        for remaining in (4, 3, 2):
            await service.reserve({"early": 1})
            await watch.until("early", remaining=remaining)
        assert watch.items["late", ""].capacity == 5
        await transaction.commit()
        await watch.until("late", capacity=9)


async def test_changes_within_the_interval_are_told_as_one(service: Harness) -> None:
    await service.create_item("a", 1000)
    async with watching(service, min_interval=Duration(nanos=300_000_000)) as watch:
        start = time.monotonic()
        await asyncio.gather(*(service.reserve({"a": 1}) for _ in range(100)))
        await watch.until("a", remaining=900)
        intervals = (time.monotonic() - start) / 0.3
        # The snapshot, the first change, and one message for each interval that has passed.
        assert len([message for message in watch.messages if message.items]) <= 3 + intervals


async def test_a_quiet_stream_says_that_it_lives(start_service: StartService) -> None:
    service = await start_service(heartbeat_interval="50ms")
    async with watching(service) as watch:
        message = await watch.read()
        assert message.heartbeat
        assert not message.items
        assert message.HasField("read_time")


async def test_the_snapshot_of_many_items_is_whole_and_in_several_messages(service: Harness) -> None:
    for start in range(0, 2500, 500):
        batch = [item_pb2.Item(sku=f"s{number:04}", capacity=1) for number in range(start, start + 500)]
        await service.inventory.BatchCreateItems(pb.BatchCreateItemsRequest(items=batch))
    async with watching(service) as watch:
        assert len(watch.items) == 2500
        assert [message.snapshot_complete for message in watch.messages] == [False] * (len(watch.messages) - 1) + [True]
        assert max(len(message.items) for message in watch.messages) <= 1000


async def test_streams_end_with_a_status_to_retry_when_the_service_drains(start_service: StartService) -> None:
    service = await start_service()
    await service.create_item("a", 1)
    async with watching(service) as watch:
        stopping = asyncio.create_task(service.service.stop())
        async with asyncio.timeout(20):
            refusal = await refused(watch.call.read())
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN")
        assert "RetryInfo" in refusal.details
        async with asyncio.timeout(20):
            await stopping


async def test_streams_beyond_the_limit_are_refused(start_service: StartService) -> None:
    service = await start_service(streams_max=1)
    async with watching(service):
        call = service.inventory.WatchInventory(pb.WatchInventoryRequest())
        assert (await refused(call.read())).reason == "OVERLOADED"
    async with watching(service):
        pass
