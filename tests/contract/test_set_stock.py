"""BatchSetStock: capacity from counts made elsewhere, corrected for what moved since."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
from google.rpc import error_details_pb2, status_pb2

from inventoryhold.v1 import event_pb2, item_pb2
from inventoryhold.v1 import event_service_pb2 as events_pb
from inventoryhold.v1 import inventory_service_pb2 as pb
from inventoryhold.v1 import reservation_service_pb2 as reservations_pb
from tests.contract.lines import counters, lines
from tests.support.harness import Harness, StartService
from tests.support.partners import new_caller

MINUTE = timedelta(minutes=1)


def now(service: Harness) -> datetime:
    """The ledger's time."""
    [[time]] = service.sql("SELECT holdsvc.wall_clock()")
    assert isinstance(time, datetime)
    return time.astimezone(UTC)


async def set_stock(service: Harness, *counts: dict[str, Any], metadata: Any = None) -> list[pb.SetStockResult]:
    request = pb.BatchSetStockRequest(counts=counts)
    return list((await service.inventory.BatchSetStock(request, metadata=metadata)).results)


async def count(service: Harness, on_hand: int, time: datetime | None = None, **fields: Any) -> pb.SetStockResult:
    """Sets one item from one count."""
    if time is not None:
        fields["count_time"] = time
    [result] = await set_stock(service, {"sku": "bed", "on_hand": on_hand, **fields})
    return result


def reason(result: pb.SetStockResult) -> str:
    return str(info(result.error).reason)


def info(error: status_pb2.Status) -> error_details_pb2.ErrorInfo:
    found = error_details_pb2.ErrorInfo()
    assert error.details[0].Unpack(found)
    return found


async def sold(service: Harness, quantity: int) -> dict[str, Any]:
    """The target of a sale of beds."""
    made = await service.reserve({"bed": quantity})
    target: dict[str, Any] = {"reservation_id": made.reservation_id}
    await service.reservations.Confirm(reservations_pb.ConfirmRequest(**target))
    return target


async def of_items(service: Harness, count: int) -> list[event_pb2.Event]:
    stream = service.events.StreamEvents(events_pb.StreamEventsRequest(from_oldest=True), timeout=30)
    told: list[event_pb2.Event] = []
    while len(told) < count:
        message = await stream.read()
        assert isinstance(message, events_pb.StreamEventsResponse)
        told += message.events
    stream.cancel()
    return told


async def test_capacity_becomes_what_was_counted_with_what_is_held_and_sold_in_it(service: Harness) -> None:
    await service.create_item("bed", 10)
    await service.reserve({"bed": 2})
    await sold(service, 3)
    result = await count(service, 25)
    assert counters(result.item) == (25, 20, 2, 3)
    assert not result.superseded
    assert result.item == await service.item("bed")
    [_, *_, event] = await of_items(service, 5)
    assert (event.type, event.lines[0].quantity) == (event_pb2.EVENT_TYPE_STOCK_SET, 15)
    result.item.ClearField("create_time")
    assert (event.item, event.item.revision) == (result.item, result.item.revision)
    await service.verify()


async def test_a_count_that_is_older_than_what_moved_undoes_none_of_it(service: Harness) -> None:
    await service.create_item("bed", 20)
    await service.create_item("bed", 5, pool="web")
    shipped, returned, broken = [await sold(service, 2) for _ in range(3)]
    service.clock.advance(MINUTE)
    counted = now(service)
    service.clock.advance(MINUTE)
    rpc, stock = service.reservations, service.inventory
    for target in (shipped, returned):
        await rpc.Fulfil(reservations_pb.FulfilRequest(**target))
    await rpc.Refund(reservations_pb.RefundRequest(**returned, lines=lines(bed=1)))
    await rpc.Refund(reservations_pb.RefundRequest(**broken, write_off=True))
    await stock.AdjustCapacity(pb.AdjustCapacityRequest(sku="bed", delta=7))
    await stock.TransferCapacity(pb.TransferCapacityRequest(sku="bed", to_pool="web", quantity=3))
    before = await service.item("bed")
    # 20 were there; 4 left, 1 came back, 2 were written off, 7 were added, 3 went to another pool.
    assert before.capacity == 20 - 4 + 1 - 2 + 7 - 3
    same = await count(service, 20, counted)
    assert (same.item.capacity, same.item.revision) == (before.capacity, before.revision)
    less = await count(service, 18, counted)
    assert (less.item.capacity, less.item.revision) == (before.capacity - 2, before.revision + 1)
    [web] = await set_stock(service, {"sku": "bed", "pool": "web", "on_hand": 5, "count_time": counted})
    assert web.item.capacity == 8
    await service.verify()


