"""Work is bounded before it is done: no request, valid or not, keeps the loop from other calls."""

import asyncio
import gc
import threading
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple, Self

import grpc
import psutil
import pytest
from google.protobuf.descriptor import MethodDescriptor

from holdsvc.api import bounds
from holdsvc.api.services import SERVICES
from holdsvc.api.turns import Turns
from inventoryhold.v1 import inventory_service_pb2 as inventory
from inventoryhold.v1 import reservation_service_pb2 as pb
from tests.contract.worst_requests import Part, delimited, messages_of, parts_of, worst_requests
from tests.support.harness import Harness, refused
from tests.support.lag import Lag

LOOP_S_MAX = 0.05
MEMORY_MAX = 64 * 1024 * 1024
TRIES = 3
"""A thread that is interrupted by others is charged for cold caches: a request that costs too much among the others is
tried alone, and the best of these tries counts."""

LARGE, SMALL = 4_194_000, bounds.UNCOUNTED_BYTES
"""A request of the one size is counted on the wire and refused, one of the other is parsed at once."""

ANSWERS = {"OK", "INVALID_ARGUMENT", "NOT_FOUND", "ALREADY_EXISTS", "FAILED_PRECONDITION"}

METHODS = [method for service in SERVICES for method in service.methods]


def _known(method: MethodDescriptor, size: int) -> tuple[set[str | Part], set[Part]]:
    """Messages, and of what is counted parts, that earlier methods have tried; and the parts that a thousand had."""
    earlier = [other.input_type for other in METHODS[: METHODS.index(method)]]
    messages: set[str | Part] = set().union(*map(messages_of, earlier))
    parts = set().union(*map(parts_of, earlier))
    return (messages | parts if size == LARGE else messages), parts


class _Costs(NamedTuple):
    """How long a request kept the loop at most, and how much memory it took."""

    work_s: float
    memory: int

    @property
    def within(self) -> bool:
        """Whether it keeps the bounds."""
        return self.work_s <= LOOP_S_MAX and self.memory <= MEMORY_MAX


class _Memory:
    """The most memory that the process had since a request was sent, beyond what it had then."""

    def __enter__(self) -> Self:
        self._process = psutil.Process()
        self.next_request()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def next_request(self) -> None:
        self.most, self._start = 0, self._process.memory_info().rss

    def _watch(self) -> None:
        while not self._ended.wait(0.002):
            self.most = max(self.most, self._process.memory_info().rss - self._start)


async def _send(service: Harness, method: MethodDescriptor, *requests: bytes) -> list[str]:
    """The codes with which the service answers; of a stream the first message's.

    From a thread: what the caller does with 4 MB is no work of the service's loop.
    """
    return await asyncio.to_thread(_call, service.address, method, requests)


def _call(address: str, method: MethodDescriptor, requests: Iterable[bytes]) -> list[str]:
    path = f"/{method.containing_service.full_name}/{method.name}"
    codes = []
    channel: Any
    with grpc.insecure_channel(address) as channel:
        for data in requests:
            try:
                if method.server_streaming:
                    call = channel.unary_stream(path)(data, timeout=60)
                    next(call)
                    call.cancel()
                else:
                    channel.unary_unary(path)(data, timeout=60)
                codes.append("OK")
            except grpc.RpcError as error:
                codes.append(error.code().name)
    return codes


async def _costs(service: Harness, method: MethodDescriptor, requests: Iterable[bytes]) -> list[_Costs]:
    """The costs of each request, with those of the next one: what goes on after an answer counts too."""
    costs = []

    def told() -> Iterator[bytes]:
        for data in requests:
            memory.next_request()
            yield data
            work_s, lag.worst_work_s = lag.worst_work_s, 0.0
            costs.append(_Costs(work_s, memory.most))

    gc.collect()
    with _Memory() as memory:
        async with Lag(0.001) as lag:
            codes = await asyncio.to_thread(_call, service.address, method, told())
    costs.append(_Costs(lag.worst_work_s, memory.most))
    assert set(codes) <= ANSWERS
    return [_Costs(max(own.work_s, after.work_s), max(own.memory, after.memory)) for own, after in pairwise(costs)]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
async def test_no_request_of_any_rpc_keeps_the_loop_from_other_calls_or_takes_much_memory(
    service: Harness, method: MethodDescriptor
) -> None:
    for size in (LARGE, SMALL):
        requests = partial(worst_requests, method.input_type, size, *_known(method, size))
        together = await _costs(service, method, (data for _, data in requests()))
        for (name, data), costs in zip(requests(), together, strict=True):
            tries = [costs]
            while not tries[-1].within:
                assert len(tries) <= TRIES, (size, name, tries)
                tries += await _costs(service, method, [data])


