"""Partial confirms and refunds, and write-offs: cumulative, exact, never more than there is."""

from typing import Any

import grpc

from inventoryhold.v1 import item_pb2, reservation_pb2
from inventoryhold.v1 import reservation_service_pb2 as pb
from tests.support.harness import Harness, refused

Reservation = reservation_pb2.Reservation


def _lines(**quantities: int) -> list[item_pb2.ItemQuantity]:
    return [item_pb2.ItemQuantity(sku=sku, quantity=quantity) for sku, quantity in quantities.items()]


def _counters(item: item_pb2.Item) -> tuple[int, int, int, int]:
    return (item.capacity, item.remaining, item.held, item.confirmed)


def _sold(reservation: Reservation) -> dict[str, tuple[int, int, int]]:
    return {line.sku: (line.quantity, line.confirmed_quantity, line.refunded_quantity) for line in reservation.lines}


async def _confirmed(service: Harness, lines: dict[str, int]) -> str:
    held = await service.reserve(lines)
    await service.reservations.Confirm(pb.ConfirmRequest(reservation_id=held.reservation_id))
    return held.reservation_id


async def test_a_partial_confirm_sells_its_lines_and_releases_the_rest_at_once(service: Harness) -> None:
    await service.create_item("bed", 10)
    await service.create_item("tour", 10)
    held = await service.reserve({"bed": 4, "tour": 3})
    # Lines of one item are added up here, too.
    answer = await service.reservations.Confirm(
        pb.ConfirmRequest(reservation_id=held.reservation_id, lines=_lines(bed=1) + _lines(bed=2))
    )
    assert answer.reservation.state == Reservation.STATE_CONFIRMED
    assert _sold(answer.reservation) == {"bed": (4, 3, 0), "tour": (3, 0, 0)}
    assert _counters(await service.item("bed")) == (10, 7, 0, 3)
    assert _counters(await service.item("tour")) == (10, 10, 0, 0)
    await service.verify()


async def test_a_partial_confirm_is_replayed_with_its_lines_or_none_and_refused_with_others(service: Harness) -> None:
    await service.create_item("bed", 10)
    held = await service.reserve({"bed": 4})
    target: dict[str, Any] = {"reservation_id": held.reservation_id}
    confirm = service.reservations.Confirm
    await confirm(pb.ConfirmRequest(**target, lines=_lines(bed=3)))
    assert (await confirm(pb.ConfirmRequest(**target, lines=_lines(bed=3)))).replayed
    assert (await confirm(pb.ConfirmRequest(**target))).replayed
    for other in (_lines(bed=4), _lines(bed=2), _lines(bed=3, tour=1), _lines(tour=3)):
        refusal = await refused(confirm(pb.ConfirmRequest(**target, lines=other)))
        assert refusal.reason == "RESERVATION_ALREADY_CONFIRMED"


async def test_a_partial_confirm_of_more_than_is_held_is_refused_with_numbers_and_sells_nothing(
    service: Harness,
) -> None:
    await service.create_item("bed", 10)
    await service.create_item("tour", 10)
    held = await service.reserve({"bed": 4})
    for lines, sku, requested, available in (
        (_lines(bed=5), "bed", 5, 4),
        (_lines(bed=2) + _lines(bed=3), "bed", 5, 4),
        (_lines(bed=1, tour=1), "tour", 1, 0),
    ):
        refusal = await refused(
            service.reservations.Confirm(pb.ConfirmRequest(reservation_id=held.reservation_id, lines=lines))
        )
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "QUANTITY_EXCEEDED")
        assert refusal.metadata == {
            "sku": sku, "pool": "", "requested": str(requested), "available": str(available)
        }  # fmt: skip
    assert (await service.get(held.reservation_id)) == held
    assert service.sql("SELECT 1 FROM holdsvc.sales_order") == []


