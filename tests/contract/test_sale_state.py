"""Stock that people steer: a closed sale refuses new holds, a buffer keeps units from them."""

import asyncio
from datetime import timedelta
from typing import Any

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from inventoryhold.v1 import inventory_service_pb2, item_pb2, reservation_pb2
from inventoryhold.v1 import reservation_service_pb2 as pb
from tests.contract.lines import counters, held, lines, wanted
from tests.support.harness import Harness, outcome, refused

Item = item_pb2.Item
CLOSED = Item.SALE_STATE_CLOSED
OPEN = Item.SALE_STATE_OPEN


async def _set(service: Harness, sku: str, **fields: Any) -> item_pb2.Item:
    request = inventory_service_pb2.UpdateItemRequest(item=Item(sku=sku, **fields), update_mask=FieldMask(paths=fields))
    return (await service.inventory.UpdateItem(request)).item


async def _available(service: Harness, sku: str) -> int:
    request = inventory_service_pb2.CheckAvailabilityRequest(lines=lines(**{sku: 1}))
    [found] = (await service.inventory.CheckAvailability(request)).lines
    return int(found.available)


def _modify(reservation_id: str, **quantities: int) -> pb.ModifyRequest:
    return pb.ModifyRequest(
        reservation_id=reservation_id, lines=wanted(**quantities), update_mask=FieldMask(paths=["lines"])
    )


async def test_a_closed_sale_refuses_new_holds_and_names_the_item(service: Harness) -> None:
    await service.create_item("bed", 9)
    await service.create_item("tour", 9, sale_state=CLOSED)
    assert (await service.item("bed")).sale_state == OPEN
    refusal = await refused(service.reserve({"bed": 1, "tour": 1}))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "SALE_CLOSED")
    assert refusal.metadata == {"sku": "tour", "pool": ""}
    assert await _available(service, "tour") == 0
    assert (await _set(service, "tour", sale_state=OPEN)).revision == 2
    assert await _available(service, "tour") == 9
    await service.reserve({"bed": 1, "tour": 1})
    await service.verify()


async def test_holds_of_a_closed_sale_are_confirmed_extended_made_smaller_and_cancelled(service: Harness) -> None:
    await service.create_item("bed", 9)
    made = [await service.reserve({"bed": 2}) for _ in range(3)]
    await _set(service, "bed", sale_state=CLOSED)
    reservations = service.reservations
    await reservations.Confirm(pb.ConfirmRequest(reservation_id=made[0].reservation_id))
    await reservations.Extend(pb.ExtendRequest(reservation_id=made[1].reservation_id, ttl=timedelta(hours=1)))
    smaller = (await reservations.Modify(_modify(made[1].reservation_id, bed=1))).reservation
    assert held(smaller) == {"bed": 1}
    await reservations.Cancel(pb.CancelRequest(reservation_id=made[2].reservation_id))
    await reservations.Fulfil(pb.FulfilRequest(reservation_id=made[0].reservation_id))
    await reservations.Refund(pb.RefundRequest(reservation_id=made[0].reservation_id))
    assert counters(await service.item("bed")) == (9, 8, 1, 0)
    await service.verify()


async def test_a_closed_sale_refuses_growth_and_leaves_the_hold_whole(service: Harness) -> None:
    await service.create_item("bed", 9)
    await service.create_item("tour", 9)
    made = await service.reserve({"bed": 2})
    await _set(service, "bed", sale_state=CLOSED)
    refusal = await refused(service.reservations.Modify(_modify(made.reservation_id, tour=99, bed=3)))
    assert (refusal.reason, refusal.metadata["sku"]) == ("SALE_CLOSED", "bed")
    # What the hold has of a closed item it keeps while it grows elsewhere.
    grown = (await service.reservations.Modify(_modify(made.reservation_id, tour=4, bed=2))).reservation
    assert held(grown) == {"bed": 2, "tour": 4}
    await _set(service, "tour", sale_state=CLOSED)
    refusal = await refused(service.reservations.Modify(_modify(made.reservation_id, tour=5)))
    assert refusal.reason == "SALE_CLOSED"
    assert held(await service.get(made.reservation_id)) == {"bed": 2, "tour": 4}


