"""Fulfil and returns: goods leave the building, and some come back."""

from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from inventoryhold.v1 import event_pb2, inventory_service_pb2, reservation_pb2
from inventoryhold.v1 import reservation_service_pb2 as pb
from tests.contract.lines import counters, lines, sold
from tests.support.harness import Harness, refused

Reservation = reservation_pb2.Reservation
Units = pb.RefundRequest.Units


async def _sale(service: Harness, quantities: dict[str, int]) -> str:
    made = await service.reserve(quantities)
    await service.reservations.Confirm(pb.ConfirmRequest(reservation_id=made.reservation_id))
    return str(made.reservation_id)


async def test_fulfil_takes_units_out_of_confirmed_and_capacity_and_ends_in_fulfilled(service: Harness) -> None:
    await service.create_item("bed", 10)
    await service.create_item("tour", 10)
    id_ = await _sale(service, {"bed": 4, "tour": 1})
    fulfil = service.reservations.Fulfil
    answer = await fulfil(pb.FulfilRequest(reservation_id=id_, lines=lines(bed=3), request_id="a", reason="van 1"))
    assert answer.reservation.state == Reservation.STATE_CONFIRMED
    assert sold(answer.reservation) == {"bed": (4, 3, 0, 0), "tour": (1, 0, 0, 0)}
    assert counters(await service.item("bed")) == (7, 6, 0, 1)
    assert (await fulfil(
        pb.FulfilRequest(reservation_id=id_, lines=lines(bed=3), request_id="a", reason="van 1")
    )).replayed  # fmt: skip
    refusal = await refused(fulfil(pb.FulfilRequest(reservation_id=id_, lines=lines(bed=2))))
    assert (refusal.reason, refusal.metadata["available"]) == ("QUANTITY_EXCEEDED", "1")
    answer = await fulfil(pb.FulfilRequest(reservation_id=id_))
    assert answer.reservation.state == Reservation.STATE_FULFILLED
    assert answer.reservation.HasField("fulfil_time")
    assert counters(await service.item("bed")) == (6, 6, 0, 0)
    assert counters(await service.item("tour")) == (9, 9, 0, 0)
    await service.verify()


async def test_fulfil_is_refused_in_every_state_but_confirmed(service: Harness) -> None:
    await service.create_item("bed", 20)
    fulfil = service.reservations.Fulfil
    made = await service.reserve({"bed": 1})
    refusal = await refused(fulfil(pb.FulfilRequest(reservation_id=made.reservation_id)))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "RESERVATION_NOT_CONFIRMED")
    await service.reservations.Cancel(pb.CancelRequest(reservation_id=made.reservation_id))
    assert (await refused(fulfil(pb.FulfilRequest(reservation_id=made.reservation_id)))).reason == (
        "RESERVATION_NOT_CONFIRMED"
    )
    id_ = await _sale(service, {"bed": 1})
    await fulfil(pb.FulfilRequest(reservation_id=id_))
    refusal = await refused(fulfil(pb.FulfilRequest(reservation_id=id_)))
    assert (refusal.reason, refusal.metadata["state"]) == ("ALREADY_FULFILLED", "FULFILLED")
    id_ = await _sale(service, {"bed": 1})
    await service.reservations.Refund(pb.RefundRequest(reservation_id=id_))
    assert (await refused(fulfil(pb.FulfilRequest(reservation_id=id_)))).reason == "ALREADY_REFUNDED"


async def test_confirm_of_a_fulfilled_reservation_is_replayed_and_cancel_is_refused(service: Harness) -> None:
    await service.create_item("bed", 20)
    id_ = await _sale(service, {"bed": 2})
    await service.reservations.Fulfil(pb.FulfilRequest(reservation_id=id_))
    answer = await service.reservations.Confirm(pb.ConfirmRequest(reservation_id=id_))
    assert (answer.replayed, answer.reservation.state) == (True, Reservation.STATE_FULFILLED)
    for call in (
        service.reservations.Cancel(pb.CancelRequest(reservation_id=id_)),
        service.reservations.Extend(pb.ExtendRequest(reservation_id=id_)),
        service.reservations.Confirm(pb.ConfirmRequest(reservation_id=id_, order_id="another")),
    ):
        assert (await refused(call)).reason == "RESERVATION_ALREADY_CONFIRMED"


