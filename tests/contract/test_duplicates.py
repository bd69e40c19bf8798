"""duplicate_window: one reservation of a holder on an item, within a time."""

from datetime import timedelta
from typing import Any

import grpc
from google.protobuf.duration_pb2 import Duration

from inventoryhold.v1 import item_pb2, reservation_pb2
from inventoryhold.v1 import reservation_service_pb2 as pb
from tests.support.harness import Harness, StartService, refused
from tests.support.partners import new_caller

WINDOW = Duration(seconds=60)


async def _guarded(service: Harness, lines: Any, holder: str = "guest", **fields: Any) -> reservation_pb2.Reservation:
    return await service.reserve(lines, holder=holder, duplicate_window=fields.pop("window", WINDOW), **fields)


async def _refused_for(service: Harness, other: reservation_pb2.Reservation, lines: Any, **fields: Any) -> None:
    refusal = await refused(_guarded(service, lines, **fields))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.ALREADY_EXISTS, "DUPLICATE_RESERVATION")
    assert refusal.metadata == {"reservation_id": other.reservation_id}


async def test_a_second_hold_of_the_holder_on_one_of_the_items_is_refused(service: Harness) -> None:
    for sku in ("bed", "tour", "car"):
        await service.create_item(sku, 9)
    # The first need not bring a window itself.
    first = await service.reserve({"bed": 1, "tour": 1}, holder="guest")
    await _refused_for(service, first, {"bed": 1})
    await _refused_for(service, first, {"car": 1, "tour": 2})
    await _guarded(service, {"car": 1})
    await _guarded(service, {"bed": 1}, holder="other guest")
    # Without a window of its own a call is never refused.
    await service.reserve({"bed": 1}, holder="guest")
    assert (await service.item("car")).held == 1


async def test_the_other_pool_of_a_sku_is_another_item(service: Harness) -> None:
    await service.create_item("bed", 9)
    await service.create_item("bed", 9, pool="vip")
    await _guarded(service, {"bed": 1})
    await _guarded(service, [("bed", "vip", 1)])


async def test_a_confirmed_one_counts_and_an_ended_one_does_not(service: Harness) -> None:
    await service.create_item("bed", 9)
    first = await _guarded(service, {"bed": 1})
    target: dict[str, Any] = {"reservation_id": first.reservation_id}
    await service.reservations.Confirm(pb.ConfirmRequest(**target))
    await _refused_for(service, first, {"bed": 1})
    await service.reservations.Refund(pb.RefundRequest(**target))
    second = await _guarded(service, {"bed": 1})
    await service.reservations.Cancel(pb.CancelRequest(reservation_id=second.reservation_id))
    await _guarded(service, {"bed": 1}, ttl=Duration(seconds=10))
    # Lapsed, not yet swept, well within the window.
    service.clock.advance(timedelta(seconds=11))
    await _guarded(service, {"bed": 1})


async def test_only_reservations_within_the_window_count(service: Harness) -> None:
    await service.create_item("bed", 9)
    first = await _guarded(service, {"bed": 1})
    service.clock.advance(timedelta(seconds=50))
    await _refused_for(service, first, {"bed": 1})
    await _refused_for(service, first, {"bed": 1}, window=Duration(seconds=86400))
    service.clock.advance(timedelta(seconds=11))
    await _guarded(service, {"bed": 1})


async def test_a_holder_with_more_lines_in_the_window_than_are_looked_at_is_refused(service: Harness) -> None:
    skus = [f"seat-{number:02}" for number in range(100)]
    for sku in (*skus, "bed", "tour", "car"):
        await service.create_item(sku, 99)
    first = await service.reserve({"bed": 1}, holder="guest")
    service.clock.advance(timedelta(seconds=10))
    for _ in range(9):
        await service.reserve(dict.fromkeys(skus, 1), holder="guest")
    await _refused_for(service, first, {"bed": 1})
    await _guarded(service, {"tour": 1})
    newest = await service.reserve(dict.fromkeys(skus, 1), holder="guest")
    for sku in ("bed", "car"):
        refusal = await refused(_guarded(service, {sku: 1}))
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.ALREADY_EXISTS, "DUPLICATE_RESERVATION")
        assert refusal.metadata == {}
        assert "not all of them are looked at" in refusal.message
    await _refused_for(service, newest, {skus[0]: 1})
    await _guarded(service, {"bed": 1}, holder="other guest")
    # The window does not reach back to what is not looked at.
    await _guarded(service, {"bed": 1}, window=Duration(seconds=0))
    service.clock.advance(timedelta(seconds=61))
    await _guarded(service, {"bed": 1})


async def test_the_holder_of_the_last_unit_is_told_so(service: Harness) -> None:
    await service.create_item("seat", 1)
    first = await _guarded(service, {"seat": 1})
    await _refused_for(service, first, {"seat": 1})
    assert (await refused(_guarded(service, {"seat": 1}, holder="other guest"))).reason == "CAPACITY_EXCEEDED"


async def test_a_repeated_call_with_its_request_id_is_a_replay_not_a_duplicate(service: Harness) -> None:
    await service.create_item("bed", 9)
    request = pb.ReserveRequest(
        lines=[{"sku": "bed", "quantity": 1}], holder="guest", duplicate_window=WINDOW, request_id="r-1"
    )
    first = await service.reservations.Reserve(request)
    again = await service.reservations.Reserve(request)
    assert again.replayed
    assert again.reservation == first.reservation
    await _refused_for(service, first.reservation, {"bed": 1}, request_id="r-2")


async def test_a_holder_of_another_client_is_another_holder(start_service: StartService) -> None:
    service = await start_service(auth="api-key")
    service.sql("SELECT create_items('default', 'x', '', '{bed}', '{\"\"}', '{\"\"}', '{5}', '{0}')")
    request = pb.ReserveRequest(
        lines=[item_pb2.ItemQuantity(sku="bed", quantity=1)], holder="guest", duplicate_window=WINDOW
    )
    for client in ("shop", "agency"):
        await service.reservations.Reserve(request, metadata=new_caller(service, client))
    again = await refused(service.reservations.Reserve(request, metadata=new_caller(service, "shop")))
    assert again.reason == "DUPLICATE_RESERVATION"


async def test_within_one_batch_the_first_of_a_holder_wins(service: Harness) -> None:
    for sku in ("bed", "tour"):
        await service.create_item(sku, 9)

    def entry(sku: str, holder: str = "guest") -> pb.ReserveRequest:
        line = item_pb2.ItemQuantity(sku=sku, quantity=1)
        return pb.ReserveRequest(lines=[line], holder=holder, duplicate_window=WINDOW)

    answer = await service.reservations.BatchReserve(
        pb.BatchReserveRequest(requests=[entry("bed"), entry("bed"), entry("tour"), entry("bed", "other guest")])
    )
    assert [result.WhichOneof("result") for result in answer.results] == [
        "reservation", "error", "reservation", "reservation"
    ]  # fmt: skip
    assert answer.results[0].reservation.reservation_id in answer.results[1].error.message
