"""Items: created, read, updated, deleted and created again; their revision only grows."""

from datetime import timedelta
from itertools import pairwise
from typing import Any

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask

from inventoryhold.v1 import inventory_service_pb2 as pb
from inventoryhold.v1 import item_pb2, reservation_service_pb2
from tests.support.harness import Harness, refused


def _counters(item: item_pb2.Item) -> tuple[int, int, int, int]:
    return (item.capacity, item.remaining, item.held, item.confirmed)


async def _update(service: Harness, sku: str, revision: int = 0, **fields: Any) -> item_pb2.Item:
    request = pb.UpdateItemRequest(
        item=item_pb2.Item(sku=sku, **fields), update_mask=FieldMask(paths=list(fields)), revision=revision
    )
    return (await service.inventory.UpdateItem(request)).item


async def _delete(service: Harness, sku: str, pool: str = "") -> pb.DeleteItemResponse:
    return await service.inventory.DeleteItem(pb.DeleteItemRequest(sku=sku, pool=pool))


async def _sell(service: Harness, sku: str, quantity: int) -> None:
    held = await service.reserve({sku: quantity})
    target: dict[str, Any] = {"reservation_id": held.reservation_id}
    await service.reservations.Confirm(reservation_service_pb2.ConfirmRequest(**target))


async def test_a_new_item_has_all_its_capacity_remaining_and_ignores_output_fields(service: Harness) -> None:
    item = await service.create_item(
        "bed", 7, pool="vip", display_name="Bett „1“", oversell_limit=2, remaining=3, held=1, confirmed=5, revision=9
    )
    assert _counters(item) == (7, 7, 0, 0)
    assert (item.display_name, item.oversell_limit, item.revision) == ("Bett „1“", 2, 1)
    assert item.create_time == item.update_time
    assert item == await service.item("bed", "vip")
    assert (await refused(service.item("bed"))).reason == "ITEM_NOT_FOUND"


async def test_an_item_that_is_there_is_not_created_again(service: Harness) -> None:
    before = await service.create_item("bed", 7)
    refusal = await refused(service.create_item("bed", 9))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.ALREADY_EXISTS, "ITEM_ALREADY_EXISTS")
    assert refusal.metadata == {"sku": "bed", "pool": ""}
    assert await service.item("bed") == before
    await service.create_item("bed", 1, pool="vip")


async def test_an_sku_may_be_any_printable_text(service: Harness) -> None:
    for sku in ("{}", '"', "\\", "NULL", "a,b", "ü\U0001f6cf", "x" * 128, " ", "';--", "%s"):
        await service.create_item(sku, 3, pool=sku[:64], display_name=sku)
        held = await service.reserve([(sku, sku[:64], 2)], holder=sku, metadata={sku[:64]: sku})
        assert held.lines[0].sku == sku
        assert (await service.get(held.reservation_id)) == held
        assert (await service.item(sku, sku[:64])).held == 2
    await service.verify()


async def test_batch_create_answers_in_order_and_creates_all_or_none(service: Harness) -> None:
    items = [item_pb2.Item(sku=sku, capacity=number) for number, sku in enumerate(("c", "a", "b"), 1)]
    answer = await service.inventory.BatchCreateItems(pb.BatchCreateItemsRequest(items=items))
    assert [(item.sku, item.capacity, item.revision) for item in answer.items] == [
        ("c", 1, 1),
        ("a", 2, 1),
        ("b", 3, 1),
    ]
    more = [item_pb2.Item(sku=sku, capacity=9) for sku in ("new", "c", "a")]
    refusal = await refused(service.inventory.BatchCreateItems(pb.BatchCreateItemsRequest(items=more)))
    assert (refusal.reason, refusal.metadata["sku"]) == ("ITEM_ALREADY_EXISTS", "c")
    assert (await refused(service.item("new"))).reason == "ITEM_NOT_FOUND"
    assert (await service.item("a")).capacity == 2
    assert service.sql("SELECT count(*) FROM holdsvc.event") == [(3,)]


