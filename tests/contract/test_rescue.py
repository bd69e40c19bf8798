"""Confirm with rescue: a payment that arrives late finds its units where they are still free."""

from datetime import timedelta
from typing import Any

from inventoryhold.v1 import event_pb2, reservation_pb2
from inventoryhold.v1 import reservation_service_pb2 as pb
from tests.contract.lines import counters, lines, sold
from tests.support.harness import Harness, refused

Reservation = reservation_pb2.Reservation


async def _expired(service: Harness, quantities: dict[str, int], *, swept: bool, **fields: Any) -> str:
    made = await service.reserve(quantities, ttl=timedelta(seconds=30), **fields)
    service.clock.advance(timedelta(seconds=60))
    if swept:
        await service.reservations.Cleanup(pb.CleanupRequest())
    return str(made.reservation_id)


async def test_a_rescue_takes_the_units_anew_and_sells_them_in_one_step(service: Harness) -> None:
    await service.create_item("bed", 10)
    for swept in (True, False):
        id_ = await _expired(service, {"bed": 3}, swept=swept)
        assert (await refused(service.reservations.Confirm(pb.ConfirmRequest(reservation_id=id_)))).reason == (
            "RESERVATION_EXPIRED"
        )
        answer = await service.reservations.Confirm(
            pb.ConfirmRequest(reservation_id=id_, rescue=True, request_id=f"late-{swept}")
        )
        assert (answer.rescued, answer.replayed) == (True, False)
        assert answer.reservation.state == Reservation.STATE_CONFIRMED
        events = (
            await service.reservations.ListReservationEvents(pb.ListReservationEventsRequest(reservation_id=id_))
        ).events
        assert [event.type for event in events] == [
            event_pb2.EVENT_TYPE_RESERVED,
            event_pb2.EVENT_TYPE_EXPIRED,
            event_pb2.EVENT_TYPE_RESCUED,
            event_pb2.EVENT_TYPE_CONFIRMED,
        ]
        again = await service.reservations.Confirm(
            pb.ConfirmRequest(reservation_id=id_, rescue=True, request_id=f"late-{swept}")
        )
        assert (again.rescued, again.replayed) == (True, True)
        await service.verify()
    assert counters(await service.item("bed")) == (10, 4, 0, 6)


async def test_a_rescue_of_units_that_are_gone_is_refused_with_the_short_lines_and_takes_nothing(
    service: Harness,
) -> None:
    await service.create_item("bed", 4)
    await service.create_item("tour", 4)
    id_ = await _expired(service, {"bed": 4, "tour": 2}, swept=True)
    await service.reserve({"bed": 2})
    refusal = await refused(service.reservations.Confirm(pb.ConfirmRequest(reservation_id=id_, rescue=True)))
    assert refusal.reason == "CAPACITY_EXCEEDED"
    short = refusal.details["CapacityShortfall"].lines
    assert [(line.sku, line.requested, line.available) for line in short] == [("bed", 4, 2)]
    assert counters(await service.item("tour")) == (4, 4, 0, 0)
    assert (await service.get(id_)).state == Reservation.STATE_EXPIRED
    await service.verify()


async def test_a_rescue_takes_what_other_lapsed_holds_leave(service: Harness) -> None:
    await service.create_item("bed", 4)
    first = await service.reserve({"bed": 2}, ttl=timedelta(seconds=30))
    await service.reserve({"bed": 2}, ttl=timedelta(seconds=40))
    service.clock.advance(timedelta(seconds=35))
    await service.reservations.Cleanup(pb.CleanupRequest())
    await service.reserve({"bed": 2}, ttl=timedelta(seconds=2))
    service.clock.advance(timedelta(seconds=30))
    answer = await service.reservations.Confirm(pb.ConfirmRequest(reservation_id=first.reservation_id, rescue=True))
    assert answer.rescued
    await service.verify()


async def test_a_rescue_may_sell_a_part_and_releases_the_rest(service: Harness) -> None:
    await service.create_item("bed", 4)
    id_ = await _expired(service, {"bed": 4}, swept=True)
    answer = await service.reservations.Confirm(pb.ConfirmRequest(reservation_id=id_, rescue=True, lines=lines(bed=1)))
    assert sold(answer.reservation) == {"bed": (1, 0, 0, 0)}
    assert counters(await service.item("bed")) == (4, 3, 0, 1)
    await service.verify()


async def test_two_rescues_in_one_batch_are_judged_in_order(service: Harness) -> None:
    await service.create_item("bed", 5)
    made = [await service.reserve({"bed": 3}, ttl=timedelta(seconds=30))]
    service.clock.advance(timedelta(seconds=31))
    made.append(await service.reserve({"bed": 3}, ttl=timedelta(seconds=30)))
    service.clock.advance(timedelta(seconds=31))
    answer = await service.reservations.BatchConfirm(
        pb.BatchConfirmRequest(
            requests=[pb.ConfirmRequest(reservation_id=each.reservation_id, rescue=True) for each in made]
        )
    )
    first, second = answer.results
    assert first.rescued
    assert first.reservation.state == Reservation.STATE_CONFIRMED
    assert second.HasField("error")
    assert counters(await service.item("bed")) == (5, 2, 0, 3)
    await service.verify()


async def test_a_rescue_after_the_window_of_a_cancelled_hold_or_of_another_client_is_refused(
    service: Harness,
) -> None:
    await service.create_item("bed", 10)
    id_ = await _expired(service, {"bed": 1}, swept=True)
    service.clock.advance(timedelta(hours=25))
    refusal = await refused(service.reservations.Confirm(pb.ConfirmRequest(reservation_id=id_, rescue=True)))
    assert refusal.reason == "RESERVATION_EXPIRED"
    made = await service.reserve({"bed": 1})
    await service.reservations.Cancel(pb.CancelRequest(reservation_id=made.reservation_id))
    refusal = await refused(
        service.reservations.Confirm(pb.ConfirmRequest(reservation_id=made.reservation_id, rescue=True))
    )
    assert refusal.reason == "RESERVATION_ALREADY_CANCELLED"


async def test_a_reference_names_the_held_reservation_first_and_else_the_only_expired_one(service: Harness) -> None:
    await service.create_item("bed", 10)
    expired = await _expired(service, {"bed": 1}, swept=True, reference="cart")
    held = await service.reserve({"bed": 1}, reference="cart")
    confirm = service.reservations.Confirm
    answer = await confirm(pb.ConfirmRequest(reference="cart", rescue=True))
    assert (answer.reservation.reservation_id, answer.rescued) == (held.reservation_id, False)
    answer = await confirm(pb.ConfirmRequest(reference="cart", rescue=True))
    assert (answer.reservation.reservation_id, answer.rescued) == (expired, True)
    for _ in range(2):
        await service.reserve({"bed": 1}, reference="two", ttl=timedelta(seconds=30))
    service.clock.advance(timedelta(seconds=31))
    refusal = await refused(confirm(pb.ConfirmRequest(reference="two", rescue=True)))
    assert refusal.reason == "REFERENCE_AMBIGUOUS"
