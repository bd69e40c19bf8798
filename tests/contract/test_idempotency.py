"""request_id: the same id with the same content answers as things are now and takes nothing twice."""

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message

from holdsvc.ledger import upkeep
from inventoryhold.v1 import inventory_service_pb2 as inventory
from inventoryhold.v1 import item_pb2, reservation_pb2
from inventoryhold.v1 import reservation_service_pb2 as pb
from tests.support.harness import Harness, StartService, refused
from tests.support.partners import new_caller

Reservation = reservation_pb2.Reservation
RPCS = ("Reserve", "Confirm", "Cancel", "Refund", "Extend", "AdjustCapacity", "TransferCapacity")


def _call(service: Harness, request: Message, **options: Any) -> Awaitable[Any]:
    rpc = request.DESCRIPTOR.name.removesuffix("Request")
    stub = service.reservations if hasattr(service.reservations, rpc) else service.inventory
    return getattr(stub, rpc)(request, **options)  # type: ignore[no-any-return]


async def _request(service: Harness, rpc: str, request_id: str = "r-1") -> Any:
    """A request of this rpc that can be done, on items `bed`."""
    if rpc == "Reserve":
        return pb.ReserveRequest(lines=[{"sku": "bed", "quantity": 2}], request_id=request_id)
    if rpc == "AdjustCapacity":
        return inventory.AdjustCapacityRequest(sku="bed", delta=7, request_id=request_id)
    if rpc == "TransferCapacity":
        return inventory.TransferCapacityRequest(sku="bed", to_pool="vip", quantity=3, request_id=request_id)
    held = await service.reserve({"bed": 2})
    if rpc == "Refund":
        await service.reservations.Confirm(pb.ConfirmRequest(reservation_id=held.reservation_id))
    return getattr(pb, f"{rpc}Request")(reservation_id=held.reservation_id, request_id=request_id)


def _changed(request: Any) -> Any:
    """The same request with other content."""
    other = type(request)()
    other.CopyFrom(request)
    name = request.DESCRIPTOR.name.removesuffix("Request")
    changes: dict[str, Callable[[], Any]] = {
        "Reserve": lambda: setattr(other, "holder", "somebody"),
        "Confirm": lambda: setattr(other, "order_id", "other"),
        "Cancel": lambda: setattr(other, "reason", "other"),
        "Refund": lambda: setattr(other, "write_off", True),
        "Extend": lambda: other.ttl.FromSeconds(77),
        "AdjustCapacity": lambda: setattr(other, "delta", 8),
        "TransferCapacity": lambda: setattr(other, "quantity", 4),
    }
    changes[name]()
    return other


def _without_flag(answer: Any) -> Any:
    copy = type(answer)()
    copy.CopyFrom(answer)
    copy.replayed = False
    return copy


async def _counters(service: Harness) -> list[Any]:
    return service.sql(
        "SELECT sku, pool, capacity, remaining, held, confirmed, revision FROM holdsvc.item ORDER BY 1, 2"
    )


@pytest.mark.parametrize("rpc", RPCS)
async def test_the_same_call_again_is_replayed_and_changes_nothing(service: Harness, rpc: str) -> None:
    await service.create_item("bed", 20)
    request = await _request(service, rpc)
    first = await _call(service, request)
    counters = await _counters(service)
    assert not first.replayed
    for _ in range(2):
        again = await _call(service, request)
        assert again.replayed
        assert _without_flag(again) == first
    assert await _counters(service) == counters
    await service.verify()


@pytest.mark.parametrize("rpc", RPCS)
async def test_the_same_id_with_other_content_is_refused_and_changes_nothing(service: Harness, rpc: str) -> None:
    await service.create_item("bed", 20)
    request = await _request(service, rpc)
    await _call(service, request)
    counters = await _counters(service)
    refusal = await refused(_call(service, _changed(request)))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "REQUEST_ID_REUSED")
    assert refusal.metadata == {"request_id": "r-1"}
    assert await _counters(service) == counters
    assert (await _call(service, request)).replayed


