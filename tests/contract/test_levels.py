"""LEVEL_CHANGED: told once for each crossing, in the transaction that crosses, whatever moved the units."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from holdsvc.model import StockLevel
from inventoryhold.v1 import event_pb2, event_service_pb2, item_pb2
from inventoryhold.v1 import inventory_service_pb2 as ipb
from inventoryhold.v1 import reservation_service_pb2 as pb
from tests.contract.lines import lines, wanted
from tests.support.harness import Harness, refused

Level = event_pb2.LevelChange.StockLevel
AVAILABLE, LOW, OUT = Level.STOCK_LEVEL_AVAILABLE, Level.STOCK_LEVEL_LOW, Level.STOCK_LEVEL_OUT


async def _events(service: Harness, **fields: Any) -> list[event_pb2.Event]:
    """Every event up to now, by StreamEvents."""
    last = service.sql("SELECT max(event_id) FROM event")[0][0]
    found: list[event_pb2.Event] = []
    call = service.events.StreamEvents(event_service_pb2.StreamEventsRequest(from_oldest=True, **fields))
    async for message in call:
        found += message.events
        if found and found[-1].event_id >= last:
            call.cancel()
            return found
    raise AssertionError("the stream has ended")


def _crossings(service: Harness) -> list[tuple[str, str, int, int]]:
    """Every LEVEL_CHANGED in the table."""
    return service.sql(
        "SELECT line_sku[1], line_pool[1], from_level, to_level FROM event WHERE type = 16 ORDER BY event_id"
    )


def _levels(service: Harness) -> list[tuple[int, int]]:
    return [(before, after) for _, _, before, after in _crossings(service)]


async def _update(service: Harness, sku: str, **fields: Any) -> None:
    await service.inventory.UpdateItem(
        ipb.UpdateItemRequest(item=item_pb2.Item(sku=sku, **fields), update_mask=FieldMask(paths=fields))
    )


async def test_an_event_tells_the_level_before_and_after_with_the_item_as_it_is(service: Harness) -> None:
    await service.create_item("bed", 5, pool="web", low_at=2)
    made = await service.reserve([("bed", "web", 3)], request_id="r-1")
    reserved, changed = (await _events(service))[1:]
    assert (reserved.type, changed.type) == (event_pb2.EVENT_TYPE_RESERVED, event_pb2.EVENT_TYPE_LEVEL_CHANGED)
    assert (getattr(changed.level_change, "from"), changed.level_change.to) == (AVAILABLE, LOW)
    assert (changed.item.sku, changed.item.pool, changed.item.remaining, changed.item.low_at) == ("bed", "web", 2, 2)
    assert (list(changed.lines), changed.client, changed.request_id) == ([], "", "")
    assert changed.occur_time == made.create_time
    assert changed.item.revision == 2
    assert not reserved.HasField("level_change")


async def test_the_stream_may_ask_for_levels_alone(service: Harness) -> None:
    await service.create_item("bed", 2, low_at=0)
    for _ in range(2):
        await service.reserve({"bed": 1})
    found = await _events(service, types=[event_pb2.EVENT_TYPE_LEVEL_CHANGED])
    assert [each.level_change.to for each in found] == [OUT]


async def test_an_item_without_low_at_tells_of_no_level(service: Harness) -> None:
    await service.create_item("bed", 1)
    made = await service.reserve({"bed": 1})
    await service.reservations.Cancel(pb.CancelRequest(reservation_id=made.reservation_id))
    assert _levels(service) == []


async def test_low_at_is_set_read_and_taken_away(service: Harness) -> None:
    assert not (await service.create_item("bed", 9)).HasField("low_at")
    await _update(service, "bed", low_at=9)
    assert (await service.item("bed")).low_at == 9
    assert _levels(service) == [(AVAILABLE, LOW)]
    await service.inventory.UpdateItem(
        ipb.UpdateItemRequest(item=item_pb2.Item(sku="bed"), update_mask=FieldMask(paths=["low_at"]))
    )
    assert not (await service.item("bed")).HasField("low_at")
    await service.reserve({"bed": 9})
    assert _levels(service) == [(AVAILABLE, LOW)]


Move = Callable[[Harness], Awaitable[Any]]


async def _hold(service: Harness, quantity: int, **fields: Any) -> str:
    return str((await service.reserve({"bed": quantity}, **fields)).reservation_id)


async def _cancel(service: Harness) -> None:
    await service.reservations.Cancel(pb.CancelRequest(reservation_id=await _hold(service, 10)))


async def _cancel_a_part(service: Harness) -> None:
    cancel = pb.CancelRequest(reservation_id=await _hold(service, 10), lines=lines(bed=9))
    await service.reservations.Cancel(cancel)


async def _modify(service: Harness) -> None:
    held = await _hold(service, 10)
    mask = FieldMask(paths=["lines"])
    await service.reservations.Modify(pb.ModifyRequest(reservation_id=held, lines=wanted(bed=1), update_mask=mask))


async def _confirm_a_part(service: Harness) -> None:
    confirm = pb.ConfirmRequest(reservation_id=await _hold(service, 10), lines=lines(bed=1))
    await service.reservations.Confirm(confirm)


async def _expire(service: Harness) -> None:
    await _hold(service, 10, ttl=timedelta(seconds=5))
    service.clock.advance(timedelta(seconds=6))
    await service.sweep()


async def _expire_on_demand(service: Harness) -> None:
    await _hold(service, 10, ttl=timedelta(seconds=5))
    service.clock.advance(timedelta(seconds=6))
    await _hold(service, 1)


async def _refund(service: Harness) -> None:
    held = await _hold(service, 10)
    await service.reservations.Confirm(pb.ConfirmRequest(reservation_id=held))
    await service.reservations.Refund(pb.RefundRequest(reservation_id=held))


async def _return(service: Harness) -> None:
    held = await _hold(service, 10)
    await service.reservations.Confirm(pb.ConfirmRequest(reservation_id=held))
    await service.reservations.Fulfil(pb.FulfilRequest(reservation_id=held))
    await service.reservations.Refund(pb.RefundRequest(reservation_id=held))


async def _adjust(service: Harness) -> None:
    for delta in (-10, 10):
        await service.inventory.AdjustCapacity(ipb.AdjustCapacityRequest(sku="bed", delta=delta))


async def _transfer(service: Harness) -> None:
    for from_pool, to_pool in (("", "web"), ("web", "")):
        await service.inventory.TransferCapacity(
            ipb.TransferCapacityRequest(sku="bed", from_pool=from_pool, to_pool=to_pool, quantity=10)
        )


async def _update_capacity(service: Harness) -> None:
    for capacity in (0, 10):
        await _update(service, "bed", capacity=capacity)


async def _update_buffer(service: Harness) -> None:
    for buffer in (10, 0):
        await _update(service, "bed", buffer=buffer)


async def _update_oversell(service: Harness) -> None:
    await _update(service, "bed", buffer=10)
    await _update(service, "bed", oversell_limit=10)


@pytest.mark.parametrize(
    "move",
    [
        _cancel,
        _cancel_a_part,
        _modify,
        _confirm_a_part,
        _expire,
        _expire_on_demand,
        _refund,
        _return,
        _adjust,
        _transfer,
        _update_capacity,
        _update_buffer,
        _update_oversell,
    ],
)
async def test_each_way_of_moving_units_tells_of_the_crossing_down_and_of_that_up(service: Harness, move: Move) -> None:
    await service.create_item("bed", 10, low_at=3)
    await move(service)
    # From AVAILABLE to OUT and back in one step each: the level in between is left out.
    assert _crossings(service) == [("bed", "", AVAILABLE, OUT), ("bed", "", OUT, AVAILABLE)]
    await service.verify()


async def test_a_deleted_item_is_out(service: Harness) -> None:
    await service.create_item("bed", 10, low_at=3, oversell_limit=50)
    await service.inventory.DeleteItem(ipb.DeleteItemRequest(sku="bed"))
    assert _levels(service) == [(AVAILABLE, OUT)]
    # A change that is refused tells of nothing.
    adjust = ipb.AdjustCapacityRequest(sku="bed", delta=1)
    assert (await refused(service.inventory.AdjustCapacity(adjust))).reason == "ITEM_NOT_FOUND"
    assert _levels(service) == [(AVAILABLE, OUT)]


async def test_a_rescue_tells_of_where_the_level_ends_not_of_the_way(service: Harness) -> None:
    await service.create_item("bed", 10, low_at=3)
    held = await _hold(service, 8, ttl=timedelta(seconds=5))
    service.clock.advance(timedelta(seconds=6))
    # In one transaction: swept (AVAILABLE), taken anew (LOW), sold in part (AVAILABLE).
    await service.reservations.Confirm(pb.ConfirmRequest(reservation_id=held, rescue=True, lines=lines(bed=1)))
    assert _levels(service) == [(AVAILABLE, LOW), (LOW, AVAILABLE)]
    await service.verify()


async def test_a_batch_that_leaves_the_level_where_it_was_tells_of_nothing(service: Harness) -> None:
    await service.create_item("bed", 10, low_at=3)
    held = [await _hold(service, 5), await _hold(service, 1)]
    mask = FieldMask(paths=["lines"])
    requests = [
        pb.ModifyRequest(reservation_id=held[0], lines=wanted(bed=1), update_mask=mask),
        pb.ModifyRequest(reservation_id=held[1], lines=wanted(bed=5), update_mask=mask),
    ]
    answer = await service.reservations.BatchModify(pb.BatchModifyRequest(requests=requests))
    assert [each.WhichOneof("result") for each in answer.results] == ["reservation", "reservation"]
    assert _levels(service) == []


async def test_a_batch_of_whole_and_partial_cancels_tells_of_one_crossing(service: Harness) -> None:
    await service.create_item("bed", 10, low_at=3)
    whole, part = await _hold(service, 3), await _hold(service, 7)
    requests = [pb.CancelRequest(reservation_id=whole), pb.CancelRequest(reservation_id=part, lines=lines(bed=3))]
    await service.reservations.BatchCancel(pb.BatchCancelRequest(requests=requests))
    assert _levels(service) == [(AVAILABLE, OUT), (OUT, AVAILABLE)]


async def test_lapsed_holds_and_a_closed_sale_change_no_level(service: Harness) -> None:
    await service.create_item("bed", 10, low_at=3)
    await _hold(service, 10, ttl=timedelta(seconds=5))
    service.clock.advance(timedelta(seconds=6))
    await _update(service, "bed", sale_state=item_pb2.Item.SALE_STATE_CLOSED)
    assert _levels(service) == [(AVAILABLE, OUT)]


async def test_a_hundred_concurrent_holds_tell_of_each_crossing_exactly_once(service: Harness) -> None:
    await service.create_item("bed", 100, low_at=40)
    held = await asyncio.gather(*(_hold(service, 1) for _ in range(100)))
    told = _levels(service)
    # A batch may take the item over both lines at once.
    assert told in ([(AVAILABLE, LOW), (LOW, OUT)], [(AVAILABLE, OUT)])
    cancels = [service.reservations.Cancel(pb.CancelRequest(reservation_id=each)) for each in held]
    await asyncio.gather(*cancels)
    back = _levels(service)[len(told) :]
    assert back in ([(OUT, LOW), (LOW, AVAILABLE)], [(OUT, AVAILABLE)])
    await service.verify()


def test_levels_of_the_model_are_those_of_the_contract() -> None:
    named = {name.removeprefix("STOCK_LEVEL_"): number for name, number in Level.items()}
    assert {**{each.name: each.value for each in StockLevel}, "UNSPECIFIED": 0} == named
