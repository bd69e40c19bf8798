"""Clients that give up early: their change happened once or not at all, and the same request_id tells which."""

import asyncio
import gc
import logging
import random
from collections import Counter
from collections.abc import Callable
from types import TracebackType
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message
from prometheus_client import Counter as Metric

from holdsvc.telemetry import metrics
from inventoryhold.v1 import inventory_service_pb2 as inventory
from inventoryhold.v1 import reservation_pb2
from inventoryhold.v1 import reservation_service_pb2 as pb
from tests.support import sessions
from tests.support.harness import Harness, StartService, outcome, refusal_of
from tests.support.polling import until

CALLS = 300

# The server refuses what it cannot answer in time (OVERLOADED).
GIVEN_UP = {
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
}


async def hurried(call: Any, request: Message) -> Any:
    """The answer, when it came within 1 to 50 ms, else None."""
    try:
        return await call(request, timeout=random.uniform(0.001, 0.050))
    except grpc.aio.AioRpcError as error:
        if error.code() in GIVEN_UP:
            return None
        raise


async def load(service: Harness, stop: asyncio.Event) -> None:
    """Calls without pause that keep the lane and the item busy."""
    while not stop.is_set():
        await asyncio.gather(*(service.reserve({"busy": 1}) for _ in range(50)))


async def test_after_a_short_deadline_the_request_id_tells_whether_it_was_done(
    start_service: StartService,
) -> None:
    services = [await start_service(batch_max=25) for _ in range(2)]
    one, other = services
    await one.create_item("busy", 1_000_000)
    await one.create_item("ticket", CALLS * 2)
    random.seed(50)
    reserves = [
        pb.ReserveRequest(
            request_id=f"reserve-{number}", lines=[{"sku": "ticket", "quantity": 2}, {"sku": "busy", "quantity": 1}]
        )
        for number in range(CALLS)
    ]
    stop = asyncio.Event()
    pressure = asyncio.gather(*(load(service, stop) for service in services))
    first = await asyncio.gather(*(hurried(services[n % 2].reservations.Reserve, reserves[n]) for n in range(CALLS)))
    # The other service answers the same as the one that was asked first would.
    second = await asyncio.gather(*(services[n % 2 - 1].reservations.Reserve(reserves[n]) for n in range(CALLS)))
    for early, answer in zip(first, second, strict=True):
        assert early is None or (answer.replayed and answer.reservation == early.reservation)
    assert any(early is None for early in first)
    assert one.sql("SELECT count(*) FROM holdsvc.event WHERE request_id LIKE 'reserve-%%'") == [(CALLS,)]
    assert (await other.item("ticket")).held == CALLS * 2

    confirms = [
        pb.ConfirmRequest(request_id=f"confirm-{number}", reservation_id=answer.reservation.reservation_id)
        for number, answer in enumerate(second)
    ]
    early_confirms = await asyncio.gather(
        *(hurried(services[n % 2].reservations.Confirm, confirms[n]) for n in range(CALLS))
    )
    late_confirms = await asyncio.gather(*(services[n % 2 - 1].reservations.Confirm(confirms[n]) for n in range(CALLS)))
    stop.set()
    await pressure
    for early, confirmed in zip(early_confirms, late_confirms, strict=True):
        assert confirmed.reservation.state == reservation_pb2.Reservation.STATE_CONFIRMED
        assert early is None or early.reservation.order_id == confirmed.reservation.order_id
    assert (await one.item("ticket")).confirmed == CALLS * 2
    assert one.sql("SELECT count(*) FROM holdsvc.sales_order") == [(CALLS,)]
    await one.verify()


def reserves_of(counter: Metric) -> float:
    """What has been counted of Reserve, in all services of this process."""
    return sum(
        sample.value
        for metric in counter.collect()
        for sample in metric.samples
        if sample.name.endswith("_total") and sample.labels["grpc_method"] == "Reserve"
    )


def under_way() -> float:
    """Calls of Reserve that have arrived and are not answered."""
    return reserves_of(metrics.CALLS_STARTED) - reserves_of(metrics.CALLS_HANDLED)


async def test_a_reserve_whose_deadline_passed_while_it_waited_takes_nothing(
    start_service: StartService, monkeypatch: pytest.MonkeyPatch
) -> None:
    # On a machine that stalls the batch would give up on the item before the callers leave, and the next one take them.
    monkeypatch.setattr("holdsvc.engine.lane.BATCH_LOCK_WAIT_S", 10.0)
    service = await start_service()
    await service.create_item("ticket", 10)
    before, arrived_before = under_way(), reserves_of(metrics.CALLS_STARTED)
    with sessions.transaction(service.owner_dsn) as lock:
        lock.execute("SELECT 1 FROM holdsvc.item FOR UPDATE")
        running = asyncio.ensure_future(service.reserve({"ticket": 1}))
        await sessions.until_blocked(service.owner_dsn)
        # These wait for the batch that the lock holds; by its end their callers have gone.
        request = pb.ReserveRequest(lines=[{"sku": "ticket", "quantity": 1}])
        # Long enough for each to arrive: one that came after the lock had gone would be served.
        calls = [service.reservations.Reserve(request, timeout=1) for _ in range(20)]
        late = await asyncio.gather(*(outcome(call) for call in calls))
        assert set(late) <= {"DEADLINE_EXCEEDED", "CANCELLED", "OVERLOADED"}
        await until(lambda: reserves_of(metrics.CALLS_STARTED) >= arrived_before + 21)
        # Their cancels must have come before the lock goes, or they would be served in time by the service's clock.
        await until(lambda: under_way() <= before + 1)
    await running
    await service.reserve({"ticket": 1})
    assert (await service.item("ticket")).held == 2
    await service.verify()