@pytest.mark.parametrize("rpc", RPCS)
async def test_the_same_id_on_another_rpc_is_refused_and_changes_nothing(service: Harness, rpc: str) -> None:
    await service.create_item("bed", 20)
    others = [await _request(service, other) for other in RPCS if other != rpc]
    await _call(service, await _request(service, rpc))
    counters = await _counters(service)
    for other in others:
        assert (await refused(_call(service, other))).reason == "REQUEST_ID_REUSED"
    assert await _counters(service) == counters


@pytest.mark.parametrize("rpc", RPCS)
async def test_without_an_id_nothing_is_replayed(service: Harness, rpc: str) -> None:
    await service.create_item("bed", 20)
    request = await _request(service, rpc, request_id="")
    assert not (await _call(service, request)).replayed
    if rpc in ("Reserve", "Extend", "AdjustCapacity", "TransferCapacity"):
        assert not (await _call(service, request)).replayed
    elif rpc == "Confirm":
        # Answered by the reservation's state, not by the call's memory.
        assert (await _call(service, request)).replayed
    else:
        assert (await refused(_call(service, request))).code == grpc.StatusCode.FAILED_PRECONDITION
    assert service.sql("SELECT count(*) FROM holdsvc.request") == [(0,)]


async def test_a_replay_shows_the_reservation_as_it_is_now(service: Harness) -> None:
    await service.create_item("bed", 5)
    reserve = pb.ReserveRequest(
        lines=[{"sku": "bed", "quantity": 2}], request_id="r-1", holder="guest", reference="cart", metadata={"a": "b"}
    )
    held = (await service.reservations.Reserve(reserve)).reservation
    target: dict[str, Any] = {"reservation_id": held.reservation_id}
    confirm = pb.ConfirmRequest(**target, request_id="r-2", customer={"name": "Ann", "email": "ann@example.com"})
    await service.reservations.Confirm(confirm)
    again = await service.reservations.Reserve(reserve)
    assert again.replayed
    assert again.reservation.state == Reservation.STATE_CONFIRMED
    assert again.reservation == await service.get(held.reservation_id)
    await service.reservations.Refund(pb.RefundRequest(**target))
    for answer in (await service.reservations.Reserve(reserve), await service.reservations.Confirm(confirm)):
        assert answer.replayed
        assert answer.reservation.state == Reservation.STATE_REFUNDED


async def test_a_replay_of_a_lapsed_hold_shows_it_expired_and_holds_nothing_new(service: Harness) -> None:
    await service.create_item("bed", 5)
    request = pb.ReserveRequest(lines=[{"sku": "bed", "quantity": 2}], request_id="r-1", ttl=Duration(seconds=10))
    held = (await service.reservations.Reserve(request)).reservation
    extend = pb.ExtendRequest(reservation_id=held.reservation_id, request_id="r-2", ttl=Duration(seconds=10))
    await service.reservations.Extend(extend)
    service.clock.advance(timedelta(seconds=30))
    for call in (service.reservations.Reserve(request), service.reservations.Extend(extend)):
        answer = await call
        assert answer.replayed
        assert answer.reservation.state == Reservation.STATE_EXPIRED
    await service.sweep()
    assert (await service.item("bed")).held == 0


async def test_the_id_is_looked_up_before_the_target(service: Harness) -> None:
    await service.create_item("bed", 5)
    await service.reserve({"bed": 1}, reference="cart")
    cancel = pb.CancelRequest(reference="cart", request_id="r-1")
    first = await service.reservations.Cancel(cancel)
    # By now the reference would mean another reservation, or several.
    others = [await service.reserve({"bed": 1}, reference="cart") for _ in range(2)]
    again = await service.reservations.Cancel(cancel)
    assert again.replayed
    assert again.reservation == first.reservation
    for other in others:
        assert (await service.get(other.reservation_id)).state == Reservation.STATE_HELD


