"""ListReservationEvents: the audit trail, with the reservation as it then was and the units that moved."""

from datetime import timedelta
from typing import Any

from google.protobuf.duration_pb2 import Duration

from inventoryhold.v1 import event_pb2, item_pb2, reservation_pb2
from inventoryhold.v1 import reservation_service_pb2 as pb
from tests.support.harness import Harness, StartService, refused
from tests.support.partners import new_caller

Reservation = reservation_pb2.Reservation


async def _events(service: Harness, reservation_id: str, **fields: Any) -> list[event_pb2.Event]:
    request = pb.ListReservationEventsRequest(reservation_id=reservation_id, **fields)
    return list((await service.reservations.ListReservationEvents(request)).events)


def _lines(lines: Any) -> list[tuple[str, str, int]]:
    return [(line.sku, line.pool, line.quantity) for line in lines]


def _without_customer(reservation: Reservation) -> Reservation:
    copy = Reservation()
    copy.CopyFrom(reservation)
    copy.ClearField("customer")
    return copy


async def test_each_step_shows_the_reservation_as_it_then_was_and_what_moved(service: Harness) -> None:
    await service.create_item("bed", 10)
    await service.create_item("tour", 10, pool="vip")
    rpc = service.reservations
    steps = [
        await service.reserve(
            [("tour", "vip", 2), ("bed", "", 4)],
            holder="guest",
            reference="cart",
            metadata={"a": "b"},
            request_id="r-1",
        )
    ]
    target: dict[str, Any] = {"reservation_id": steps[0].reservation_id}
    service.clock.advance(timedelta(seconds=60))
    steps.append(
        (await rpc.Extend(pb.ExtendRequest(**target, request_id="r-2", ttl=Duration(seconds=7200)))).reservation
    )
    confirm = pb.ConfirmRequest(
        **target,
        order_id="A-1",
        customer={"name": "Ann", "email": "ann@example.com"},
        lines=[{"sku": "bed", "quantity": 3}, {"sku": "tour", "pool": "vip", "quantity": 2}],
    )
    steps.append((await rpc.Confirm(confirm)).reservation)
    bed = [{"sku": "bed", "quantity": 1}]
    steps.append((await rpc.Refund(pb.RefundRequest(**target, lines=bed, reason="rain"))).reservation)
    steps.append((await rpc.Refund(pb.RefundRequest(**target, lines=bed, write_off=True, reason="broken"))).reservation)
    steps.append((await rpc.Refund(pb.RefundRequest(**target, request_id="r-3"))).reservation)

    events = await _events(service, steps[0].reservation_id)
    assert [event_pb2.EventType.Name(event.type).removeprefix("EVENT_TYPE_") for event in events] == [
        "RESERVED", "EXTENDED", "CONFIRMED", "REFUNDED", "REFUNDED", "REFUNDED"
    ]  # fmt: skip
    for event, step in zip(events, steps, strict=True):
        assert event.reservation == _without_customer(step)
        assert event.client == "dev"
    assert [_lines(event.lines) for event in events] == [
        [("tour", "vip", 2), ("bed", "", 4)],
        [],
        [("tour", "vip", 2), ("bed", "", 3)],
        [("bed", "", 1)],
        [("bed", "", 1)],
        [("tour", "vip", 2), ("bed", "", 1)],
    ]
    assert [_lines(event.written_off_lines) for event in events] == [[], [], [], [], [("bed", "", 1)], []]
    assert [event.request_id for event in events] == ["r-1", "r-2", "", "", "", "r-3"]
    assert [event.reason for event in events] == ["", "", "", "rain", "broken", ""]
    ids = [event.event_id for event in events]
    assert ids == sorted(set(ids))
    times = [event.occur_time.ToDatetime() for event in events]
    assert times == sorted(times)
    assert events[0].occur_time == steps[0].create_time
    assert events[2].occur_time == steps[2].confirm_time
    assert events[5].occur_time == steps[5].refund_time


async def test_a_cancelled_one_shows_its_reason_and_units(service: Harness) -> None:
    await service.create_item("bed", 10)
    held = await service.reserve({"bed": 3})
    request = pb.CancelRequest(reservation_id=held.reservation_id, reason="no show")
    cancelled = (await service.reservations.Cancel(request)).reservation
    reserved, last = await _events(service, held.reservation_id)
    assert reserved.reservation == held
    assert last.reservation == cancelled
    assert (last.type, last.reason, _lines(last.lines)) == (
        event_pb2.EVENT_TYPE_CANCELLED, "no show", [("bed", "", 3)]
    )  # fmt: skip


