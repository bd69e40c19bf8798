"""Many callers, little stock: never more than there is, and all of it."""

import asyncio
import itertools
import random
from collections.abc import Sequence

import grpc
import pytest

from holdsvc.telemetry import metrics
from inventoryhold.v1 import reservation_service_pb2 as pb
from inventoryhold.v1 import reservation_service_pb2_grpc as stubs
from tests.support.harness import Harness, Refusal, StartService, refusal_of, refused

CHANNELS = 4


async def attempt(
    stub: "stubs.ReservationServiceAsyncStub", request: pb.ReserveRequest
) -> pb.ReserveResponse | Refusal:
    try:
        return await stub.Reserve(request)
    except grpc.RpcError as error:
        return refusal_of(error)


async def reserve_all(services: Sequence[Harness], quantities: Sequence[int]) -> list[int]:
    """Reserves every quantity of the item `ticket` at once, over several channels; returns those that were taken."""
    channels = [service.new_channel() for service in services for _ in range(CHANNELS)]
    callers = itertools.cycle([stubs.ReservationServiceStub(channel) for channel in channels])
    requests = [pb.ReserveRequest(lines=[{"sku": "ticket", "quantity": quantity}]) for quantity in quantities]
    answers = await asyncio.gather(
        *(attempt(caller, request) for caller, request in zip(callers, requests, strict=False))
    )
    await asyncio.gather(*(channel.close() for channel in channels))
    taken, short = [], []
    for quantity, answer in zip(quantities, answers, strict=True):
        if isinstance(answer, Refusal):
            assert answer.reason == "CAPACITY_EXCEEDED", answer
            [line] = answer.details["CapacityShortfall"].lines
            assert line.requested == quantity
            assert line.available + line.shortfall == quantity
            assert line.shortfall > 0
            short.append(quantity)
        else:
            taken.append(quantity)
    left = (await services[0].item("ticket")).remaining
    # What is left grows never: who was refused would not fit now either.
    assert not short or left < min(short)
    return taken


@pytest.mark.parametrize("service_count", [1, 2])
@pytest.mark.parametrize("calls", [100, 1000])
async def test_concurrent_reserves_take_all_that_fits_and_never_more(
    start_service: StartService, calls: int, service_count: int
) -> None:
    services = [await start_service() for _ in range(service_count)]
    random.seed(calls)
    quantities = [random.randint(1, 7) for _ in range(calls)]
    capacity = sum(quantities) // 2
    await services[0].create_item("ticket", capacity)
    taken = await reserve_all(services, quantities)
    item = await services[0].item("ticket")
    assert item.held == sum(taken) == capacity - item.remaining
    assert item.remaining == 0, "there were enough calls for one unit to take the last ones"
    assert services[0].sql("SELECT count(*) FROM holdsvc.reservation") == [(len(taken),)]
    await services[0].verify()


async def test_concurrent_reserves_stop_at_the_oversell_limit(start_service: StartService) -> None:
    services = [await start_service() for _ in range(2)]
    await services[0].create_item("ticket", 20, oversell_limit=5)
    taken = await reserve_all(services, [1] * 100)
    assert sum(taken) == 25
    assert (await services[0].item("ticket")).remaining == -5
    await services[0].verify()


async def test_two_lines_on_one_item_are_added_up_before_the_check(service: Harness) -> None:
    await service.create_item("ticket", 5)
    lines = [("ticket", "", 3), ("ticket", "", 3)]
    refusal = await refused(service.reserve(lines))
    assert refusal.reason == "CAPACITY_EXCEEDED"
    [short] = refusal.details["CapacityShortfall"].lines
    assert (short.requested, short.available, short.shortfall) == (6, 5, 1)
    held = await service.reserve([("ticket", "", 3), ("ticket", "", 2)])
    assert [(line.sku, line.quantity) for line in held.lines] == [("ticket", 5)]
    assert (await service.item("ticket")).remaining == 0
    await service.verify()


def deadlocks(service: Harness) -> int:
    """Deadlocks that the database has counted. Sessions tell their count at their end."""
    service.sql(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
        " WHERE datname = current_database() AND application_name = 'holdsvc'"
    )
    [(count,)] = service.sql("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
    return int(count)


def conflicts() -> float:
    """Batches that the database undid, so far in this process."""
    return sum(
        sample.value
        for metric in metrics.RETRIES.collect()
        for sample in metric.samples
        if sample.name.endswith("_total") and sample.labels["why"] == "conflict"
    )


async def test_unsorted_multi_line_holds_from_many_callers_never_deadlock(start_service: StartService) -> None:
    services = [await start_service(batch_max=20) for _ in range(2)]
    skus = [f"item-{number}" for number in range(12)]
    for sku in skus:
        await services[0].create_item(sku, 1_000)
    before = conflicts()
    random.seed(7)

    async def walk(service: Harness, number: int) -> None:
        chosen = random.sample(skus, 5)
        held = await service.reserve({sku: random.randint(1, 3) for sku in chosen})
        if number % 3 == 0:
            await service.reservations.Confirm(pb.ConfirmRequest(reservation_id=held.reservation_id))
            await service.reservations.Refund(pb.RefundRequest(reservation_id=held.reservation_id))
        elif number % 3 == 1:
            await service.reservations.Cancel(pb.CancelRequest(reservation_id=held.reservation_id))

    await asyncio.gather(*(walk(services[number % 2], number) for number in range(300)))
    assert conflicts() == before
    await services[0].verify()
    assert deadlocks(services[0]) == 0