async def test_batch_create_refuses_an_item_named_twice(service: Harness) -> None:
    items = [item_pb2.Item(sku=sku) for sku in ("a", "b", "a")]
    refusal = await refused(service.inventory.BatchCreateItems(pb.BatchCreateItemsRequest(items=items)))
    assert (refusal.reason, refusal.metadata["fields"]) == ("INVALID_FIELD", "items[2]")


async def test_update_sets_what_the_mask_names_and_nothing_else(service: Harness) -> None:
    await service.create_item("bed", 7, display_name="Bed", oversell_limit=1)
    request = pb.UpdateItemRequest(
        item=item_pb2.Item(sku="bed", capacity=9, display_name="ignored", oversell_limit=5),
        update_mask=FieldMask(paths=["capacity"]),
    )
    item = (await service.inventory.UpdateItem(request)).item
    assert (_counters(item), item.display_name, item.oversell_limit) == ((9, 9, 0, 0), "Bed", 1)
    # What the mask names and the item leaves out is set to nothing.
    item = await _update(service, "bed", display_name="", oversell_limit=0)
    assert (item.display_name, item.oversell_limit, item.revision) == ("", 0, 3)
    assert item == await service.item("bed")


async def test_update_with_a_revision_needs_the_items(service: Harness) -> None:
    await service.create_item("bed", 7)
    await service.reserve({"bed": 1})
    refusal = await refused(_update(service, "bed", revision=1, capacity=8))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.ABORTED, "REVISION_MISMATCH")
    assert refusal.metadata == {"sku": "bed", "pool": "", "revision": "2"}
    assert (await _update(service, "bed", revision=2, capacity=8)).revision == 3
    refusal = await refused(_update(service, "nowhere", revision=1, capacity=8))
    assert refusal.reason == "ITEM_NOT_FOUND"


async def test_update_leaves_held_and_confirmed_units_their_room_and_tells_the_numbers(service: Harness) -> None:
    await service.create_item("bed", 10, oversell_limit=2)
    await service.reserve({"bed": 3})
    await _sell(service, "bed", 4)
    refusal = await refused(_update(service, "bed", capacity=4))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "CAPACITY_IN_USE")
    # 6 would go; 3 remaining and 2 of the oversell limit could.
    assert refusal.metadata == {"sku": "bed", "pool": "", "requested": "6", "available": "5"}
    assert _counters(await _update(service, "bed", capacity=5)) == (5, -2, 3, 4)
    refusal = await refused(_update(service, "bed", oversell_limit=1))
    assert refusal.metadata == {"sku": "bed", "pool": "", "requested": "1", "available": "0"}
    # One may give what the other takes.
    assert _counters(await _update(service, "bed", oversell_limit=0, capacity=7)) == (7, 0, 3, 4)
    await service.verify()


async def test_update_may_take_the_units_of_lapsed_holds(service: Harness) -> None:
    await service.create_item("bed", 10)
    lapsed = await service.reserve({"bed": 6}, ttl=Duration(seconds=10))
    await service.reserve({"bed": 1})
    service.clock.advance(timedelta(seconds=11))
    refusal = await refused(_update(service, "bed", capacity=0))
    assert (refusal.metadata["requested"], refusal.metadata["available"]) == ("10", "9")
    assert (await service.get(lapsed.reservation_id)).revision == 1
    assert _counters(await _update(service, "bed", capacity=1)) == (1, 0, 1, 0)
    assert (await service.get(lapsed.reservation_id)).revision == 2
    await service.verify()


async def test_only_an_item_that_nobody_has_units_of_is_deleted(service: Harness) -> None:
    await service.create_item("bed", 10)
    held = await service.reserve({"bed": 2})
    await _sell(service, "bed", 3)
    refusal = await refused(_delete(service, "bed"))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "CAPACITY_IN_USE")
    assert refusal.metadata == {"sku": "bed", "pool": "", "requested": "10", "available": "5"}
    cancel = reservation_service_pb2.CancelRequest(reservation_id=held.reservation_id)
    await service.reservations.Cancel(cancel)
    assert (await refused(_delete(service, "bed"))).metadata["available"] == "7"
    assert (await service.item("bed")).capacity == 10


