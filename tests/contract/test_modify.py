"""Modify and partial Cancel: a hold changes in place, or stays whole."""

import asyncio
from collections import Counter
from datetime import timedelta
from typing import Any

import grpc
import pytest

from inventoryhold.v1 import admin_service_pb2, event_pb2, inventory_service_pb2, reservation_pb2
from inventoryhold.v1 import reservation_service_pb2 as pb
from tests.contract.lines import counters, held, lines, wanted
from tests.support.harness import Harness, outcome, refused

Reservation = reservation_pb2.Reservation


def _modify(reservation_id: str, **fields: Any) -> pb.ModifyRequest:
    names = {"new_reference": "reference"}
    paths = [names.get(name, name) for name in fields if name not in ("request_id", "revision")]
    return pb.ModifyRequest(reservation_id=reservation_id, update_mask={"paths": paths}, **fields)


async def _events(service: Harness, reservation_id: str) -> list[event_pb2.Event]:
    request = pb.ListReservationEventsRequest(reservation_id=reservation_id)
    return list((await service.reservations.ListReservationEvents(request)).events)


async def test_modify_sets_the_lines_it_names_and_leaves_the_others(service: Harness) -> None:
    for sku in ("bed", "tour", "boat"):
        await service.create_item(sku, 10)
    made = await service.reserve({"bed": 4, "tour": 3})
    answer = await service.reservations.Modify(_modify(made.reservation_id, lines=wanted(bed=6, tour=0, boat=2)))
    assert held(answer.reservation) == {"bed": 6, "boat": 2}
    assert (answer.reservation.revision, answer.reservation.expire_time) == (2, made.expire_time)
    assert counters(await service.item("bed")) == (10, 4, 6, 0)
    assert counters(await service.item("tour")) == (10, 10, 0, 0)
    assert counters(await service.item("boat")) == (10, 8, 2, 0)
    assert await service.get(made.reservation_id) == answer.reservation
    await service.verify()


async def test_modify_sets_holder_reference_and_metadata_only_where_the_mask_names_them(service: Harness) -> None:
    await service.create_item("bed", 10)
    made = await service.reserve({"bed": 1}, holder="ann", reference="cart-1", metadata={"a": "1"})
    answer = await service.reservations.Modify(
        _modify(made.reservation_id, holder="bob", new_reference="cart-2", metadata={"b": "2"})
    )
    changed = answer.reservation
    assert (changed.holder, changed.reference, dict(changed.metadata)) == ("bob", "cart-2", {"b": "2"})
    assert changed.lines == made.lines
    request = pb.ModifyRequest(reference="cart-2", holder="", update_mask={"paths": ["holder"]})
    assert (await service.reservations.Modify(request)).reservation.holder == ""
    kept = await service.get(made.reservation_id)
    assert (kept.reference, dict(kept.metadata)) == ("cart-2", {"b": "2"})


@pytest.mark.parametrize("paths", [[], ["metadata.b"], ["holder", "lines.quantity"]])
async def test_a_mask_names_whole_fields_or_the_change_is_refused(service: Harness, paths: list[str]) -> None:
    await service.create_item("bed", 10)
    made = await service.reserve({"bed": 1}, metadata={"a": "1"})
    request = pb.ModifyRequest(reservation_id=made.reservation_id, metadata={"b": "2"}, update_mask={"paths": paths})
    refusal = await refused(service.reservations.Modify(request))
    assert (refusal.reason, refusal.metadata["fields"]) == ("INVALID_FIELD", "update_mask")
    item = inventory_service_pb2.UpdateItemRequest(
        item={"sku": "bed", "capacity": 1}, update_mask={"paths": [path.replace("lines", "capacity") for path in paths]}
    )
    assert (await refused(service.inventory.UpdateItem(item))).metadata["fields"] == "update_mask"
    assert await service.get(made.reservation_id) == made


async def test_own_units_never_count_against_growth(service: Harness) -> None:
    await service.create_item("bed", 10)
    made = await service.reserve({"bed": 8})
    answer = await service.reservations.Modify(_modify(made.reservation_id, lines=wanted(bed=10)))
    assert held(answer.reservation) == {"bed": 10}
    assert counters(await service.item("bed")) == (10, 0, 10, 0)