async def test_goods_that_left_before_they_were_booked_are_not_taken_off_the_count(service: Harness) -> None:
    await service.create_item("bed", 10)
    target = await sold(service, 4)
    service.clock.advance(10 * MINUTE)
    left, counted = now(service) - 5 * MINUTE, now(service)
    service.clock.advance(MINUTE)
    await service.reservations.Fulfil(reservations_pb.FulfilRequest(**target, effective_time=left))
    assert counters((await count(service, 6, counted)).item) == (6, 6, 0, 0)


async def test_an_older_count_is_superseded_and_an_equal_one_is_computed_again(service: Harness) -> None:
    await service.create_item("bed", 10)
    service.clock.advance(10 * MINUTE)
    first, second = now(service) - 5 * MINUTE, now(service)
    newer = await count(service, 30, second)
    assert newer.item.count_time.ToDatetime(UTC) == second
    for _ in range(2):
        older = await count(service, 99, first)
        assert (older.superseded, older.item) == (True, newer.item)
    again = await count(service, 30, second)
    assert (again.superseded, again.item) == (False, newer.item)
    assert (await count(service, 31, second)).item.capacity == 31
    # The second count of the same number makes an older one late, though it changes nothing.
    third = now(service)
    unchanged = await count(service, 31, third)
    assert unchanged.item.revision == newer.item.revision + 1
    assert (await count(service, 5, third - timedelta(seconds=1))).superseded


async def test_creating_an_item_and_setting_its_capacity_count_as_counts_made_then(service: Harness) -> None:
    made = await service.create_item("bed", 10)
    assert made.count_time == made.create_time
    assert (await count(service, 99, now(service) - MINUTE)).superseded
    service.clock.advance(10 * MINUTE)
    before = now(service)
    service.clock.advance(MINUTE)
    paths = {"paths": ["capacity"]}
    for capacity in (12, 12):
        request = pb.UpdateItemRequest(item={"sku": "bed", "capacity": capacity}, update_mask=paths)
        updated = (await service.inventory.UpdateItem(request)).item
        assert updated.count_time.ToDatetime(UTC) > before
        assert (await count(service, 99, before)).superseded
        before = now(service)
        service.clock.advance(MINUTE)
    updated = await service.item("bed")
    assert updated.revision == 2
    name = pb.UpdateItemRequest(item={"sku": "bed", "display_name": "Bed"}, update_mask={"paths": ["display_name"]})
    assert (await service.inventory.UpdateItem(name)).item.count_time == updated.count_time


async def test_a_count_below_what_is_held_and_sold_is_refused_after_a_sweep(service: Harness) -> None:
    await service.create_item("bed", 10)
    await service.reserve({"bed": 3}, ttl=timedelta(hours=1))
    await service.reserve({"bed": 4}, ttl=timedelta(minutes=1))
    await sold(service, 2)
    refusal = await count(service, 8)
    assert (refusal.error.code, reason(refusal)) == (grpc.StatusCode.FAILED_PRECONDITION.value[0], "CAPACITY_IN_USE")
    assert dict(info(refusal.error).metadata) == {"sku": "bed", "pool": "", "requested": "2", "available": "1"}
    assert counters(await service.item("bed")) == (10, 1, 7, 2)
    service.clock.advance(timedelta(seconds=61))
    assert counters((await count(service, 5)).item) == (5, 0, 3, 2)
    # Oversold as far as is allowed.
    paths = {"paths": ["oversell_limit"]}
    await service.inventory.UpdateItem(
        pb.UpdateItemRequest(item={"sku": "bed", "oversell_limit": 2}, update_mask=paths)
    )
    assert counters((await count(service, 3)).item) == (3, -2, 3, 2)
    assert reason(await count(service, 2)) == "CAPACITY_IN_USE"
    await service.verify()