async def test_a_refund_is_replayed_when_a_second_one_has_followed(service: Harness) -> None:
    await service.create_item("bed", 5)
    held = await service.reserve({"bed": 3})
    target: dict[str, Any] = {"reservation_id": held.reservation_id}
    await service.reservations.Confirm(pb.ConfirmRequest(**target))
    line = [{"sku": "bed", "quantity": 1}]
    first = pb.RefundRequest(**target, lines=line, request_id="r-1")
    second = pb.RefundRequest(**target, lines=line, request_id="r-2")
    await service.reservations.Refund(first)
    assert not (await service.reservations.Refund(second)).replayed
    answer = await service.reservations.Refund(first)
    assert answer.replayed
    assert answer.reservation.lines[0].refunded_quantity == 2
    assert (await service.item("bed")).confirmed == 1


async def test_a_confirm_answered_by_the_state_is_remembered_as_well(service: Harness) -> None:
    await service.create_item("bed", 5)
    held = await service.reserve({"bed": 2})
    target: dict[str, Any] = {"reservation_id": held.reservation_id}
    await service.reservations.Confirm(pb.ConfirmRequest(**target, request_id="r-1"))
    second = pb.ConfirmRequest(**target, request_id="r-2")
    assert (await service.reservations.Confirm(second)).replayed
    await service.reservations.Refund(pb.RefundRequest(**target))
    answer = await service.reservations.Confirm(second)
    assert answer.replayed
    assert answer.reservation.state == Reservation.STATE_REFUNDED
    other = pb.ConfirmRequest(**target, request_id="r-2", order_id="other")
    assert (await refused(service.reservations.Confirm(other))).reason == "REQUEST_ID_REUSED"


async def test_refusals_are_not_remembered(service: Harness) -> None:
    await service.create_item("bed", 1)
    reserve = pb.ReserveRequest(lines=[{"sku": "bed", "quantity": 2}], request_id="r-1")
    assert (await refused(service.reservations.Reserve(reserve))).reason == "CAPACITY_EXCEEDED"
    adjust = inventory.AdjustCapacityRequest(sku="bed", delta=-2, request_id="r-2")
    assert (await refused(service.inventory.AdjustCapacity(adjust))).reason == "CAPACITY_IN_USE"
    transfer = inventory.TransferCapacityRequest(sku="bed", to_pool="vip", quantity=2, request_id="r-3")
    assert (await refused(service.inventory.TransferCapacity(transfer))).reason == "CAPACITY_IN_USE"
    assert service.sql("SELECT count(*) FROM holdsvc.request") == [(0,)]
    await service.inventory.AdjustCapacity(inventory.AdjustCapacityRequest(sku="bed", delta=9))
    answer = await service.reservations.Reserve(reserve)
    assert not answer.replayed
    assert not (await service.inventory.AdjustCapacity(adjust)).replayed
    assert not (await service.inventory.TransferCapacity(transfer)).replayed

    target: dict[str, Any] = {"reservation_id": answer.reservation.reservation_id}
    refund = pb.RefundRequest(**target, request_id="r-4")
    assert (await refused(service.reservations.Refund(refund))).reason == "RESERVATION_NOT_CONFIRMED"
    too_many = pb.ConfirmRequest(**target, request_id="r-5", lines=[{"sku": "bed", "quantity": 3}])
    assert (await refused(service.reservations.Confirm(too_many))).reason == "QUANTITY_EXCEEDED"
    # A refused id may even come with other content.
    confirm = pb.ConfirmRequest(**target, request_id="r-5")
    assert not (await service.reservations.Confirm(confirm)).replayed
    assert not (await service.reservations.Refund(refund)).replayed
    cancel = pb.CancelRequest(**target, request_id="r-6")
    assert (await refused(service.reservations.Cancel(cancel))).reason == "ALREADY_REFUNDED"
    extend = pb.ExtendRequest(**target, request_id="r-7")
    assert (await refused(service.reservations.Extend(extend))).reason == "ALREADY_REFUNDED"
    # r-6 and r-7 are not among them.
    assert service.sql("SELECT count(*) FROM holdsvc.request") == [(5,)]