async def test_growth_on_a_full_item_is_refused_with_what_could_be_had_and_leaves_the_hold_whole(
    service: Harness,
) -> None:
    await service.create_item("bed", 10)
    await service.create_item("tour", 5)
    made = await service.reserve({"bed": 4})
    await service.reserve({"bed": 5, "tour": 5})
    refusal = await refused(service.reservations.Modify(_modify(made.reservation_id, lines=wanted(bed=6, tour=1))))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "CAPACITY_EXCEEDED")
    short = refusal.details["CapacityShortfall"].lines
    assert [(line.sku, line.requested, line.available, line.shortfall) for line in short] == [
        ("bed", 6, 5, 1),
        ("tour", 1, 0, 1),
    ]
    assert await service.get(made.reservation_id) == made
    await service.verify()


async def test_moving_all_units_to_another_item_is_judged_for_the_whole_quantity(service: Harness) -> None:
    await service.create_item("bed", 10)
    await service.create_item("tour", 4)
    made = await service.reserve({"bed": 5})
    refusal = await refused(service.reservations.Modify(_modify(made.reservation_id, lines=wanted(bed=0, tour=5))))
    assert refusal.reason == "CAPACITY_EXCEEDED"
    answer = await service.reservations.Modify(_modify(made.reservation_id, lines=wanted(bed=0, tour=4)))
    assert held(answer.reservation) == {"tour": 4}
    assert counters(await service.item("bed")) == (10, 10, 0, 0)


async def test_growth_takes_what_lapsed_holds_leave(service: Harness) -> None:
    await service.create_item("bed", 10)
    await service.reserve({"bed": 6}, ttl=timedelta(seconds=5))
    made = await service.reserve({"bed": 4})
    service.clock.advance(timedelta(seconds=10))
    answer = await service.reservations.Modify(_modify(made.reservation_id, lines=wanted(bed=9)))
    assert held(answer.reservation) == {"bed": 9}
    await service.verify()


async def test_at_least_one_line_and_at_most_a_hundred_stay(service: Harness) -> None:
    for number in range(101):
        await service.create_item(f"item-{number}", 10)
    made = await service.reserve({"item-0": 1})
    refusal = await refused(service.reservations.Modify(_modify(made.reservation_id, lines=[{"sku": "item-0"}])))
    assert refusal.reason == "INVALID_FIELD"
    more = [pb.LineChange(sku=f"item-{number}", quantity=1) for number in range(1, 101)]
    refusal = await refused(service.reservations.Modify(_modify(made.reservation_id, lines=more)))
    assert refusal.reason == "INVALID_FIELD"
    answer = await service.reservations.Modify(_modify(made.reservation_id, lines=more[:99]))
    assert len(answer.reservation.lines) == 100
    await service.verify()


async def test_a_modify_that_changes_nothing_writes_nothing(service: Harness) -> None:
    await service.create_item("bed", 10)
    made = await service.reserve({"bed": 2}, holder="ann")
    answer = await service.reservations.Modify(
        _modify(made.reservation_id, lines=wanted(bed=2), holder="ann", request_id="same")
    )
    assert answer.reservation == made
    assert len(await _events(service, made.reservation_id)) == 1
    assert (await service.item("bed")).revision == 2


async def test_a_modify_of_another_revision_is_refused_and_a_replay_is_not(service: Harness) -> None:
    await service.create_item("bed", 10)
    made = await service.reserve({"bed": 2})
    first = _modify(made.reservation_id, lines=wanted(bed=3), revision=1, request_id="one")
    assert not (await service.reservations.Modify(first)).replayed
    replay = await service.reservations.Modify(first)
    assert replay.replayed
    assert replay.reservation.revision == 2
    refusal = await refused(service.reservations.Modify(_modify(made.reservation_id, lines=wanted(bed=4), revision=1)))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.ABORTED, "REVISION_MISMATCH")
    assert refusal.metadata == {"reservation_id": made.reservation_id, "revision": "2"}
    refusal = await refused(
        service.reservations.Modify(_modify(made.reservation_id, lines=wanted(bed=4), request_id="one"))
    )
    assert refusal.reason == "REQUEST_ID_REUSED"


