"""The blocking client's logic, on a channel whose far end is the test: no server, no real time."""

import uuid
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import grpc
import grpc_testing
import pytest
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from holdsvc.client import Client, RetryPolicy, errors
from holdsvc.client.retries import Attempts, RetryBudget, shipped_policy
from inventoryhold.v1 import error_reason_pb2, inventory_service_pb2, reservation_pb2, reservation_service_pb2
from inventoryhold.v1 import reservation_service_pb2 as pb

RESERVATIONS = reservation_service_pb2.DESCRIPTOR.services_by_name["ReservationService"]
INVENTORY = inventory_service_pb2.DESCRIPTOR.services_by_name["InventoryService"]
HELD = pb.ReserveResponse(reservation={"reservation_id": "r1", "state": reservation_pb2.Reservation.STATE_HELD})


class FarEnd:
    """A client whose calls the test answers."""

    def __init__(self, policy: RetryPolicy | None = None) -> None:
        self.channel = grpc_testing.channel([RESERVATIONS, INVENTORY], grpc_testing.strict_real_time())
        self.pauses: list[float] = []
        self.client = Client(channel=self.channel, api_key="k", retry_policy=policy, sleep=self.pauses.append)
        self._threads = ThreadPoolExecutor(1)

    def start(self, work: Any) -> "Future[Any]":
        """Runs something of the client in a thread."""
        return self._threads.submit(work)

    def take(self, method: str) -> tuple[Any, Any, Any]:
        """The next call of a method: its metadata, request and rpc."""
        service, _, name = method.rpartition(".")
        descriptor = (RESERVATIONS if service == "ReservationService" else INVENTORY).methods_by_name[name]
        return self.channel.take_unary_unary(descriptor)  # type: ignore[no-any-return]

    def close(self) -> None:
        self._threads.shutdown()


@pytest.fixture
def far_end() -> Iterator[FarEnd]:
    end = FarEnd()
    yield end
    end.close()


def ok(rpc: Any, response: Message) -> None:
    rpc.send_initial_metadata(())
    rpc.terminate(response, (), grpc.StatusCode.OK, "")


def fail(rpc: Any, code: grpc.StatusCode, reason: str = "", retry_after_s: float | None = None) -> None:
    rpc.send_initial_metadata(())
    rpc.terminate(None, details(reason, retry_after_s) if reason else (), code, "no")


def details(reason: str, retry_after_s: float | None = None) -> tuple[tuple[str, bytes], ...]:
    found: list[Message] = [
        error_details_pb2.ErrorInfo(reason=reason, domain="holdsvc", metadata={"state": "EXPIRED"}),
        error_reason_pb2.CapacityShortfall(lines=[{"sku": "seat", "requested": 2, "available": 1, "shortfall": 1}]),
    ]
    if retry_after_s is not None:
        delay = duration_pb2.Duration()
        delay.FromMilliseconds(int(retry_after_s * 1000))
        found.append(error_details_pb2.RetryInfo(retry_delay=delay))
    status = status_pb2.Status()
    for detail in found:
        packed: any_pb2.Any = status.details.add()
        packed.Pack(detail)
    return (("grpc-status-details-bin", status.SerializeToString()),)


def test_a_retry_has_the_request_id_that_the_client_made(far_end: FarEnd) -> None:
    call = far_end.start(lambda: far_end.client.reserve({"seat": 1}))
    metadata, first, rpc = far_end.take("ReservationService.Reserve")
    assert ("x-api-key", "k") in metadata
    assert uuid.UUID(first.request_id).version == 4
    assert str(uuid.UUID(first.request_id)) == first.request_id
    fail(rpc, grpc.StatusCode.UNAVAILABLE)
    _, second, rpc = far_end.take("ReservationService.Reserve")
    assert second == first
    ok(rpc, HELD)
    assert call.result().reservation_id == "r1"


def test_two_calls_with_one_message_are_two_calls(far_end: FarEnd) -> None:
    request = pb.ReserveRequest(lines=[{"sku": "seat", "quantity": 1}])
    ids = set()
    for _ in range(2):
        call = far_end.start(lambda: far_end.client.reservations.Reserve(request))
        _, sent, rpc = far_end.take("ReservationService.Reserve")
        ids.add(sent.request_id)
        ok(rpc, HELD)
        call.result()
    assert len(ids) == 2
    assert request.request_id == ""