async def test_a_count_that_what_left_since_contradicts_is_refused(service: Harness) -> None:
    await service.create_item("bed", 10)
    counted = now(service)
    target = await sold(service, 5)
    await service.reservations.Fulfil(reservations_pb.FulfilRequest(**target))
    refusal = await count(service, 4, counted)
    assert reason(refusal) == "CAPACITY_IN_USE"
    assert counters(await service.item("bed")) == (5, 5, 0, 0)


async def test_each_count_of_a_batch_is_answered_by_itself(start_service: StartService) -> None:
    service = await start_service(count_max_age="24h")
    for sku in ("bed", "tour"):
        await service.create_item(sku, 10)
    time = now(service)
    results = await set_stock(
        service,
        {"sku": "bed", "on_hand": 11, "revision": 1},
        {"sku": "none", "on_hand": 1},
        {"sku": "bed", "on_hand": 12},
        {"sku": "", "on_hand": -1},
        {"sku": "tour", "on_hand": 5, "revision": 7},
        {"sku": "bed", "pool": "web", "on_hand": 10**15},
        {"sku": "boat", "on_hand": 1, "count_time": time + 2 * MINUTE},
        {"sku": "tram", "on_hand": 1, "count_time": time - timedelta(hours=25)},
    )
    assert results[0].item.capacity == 11
    assert [reason(result) for result in results[1:]] == [
        "ITEM_NOT_FOUND", "INVALID_FIELD", "INVALID_FIELD", "REVISION_MISMATCH", "ITEM_NOT_FOUND", "ITEM_NOT_FOUND",
        "ITEM_NOT_FOUND",
    ]  # fmt: skip
    for fields in (
        {"sku": "tour", "on_hand": 1, "count_time": time + 2 * MINUTE},
        {"sku": "tour", "on_hand": 1, "count_time": time - timedelta(hours=25)},
    ):
        [late] = await set_stock(service, fields)
        assert (reason(late), dict(info(late.error).metadata)) == ("INVALID_FIELD", {"fields": "count_time"})
    ahead = now(service) + MINUTE / 2
    [result] = await set_stock(service, {"sku": "tour", "on_hand": 9, "count_time": ahead})
    # A clock that is a little ahead keeps no later count out.
    assert result.item.capacity == 9
    assert result.item.count_time.ToDatetime(UTC) < ahead
    [result] = await set_stock(service, {"sku": "tour", "on_hand": 8})
    assert result.item.capacity == 8


async def test_a_batch_of_a_thousand_counts_is_taken_and_of_more_refused(service: Harness) -> None:
    skus = [f"i{number}" for number in range(1000)]
    items = [item_pb2.Item(sku=sku, capacity=1) for sku in skus]
    await service.inventory.BatchCreateItems(pb.BatchCreateItemsRequest(items=items))
    counts = [{"sku": sku, "on_hand": number} for number, sku in enumerate(skus)]
    results = await set_stock(service, *counts)
    assert [result.item.capacity for result in results] == list(range(1000))
    try:
        await set_stock(service, *counts, {"sku": "more", "on_hand": 1})
    except grpc.aio.AioRpcError as error:
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    else:
        raise AssertionError("1,001 counts were taken")
    await service.verify()


async def test_counts_beside_holds_and_sales_lose_no_unit(service: Harness) -> None:
    await service.create_item("bed", 1000)
    counted = now(service)

    async def sell() -> None:
        target = await sold(service, 1)
        await service.reservations.Fulfil(reservations_pb.FulfilRequest(**target))

    async def recount() -> None:
        assert (await count(service, 1000, counted)).HasField("item")

    service.sql("UPDATE item SET count_time = NULL")
    await asyncio.gather(*(sell() for _ in range(40)), *(recount() for _ in range(40)))
    assert counters(await service.item("bed")) == (960, 960, 0, 0)
    await service.verify()


async def test_a_key_counts_in_its_own_pools_only(start_service: StartService) -> None:
    service = await start_service(auth="api-key")
    owner, web = new_caller(service, "owner"), new_caller(service, "web", pools=["web"])
    for pool in ("", "web"):
        item = {"sku": "bed", "pool": pool, "capacity": 5}
        await service.inventory.CreateItem(pb.CreateItemRequest(item=item), metadata=owner)
    counts = [{"sku": "bed", "pool": pool, "on_hand": 6} for pool in ("", "web")]
    hidden, set_ = await set_stock(service, *counts, metadata=web)
    assert (reason(hidden), set_.item.capacity) == ("ITEM_NOT_FOUND", 6)