async def test_modify_is_refused_in_every_state_but_held(service: Harness) -> None:
    await service.create_item("bed", 10)
    expected = {
        "confirm": "RESERVATION_ALREADY_CONFIRMED",
        "cancel": "RESERVATION_ALREADY_CANCELLED",
        "expire": "RESERVATION_EXPIRED",
        "fulfil": "RESERVATION_ALREADY_CONFIRMED",
        "refund": "ALREADY_REFUNDED",
    }
    for end, reason in expected.items():
        made = await service.reserve({"bed": 1}, ttl=timedelta(seconds=30))
        target: dict[str, Any] = {"reservation_id": made.reservation_id}
        if end in ("confirm", "fulfil", "refund"):
            await service.reservations.Confirm(pb.ConfirmRequest(**target))
        if end == "fulfil":
            await service.reservations.Fulfil(pb.FulfilRequest(**target))
        if end == "refund":
            await service.reservations.Refund(pb.RefundRequest(**target))
        if end == "cancel":
            await service.reservations.Cancel(pb.CancelRequest(**target))
        if end == "expire":
            service.clock.advance(timedelta(minutes=1))
        refusal = await refused(service.reservations.Modify(_modify(made.reservation_id, lines=wanted(bed=2))))
        assert refusal.reason == reason, end
        assert refusal.metadata["reservation_id"] == made.reservation_id
    refusal = await refused(
        service.reservations.Modify(_modify("00000000-0000-7000-8000-000000000000", lines=wanted(bed=2)))
    )
    assert refusal.reason == "RESERVATION_NOT_FOUND"
    await service.verify()


async def test_a_partial_cancel_gives_back_its_units_and_the_last_one_ends_the_hold(service: Harness) -> None:
    await service.create_item("bed", 10)
    await service.create_item("tour", 10)
    made = await service.reserve({"bed": 4, "tour": 2})
    cancel = service.reservations.Cancel
    target: dict[str, Any] = {"reservation_id": made.reservation_id}
    answer = await cancel(pb.CancelRequest(**target, lines=lines(bed=1, tour=2), request_id="part", reason="less"))
    assert (answer.reservation.state, held(answer.reservation)) == (Reservation.STATE_HELD, {"bed": 3})
    assert (await cancel(
        pb.CancelRequest(**target, lines=lines(bed=1, tour=2), request_id="part", reason="less")
    )).replayed  # fmt: skip
    assert counters(await service.item("bed")) == (10, 7, 3, 0)
    refusal = await refused(cancel(pb.CancelRequest(**target, lines=lines(bed=4))))
    assert (refusal.reason, refusal.metadata["available"]) == ("QUANTITY_EXCEEDED", "3")
    refusal = await refused(cancel(pb.CancelRequest(**target, lines=lines(tour=1))))
    assert (refusal.reason, refusal.metadata["available"]) == ("QUANTITY_EXCEEDED", "0")
    answer = await cancel(pb.CancelRequest(**target, lines=lines(bed=3)))
    assert (answer.reservation.state, held(answer.reservation)) == (Reservation.STATE_CANCELLED, {"bed": 3})
    assert counters(await service.item("bed")) == (10, 10, 0, 0)
    types = [event.type for event in await _events(service, made.reservation_id)]
    assert types == [event_pb2.EVENT_TYPE_RESERVED, event_pb2.EVENT_TYPE_MODIFIED, event_pb2.EVENT_TYPE_CANCELLED]
    await service.verify()


async def test_each_event_shows_the_reservation_as_it_was_right_after_it(service: Harness) -> None:
    for sku in ("bed", "tour", "boat"):
        await service.create_item(sku, 10)
    made = await service.reserve({"bed": 4, "tour": 2}, holder="ann", reference="cart", metadata={"k": "0"})
    seen = [made]
    id_ = made.reservation_id
    seen.append((await service.reservations.Extend(pb.ExtendRequest(reservation_id=id_))).reservation)
    changes = (
        _modify(id_, lines=wanted(bed=0, boat=1), holder="bob"),
        _modify(id_, metadata={"k": "1"}),
        _modify(id_, lines=wanted(tour=5), new_reference="order"),
    )
    seen += [(await service.reservations.Modify(change)).reservation for change in changes]
    part = pb.CancelRequest(reservation_id=id_, lines=lines(tour=1), reason="one less")
    seen.append((await service.reservations.Cancel(part)).reservation)
    sale = pb.ConfirmRequest(reservation_id=id_, lines=lines(tour=3, boat=1))
    seen.append((await service.reservations.Confirm(sale)).reservation)
    departure = pb.FulfilRequest(reservation_id=id_, lines=lines(tour=1))
    seen.append((await service.reservations.Fulfil(departure)).reservation)
    back = pb.RefundRequest(reservation_id=id_, lines=lines(tour=3), reason="back")
    seen.append((await service.reservations.Refund(back)).reservation)
    events = await _events(service, id_)
    for event, expected in zip(events, seen, strict=True):
        for state in (event.reservation, expected):
            # An event of a change has the reason of that change; a reservation keeps the last one.
            state.reason = ""
        assert event.reservation == expected, event_pb2.EventType.Name(event.type)
    moved = [{line.sku: line.quantity for line in event.lines} for event in events]
    assert moved == [
        {"bed": 4, "tour": 2}, {}, {"bed": -4, "boat": 1}, {}, {"tour": 3}, {"tour": -1}, {"tour": 3, "boat": 1},
        {"tour": 1}, {"tour": 3},
    ]  # fmt: skip
    assert [{line.sku: line.quantity for line in event.returned_lines} for event in events[-1:]] == [{"tour": 1}]
    await service.verify()


