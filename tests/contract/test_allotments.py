"""An allotment that falls back: at its return_time the sale closes, and what remains goes to the return pool."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from inventoryhold.v1 import event_pb2, item_pb2
from inventoryhold.v1 import inventory_service_pb2 as ipb
from inventoryhold.v1 import reservation_service_pb2 as pb
from tests.contract.lines import counters
from tests.support.harness import Harness, StartService, refused
from tests.support.polling import until

Item = item_pb2.Item
CLOSED, OPEN = Item.SALE_STATE_CLOSED, Item.SALE_STATE_OPEN
EventType = event_pb2.EventType


def _in(seconds: float) -> datetime:
    return datetime.now(UTC) + timedelta(seconds=seconds)


async def _update(service: Harness, pool: str, paths: Sequence[str] = (), **fields: Any) -> item_pb2.Item:
    item = Item(sku="bed", pool=pool, **fields)
    mask = FieldMask(paths=[*fields, *paths])
    return (await service.inventory.UpdateItem(ipb.UpdateItemRequest(item=item, update_mask=mask))).item


def _events(service: Harness) -> list[tuple[Any, ...]]:
    return service.sql(
        "SELECT type, line_pool[1], line_quantity[1], client, sale_state FROM event"
        " WHERE reservation_id IS NULL AND type <> 7 ORDER BY event_id"
    )


async def test_what_remains_goes_back_at_the_return_time_and_not_before(service: Harness) -> None:
    await service.create_item("bed", 5)
    made = await service.create_item("bed", 10, pool="web", return_pool="", return_time=_in(60))
    assert (made.return_pool, made.HasField("return_pool"), made.HasField("return_time")) == ("", True, True)
    assert await service.return_allotments() == (0, 0, False)
    service.clock.advance(timedelta(seconds=61))
    assert await service.return_allotments() == (1, 10, False)
    allotment, home = await service.item("bed", "web"), await service.item("bed")
    assert (counters(allotment), allotment.sale_state) == ((0, 0, 0, 0), CLOSED)
    assert (counters(home), home.sale_state) == ((15, 15, 0, 0), OPEN)
    assert _events(service) == [
        (EventType.EVENT_TYPE_ITEM_UPDATED, "web", 0, "", CLOSED),
        (EventType.EVENT_TYPE_CAPACITY_TRANSFERRED, "web", -10, "", CLOSED),
        (EventType.EVENT_TYPE_CAPACITY_TRANSFERRED, "", 10, "", OPEN),
    ]
    assert await service.return_allotments() == (0, 0, False)
    await service.verify()


async def test_units_that_are_held_follow_when_they_come_free(service: Harness) -> None:
    await service.create_item("bed", 10, pool="web", return_time=_in(60))
    made = [await service.reserve([("bed", "web", quantity)]) for quantity in (2, 1, 2)]
    service.clock.advance(timedelta(seconds=61))
    assert await service.return_allotments() == (1, 5, False)
    cancel, confirm, refund = service.reservations.Cancel, service.reservations.Confirm, service.reservations.Refund
    await cancel(pb.CancelRequest(reservation_id=made[0].reservation_id))
    assert await service.return_allotments() == (1, 2, False)
    await confirm(pb.ConfirmRequest(reservation_id=made[1].reservation_id))
    await confirm(
        pb.ConfirmRequest(
            reservation_id=made[2].reservation_id, lines=[item_pb2.ItemQuantity(sku="bed", pool="web", quantity=1)]
        )
    )
    assert await service.return_allotments() == (1, 1, False)
    await refund(pb.RefundRequest(reservation_id=made[1].reservation_id))
    assert await service.return_allotments() == (1, 1, False)
    assert counters(await service.item("bed", "web")) == (1, 0, 0, 1)
    assert counters(await service.item("bed")) == (9, 9, 0, 0)
    await service.verify()


async def test_holds_that_lapse_after_the_return_follow_in_the_next_sweep(service: Harness) -> None:
    await service.create_item("bed", 10, pool="web", return_time=_in(60))
    await service.reserve([("bed", "web", 4)], ttl=timedelta(seconds=120))
    service.clock.advance(timedelta(seconds=61))
    assert (await service.return_allotments()).returned_quantity == 6
    service.clock.advance(timedelta(seconds=61))
    assert (await service.return_allotments()).returned_quantity == 0
    await service.sweep()
    assert (await service.return_allotments()).returned_quantity == 4
    await service.verify()


async def test_a_return_time_in_the_past_acts_at_the_next_sweep(service: Harness) -> None:
    await service.create_item("bed", 3, pool="web", return_pool="box", return_time=_in(-3600))
    assert (await service.return_allotments()).returned_quantity == 3
    assert counters(await service.item("bed", "box")) == (3, 3, 0, 0)


async def test_the_background_sweep_returns_allotments(start_service: StartService) -> None:
    service = await start_service(sweeping=True, sweep_interval=timedelta(milliseconds=50))
    await service.create_item("bed", 3, pool="web", return_pool="box", return_time=_in(-1))

    async def returned() -> bool:
        return (await service.item("bed", "web")).capacity == 0

    await until(returned)
    assert (await service.item("bed", "box")).remaining == 3


async def test_an_allotment_that_was_opened_again_keeps_its_units(service: Harness) -> None:
    await service.create_item("bed", 10, pool="web", return_time=_in(-1))
    await service.return_allotments()
    await _update(service, "web", sale_state=OPEN, capacity=4)
    assert (await service.return_allotments()).returned_quantity == 0
    await service.reserve([("bed", "web", 1)])
    await _update(service, "web", sale_state=CLOSED)
    assert (await service.return_allotments()).returned_quantity == 3
    # What came free while it was closed stays if it is opened before the sweep comes.
    await _update(service, "web", capacity=5)
    await _update(service, "web", sale_state=OPEN)
    assert (await service.return_allotments()).returned_quantity == 0
    assert (await service.item("bed", "web")).remaining == 4


async def test_a_return_time_can_be_moved_and_taken_away(service: Harness) -> None:
    await service.create_item("bed", 10, pool="web", return_time=_in(60))
    await _update(service, "web", return_time=_in(120))
    service.clock.advance(timedelta(seconds=61))
    assert (await service.return_allotments()).returned_quantity == 0
    item = await _update(service, "web", paths=["return_time"])
    assert not item.HasField("return_time")
    service.clock.advance(timedelta(seconds=61))
    assert (await service.return_allotments()).returned_quantity == 0
    assert (await service.item("bed", "web")).sale_state == OPEN
    # A new time makes it an allotment once more.
    await _update(service, "web", return_time=_in(120))
    assert (await service.return_allotments()).returned_quantity == 10


@pytest.mark.parametrize(("state", "expected"), [(OPEN, OPEN), (CLOSED, CLOSED)])
async def test_a_pool_that_the_return_makes_has_the_sale_state_from_before(
    service: Harness, state: Item.SaleState, expected: Item.SaleState
) -> None:
    await service.create_item("bed", 3, pool="web", return_time=_in(-1), sale_state=state, display_name="Bed")
    await service.return_allotments()
    home = await service.item("bed")
    assert (home.sale_state, home.display_name, home.remaining) == (expected, "Bed", 3)


async def test_nothing_remaining_closes_the_sale_and_moves_nothing(service: Harness) -> None:
    await service.create_item("bed", 2, pool="web", oversell_limit=1, return_time=_in(-1))
    await service.reserve([("bed", "web", 3)])
    assert await service.return_allotments() == (0, 0, False)
    assert (await service.item("bed", "web")).sale_state == CLOSED
    assert [event[0] for event in _events(service)] == [EventType.EVENT_TYPE_ITEM_UPDATED]
    assert (await refused(service.item("bed"))).reason == "ITEM_NOT_FOUND"


async def test_levels_of_both_pools_are_told(service: Harness) -> None:
    await service.create_item("bed", 0, low_at=2)
    await service.create_item("bed", 3, pool="web", low_at=2, return_time=_in(-1))
    await service.return_allotments()
    assert service.sql("SELECT line_pool[1], from_level, to_level FROM event WHERE type = 16 ORDER BY event_id") == [
        ("", 3, 1),
        ("web", 1, 3),
    ]


async def test_many_allotments_of_a_sku_return_side_by_side_to_one_pool(service: Harness) -> None:
    for number in range(20):
        await service.create_item(
            "bed", 5, pool=f"p{number:02}", return_time=_in(-1), return_pool="p07" if number == 3 else ""
        )
    await asyncio.gather(*(service.return_allotments() for _ in range(4)))
    assert service.sql("SELECT sum(capacity) FROM item WHERE sku = 'bed'") == [(100,)]
    while (await service.return_allotments()).returned_count:
        pass
    assert counters(await service.item("bed")) == (100, 100, 0, 0)
    await service.verify()


async def test_a_locked_item_does_not_keep_the_other_allotments_waiting(service: Harness) -> None:
    for sku in ("bed", "tour"):
        await service.create_item(sku, 5, pool="web", return_time=_in(-1))
    with psycopg.connect(service.owner_dsn) as other:
        other.execute("SELECT 1 FROM holdsvc.item WHERE sku = 'bed' FOR UPDATE")
        assert await service.return_allotments() == (1, 5, True)
    assert await service.return_allotments() == (1, 5, False)
    assert counters(await service.item("tour")) == (5, 5, 0, 0)


async def test_pools_that_return_to_each_other_keep_their_units(service: Harness) -> None:
    for pool, return_pool in (("a", "b"), ("b", "c"), ("c", "a")):
        await service.create_item("bed", 2, pool=pool, return_pool=return_pool, return_time=_in(-1))
    moved = 0
    while (returned := await service.return_allotments()).returned_count:
        moved += returned.returned_count
        assert moved < 10
    assert [(await service.item("bed", pool)).remaining for pool in "abc"] == [0, 0, 6]
    assert await service.return_allotments() == (0, 0, False)


async def test_units_go_on_through_allotments_that_have_returned(service: Harness) -> None:
    for pool, return_pool in (("b", ""), ("c", "b")):
        await service.create_item("bed", 2, pool=pool, return_pool=return_pool, return_time=_in(-1))
    while (await service.return_allotments()).returned_count:
        pass
    assert counters(await service.item("bed")) == (4, 4, 0, 0)


async def test_a_return_to_itself_is_refused(service: Harness) -> None:
    for pool, fields in (("web", {"return_pool": "web"}), ("", {}), ("", {"return_pool": ""})):
        refusal = await refused(service.create_item("bed", 1, pool=pool, return_time=_in(9), **fields))
        [violation] = refusal.details["BadRequest"].field_violations
        assert (refusal.reason, violation.field, violation.reason) == (
            "INVALID_FIELD", "item.return_pool", "RETURN_POOL"
        )  # fmt: skip
    items = [Item(sku="bed", pool="a"), Item(sku="bed", pool="b", return_pool="b", return_time=_in(9))]
    refusal = await refused(service.inventory.BatchCreateItems(ipb.BatchCreateItemsRequest(items=items)))
    assert refusal.details["BadRequest"].field_violations[0].field == "items[1].return_pool"
    await service.create_item("bed", 1, pool="web", return_pool="web")
    await service.create_item("bed", 1)
    for pool in ("web", ""):
        refusal = await refused(_update(service, pool, return_time=_in(9)))
        assert refusal.details["BadRequest"].field_violations[0].reason == "RETURN_POOL"
    await _update(service, "web", return_time=_in(9), return_pool="box")
    assert (await refused(_update(service, "web", return_pool="web"))).reason == "INVALID_FIELD"
    assert (await service.item("bed", "web")).return_pool == "box"


async def test_a_deleted_allotment_returns_nothing_and_one_made_again_begins_anew(service: Harness) -> None:
    await service.create_item("bed", 2, pool="web", return_time=_in(-1))
    await service.inventory.DeleteItem(ipb.DeleteItemRequest(sku="bed", pool="web"))
    assert await service.return_allotments() == (0, 0, False)
    made = await service.create_item("bed", 2, pool="web")
    assert not made.HasField("return_time")
    assert await service.return_allotments() == (0, 0, False)


async def test_an_adjustment_that_was_booked_late_corrects_counts_from_its_own_time(service: Harness) -> None:
    await service.create_item("bed", 10)
    adjust = service.inventory.AdjustCapacity
    then = _in(-7200).replace(microsecond=5)
    await adjust(ipb.AdjustCapacityRequest(sku="bed", delta=-3, effective_time=then))
    assert service.sql("SELECT effective_time, delta FROM stock_move") == [(then, -3)]
    refusal = await refused(adjust(ipb.AdjustCapacityRequest(sku="bed", delta=-3, effective_time=_in(60))))
    [violation] = refusal.details["BadRequest"].field_violations
    assert (violation.field, violation.reason) == ("effective_time", "EFFECTIVE_TIME")
    assert counters(await service.item("bed")) == (7, 7, 0, 0)
