"""BatchReserve: one result per entry in order, each entry by itself."""

from datetime import timedelta
from typing import Any

import grpc
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2

from inventoryhold.v1 import error_reason_pb2, item_pb2, reservation_pb2
from inventoryhold.v1 import reservation_service_pb2 as pb
from tests.support.harness import Harness, refused

Reservation = reservation_pb2.Reservation


def _entry(sku: str, quantity: int, **fields: Any) -> pb.ReserveRequest:
    return pb.ReserveRequest(lines=[item_pb2.ItemQuantity(sku=sku, quantity=quantity)], **fields)


async def _batch(service: Harness, *entries: pb.ReserveRequest) -> list[pb.BatchReserveResult]:
    answer = await service.reservations.BatchReserve(pb.BatchReserveRequest(requests=entries))
    return list(answer.results)


def _detail(error: status_pb2.Status, message: Any) -> Any:
    for detail in error.details:
        if detail.Unpack(message):
            return message
    raise AssertionError(f"no {message.DESCRIPTOR.full_name} in {error}")


def _reason(result: pb.BatchReserveResult) -> str:
    if result.WhichOneof("result") == "reservation":
        return ""
    return str(_detail(result.error, error_details_pb2.ErrorInfo()).reason)


async def test_entries_are_judged_in_order_and_each_stands_alone(service: Harness) -> None:
    await service.create_item("seat", 5)
    results = await _batch(
        service,
        _entry("seat", 3),
        _entry("seat", 3),
        _entry("nowhere", 1),
        _entry("seat", 0),
        _entry("seat", 1, ttl=Duration(seconds=-1)),
        _entry("seat", 2, holder="guest"),
        _entry("seat", 1),
    )
    assert [_reason(result) for result in results] == [
        "",
        "CAPACITY_EXCEEDED",
        "ITEM_NOT_FOUND",
        "INVALID_FIELD",
        "INVALID_FIELD",
        "",
        "CAPACITY_EXCEEDED",
    ]
    assert (await service.item("seat")).held == 5
    assert results[5].reservation == await service.get(results[5].reservation.reservation_id)
    await service.verify()


async def test_an_entrys_error_is_the_one_that_reserve_would_have_answered(service: Harness) -> None:
    await service.create_item("seat", 5)
    entries = [
        _entry("seat", 9),
        _entry("nowhere", 1),
        pb.ReserveRequest(holder="\n", ttl=Duration(), duplicate_window=Duration(seconds=-1)),
    ]
    results = await _batch(service, *entries)
    for entry, result in zip(entries, results, strict=True):
        refusal = await refused(service.reservations.Reserve(entry))
        assert result.error.code == refusal.code.value[0]
        assert result.error.message == refusal.message
        info = _detail(result.error, error_details_pb2.ErrorInfo())
        assert (info.domain, info.reason, dict(info.metadata)) == ("holdsvc", refusal.reason, refusal.metadata)
        if refusal.reason == "CAPACITY_EXCEEDED":
            shortfall = _detail(result.error, error_reason_pb2.CapacityShortfall())
            assert shortfall == refusal.details["CapacityShortfall"]
        if refusal.reason == "INVALID_FIELD":
            assert _detail(result.error, error_details_pb2.BadRequest()) == refusal.details["BadRequest"]


async def test_what_an_earlier_entry_took_comes_free_to_a_later_one(service: Harness) -> None:
    await service.create_item("seat", 5)
    made, short = await _batch(service, _entry("seat", 5), _entry("seat", 1))
    [line] = _detail(short.error, error_reason_pb2.CapacityShortfall()).lines
    assert (line.next_free_time, line.next_free_quantity) == (made.reservation.expire_time, 5)


async def test_a_thousand_entries_take_exactly_what_is_there_in_order(service: Harness) -> None:
    await service.create_item("seat", 600)
    results = await _batch(service, *(_entry("seat", 1, reference=str(number)) for number in range(1000)))
    assert [result.reservation.reference for result in results[:600]] == [str(number) for number in range(600)]
    assert {_reason(result) for result in results[600:]} == {"CAPACITY_EXCEEDED"}
    ids = [result.reservation.reservation_id for result in results[:600]]
    assert len(set(ids)) == 600
    item = await service.item("seat")
    assert (item.remaining, item.held) == (0, 600)
    await service.verify()


async def test_too_few_and_too_many_entries_are_refused_as_a_whole(service: Harness) -> None:
    await service.create_item("seat", 5)
    for count in (0, 1001):
        refusal = await refused(_batch(service, *[_entry("seat", 1)] * count))
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
        assert [v.field for v in refusal.details["BadRequest"].field_violations] == ["requests"]
    assert (await service.item("seat")).held == 0


async def test_twins_inside_one_batch_make_one_reservation(service: Harness) -> None:
    await service.create_item("seat", 9)
    twin = _entry("seat", 2, request_id="r-1")
    results = await _batch(
        service, twin, twin, _entry("seat", 1, request_id="r-1"), twin, _entry("seat", 1), _entry("seat", 1)
    )
    first, second, other, third, *plain = results
    assert (first.replayed, second.replayed, third.replayed) == (False, True, True)
    assert first.reservation == second.reservation == third.reservation
    assert _reason(other) == "REQUEST_ID_REUSED"
    assert plain[0].reservation.reservation_id != plain[1].reservation.reservation_id
    assert (await service.item("seat")).held == 4
    await service.verify()


async def test_twins_of_a_refused_entry_are_refused_alike(service: Harness) -> None:
    await service.create_item("seat", 1)
    twin = _entry("seat", 2, request_id="r-1")
    assert [_reason(result) for result in await _batch(service, twin, twin)] == ["CAPACITY_EXCEEDED"] * 2


async def test_a_batch_again_is_replayed_entry_by_entry(service: Harness) -> None:
    await service.create_item("seat", 9)
    entries = [_entry("seat", 1, request_id=f"r-{number}") for number in range(3)]
    first = await _batch(service, *entries)
    again = await _batch(service, *entries, _entry("seat", 1, request_id="r-3"))
    assert [result.replayed for result in again] == [True, True, True, False]
    assert [result.reservation for result in again[:3]] == [result.reservation for result in first]
    # An entry is the call that Reserve is.
    assert (await service.reservations.Reserve(entries[0])).replayed
    assert (await service.item("seat")).held == 4


async def test_lapsed_holds_make_room_for_a_batch(service: Harness) -> None:
    await service.create_item("seat", 3)
    await service.create_item("bed", 2)
    lapsed = await service.reserve({"seat": 3, "bed": 1}, ttl=Duration(seconds=10))
    service.clock.advance(timedelta(seconds=11))
    results = await _batch(service, _entry("seat", 2), _entry("bed", 2), _entry("seat", 2), _entry("seat", 1))
    assert [_reason(result) for result in results] == ["", "", "CAPACITY_EXCEEDED", ""]
    assert (await service.get(lapsed.reservation_id)).state == Reservation.STATE_EXPIRED
    await service.verify()