def test_each_entry_of_a_batch_gets_a_request_id(far_end: FarEnd) -> None:
    request = pb.BatchReserveRequest(requests=[pb.ReserveRequest(), pb.ReserveRequest(request_id="mine")])
    call = far_end.start(lambda: far_end.client.reservations.BatchReserve(request))
    _, sent, rpc = far_end.take("ReservationService.BatchReserve")
    assert len(sent.requests[0].request_id) == 36
    assert sent.requests[1].request_id == "mine"
    ok(rpc, pb.BatchReserveResponse())
    call.result()


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (grpc.StatusCode.FAILED_PRECONDITION, "CAPACITY_EXCEEDED"),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED"),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "RATE_LIMITED"),
        (grpc.StatusCode.UNKNOWN, "OUTCOME_UNKNOWN"),
        (grpc.StatusCode.INTERNAL, "INTERNAL"),
        (grpc.StatusCode.DEADLINE_EXCEEDED, ""),
    ],
)
def test_an_answer_is_never_retried(far_end: FarEnd, code: grpc.StatusCode, reason: str) -> None:
    call = far_end.start(lambda: far_end.client.reserve({"seat": 1}))
    fail(far_end.take("ReservationService.Reserve")[2], code, reason)
    error = call.exception()
    assert type(error) is errors.BY_REASON.get(reason, errors.CallError)
    assert error.code is code
    assert far_end.pauses == []


def test_a_change_without_a_request_id_is_retried_only_when_the_service_says_that_nothing_ran(far_end: FarEnd) -> None:
    request = inventory_service_pb2.CreateItemRequest(item={"sku": "seat", "capacity": 1})
    call = far_end.start(lambda: far_end.client.inventory.CreateItem(request))
    fail(far_end.take("InventoryService.CreateItem")[2], grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN")
    fail(far_end.take("InventoryService.CreateItem")[2], grpc.StatusCode.UNAVAILABLE)
    assert isinstance(call.exception(), errors.CallError)
    assert len(far_end.pauses) == 1


def test_the_pause_is_at_least_what_the_service_asks_for(far_end: FarEnd) -> None:
    call = far_end.start(lambda: far_end.client.reserve({"seat": 1}))
    fail(far_end.take("ReservationService.Reserve")[2], grpc.StatusCode.UNAVAILABLE, "DATABASE_UNAVAILABLE", 1.5)
    ok(far_end.take("ReservationService.Reserve")[2], HELD)
    call.result()
    assert 1.5 <= far_end.pauses[0] <= 1.6


def test_pauses_grow_and_vary() -> None:
    policy = shipped_policy()
    assert [policy.pause_max_s(attempt) for attempt in (1, 2, 3, 6, 100)] == [0.1, 0.2, 0.4, 2.0, 2.0]


def test_no_retry_begins_that_could_not_end_by_the_deadline(far_end: FarEnd) -> None:
    request = pb.ReserveRequest(lines=[{"sku": "seat", "quantity": 1}])
    call = far_end.start(lambda: far_end.client.reservations.Reserve(request, timeout=1.0))
    fail(far_end.take("ReservationService.Reserve")[2], grpc.StatusCode.UNAVAILABLE, "DATABASE_UNAVAILABLE", 1.0)
    assert isinstance(call.exception(), errors.DatabaseUnavailable)
    assert far_end.pauses == []


def test_the_budget_stops_retries_while_nothing_succeeds() -> None:
    end = FarEnd(RetryPolicy(budget_tokens_max=10, safe_methods=shipped_policy().safe_methods))
    call = end.start(lambda: end.client.reserve({"seat": 1}))
    # The fifth failure leaves half of the tokens: the call ends there.
    for _ in range(5):
        fail(end.take("ReservationService.Reserve")[2], grpc.StatusCode.UNAVAILABLE, "DATABASE_UNAVAILABLE")
    assert isinstance(call.exception(), errors.DatabaseUnavailable)
    end.close()


def attempts(budget: RetryBudget) -> Attempts:
    return Attempts(shipped_policy(), budget, safe=True, timeout_s=30.0)


def test_a_stopping_server_costs_nothing_of_the_budget() -> None:
    budget = RetryBudget(10, 0.1)
    stopping = errors.ShuttingDown(grpc.StatusCode.UNAVAILABLE, "stops", reason="SHUTTING_DOWN")
    for _ in range(1000):
        assert attempts(budget).pause_s(stopping) is not None
    assert budget.failed()


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED])
def test_the_first_connection_that_a_call_loses_costs_nothing_of_the_budget(code: grpc.StatusCode) -> None:
    budget = RetryBudget(10, 0.1)
    lost = errors.CallError(code, "Socket closed")
    calls = [attempts(budget) for _ in range(300)]
    assert all(call.pause_s(lost) is not None for call in calls)
    # The second one does: a service that keeps breaking connections is left alone.
    assert sum(call.pause_s(lost) is not None for call in calls) == 4


def test_an_error_has_its_reason_metadata_and_details(far_end: FarEnd) -> None:
    call = far_end.start(lambda: far_end.client.reserve({"seat": 2}))
    fail(far_end.take("ReservationService.Reserve")[2], grpc.StatusCode.FAILED_PRECONDITION, "CAPACITY_EXCEEDED")
    error = call.exception()
    assert isinstance(error, errors.CapacityExceeded)
    assert error.metadata == {"state": "EXPIRED"}
    assert [(line.sku, line.shortfall) for line in error.shortfall] == [("seat", 1)]