async def test_those_of_many_lines_and_of_one_made_and_ended_together_each_show_their_own_lines(
    service: Harness,
) -> None:
    await service.create_item("bed", 10)
    await service.create_item("tour", 10, pool="vip")
    wanted = [[("tour", "vip", 2), ("bed", "", 1)], [("bed", "", 3)], [("tour", "vip", 1)]]
    entries = [
        pb.ReserveRequest(
            lines=[item_pb2.ItemQuantity(sku=sku, pool=pool, quantity=quantity) for sku, pool, quantity in lines],
            ttl=Duration(seconds=10),
        )
        for lines in wanted
    ]
    made = (await service.reservations.BatchReserve(pb.BatchReserveRequest(requests=entries))).results
    service.clock.advance(timedelta(seconds=11))
    await service.sweep()
    for result, lines in zip(made, wanted, strict=True):
        reserved, expired = await _events(service, result.reservation.reservation_id)
        assert _lines(reserved.lines) == lines
        assert _lines(expired.lines) == lines
        assert expired.reservation == await service.get(result.reservation.reservation_id)
    await service.verify()


async def test_an_expired_one_shows_who_ended_it_nobody(service: Harness) -> None:
    await service.create_item("bed", 10)
    held = await service.reserve({"bed": 3}, ttl=Duration(seconds=10))
    service.clock.advance(timedelta(seconds=11))
    await service.sweep()
    last = (await _events(service, held.reservation_id))[-1]
    assert (last.type, last.client, last.key_id) == (event_pb2.EVENT_TYPE_EXPIRED, "", "")
    assert _lines(last.lines) == [("bed", "", 3)]
    assert last.reservation == await service.get(held.reservation_id)
    assert last.reservation.state == Reservation.STATE_EXPIRED


async def test_a_replayed_or_refused_call_leaves_no_event(service: Harness) -> None:
    await service.create_item("bed", 10)
    request = pb.ReserveRequest(lines=[{"sku": "bed", "quantity": 1}], request_id="r-1")
    held = (await service.reservations.Reserve(request)).reservation
    await service.reservations.Reserve(request)
    target: dict[str, Any] = {"reservation_id": held.reservation_id}
    await refused(service.reservations.Refund(pb.RefundRequest(**target)))
    await service.reservations.Confirm(pb.ConfirmRequest(**target))
    await service.reservations.Confirm(pb.ConfirmRequest(**target))
    assert len(await _events(service, held.reservation_id)) == 2


async def test_the_trail_comes_in_pages_oldest_first(service: Harness) -> None:
    await service.create_item("bed", 10)
    held = await service.reserve({"bed": 1})
    await service.reserve({"bed": 1})
    for _ in range(4):
        await service.reservations.Extend(pb.ExtendRequest(reservation_id=held.reservation_id))
    whole = await _events(service, held.reservation_id)
    assert [event.reservation.revision for event in whole] == [1, 2, 3, 4, 5]
    paged: list[event_pb2.Event] = []
    token = ""
    while len(paged) < 5:
        request = pb.ListReservationEventsRequest(reservation_id=held.reservation_id, page_size=2, page_token=token)
        answer = await service.reservations.ListReservationEvents(request)
        paged += answer.events
        token = answer.next_page_token
        assert bool(token) == (len(paged) < 5)
    assert paged == whole


async def test_an_event_names_the_key_and_is_not_for_other_clients(start_service: StartService) -> None:
    service = await start_service(auth="api-key")
    service.sql("SELECT create_items('default', 'x', '', '{bed}', '{\"\"}', '{\"\"}', '{5}', '{0}')")
    owner = new_caller(service, "shop", scopes=["reserve"])
    request = pb.ReserveRequest(lines=[item_pb2.ItemQuantity(sku="bed", quantity=1)])
    held = (await service.reservations.Reserve(request, metadata=owner)).reservation
    trail = pb.ListReservationEventsRequest(reservation_id=held.reservation_id)
    [event] = (await service.reservations.ListReservationEvents(trail, metadata=owner)).events
    assert event.client == "shop"
    [[key_id]] = service.sql("SELECT key_id FROM holdsvc.api_key WHERE client = 'shop'")
    assert event.key_id == key_id
    modest = new_caller(service, "agency", scopes=["reserve"])
    refusal = await refused(service.reservations.ListReservationEvents(trail, metadata=modest))
    assert refusal.reason == "RESERVATION_NOT_FOUND"
    reader = new_caller(service, "agency", scopes=["reserve", "reservations.read_all"])
    assert (await service.reservations.ListReservationEvents(trail, metadata=reader)).events == [event]
