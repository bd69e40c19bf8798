"""Capacity: adjusted by differences, moved between pools, never from under what is held or confirmed."""

from datetime import timedelta
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from inventoryhold.v1 import event_pb2, item_pb2, reservation_service_pb2
from inventoryhold.v1 import inventory_service_pb2 as pb
from tests.support.harness import Harness, refused

MOST = 10**15


def _counters(item: item_pb2.Item) -> tuple[int, int, int, int]:
    return (item.capacity, item.remaining, item.held, item.confirmed)


async def _adjust(service: Harness, delta: int, sku: str = "bed", **fields: Any) -> item_pb2.Item:
    return (await service.inventory.AdjustCapacity(pb.AdjustCapacityRequest(sku=sku, delta=delta, **fields))).item


async def _transfer(
    service: Harness, quantity: int, from_pool: str = "", to_pool: str = "vip"
) -> pb.TransferCapacityResponse:
    request = pb.TransferCapacityRequest(sku="bed", from_pool=from_pool, to_pool=to_pool, quantity=quantity)
    return await service.inventory.TransferCapacity(request)


async def test_a_difference_changes_capacity_and_remaining(service: Harness) -> None:
    await service.create_item("bed", 10)
    await service.reserve({"bed": 4})
    assert _counters(await _adjust(service, 5)) == (15, 11, 4, 0)
    assert _counters(await _adjust(service, -11)) == (4, 0, 4, 0)
    assert (await refused(_adjust(service, 1, sku="nowhere"))).metadata == {"sku": "nowhere", "pool": ""}
    await service.verify()


@pytest.mark.parametrize(
    ("capacity", "oversell_limit", "held", "delta", "available"),
    [(10, 0, 4, -7, 6), (10, 3, 4, -10, 9), (3, 5, 1, -4, 3), (5, 5, 8, -3, 2), (0, 0, 0, -1, 0)],
)
async def test_what_is_in_use_and_what_does_not_exist_cannot_be_taken_away(
    service: Harness, capacity: int, oversell_limit: int, held: int, delta: int, available: int
) -> None:
    await service.create_item("bed", capacity, oversell_limit=oversell_limit)
    if held:
        await service.reserve({"bed": held})
    before = await service.item("bed")
    refusal = await refused(_adjust(service, delta))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "CAPACITY_IN_USE")
    assert refusal.metadata == {
        "sku": "bed", "pool": "", "requested": str(-delta), "available": str(available)
    }  # fmt: skip
    assert await service.item("bed") == before
    if available:
        await _adjust(service, -available)
    await service.verify()


async def test_a_difference_may_take_the_units_of_lapsed_holds(service: Harness) -> None:
    await service.create_item("bed", 10)
    await service.reserve({"bed": 6}, ttl=Duration(seconds=10))
    await service.reserve({"bed": 1})
    service.clock.advance(timedelta(seconds=11))
    assert (await refused(_adjust(service, -10))).metadata["available"] == "9"
    assert _counters(await _adjust(service, -9)) == (1, 0, 1, 0)
    await service.verify()


async def test_capacity_ends_at_10_to_the_15(service: Harness) -> None:
    await service.create_item("bed", MOST)
    refusal = await refused(_adjust(service, 1))
    assert (refusal.reason, refusal.metadata["fields"]) == ("INVALID_FIELD", "delta")
    await service.create_item("bed", 1, pool="vip")
    refusal = await refused(_transfer(service, 1, "vip", ""))
    assert (refusal.reason, refusal.metadata["fields"]) == ("INVALID_FIELD", "quantity")
    assert _counters(await _adjust(service, -(10**12))) == (MOST - 10**12, MOST - 10**12, 0, 0)
    assert _counters(await _adjust(service, 10**12)) == (MOST, MOST, 0, 0)
    assert _counters(await service.item("bed", "vip")) == (1, 1, 0, 0)


async def test_a_transfer_moves_unheld_units_and_makes_the_pool_when_missing(service: Harness) -> None:
    await service.create_item("bed", 10, display_name="Bed", oversell_limit=4)
    await service.reserve({"bed": 3})
    answer = await _transfer(service, 5)
    assert _counters(answer.from_item) == (5, 2, 3, 0)
    assert _counters(answer.to_item) == (5, 5, 0, 0)
    made = answer.to_item
    assert (made.sku, made.pool, made.display_name, made.oversell_limit, made.revision) == ("bed", "vip", "Bed", 0, 1)
    assert answer.to_item == await service.item("bed", "vip")
    back = await _transfer(service, 1, "vip", "")
    assert (_counters(back.from_item), _counters(back.to_item)) == ((4, 4, 0, 0), (6, 3, 3, 0))
    await service.verify()


async def test_a_transfer_never_moves_held_units_nor_the_oversell_limit(service: Harness) -> None:
    await service.create_item("bed", 10, oversell_limit=5)
    await service.reserve({"bed": 7})
    refusal = await refused(_transfer(service, 4))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "CAPACITY_IN_USE")
    assert refusal.metadata == {"sku": "bed", "pool": "", "requested": "4", "available": "3"}
    await service.reserve({"bed": 6})
    assert (await refused(_transfer(service, 1))).metadata["available"] == "0"
    assert (await refused(service.item("bed", "vip"))).reason == "ITEM_NOT_FOUND"