async def test_a_reservation_without_its_first_line_is_cancelled_swept_and_recounted(service: Harness) -> None:
    await service.create_item("bed", 10)
    await service.create_item("tour", 10)
    for end in ("cancel", "sweep", "confirm"):
        made = await service.reserve({"bed": 1, "tour": 2}, ttl=timedelta(seconds=30))
        await service.reservations.Modify(_modify(made.reservation_id, lines=wanted(bed=0)))
        await service.verify()
        if end == "cancel":
            await service.reservations.Cancel(pb.CancelRequest(reservation_id=made.reservation_id))
        elif end == "confirm":
            await service.reservations.Confirm(pb.ConfirmRequest(reservation_id=made.reservation_id))
        else:
            service.clock.advance(timedelta(minutes=1))
            swept = await service.reservations.Cleanup(pb.CleanupRequest())
            assert (swept.expired_count, swept.released_quantity) == (1, 2)
        await service.verify()
        report = await service.admin.VerifyLedger(admin_service_pb2.VerifyLedgerRequest())
        assert report.reservation_count == (1 if end == "confirm" else 0)
    assert counters(await service.item("tour")) == (10, 8, 0, 2)


async def test_modify_and_other_changes_of_one_reservation_take_one_order(service: Harness) -> None:
    await service.create_item("bed", 100)
    await service.create_item("tour", 100)
    made = await service.reserve({"bed": 1})
    target: dict[str, Any] = {"reservation_id": made.reservation_id}
    calls: list[Any] = []
    for number in range(50):
        calls.append(service.reservations.Modify(_modify(made.reservation_id, lines=wanted(bed=1 + number % 5))))
        calls.append(service.reservations.Modify(_modify(made.reservation_id, lines=wanted(tour=number % 3))))
        calls.append(service.reservations.Extend(pb.ExtendRequest(**target)))
    calls.append(service.reservations.Confirm(pb.ConfirmRequest(**target)))
    calls.append(service.reservations.Cancel(pb.CancelRequest(**target)))
    results = await asyncio.gather(*(outcome(call) for call in calls))
    kinds = Counter(result if isinstance(result, str) else "OK" for result in results)
    assert set(kinds) <= {"OK", "RESERVATION_ALREADY_CONFIRMED", "RESERVATION_ALREADY_CANCELLED"}, kinds
    revisions = [event.reservation.revision for event in await _events_all(service, made.reservation_id)]
    assert revisions == list(range(1, len(revisions) + 1))
    await service.verify()


async def _events_all(service: Harness, reservation_id: str) -> list[event_pb2.Event]:
    request = pb.ListReservationEventsRequest(reservation_id=reservation_id, page_size=1000)
    return list((await service.reservations.ListReservationEvents(request)).events)


async def test_a_hold_that_lapses_in_that_moment_is_not_modified_and_nothing_moves(service: Harness) -> None:
    await service.create_item("bed", 10)
    made = await service.reserve({"bed": 2}, ttl=timedelta(seconds=30))
    service.clock.advance(timedelta(seconds=31))
    refusal = await refused(service.reservations.Modify(_modify(made.reservation_id, lines=wanted(bed=1))))
    assert refusal.reason == "RESERVATION_EXPIRED"
    assert counters(await service.item("bed")) == (10, 8, 2, 0)
