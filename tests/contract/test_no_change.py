"""Nothing changes, nothing is told: calls that would leave everything as it is make no revision and no event."""

from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask

from inventoryhold.v1 import inventory_service_pb2 as inventory
from inventoryhold.v1 import item_pb2
from inventoryhold.v1 import reservation_service_pb2 as pb
from tests.support.harness import Harness, refused


def _events(service: Harness) -> int:
    [[count]] = service.sql("SELECT count(*) FROM holdsvc.event")
    return int(count)


async def test_an_extend_that_moves_nothing_changes_nothing_and_is_replayed_as_any_other(service: Harness) -> None:
    await service.create_item("bed", 9)
    held = await service.reserve({"bed": 1}, ttl=Duration(seconds=3600))
    events = _events(service)
    request = pb.ExtendRequest(reservation_id=held.reservation_id, ttl={"seconds": 60}, request_id="once")
    for replayed in (False, True):
        answer = await service.reservations.Extend(request)
        assert answer.replayed == replayed
        assert answer.reservation == held
    assert _events(service) == events
    longer = pb.ExtendRequest(reservation_id=held.reservation_id, ttl={"seconds": 7200})
    extended = (await service.reservations.Extend(longer)).reservation
    assert extended.revision == held.revision + 1
    assert _events(service) == events + 1
    lines = service.sql(
        "SELECT DISTINCT l.expire_time = r.expire_time FROM holdsvc.reservation_line l, holdsvc.reservation r"
    )
    assert lines == [(True,)]


async def test_an_update_to_equal_values_changes_nothing(service: Harness) -> None:
    await service.create_item("bed", 9, display_name="Bed", oversell_limit=2)
    before = await service.item("bed")
    events = _events(service)
    same = item_pb2.Item(sku="bed", capacity=9, display_name="Bed", oversell_limit=2)
    every = ["capacity", "oversell_limit", "display_name"]
    for paths in ([path] for path in every), [every]:
        for mask in paths:
            request = inventory.UpdateItemRequest(item=same, update_mask=FieldMask(paths=mask))
            item = (await service.inventory.UpdateItem(request)).item
            # A capacity that is set counts as a count made now, which is no change.
            assert item.count_time.ToDatetime() >= before.count_time.ToDatetime()
            item.count_time.CopyFrom(before.count_time)
            assert item == before
    assert _events(service) == events
    stale = inventory.UpdateItemRequest(item=same, update_mask=FieldMask(paths=every), revision=99)
    assert (await refused(service.inventory.UpdateItem(stale))).reason == "REVISION_MISMATCH"
    new = item_pb2.Item(sku="bed", capacity=8, oversell_limit=3)
    for field in every:
        request = inventory.UpdateItemRequest(item=new, update_mask=FieldMask(paths=[field]))
        changed = (await service.inventory.UpdateItem(request)).item
        assert getattr(changed, field) == getattr(new, field)
    assert (await service.item("bed")).revision == before.revision + 3
    assert _events(service) == events + 3


async def test_units_that_were_released_or_refunded_are_no_duplicate(service: Harness) -> None:
    for sku in ("bed", "tour", "car"):
        await service.create_item(sku, 9)
    held = await service.reserve({"bed": 1, "tour": 2, "car": 1}, holder="guest")
    target: dict[str, Any] = {"reservation_id": held.reservation_id}
    # The bed is released by a partial confirm.
    await service.reservations.Confirm(
        pb.ConfirmRequest(**target, lines=[{"sku": "tour", "quantity": 2}, {"sku": "car", "quantity": 1}])
    )

    async def again(sku: str) -> Any:
        return await service.reserve({sku: 1}, holder="guest", duplicate_window=Duration(seconds=60))

    bed = await again("bed")
    await service.reservations.Cancel(pb.CancelRequest(reservation_id=bed.reservation_id))
    await service.reservations.Refund(pb.RefundRequest(**target, lines=[{"sku": "tour", "quantity": 1}]))
    assert (await refused(again("tour"))).metadata == target
    await service.reservations.Refund(pb.RefundRequest(**target, lines=[{"sku": "tour", "quantity": 1}]))
    await again("tour")
    assert (await refused(again("car"))).metadata == target


BAD = [
    Duration(seconds=5, nanos=-1),
    Duration(seconds=-5, nanos=1),
    Duration(seconds=1, nanos=1_000_000_000),
    Duration(nanos=-1_000_000_000),
    Duration(seconds=60, nanos=2_147_483_647),
]


@pytest.mark.parametrize("duration", BAD, ids=str)
async def test_a_duration_that_is_not_normal_is_refused_wherever_it_stands(
    service: Harness, duration: Duration
) -> None:
    await service.create_item("bed", 9)
    lines = [{"sku": "bed", "quantity": 1}]
    some: dict[str, Any] = {"reservation_id": "8f14e45f-ceea-467f-a0e6-2b1b4f6a1c11"}
    window = pb.ReserveRequest(lines=lines, holder="guest", duplicate_window=duration)
    watch = inventory.WatchInventoryRequest(min_interval=duration)
    for field, call in (
        ("ttl", service.reservations.Reserve(pb.ReserveRequest(lines=lines, ttl=duration))),
        ("ttl", service.reservations.Extend(pb.ExtendRequest(**some, ttl=duration))),
        ("duplicate_window", service.reservations.Reserve(window)),
        ("min_interval", service.inventory.WatchInventory(watch).read()),
    ):
        refusal = await refused(call)
        assert (refusal.reason, refusal.metadata) == ("INVALID_FIELD", {"fields": field})
    batch = await service.reservations.BatchReserve(pb.BatchReserveRequest(requests=[window, {"lines": lines}]))
    assert [result.WhichOneof("result") for result in batch.results] == ["error", "reservation"]
