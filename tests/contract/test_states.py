"""The contract's table: what each change answers in each state, and that a refusal moves nothing."""

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from inventoryhold.v1 import reservation_pb2
from inventoryhold.v1 import reservation_service_pb2 as pb
from tests.support.harness import Harness, refused

State = reservation_pb2.Reservation.State

EXPECTED = {
    "Confirm": {
        "HELD": "CONFIRMED",
        "CONFIRMED": "RESERVATION_ALREADY_CONFIRMED",
        "CANCELLED": "RESERVATION_ALREADY_CANCELLED",
        "EXPIRED": "RESERVATION_EXPIRED",
        "REFUNDED": "ALREADY_REFUNDED",
    },
    "Cancel": {
        "HELD": "CANCELLED",
        "CONFIRMED": "RESERVATION_ALREADY_CONFIRMED",
        "CANCELLED": "RESERVATION_ALREADY_CANCELLED",
        "EXPIRED": "RESERVATION_EXPIRED",
        "REFUNDED": "ALREADY_REFUNDED",
    },
    "Extend": {
        "HELD": "HELD",
        "CONFIRMED": "RESERVATION_ALREADY_CONFIRMED",
        "CANCELLED": "RESERVATION_ALREADY_CANCELLED",
        "EXPIRED": "RESERVATION_EXPIRED",
        "REFUNDED": "ALREADY_REFUNDED",
    },
    "Refund": {
        "HELD": "RESERVATION_NOT_CONFIRMED",
        "CONFIRMED": "REFUNDED",
        "CANCELLED": "RESERVATION_NOT_CONFIRMED",
        "EXPIRED": "RESERVATION_NOT_CONFIRMED",
        "REFUNDED": "ALREADY_REFUNDED",
    },
}


async def _bring(service: Harness, state: str, *, swept: bool) -> reservation_pb2.Reservation:
    """A reservation of 2 beds in this state."""
    rpc = service.reservations
    held = await service.reserve({"bed": 2}, ttl=Duration(seconds=60))
    target: dict[str, Any] = {"reservation_id": held.reservation_id}
    if state in ("CONFIRMED", "REFUNDED"):
        await rpc.Confirm(pb.ConfirmRequest(**target, order_id="order-1"))
    if state == "REFUNDED":
        await rpc.Refund(pb.RefundRequest(**target))
    if state == "CANCELLED":
        await rpc.Cancel(pb.CancelRequest(**target))
    if state == "EXPIRED":
        service.clock.advance(timedelta(seconds=61))
        if swept:
            await service.sweep()
    return await service.get(held.reservation_id)


def _call(service: Harness, rpc: str, reservation_id: str) -> Awaitable[Any]:
    calls: dict[str, Callable[[], Awaitable[Any]]] = {
        # Another order, so that Confirm on CONFIRMED is not the caller's own call again.
        "Confirm": lambda: service.reservations.Confirm(
            pb.ConfirmRequest(reservation_id=reservation_id, order_id="order-2")
        ),
        "Cancel": lambda: service.reservations.Cancel(pb.CancelRequest(reservation_id=reservation_id)),
        "Extend": lambda: service.reservations.Extend(pb.ExtendRequest(reservation_id=reservation_id)),
        "Refund": lambda: service.reservations.Refund(pb.RefundRequest(reservation_id=reservation_id)),
    }
    return calls[rpc]()


CASES = [(rpc, state, False) for rpc, row in EXPECTED.items() for state in row]
CASES += [(rpc, "EXPIRED", True) for rpc in EXPECTED]


@pytest.mark.parametrize(("rpc", "state", "swept"), CASES)
async def test_each_change_in_each_state_answers_as_the_table_says(
    service: Harness, rpc: str, state: str, swept: bool
) -> None:
    await service.create_item("bed", 5)
    before = await _bring(service, state, swept=swept)
    assert State.Name(before.state) == f"STATE_{state}"
    item = await service.item("bed")
    expected = EXPECTED[rpc][state]
    if expected in ("CONFIRMED", "CANCELLED", "HELD", "REFUNDED"):
        answer = await _call(service, rpc, before.reservation_id)
        assert not answer.replayed
        assert State.Name(answer.reservation.state) == f"STATE_{expected}"
        assert answer.reservation == await service.get(before.reservation_id)
        assert answer.reservation.revision == before.revision + 1
    else:
        refusal = await refused(_call(service, rpc, before.reservation_id))
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.FAILED_PRECONDITION, expected)
        assert refusal.metadata["state"] == state
        assert refusal.metadata["reservation_id"] == before.reservation_id
        assert refusal.metadata.get("order_id", "") == before.order_id
        assert await service.get(before.reservation_id) == before
        assert await service.item("bed") == item
    await service.verify()


async def test_confirm_of_a_confirmed_one_with_the_same_order_or_none_is_answered_as_replayed(service: Harness) -> None:
    await service.create_item("bed", 5)
    sold = await _bring(service, "CONFIRMED", swept=False)
    line = {"sku": "bed", "quantity": 2}
    for fields in ({}, {"order_id": "order-1"}, {"lines": [line]}, {"order_id": "order-1", "lines": [line]}):
        answer = await service.reservations.Confirm(pb.ConfirmRequest(reservation_id=sold.reservation_id, **fields))
        assert answer.replayed
        assert answer.reservation == sold
    for fields in ({"lines": [{"sku": "bed", "quantity": 1}]}, {"order_id": "order-1", "lines": [line, line]}):
        refusal = await refused(
            service.reservations.Confirm(pb.ConfirmRequest(reservation_id=sold.reservation_id, **fields))
        )
        assert refusal.reason == "RESERVATION_ALREADY_CONFIRMED"
    assert (await service.item("bed")).confirmed == 2


async def test_confirm_of_a_partly_refunded_one_is_replayed_and_cancel_of_it_refused(service: Harness) -> None:
    await service.create_item("bed", 5)
    sold = await _bring(service, "CONFIRMED", swept=False)
    target: dict[str, Any] = {"reservation_id": sold.reservation_id}
    await service.reservations.Refund(pb.RefundRequest(**target, lines=[{"sku": "bed", "quantity": 1}]))
    answer = await service.reservations.Confirm(pb.ConfirmRequest(**target))
    assert answer.replayed
    assert answer.reservation.lines[0].refunded_quantity == 1
    refusal = await refused(service.reservations.Cancel(pb.CancelRequest(**target)))
    assert refusal.reason == "RESERVATION_ALREADY_CONFIRMED"
    assert (await service.item("bed")).remaining == 4