def arrived() -> int:
    """Calls of GetItem that have reached the service."""
    return sum(
        int(sample.value)
        for metric in metrics.CALLS_STARTED.collect()
        for sample in metric.samples
        if sample.name.endswith("_total") and sample.labels["grpc_method"] == "GetItem"
    )


def handled() -> Counter[str]:
    """Calls that were answered, by code."""
    codes: Counter[str] = Counter()
    for metric in metrics.CALLS_HANDLED.collect():
        for sample in metric.samples:
            if sample.name.endswith("_total") and sample.labels["grpc_method"] in ("Reserve", "GetItem", "UpdateItem"):
                codes[sample.labels["grpc_code"]] += int(sample.value)
    return codes


@pytest.mark.parametrize("rpc", ["Reserve", "GetItem", "UpdateItem"])
async def test_deadlines_of_callers_that_pass_are_no_failures_of_the_service(service: Harness, rpc: str) -> None:
    await service.create_item("ticket", 1_000_000)
    calls: dict[str, Callable[[], Any]] = {
        "Reserve": lambda: service.reservations.Reserve(
            pb.ReserveRequest(lines=[{"sku": "ticket", "quantity": 1}]), timeout=0.001
        ),
        "GetItem": lambda: service.inventory.GetItem(inventory.GetItemRequest(sku="ticket"), timeout=0.001),
        "UpdateItem": lambda: service.inventory.UpdateItem(
            inventory.UpdateItemRequest(
                item={"sku": "ticket", "display_name": "x"}, update_mask={"paths": ["display_name"]}
            ),
            timeout=0.001,
        ),
    }
    before = handled()
    answers = await asyncio.gather(*(calls[rpc]() for _ in range(CALLS)), return_exceptions=True)
    codes = {answer.code() for answer in answers if isinstance(answer, grpc.aio.AioRpcError)}
    assert codes == {grpc.StatusCode.DEADLINE_EXCEEDED}
    assert set(handled() - before) <= {"OK", "DeadlineExceeded", "Cancelled", "ResourceExhausted"}


@pytest.mark.parametrize("own", [True, False])
async def test_a_deadline_that_passes_in_the_database_is_told_from_an_outage(
    start_service: StartService, own: bool
) -> None:
    service = await start_service(default_deadline="300ms")
    await service.create_item("ticket", 10)
    before = handled()
    with sessions.transaction(service.owner_dsn) as lock:
        lock.execute("SELECT 1 FROM holdsvc.item FOR UPDATE")
        request = pb.ReserveRequest(lines=[{"sku": "ticket", "quantity": 1}])
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await service.reservations.Reserve(request, timeout=0.3 if own else None)
    expected = grpc.StatusCode.DEADLINE_EXCEEDED if own else grpc.StatusCode.UNKNOWN
    assert raised.value.code() is expected
    if not own:
        assert refusal_of(raised.value).metadata == {"cause": "DEADLINE_EXCEEDED"}
    await until(lambda: handled() - before)
    codes = set(handled() - before)
    assert codes <= ({"DeadlineExceeded", "Cancelled"} if own else {"Unknown"})


async def test_reads_that_are_given_up_leave_no_errors_in_the_log_and_nothing_to_collect(
    service: Harness, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A machine that stalls for longer than this lets a refusal meet the end of its call.
    monkeypatch.setattr("holdsvc.engine.engine.CALLERS_OWN_S", 60.0)
    monkeypatch.setattr("holdsvc.api.calls.CALLERS_OWN_S", 60.0)
    await service.create_item("ticket", 10)
    before = arrived(), handled()
    gc.collect()
    with sessions.transaction(service.owner_dsn) as lock:
        lock.execute("LOCK TABLE holdsvc.item")
        gc.set_debug(gc.DEBUG_SAVEALL)
        try:
            answers = await asyncio.gather(
                *(service.inventory.GetItem(inventory.GetItemRequest(sku="ticket"), timeout=0.1) for _ in range(CALLS)),
                return_exceptions=True,
            )
            assert all(isinstance(answer, grpc.aio.AioRpcError) for answer in answers)
            await until(lambda: arrived() - before[0] == sum((handled() - before[1]).values()) > 0)
            await asyncio.sleep(0)
            answers.clear()
            gc.collect()
        finally:
            gc.set_debug(0)
            left = [each for each in gc.garbage if isinstance(each, TracebackType)]
            gc.garbage.clear()
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert not left