async def test_the_largest_valid_batch_leaves_the_loop_to_other_calls(service: Harness) -> None:
    items = [{"sku": f"{number:03}", "capacity": 10**12} for number in range(100)]
    await service.inventory.BatchCreateItems(inventory.BatchCreateItemsRequest(items=items))
    entry = pb.ReserveRequest(
        lines=[{"sku": item["sku"], "quantity": 1} for item in items], holder="h" * 256, metadata={"k": "v" * 500}
    )
    request = pb.BatchReserveRequest(requests=[entry] * 1000)
    [method] = [method for method in METHODS if method.name == "BatchReserve"]
    async with Lag(0.001) as lag:
        assert await _send(service, method, request.SerializeToString()) == ["OK"]
    assert lag.worst_work_s <= 2 * LOOP_S_MAX
    await service.verify()


async def test_many_large_requests_at_once_cost_other_calls_no_more_than_one(service: Harness) -> None:
    [method] = [method for method in METHODS if method.name == "BatchReserve"]
    data = delimited(1, delimited(2, b"") * 100) * 1000
    async with Lag(0.001) as lag:
        await asyncio.gather(*(_send(service, method, data) for _ in range(5)))
    assert lag.worst_work_s <= LOOP_S_MAX


async def test_an_entry_with_too_many_lines_is_refused_alone_however_long_it_is(service: Harness) -> None:
    await service.create_item("bed", 10)
    good = pb.ReserveRequest(lines=[{"sku": "bed", "quantity": 1}]).SerializeToString()
    endless = delimited(2, b"") * 1_000_000
    crowded = b"".join(delimited(6, delimited(1, b"%d" % number)) for number in range(20_000))
    data = b"".join(delimited(1, entry) for entry in (good, endless, good, good + crowded, good))
    [method] = [method for method in METHODS if method.name == "BatchReserve"]
    channel: Any = service.channel
    path = f"/{method.containing_service.full_name}/BatchReserve"
    answer = pb.BatchReserveResponse.FromString(await channel.unary_unary(path)(data))
    told = [result.error.message or result.reservation.lines[0].sku for result in answer.results]
    assert told == ["bed", "invalid: lines; see the details", "bed", "invalid: metadata; see the details", "bed"]
    assert (await service.item("bed")).held == 3


async def test_an_entry_larger_than_any_valid_one_is_refused_alone(service: Harness) -> None:
    await service.create_item("bed", 10)
    good = pb.ReserveRequest(lines=[{"sku": "bed", "quantity": 1}]).SerializeToString()
    large = delimited(2, delimited(9, b"") * 10_000) * 100
    channel: Any = service.channel
    call = channel.unary_unary("/inventoryhold.v1.ReservationService/BatchReserve")
    answer = pb.BatchReserveResponse.FromString(await call(b"".join(delimited(1, e) for e in (good, large, good))))
    told = [result.error.message or result.reservation.lines[0].sku for result in answer.results]
    assert told == ["bed", "invalid: request; see the details", "bed"]


async def test_parts_of_a_single_field_are_as_large_together_as_one_may_be(service: Harness) -> None:
    channel: Any = service.channel
    for count in (100, 1000):
        data = delimited(5, delimited(9, b"") * 400) * count
        refusal = await refused(channel.unary_unary("/inventoryhold.v1.ReservationService/Reserve")(data))
        assert (refusal.reason, refusal.metadata["fields"]) == ("INVALID_FIELD", "ttl"), count


async def test_a_list_that_is_too_long_is_all_that_is_said_of_a_request(service: Harness) -> None:
    for count in (101, 50_000, 1_500_000):
        request = pb.ReserveRequest(request_id="x" * 129).SerializeToString() + delimited(2, b"") * count
        channel: Any = service.channel
        refusal = await refused(channel.unary_unary("/inventoryhold.v1.ReservationService/Reserve")(request))
        assert (refusal.reason, refusal.metadata["fields"]) == ("INVALID_FIELD", "lines"), count


async def test_a_field_mask_in_parts_is_counted_as_one(service: Harness) -> None:
    part = delimited(2, delimited(1, b"capacity") * 2)
    item = delimited(1, delimited(1, b"bed"))
    channel: Any = service.channel
    call = channel.unary_unary("/inventoryhold.v1.InventoryService/UpdateItem")(item + part * 10_000)
    refusal = await refused(call)
    assert (refusal.reason, refusal.metadata["fields"]) == ("INVALID_FIELD", "update_mask.paths")


async def test_counting_finds_what_parsing_finds_in_requests_within_the_limits() -> None:
    request = pb.BatchReserveRequest(
        requests=[
            pb.ReserveRequest(
                request_id=str(number),
                lines=[{"sku": f"{number}-{line}", "quantity": line} for line in range(1, 101)],
                metadata={str(key): "v" for key in range(32)},
                ttl={"seconds": number},
            )
            for number in range(1000)
        ]
    )
    data = request.SerializeToString()
    counted = await Turns().run(bounds.count(request.DESCRIPTOR, data, "requests"))
    assert not counted.violations
    assert not counted.entries
    assert len(counted.pieces) > 1
    assert await Turns().run(bounds.parse(pb.BatchReserveRequest, counted.pieces)) == request
