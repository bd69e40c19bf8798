"""States and event types of a later release: a version that does not know them passes their numbers on."""

from inventoryhold.v1 import event_service_pb2 as events
from inventoryhold.v1 import reservation_service_pb2 as pb
from tests.support.harness import Harness, refused

LATER_STATE = 7
LATER_TYPE = 99


async def _written_by_a_later_release(service: Harness) -> str:
    """A reservation in a state, and an event of a type, that this code does not know."""
    await service.create_item("seat", 10)
    held = await service.reserve({"seat": 1}, reference="cart")
    service.sql("ALTER TABLE holdsvc.reservation DROP CONSTRAINT reservation_state_check")
    service.sql("UPDATE holdsvc.reservation SET state = %s", (LATER_STATE,))
    service.sql(
        "UPDATE holdsvc.event SET type = %s, state = %s WHERE reservation_id IS NOT NULL", (LATER_TYPE, LATER_STATE)
    )
    return held.reservation_id


async def test_a_state_of_a_later_release_is_read_and_listed_as_its_number(service: Harness) -> None:
    id_ = await _written_by_a_later_release(service)
    assert (await service.get(id_)).state == LATER_STATE
    page = await service.reservations.ListReservations(pb.ListReservationsRequest())
    assert [reservation.state for reservation in page.reservations] == [LATER_STATE]


async def test_an_event_of_a_later_release_is_listed_and_streamed_as_its_number(service: Harness) -> None:
    id_ = await _written_by_a_later_release(service)
    listed = await service.reservations.ListReservationEvents(pb.ListReservationEventsRequest(reservation_id=id_))
    assert [(event.type, event.reservation.state) for event in listed.events] == [(LATER_TYPE, LATER_STATE)]
    stream = service.events.StreamEvents(events.StreamEventsRequest(from_oldest=True))
    streamed = []
    async for answer in stream:
        streamed += [event for event in answer.events if event.HasField("reservation")]
        if streamed:
            break
    stream.cancel()
    assert [(event.type, event.reservation.state) for event in streamed] == [(LATER_TYPE, LATER_STATE)]


async def test_a_reservation_in_a_later_state_is_changed_by_no_call_and_no_sweep(service: Harness) -> None:
    id_ = await _written_by_a_later_release(service)
    for call in (
        service.reservations.Confirm(pb.ConfirmRequest(reservation_id=id_)),
        service.reservations.Cancel(pb.CancelRequest(reservation_id=id_)),
        service.reservations.Extend(pb.ExtendRequest(reservation_id=id_)),
        service.reservations.Refund(pb.RefundRequest(reservation_id=id_)),
        service.reservations.Fulfil(pb.FulfilRequest(reservation_id=id_)),
        service.reservations.Cancel(pb.CancelRequest(reference="cart")),
    ):
        refusal = await refused(call)
        assert (refusal.reason, refusal.metadata) == ("FEATURE_NOT_ACTIVE", {"feature": f"state {LATER_STATE}"})
    service.sql("UPDATE holdsvc.reservation SET expire_time = create_time")
    assert (await service.sweep()).expired_count == 0
    assert (await service.get(id_)).state == LATER_STATE