async def test_a_transfer_may_take_the_units_of_lapsed_holds(service: Harness) -> None:
    await service.create_item("bed", 10)
    await service.reserve({"bed": 8}, ttl=Duration(seconds=10))
    service.clock.advance(timedelta(seconds=11))
    assert _counters((await _transfer(service, 9)).to_item) == (9, 9, 0, 0)
    await service.verify()


async def test_a_transfer_brings_a_deleted_pool_back_with_its_revision_going_on(service: Harness) -> None:
    await service.create_item("bed", 10)
    await service.create_item("bed", 3, pool="vip", oversell_limit=2)
    await service.inventory.DeleteItem(pb.DeleteItemRequest(sku="bed", pool="vip"))
    item = (await _transfer(service, 4)).to_item
    assert (_counters(item), item.revision, item.oversell_limit) == ((4, 4, 0, 0), 3, 0)


async def test_a_transfer_from_a_missing_pool_is_refused(service: Harness) -> None:
    await service.create_item("bed", 10)
    refusal = await refused(_transfer(service, 4, "vip", ""))
    assert (refusal.reason, refusal.metadata) == ("ITEM_NOT_FOUND", {"sku": "bed", "pool": "vip"})


async def test_each_change_of_an_item_writes_its_event_with_the_item_after_it(service: Harness) -> None:
    await service.create_item("bed", 10)
    await _adjust(service, -2, reason="broken", request_id="r-1")
    await _transfer(service, 3)
    mask = {"paths": ["capacity"]}
    await service.inventory.UpdateItem(pb.UpdateItemRequest(item={"sku": "bed", "capacity": 9}, update_mask=mask))
    await service.inventory.DeleteItem(pb.DeleteItemRequest(sku="bed"))
    rows = service.sql(
        "SELECT type, line_pool[1], line_quantity[1], capacity, remaining, revision, request_id, reason "
        "FROM holdsvc.event ORDER BY event_id"
    )
    kind = event_pb2.EventType
    assert rows == [
        (kind.EVENT_TYPE_ITEM_CREATED, "", 10, 10, 10, 1, None, None),
        (kind.EVENT_TYPE_CAPACITY_ADJUSTED, "", -2, 8, 8, 2, "r-1", "broken"),
        (kind.EVENT_TYPE_CAPACITY_TRANSFERRED, "", -3, 5, 5, 3, None, None),
        (kind.EVENT_TYPE_CAPACITY_TRANSFERRED, "vip", 3, 3, 3, 1, None, None),
        (kind.EVENT_TYPE_ITEM_UPDATED, "", 4, 9, 9, 4, None, None),
        (kind.EVENT_TYPE_ITEM_DELETED, "", -9, 0, 0, 5, None, None),
    ]


async def _check(service: Harness, *lines: tuple[str, int]) -> pb.CheckAvailabilityResponse:
    request = pb.CheckAvailabilityRequest(lines=[{"sku": sku, "quantity": quantity} for sku, quantity in lines])
    return await service.inventory.CheckAvailability(request)


async def test_check_answers_every_line_as_reserve_would_judge_it(service: Harness) -> None:
    await service.create_item("bed", 5)
    await service.create_item("tour", 2, oversell_limit=3)
    await service.reserve({"tour": 4})
    answer = await _check(service, ("tour", 2), ("bed", 5))
    assert not answer.available
    assert [(line.sku, line.requested, line.available, line.shortfall) for line in answer.lines] == [
        ("tour", 2, 1, 1),
        ("bed", 5, 5, 0),
    ]
    answer = await _check(service, ("bed", 3), ("tour", 1), ("bed", 2))
    assert answer.available
    assert [(line.sku, line.requested) for line in answer.lines] == [("bed", 5), ("tour", 1)]
    assert not (await _check(service, ("bed", 3), ("bed", 3))).available
    refusal = await refused(_check(service, ("bed", 1), ("nowhere", 1)))
    assert (refusal.reason, refusal.metadata["sku"]) == ("ITEM_NOT_FOUND", "nowhere")


async def test_check_counts_lapsed_holds_and_changes_nothing(service: Harness) -> None:
    await service.create_item("bed", 5)
    await service.reserve({"bed": 2}, ttl=Duration(seconds=10))
    await service.reserve({"bed": 2}, ttl=Duration(seconds=600))
    service.clock.advance(timedelta(seconds=11))
    before = await service.item("bed")
    # The stored counters are at most one sweep behind; what can be had is exact.
    assert _counters(before) == (5, 1, 4, 0)
    for _ in range(2):
        assert [line.available for line in (await _check(service, ("bed", 3))).lines] == [3]
    assert await service.item("bed") == before
    refusal = await refused(service.reserve({"bed": 4}))
    assert refusal.details["CapacityShortfall"].lines[0].available == 3
    await service.sweep()
    assert [line.available for line in (await _check(service, ("bed", 3))).lines] == [3]
    assert _counters(await service.item("bed")) == (5, 3, 2, 0)


async def test_nothing_can_be_had_of_an_item_beyond_its_oversell_limit(service: Harness) -> None:
    await service.create_item("bed", 5, oversell_limit=2)
    held = await service.reserve({"bed": 7})
    assert (await _check(service, ("bed", 1))).lines[0].available == 0
    confirm = reservation_service_pb2.ConfirmRequest(reservation_id=held.reservation_id)
    await service.reservations.Confirm(confirm)
    assert (await _check(service, ("bed", 1))).lines[0].available == 0