async def test_a_return_makes_no_more_units_than_an_item_may_have(service: Harness) -> None:
    most = 10**15
    await service.create_item("bed", most)
    one, other = [await _sale(service, {"bed": 5}) for _ in range(2)]
    for id_ in (one, other):
        await service.reservations.Fulfil(pb.FulfilRequest(reservation_id=id_))
    await service.inventory.AdjustCapacity(inventory_service_pb2.AdjustCapacityRequest(sku="bed", delta=3))
    returns = [pb.RefundRequest(reservation_id=id_) for id_ in (one, other)]
    results = (await service.reservations.BatchRefund(pb.BatchRefundRequest(requests=returns))).results
    assert results[0].reservation.state == Reservation.STATE_REFUNDED
    assert results[1].error.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    refusal = await refused(service.reservations.Refund(returns[1]))
    assert (refusal.reason, refusal.metadata["fields"]) == ("INVALID_FIELD", "lines")
    assert counters(await service.item("bed")) == (most - 2, most - 2, 0, 0)
    await service.reservations.Refund(pb.RefundRequest(reservation_id=other, write_off=True))
    await service.verify()


async def test_refund_takes_unfulfilled_units_first_and_further_ones_are_returns(service: Harness) -> None:
    await service.create_item("bed", 10)
    id_ = await _sale(service, {"bed": 5})
    await service.reservations.Fulfil(pb.FulfilRequest(reservation_id=id_, lines=lines(bed=3)))
    assert counters(await service.item("bed")) == (7, 5, 0, 2)
    answer = await service.reservations.Refund(pb.RefundRequest(reservation_id=id_, lines=lines(bed=3)))
    assert sold(answer.reservation) == {"bed": (5, 3, 3, 1)}
    assert answer.reservation.state == Reservation.STATE_FULFILLED
    assert counters(await service.item("bed")) == (8, 8, 0, 0)
    refusal = await refused(service.reservations.Refund(pb.RefundRequest(reservation_id=id_, lines=lines(bed=3))))
    assert (refusal.reason, refusal.metadata["available"]) == ("QUANTITY_EXCEEDED", "2")
    answer = await service.reservations.Refund(pb.RefundRequest(reservation_id=id_))
    assert answer.reservation.state == Reservation.STATE_REFUNDED
    assert counters(await service.item("bed")) == (10, 10, 0, 0)
    await service.verify()


async def test_a_return_at_the_counter_does_not_cancel_a_unit_that_was_not_shipped(service: Harness) -> None:
    await service.create_item("bed", 10)
    id_ = await _sale(service, {"bed": 4})
    await service.reservations.Fulfil(pb.FulfilRequest(reservation_id=id_, lines=lines(bed=2)))
    refund = service.reservations.Refund
    answer = await refund(pb.RefundRequest(reservation_id=id_, lines=lines(bed=1), units=Units.UNITS_FULFILLED))
    assert sold(answer.reservation) == {"bed": (4, 2, 1, 1)}
    assert counters(await service.item("bed")) == (9, 7, 0, 2)
    refusal = await refused(
        refund(pb.RefundRequest(reservation_id=id_, lines=lines(bed=3), units=Units.UNITS_UNFULFILLED))
    )
    assert (refusal.reason, refusal.metadata["available"]) == ("QUANTITY_EXCEEDED", "2")
    answer = await refund(pb.RefundRequest(reservation_id=id_, units=Units.UNITS_UNFULFILLED))
    assert sold(answer.reservation) == {"bed": (4, 2, 3, 1)}
    refusal = await refused(refund(pb.RefundRequest(reservation_id=id_, units=Units.UNITS_UNFULFILLED)))
    assert refusal.reason == "QUANTITY_EXCEEDED"
    await service.verify()


async def test_a_return_that_is_written_off_changes_no_item(service: Harness) -> None:
    await service.create_item("bed", 10)
    id_ = await _sale(service, {"bed": 4})
    await service.reservations.Fulfil(pb.FulfilRequest(reservation_id=id_))
    before = await service.item("bed")
    answer = await service.reservations.Refund(pb.RefundRequest(reservation_id=id_, write_off=True))
    assert answer.reservation.state == Reservation.STATE_REFUNDED
    assert counters(await service.item("bed")) == counters(before)
    await service.verify()