async def test_a_refused_deletion_counts_lapsed_holds_as_free_and_is_never_negative(service: Harness) -> None:
    await service.create_item("bed", 2, oversell_limit=9)
    await service.reserve({"bed": 1}, ttl=Duration(seconds=10))
    await service.reserve({"bed": 1})
    service.clock.advance(timedelta(seconds=11))
    assert (await refused(_delete(service, "bed"))).metadata["available"] == "1"
    await service.reserve({"bed": 6})
    assert (await refused(_delete(service, "bed"))).metadata["available"] == "0"


async def test_lapsed_holds_do_not_keep_an_item(service: Harness) -> None:
    await service.create_item("bed", 10)
    lapsed = await service.reserve({"bed": 2}, ttl=Duration(seconds=10))
    service.clock.advance(timedelta(seconds=11))
    await _delete(service, "bed")
    assert (await service.get(lapsed.reservation_id)).revision == 2
    await service.verify()


async def test_a_deleted_item_is_gone_for_every_call(service: Harness) -> None:
    await service.create_item("bed", 10)
    await _delete(service, "bed")
    for call in (
        service.item("bed"),
        _delete(service, "bed"),
        _update(service, "bed", capacity=1),
        service.reserve({"bed": 1}),
        service.inventory.AdjustCapacity(pb.AdjustCapacityRequest(sku="bed", delta=1)),
        service.inventory.TransferCapacity(pb.TransferCapacityRequest(sku="bed", to_pool="vip", quantity=1)),
        service.inventory.CheckAvailability(pb.CheckAvailabilityRequest(lines=[{"sku": "bed", "quantity": 1}])),
    ):
        refusal = await refused(call)
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.NOT_FOUND, "ITEM_NOT_FOUND")
        assert refusal.metadata == {"sku": "bed", "pool": ""}
    assert not (await service.inventory.ListItems(pb.ListItemsRequest())).items


async def test_an_item_created_again_goes_on_with_its_revision_and_nothing_else(service: Harness) -> None:
    old = await service.create_item("bed", 10, display_name="old", oversell_limit=3)
    await _update(service, "bed", capacity=11)
    await _delete(service, "bed")
    service.clock.advance(timedelta(seconds=5))
    new = await service.create_item("bed", 4)
    assert (new.revision, new.display_name, new.oversell_limit) == (4, "", 0)
    assert _counters(new) == (4, 4, 0, 0)
    assert new.create_time.ToDatetime() > old.create_time.ToDatetime()
    await _delete(service, "bed")
    batch = pb.BatchCreateItemsRequest(items=[item_pb2.Item(sku="bed", capacity=1), item_pb2.Item(sku="tour")])
    assert [item.revision for item in (await service.inventory.BatchCreateItems(batch)).items] == [6, 1]


async def test_an_items_revision_grows_with_every_change(service: Harness) -> None:
    await service.create_item("bed", 10)
    held = await service.reserve({"bed": 1})
    sold = await service.reserve({"bed": 1})
    rpc, inventory = service.reservations, service.inventory
    pb2 = reservation_service_pb2
    target: dict[str, Any] = {"reservation_id": sold.reservation_id}
    revisions = [(await service.item("bed")).revision]
    for call in (
        lambda: rpc.Cancel(pb2.CancelRequest(reservation_id=held.reservation_id)),
        lambda: rpc.Confirm(pb2.ConfirmRequest(**target)),
        lambda: rpc.Refund(pb2.RefundRequest(**target)),
        lambda: inventory.AdjustCapacity(pb.AdjustCapacityRequest(sku="bed", delta=1)),
        lambda: inventory.TransferCapacity(pb.TransferCapacityRequest(sku="bed", to_pool="vip", quantity=1)),
        lambda: inventory.TransferCapacity(pb.TransferCapacityRequest(sku="bed", from_pool="vip", quantity=1)),
        lambda: _update(service, "bed", display_name="x"),
    ):
        await call()
        revisions.append((await service.item("bed")).revision)
    assert all(later > earlier for earlier, later in pairwise(revisions))