async def test_partial_refunds_add_up_to_refunded(service: Harness) -> None:
    await service.create_item("bed", 10)
    await service.create_item("tour", 10)
    reservation_id = await _confirmed(service, {"bed": 4, "tour": 2})
    refund = service.reservations.Refund
    first = (
        await refund(pb.RefundRequest(reservation_id=reservation_id, lines=_lines(bed=1, tour=2), reason="rain"))
    ).reservation
    assert (first.state, first.reason) == (Reservation.STATE_CONFIRMED, "rain")
    assert _sold(first) == {"bed": (4, 4, 1), "tour": (2, 2, 2)}
    assert first.HasField("refund_time")
    assert _counters(await service.item("bed")) == (10, 7, 0, 3)
    # The rest, without naming it.
    last = (await refund(pb.RefundRequest(reservation_id=reservation_id))).reservation
    assert last.state == Reservation.STATE_REFUNDED
    assert _sold(last) == {"bed": (4, 4, 4), "tour": (2, 2, 2)}
    assert _counters(await service.item("bed")) == (10, 10, 0, 0)
    assert (await refused(refund(pb.RefundRequest(reservation_id=reservation_id)))).reason == "ALREADY_REFUNDED"
    await service.verify()


async def test_a_refund_never_gives_back_more_than_was_sold_and_not_refunded(service: Harness) -> None:
    await service.create_item("bed", 10)
    await service.create_item("tour", 10)
    held = await service.reserve({"bed": 4, "tour": 1})
    target: dict[str, Any] = {"reservation_id": held.reservation_id}
    await service.reservations.Confirm(pb.ConfirmRequest(**target, lines=_lines(bed=3)))
    refund = service.reservations.Refund
    await refund(pb.RefundRequest(**target, lines=_lines(bed=1)))
    for lines, sku, requested, available in (
        (_lines(bed=3), "bed", 3, 2),
        (_lines(bed=1) + _lines(bed=2), "bed", 3, 2),
        (_lines(tour=1), "tour", 1, 0),
        (_lines(bed=1, elsewhere=1), "elsewhere", 1, 0),
    ):
        refusal = await refused(refund(pb.RefundRequest(**target, lines=lines)))
        assert refusal.reason == "QUANTITY_EXCEEDED"
        assert refusal.metadata == {
            "sku": sku, "pool": "", "requested": str(requested), "available": str(available)
        }  # fmt: skip
    assert _counters(await service.item("bed")) == (10, 8, 0, 2)
    last = (await refund(pb.RefundRequest(**target, lines=_lines(bed=2)))).reservation
    assert last.state == Reservation.STATE_REFUNDED
    await service.verify()


async def test_a_write_off_lowers_the_capacity_instead_of_restocking(service: Harness) -> None:
    await service.create_item("bed", 10)
    reservation_id = await _confirmed(service, {"bed": 4})
    refund = service.reservations.Refund
    await refund(pb.RefundRequest(reservation_id=reservation_id, lines=_lines(bed=3), write_off=True))
    assert _counters(await service.item("bed")) == (7, 6, 0, 1)
    await refund(pb.RefundRequest(reservation_id=reservation_id))
    assert _counters(await service.item("bed")) == (7, 7, 0, 0)
    await service.verify()


async def test_a_write_off_never_takes_the_capacity_below_0_of_an_oversold_item(service: Harness) -> None:
    await service.create_item("bed", 3, oversell_limit=5)
    reservation_id = await _confirmed(service, {"bed": 8})
    assert _counters(await service.item("bed")) == (3, -5, 0, 8)
    refund = service.reservations.Refund
    await refund(pb.RefundRequest(reservation_id=reservation_id, lines=_lines(bed=2), write_off=True))
    assert _counters(await service.item("bed")) == (1, -5, 0, 6)
    # Five more: one leaves the capacity, the others come back into stock.
    answer = await refund(pb.RefundRequest(reservation_id=reservation_id, lines=_lines(bed=5), write_off=True))
    assert answer.reservation.lines[0].refunded_quantity == 7
    assert _counters(await service.item("bed")) == (0, -1, 0, 1)
    await refund(pb.RefundRequest(reservation_id=reservation_id, write_off=True))
    assert _counters(await service.item("bed")) == (0, 0, 0, 0)
    await service.verify()


async def test_a_write_off_leaves_other_reservations_their_units(service: Harness) -> None:
    await service.create_item("bed", 5)
    reservation_id = await _confirmed(service, {"bed": 3})
    other = await service.reserve({"bed": 2})
    await service.reservations.Refund(pb.RefundRequest(reservation_id=reservation_id, write_off=True))
    assert _counters(await service.item("bed")) == (2, 0, 2, 0)
    await service.reservations.Confirm(pb.ConfirmRequest(reservation_id=other.reservation_id))
    await service.verify()