async def test_an_order_id_in_use_gives_the_request_id_back(service: Harness) -> None:
    await service.create_item("bed", 5)
    first, second = await service.reserve({"bed": 1}), await service.reserve({"bed": 1})
    await service.reservations.Confirm(pb.ConfirmRequest(reservation_id=first.reservation_id, order_id="A-1"))
    target: dict[str, Any] = {"reservation_id": second.reservation_id, "request_id": "r-1"}
    refusal = await refused(service.reservations.Confirm(pb.ConfirmRequest(**target, order_id="A-1")))
    assert refusal.reason == "ORDER_ID_IN_USE"
    assert not (await service.reservations.Confirm(pb.ConfirmRequest(**target, order_id="A-2"))).replayed


async def test_a_replayed_capacity_change_shows_the_items_as_they_are_now(service: Harness) -> None:
    await service.create_item("bed", 5)
    adjust = inventory.AdjustCapacityRequest(sku="bed", delta=1, request_id="r-1")
    transfer = inventory.TransferCapacityRequest(sku="bed", to_pool="vip", quantity=2, request_id="r-2")
    await service.inventory.AdjustCapacity(adjust)
    await service.inventory.TransferCapacity(transfer)
    await service.reserve({"bed": 1})
    assert (await service.inventory.AdjustCapacity(adjust)).item == await service.item("bed")
    await service.inventory.DeleteItem(inventory.DeleteItemRequest(sku="bed", pool="vip"))
    refusal = await refused(service.inventory.TransferCapacity(transfer))
    assert (refusal.reason, refusal.metadata) == ("ITEM_NOT_FOUND", {"sku": "bed", "pool": "vip"})


async def test_a_request_id_counts_within_tenant_and_client(start_service: StartService) -> None:
    service = await start_service(auth="api-key")
    for tenant in ("default", "another"):
        service.sql("SELECT create_items(%s, 'x', '', '{bed}', '{\"\"}', '{\"\"}', '{5}', '{0}')", (tenant,))
    callers = [
        new_caller(service, "shop"),
        new_caller(service, "agency"),
        new_caller(service, "shop", tenant="another"),
    ]
    request = pb.ReserveRequest(lines=[item_pb2.ItemQuantity(sku="bed", quantity=1)], request_id="r-1")
    answers = [await service.reservations.Reserve(request, metadata=caller) for caller in callers]
    assert not any(answer.replayed for answer in answers)
    assert len({answer.reservation.reservation_id for answer in answers}) == 3
    second_key = new_caller(service, "shop")
    again = await service.reservations.Reserve(request, metadata=second_key)
    assert again.replayed
    assert again.reservation.reservation_id == answers[0].reservation.reservation_id


async def test_an_id_is_remembered_for_its_time_and_forgotten_after_it(start_service: StartService) -> None:
    service = await start_service(request_id_retention="24h")
    await service.create_item("bed", 50)
    request = pb.ReserveRequest(lines=[{"sku": "bed", "quantity": 1}], request_id="r-1")
    first = (await service.reservations.Reserve(request)).reservation

    async def purge() -> int:
        async with service.cell.database.connection() as connection:
            return await upkeep.purge_requests(connection, service.settings.request_id_retention)

    service.clock.advance(timedelta(hours=23, minutes=59))
    assert await purge() == 0
    again = await service.reservations.Reserve(request)
    assert (again.replayed, again.reservation.reservation_id) == (True, first.reservation_id)
    service.clock.advance(timedelta(minutes=2))
    assert await purge() == 1
    assert not (await service.reservations.Reserve(request)).replayed


async def test_an_id_of_any_printable_text_works(service: Harness) -> None:
    await service.create_item("bed", 50)
    for request_id in ("{}", '"', "\\", "NULL", "a,b", "ü" * 128, "';--", "{r-1,r-2}"):
        request = pb.ReserveRequest(lines=[{"sku": "bed", "quantity": 1}], request_id=request_id)
        first = await service.reservations.Reserve(request)
        again = await service.reservations.Reserve(request)
        assert (first.replayed, again.replayed) == (False, True)
        assert again.reservation == first.reservation
