"""VerifyLedger: finds every drift between the counters and the reservations, and nothing else."""

from datetime import timedelta
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration

from inventoryhold.v1 import admin_service_pb2 as pb
from inventoryhold.v1 import inventory_service_pb2 as inventory
from inventoryhold.v1 import item_pb2, reservation_service_pb2
from tests.support.harness import Harness


async def _verify(service: Harness) -> pb.VerifyLedgerResponse:
    return await service.admin.VerifyLedger(pb.VerifyLedgerRequest())


async def _busy_ledger(service: Harness) -> None:
    """Two items, one of them in two pools, with 2 held and 3 confirmed reservations, one of each ended state."""
    for sku, pool in (("bed", ""), ("bed", "vip"), ("tour", "")):
        await service.create_item(sku, 100, pool=pool)
    rpc, pb2 = service.reservations, reservation_service_pb2

    async def reserve(*lines: tuple[str, str, int]) -> dict[str, Any]:
        return {"reservation_id": (await service.reserve(list(lines))).reservation_id}

    await reserve(("bed", "", 5), ("tour", "", 2))
    await reserve(("bed", "vip", 1))
    await rpc.Confirm(pb2.ConfirmRequest(**await reserve(("bed", "", 7), ("bed", "vip", 2), ("tour", "", 3))))
    partial = await reserve(("tour", "", 4), ("bed", "", 4))
    await rpc.Confirm(pb2.ConfirmRequest(**partial, lines=[item_pb2.ItemQuantity(sku="bed", quantity=1)]))
    refunded = await reserve(("bed", "", 6))
    await rpc.Confirm(pb2.ConfirmRequest(**refunded))
    await rpc.Refund(pb2.RefundRequest(**refunded, lines=[item_pb2.ItemQuantity(sku="bed", quantity=2)]))
    await rpc.Cancel(pb2.CancelRequest(**await reserve(("bed", "", 1))))
    whole = await reserve(("bed", "", 9))
    await rpc.Confirm(pb2.ConfirmRequest(**whole))
    await rpc.Refund(pb2.RefundRequest(**whole))
    await service.create_item("gone", 5)
    await service.inventory.DeleteItem(inventory.DeleteItemRequest(sku="gone"))


async def test_a_sound_ledger_is_ok_and_each_reservation_counts_once(service: Harness) -> None:
    empty = await _verify(service)
    assert (empty.ok, empty.item_count, empty.reservation_count) == (True, 0, 0)
    await _busy_ledger(service)
    report = await _verify(service)
    assert (report.ok, report.item_count, report.reservation_count) == (True, 3, 5)
    assert not report.drifts


async def test_more_items_than_one_step_reads_are_all_counted(service: Harness) -> None:
    items = [item_pb2.Item(sku=f"seat-{number}", capacity=1) for number in range(450)]
    await service.inventory.BatchCreateItems(inventory.BatchCreateItemsRequest(items=items))
    await service.reserve({"seat-0": 1, "seat-449": 1, "seat-77": 1})
    report = await _verify(service)
    assert (report.ok, report.item_count, report.reservation_count) == (True, 450, 1)


@pytest.mark.parametrize(
    ("damage", "drifts"),
    [
        (
            "UPDATE holdsvc.item SET held = held + 1, remaining = remaining - 1 WHERE sku = 'bed' AND pool = ''",
            [("bed", "", "held", 6, 5)],
        ),
        (
            (
                "UPDATE holdsvc.item SET confirmed = confirmed - 2, remaining = remaining + 2 "
                "WHERE sku = 'bed' AND pool = 'vip'"
            ),
            [("bed", "vip", "confirmed", 0, 2)],
        ),
        (
            "UPDATE holdsvc.reservation_line SET quantity = 12 WHERE sku = 'tour' AND quantity = 2",
            [("tour", "", "held", 2, 12)],
        ),
        (
            "UPDATE holdsvc.reservation_line SET refunded_quantity = 0 WHERE refunded_quantity = 2",
            [("bed", "", "confirmed", 12, 14)],
        ),
        (
            (
                "UPDATE holdsvc.reservation SET state = 4 WHERE reservation_id = "
                "(SELECT reservation_id FROM holdsvc.reservation_line WHERE sku = 'tour' AND quantity = 2)"
            ),
            [("bed", "", "held", 5, 0), ("tour", "", "held", 2, 0)],
        ),
        (
            (
                "ALTER TABLE holdsvc.item DROP CONSTRAINT item_counters_add_up; "
                "UPDATE holdsvc.item SET remaining = remaining + 3 WHERE sku = 'tour'"
            ),
            [("tour", "", "capacity", 100, 103)],
        ),
        (
            (
                "ALTER TABLE holdsvc.item DROP CONSTRAINT item_counters_add_up; "
                "UPDATE holdsvc.item SET held = 9 WHERE sku = 'gone'"
            ),
            [("gone", "", "held", 9, 0), ("gone", "", "capacity", 0, 9)],
        ),
    ],
)
async def test_a_planted_drift_is_found_with_its_numbers(
    service: Harness, damage: str, drifts: list[tuple[str, str, str, int, int]]
) -> None:
    await _busy_ledger(service)
    for statement in damage.split("; "):
        service.sql(statement)
    report = await _verify(service)
    assert not report.ok
    found = [(d.sku, d.pool, d.counter, d.stored, d.recomputed) for d in report.drifts]
    assert found == drifts
    if "DROP CONSTRAINT" in damage:
        service.sql("DELETE FROM holdsvc.item")
        service.sql(
            "ALTER TABLE holdsvc.item ADD CONSTRAINT item_counters_add_up "
            "CHECK (capacity = remaining + held + confirmed)"
        )


async def test_lapsed_holds_and_their_sweep_are_no_drift(service: Harness) -> None:
    await service.create_item("bed", 5)
    await service.reserve({"bed": 2}, ttl=Duration(seconds=10))
    service.clock.advance(timedelta(seconds=11))
    assert (await _verify(service)).ok
    await service.sweep()
    report = await _verify(service)
    assert (report.ok, report.reservation_count) == (True, 0)