@pytest.mark.parametrize("swept", [True, False])
async def test_a_closed_sale_refuses_to_rescue_an_expired_hold(service: Harness, swept: bool) -> None:
    await service.create_item("bed", 9)
    made = await service.reserve({"bed": 2}, ttl=timedelta(seconds=30))
    await _set(service, "bed", sale_state=CLOSED)
    service.clock.advance(timedelta(seconds=31))
    if swept:
        await service.sweep()
    rescue = pb.ConfirmRequest(reservation_id=made.reservation_id, rescue=True)
    refusal = await refused(service.reservations.Confirm(rescue))
    assert (refusal.reason, refusal.metadata) == ("SALE_CLOSED", {"sku": "bed", "pool": ""})
    await _set(service, "bed", sale_state=OPEN)
    assert (await service.reservations.Confirm(rescue)).rescued
    await service.verify()


async def test_refusals_come_in_the_order_of_the_contract(service: Harness) -> None:
    await service.create_item("bed", 5)
    await service.create_item("tour", 5)
    await service.reserve({"bed": 1}, holder="ann")
    await _set(service, "bed", sale_state=CLOSED)
    hour = timedelta(hours=1)
    assert (await refused(service.reserve({"bed": 1, "gone": 1}, holder="ann", duplicate_window=hour))).reason == (
        "ITEM_NOT_FOUND"
    )
    assert (await refused(service.reserve({"bed": 1}, holder="ann", duplicate_window=hour))).reason == (
        "DUPLICATE_RESERVATION"
    )
    refusal = await refused(service.reserve({"tour": 99, "bed": 1}, holder="bob", duplicate_window=hour))
    assert (refusal.reason, refusal.metadata["sku"]) == ("SALE_CLOSED", "bed")
    assert (await refused(service.reserve({"tour": 99}))).reason == "CAPACITY_EXCEEDED"


async def test_one_closed_item_in_a_batch_refuses_its_own_entries_only(service: Harness) -> None:
    await service.create_item("bed", 5)
    await service.create_item("tour", 5, sale_state=CLOSED)
    entries = [pb.ReserveRequest(lines=[item_pb2.ItemQuantity(sku=sku, quantity=2)]) for sku in ("bed", "tour", "bed")]
    answer = await service.reservations.BatchReserve(pb.BatchReserveRequest(requests=entries))
    assert [each.WhichOneof("result") for each in answer.results] == ["reservation", "error", "reservation"]
    assert counters(await service.item("bed")) == (5, 1, 4, 0)
    assert counters(await service.item("tour")) == (5, 5, 0, 0)


async def test_a_stop_sell_between_concurrent_holds_lets_none_pass_after_it(service: Harness) -> None:
    await service.create_item("bed", 10_000)

    async def take() -> Any:
        return await outcome(service.reserve({"bed": 1}))

    first = [asyncio.create_task(take()) for _ in range(100)]
    closed = await _set(service, "bed", sale_state=CLOSED)
    later = await asyncio.gather(*(take() for _ in range(20)))
    assert later == ["SALE_CLOSED"] * 20
    taken = [each for each in await asyncio.gather(*first) if isinstance(each, reservation_pb2.Reservation)]
    # Every hold was judged before the stop or refused: the item did not change after it.
    item = await service.item("bed")
    assert (item.held, item.revision) == (len(taken), closed.revision)
    await service.verify()


async def test_a_replay_of_a_hold_is_answered_while_the_sale_is_closed(service: Harness) -> None:
    await service.create_item("bed", 9)
    made = await service.reserve({"bed": 2}, request_id="once")
    await _set(service, "bed", sale_state=CLOSED)
    assert await service.reserve({"bed": 2}, request_id="once") == made