def test_every_reason_of_the_contract_has_its_exception() -> None:
    reasons = {name.removeprefix("ERROR_REASON_") for name, _ in error_reason_pb2.ErrorReason.items()} - {"UNSPECIFIED"}
    assert set(errors.BY_REASON) == reasons


def test_a_hold_is_cancelled_when_its_block_raises(far_end: FarEnd) -> None:
    def work() -> None:
        with far_end.client.hold({"seat": 1}):
            raise KeyError("payment")

    call = far_end.start(work)
    ok(far_end.take("ReservationService.Reserve")[2], HELD)
    _, cancel, rpc = far_end.take("ReservationService.Cancel")
    assert cancel.reservation_id == "r1"
    ok(rpc, pb.CancelResponse())
    assert isinstance(call.exception(), KeyError)


def test_the_blocks_own_error_is_raised_also_when_the_cancel_fails(far_end: FarEnd) -> None:
    def work() -> None:
        with far_end.client.hold({"seat": 1}):
            raise KeyError("payment")

    call = far_end.start(work)
    ok(far_end.take("ReservationService.Reserve")[2], HELD)
    fail(far_end.take("ReservationService.Cancel")[2], grpc.StatusCode.FAILED_PRECONDITION, "RESERVATION_EXPIRED")
    assert isinstance(call.exception(), KeyError)


def test_a_confirmed_hold_stays_sold_when_its_block_raises(far_end: FarEnd) -> None:
    def work() -> None:
        with far_end.client.hold({"seat": 1}) as hold:
            hold.confirm(order_id="o1")
            raise KeyError("e-mail")

    call = far_end.start(work)
    ok(far_end.take("ReservationService.Reserve")[2], HELD)
    _, confirm, rpc = far_end.take("ReservationService.Confirm")
    assert (confirm.reservation_id, confirm.order_id) == ("r1", "o1")
    ok(rpc, pb.ConfirmResponse(reservation={"state": reservation_pb2.Reservation.STATE_CONFIRMED}))
    assert isinstance(call.exception(), KeyError)


def test_the_shipped_policy_leaves_out_changes_without_a_request_id() -> None:
    policy = shipped_policy()
    assert policy.is_safe("/inventoryhold.v1.ReservationService/Reserve")
    assert policy.is_safe("/inventoryhold.v1.InventoryService/AdjustCapacity")
    for method in ("CreateItem", "BatchCreateItems", "UpdateItem", "DeleteItem"):
        assert not policy.is_safe(f"/inventoryhold.v1.InventoryService/{method}")
    assert not policy.is_safe("/inventoryhold.v1.AdminService/CreateApiKey")


@pytest.mark.parametrize("lines", [{}, []])
def test_empty_lines_mean_nothing_and_are_refused_before_anything_is_sent(far_end: FarEnd, lines: Any) -> None:
    for call in (far_end.client.confirm, far_end.client.refund):
        with pytest.raises(errors.InvalidField) as caught:
            call("r1", lines=lines)
        assert "names no units" in caught.value.violations["lines"]


@pytest.mark.parametrize("seconds", [5, 5.0, timedelta(seconds=5)])
def test_durations_are_timedeltas_or_seconds(far_end: FarEnd, seconds: Any) -> None:
    call = far_end.start(lambda: far_end.client.reserve({"seat": 1}, ttl=seconds, duplicate_window=seconds, holder="a"))
    _, request, rpc = far_end.take("ReservationService.Reserve")
    assert (request.ttl.seconds, request.duplicate_window.seconds) == (5, 5)
    ok(rpc, HELD)
    call.result()
    call = far_end.start(lambda: far_end.client.extend("r1", seconds))
    _, request, rpc = far_end.take("ReservationService.Extend")
    assert request.ttl.seconds == 5
    ok(rpc, pb.ExtendResponse())
    call.result()


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED])
def test_a_stream_that_its_server_ends_is_opened_again(far_end: FarEnd, code: grpc.StatusCode) -> None:
    watch = INVENTORY.methods_by_name["WatchInventory"]
    messages = far_end.client.watch_inventory(inventory_service_pb2.WatchInventoryRequest())
    first = far_end.start(lambda: next(messages))
    _, _, rpc = far_end.channel.take_unary_stream(watch)
    rpc.send_initial_metadata(())
    rpc.terminate((), code, "no")
    _, _, rpc = far_end.channel.take_unary_stream(watch)
    rpc.send_response(inventory_service_pb2.WatchInventoryResponse(snapshot_complete=True))
    assert first.result(10).snapshot_complete
    assert len(far_end.pauses) == 1