async def test_one_cannot_ship_what_is_not_there(service: Harness) -> None:
    await service.create_item("bed", 2, oversell_limit=1)
    id_ = await _sale(service, {"bed": 3})
    refusal = await refused(service.reservations.Fulfil(pb.FulfilRequest(reservation_id=id_)))
    assert refusal.reason == "CAPACITY_EXCEEDED"
    [short] = refusal.details["CapacityShortfall"].lines
    assert (short.requested, short.available) == (3, 2)
    assert counters(await service.item("bed")) == (2, -1, 0, 3)
    await service.reservations.Fulfil(pb.FulfilRequest(reservation_id=id_, lines=lines(bed=2)))
    assert counters(await service.item("bed")) == (0, -1, 0, 1)
    await service.verify()


async def test_a_return_to_a_deleted_item_is_refused_unless_it_is_written_off(service: Harness) -> None:
    await service.create_item("bed", 2)
    id_ = await _sale(service, {"bed": 2})
    await service.reservations.Fulfil(pb.FulfilRequest(reservation_id=id_))
    await service.inventory.DeleteItem(inventory_service_pb2.DeleteItemRequest(sku="bed"))
    refusal = await refused(service.reservations.Refund(pb.RefundRequest(reservation_id=id_, lines=lines(bed=1))))
    assert refusal.reason == "ITEM_NOT_FOUND"
    answer = await service.reservations.Refund(pb.RefundRequest(reservation_id=id_, lines=lines(bed=1), write_off=True))
    assert sold(answer.reservation) == {"bed": (2, 2, 1, 1)}
    await service.create_item("bed", 5)
    await service.reservations.Refund(pb.RefundRequest(reservation_id=id_))
    assert counters(await service.item("bed")) == (6, 6, 0, 0)
    await service.verify()


@pytest.mark.parametrize("rpc", ["Fulfil", "Refund"])
async def test_an_effective_time_in_the_future_is_refused(service: Harness, rpc: str) -> None:
    await service.create_item("bed", 2)
    id_ = await _sale(service, {"bed": 2})
    request: Any = {"Fulfil": pb.FulfilRequest, "Refund": pb.RefundRequest}[rpc](
        reservation_id=id_, effective_time=Timestamp(seconds=4_000_000_000)
    )
    refusal = await refused(getattr(service.reservations, rpc)(request))
    assert (refusal.reason, refusal.metadata["fields"]) == ("INVALID_FIELD", "effective_time")
    request.effective_time.FromSeconds(1_500_000_000)
    await getattr(service.reservations, rpc)(request)


async def test_every_check_holds_from_partial_cancel_to_refund_and_the_events_add_up_to_the_counters(
    service: Harness,
) -> None:
    await service.create_item("bed", 20)
    made = await service.reserve({"bed": 10})
    id_ = made.reservation_id
    await service.reservations.Cancel(pb.CancelRequest(reservation_id=id_, lines=lines(bed=2)))
    await service.verify()
    await service.reservations.Confirm(pb.ConfirmRequest(reservation_id=id_, lines=lines(bed=6)))
    await service.verify()
    await service.reservations.Fulfil(pb.FulfilRequest(reservation_id=id_, lines=lines(bed=4)))
    await service.verify()
    await service.reservations.Refund(pb.RefundRequest(reservation_id=id_, lines=lines(bed=5)))
    await service.verify()
    events = (
        await service.reservations.ListReservationEvents(pb.ListReservationEventsRequest(reservation_id=id_))
    ).events
    held = confirmed = away = 0
    for event in events:
        units = sum(line.quantity for line in event.lines)
        if event.type in (event_pb2.EVENT_TYPE_RESERVED, event_pb2.EVENT_TYPE_MODIFIED):
            held += units
        elif event.type == event_pb2.EVENT_TYPE_CONFIRMED:
            held -= sum(line.quantity for line in event.reservation.lines)
            confirmed += units
        elif event.type == event_pb2.EVENT_TYPE_FULFILLED:
            confirmed -= units
            away += units
        elif event.type == event_pb2.EVENT_TYPE_REFUNDED:
            back = sum(line.quantity for line in event.returned_lines)
            confirmed -= units - back
            away -= back
    assert counters(await service.item("bed")) == (20 - away, 20 - away - held - confirmed, held, confirmed)