async def test_buffer_and_oversell_limit_add_up_and_bind_new_holds_only(service: Harness) -> None:
    await service.create_item("bed", 5, oversell_limit=3, buffer=2)
    assert await _available(service, "bed") == 6
    made = await service.reserve({"bed": 6})
    refusal = await refused(service.reserve({"bed": 1}))
    assert refusal.reason == "CAPACITY_EXCEEDED"
    assert refusal.details["CapacityShortfall"].lines[0].available == 0
    await _set(service, "bed", buffer=100)
    assert await _available(service, "bed") == 0
    # The hold keeps its units: it is made smaller and confirmed in part under a buffer above the stock.
    await service.reservations.Modify(_modify(made.reservation_id, bed=5))
    assert (await refused(service.reservations.Modify(_modify(made.reservation_id, bed=6)))).reason == (
        "CAPACITY_EXCEEDED"
    )
    await service.reservations.Confirm(pb.ConfirmRequest(reservation_id=made.reservation_id, lines=lines(bed=4)))
    assert counters(await service.item("bed")) == (5, 1, 0, 4)
    await _set(service, "bed", buffer=0)
    assert await _available(service, "bed") == 4
    await service.verify()


async def test_lapsed_holds_make_room_up_to_the_buffer(service: Harness) -> None:
    await service.create_item("bed", 5, buffer=2)
    await service.reserve({"bed": 3}, ttl=timedelta(seconds=30))
    assert (await refused(service.reserve({"bed": 1}))).reason == "CAPACITY_EXCEEDED"
    service.clock.advance(timedelta(seconds=31))
    assert await _available(service, "bed") == 3
    assert (await refused(service.reserve({"bed": 4}))).details["CapacityShortfall"].lines[0].available == 3
    await service.reserve({"bed": 3})
    await service.verify()


async def test_a_rescue_leaves_the_buffer_alone(service: Harness) -> None:
    await service.create_item("bed", 5)
    made = await service.reserve({"bed": 4}, ttl=timedelta(seconds=30))
    service.clock.advance(timedelta(seconds=31))
    await _set(service, "bed", buffer=2)
    rescue = pb.ConfirmRequest(reservation_id=made.reservation_id, rescue=True)
    refusal = await refused(service.reservations.Confirm(rescue))
    assert (refusal.reason, refusal.details["CapacityShortfall"].lines[0].available) == ("CAPACITY_EXCEEDED", 3)
    await _set(service, "bed", buffer=1)
    assert (await service.reservations.Confirm(rescue)).rescued
    await service.verify()


async def test_capacity_is_lowered_and_transferred_through_the_buffer(service: Harness) -> None:
    await service.create_item("bed", 5, buffer=5)
    await service.inventory.AdjustCapacity(inventory_service_pb2.AdjustCapacityRequest(sku="bed", delta=-2))
    await service.inventory.TransferCapacity(
        inventory_service_pb2.TransferCapacityRequest(sku="bed", to_pool="web", quantity=2)
    )
    assert counters(await service.item("bed")) == (1, 1, 0, 0)
    assert (await service.item("bed", "web")).buffer == 0


async def test_a_pool_made_by_a_transfer_has_the_sale_state_of_the_giving_pool(service: Harness) -> None:
    await service.create_item("bed", 5, sale_state=CLOSED)
    transfer = inventory_service_pb2.TransferCapacityRequest(sku="bed", to_pool="web", quantity=2)
    made = (await service.inventory.TransferCapacity(transfer)).to_item
    assert made.sale_state == CLOSED
    assert (await refused(service.reserve([("bed", "web", 1)]))).reason == "SALE_CLOSED"


async def test_an_update_without_a_sale_state_opens_nothing(service: Harness) -> None:
    await service.create_item("bed", 5, sale_state=CLOSED)
    request = inventory_service_pb2.UpdateItemRequest(item=Item(sku="bed"), update_mask=FieldMask(paths=["sale_state"]))
    refusal = await refused(service.inventory.UpdateItem(request))
    assert refusal.reason == "INVALID_FIELD"
    assert refusal.details["BadRequest"].field_violations[0].field == "item.sale_state"
    assert (await service.item("bed")).sale_state == CLOSED
