"""Calls that travel together: each keeps its own answer, error, deadline and cancellation."""

import asyncio
import itertools
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2

from holdsvc.client import AsyncClient, Client, errors
from holdsvc.client.coalescing import BYTES_MAX, ENTRIES_MAX, PAIRS, Done, Entry, Lane
from holdsvc.client.wire import AsyncWire, Wire
from inventoryhold.v1 import inventory_service_pb2, item_pb2, reservation_pb2
from inventoryhold.v1 import reservation_service_pb2 as pb
from inventoryhold.v1.reservation_service_pb2_grpc import (
    ReservationServiceServicer,
    add_ReservationServiceServicer_to_server,
)
from tests.support import sessions
from tests.support.harness import Harness, StartService
from tests.support.lag import Lag
from tests.support.polling import until
from tests.support.replica import Replica

HELD = reservation_pb2.Reservation.STATE_HELD


class Record(grpc.aio.UnaryUnaryClientInterceptor):
    """The calls that leave the client: method, metadata and request."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any, Any]] = []

    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        name = client_call_details.method
        name = (name.decode() if isinstance(name, bytes) else name).rpartition("/")[2]
        self.calls.append((name, client_call_details.metadata, request))
        return await continuation(client_call_details, request)

    @property
    def methods(self) -> Counter[str]:
        return Counter(name for name, _, _ in self.calls)

    @property
    def batches(self) -> list[bytes]:
        return [request for name, _, request in self.calls if name == "BatchReserve"]


@asynccontextmanager
async def recorded(address: str, **options: Any) -> AsyncIterator[tuple[AsyncClient, Record]]:
    record = Record()
    channel = grpc.aio.insecure_channel(address, interceptors=[record])
    async with AsyncClient(channel=channel, **options) as client:
        yield client, record


def request_of(sku: str = "seat", quantity: int = 1, **fields: Any) -> pb.ReserveRequest:
    return pb.ReserveRequest(lines=[item_pb2.ItemQuantity(sku=sku, quantity=quantity)], **fields)


EXPECTED = ("held", "ItemNotFound", "CapacityExceeded", "InvalidField")


def lines_of(number: int) -> dict[str, int]:
    return ({"seat": 1}, {f"missing-{number}": 1}, {"small": number + 10}, {})[number % 4]


def check(number: int, outcome: Any) -> None:
    """Whether an outcome is that of the caller with this number and of no other."""
    kind = EXPECTED[number % 4]
    if kind == "held":
        assert outcome.holder == f"holder-{number}"
        assert outcome.state == HELD
        return
    assert type(outcome).__name__ == kind, (number, outcome)
    if kind == "ItemNotFound":
        assert f"missing-{number}" in outcome.metadata.values()
    if kind == "CapacityExceeded":
        assert outcome.shortfall[0].requested == number + 10
    if kind == "InvalidField":
        assert list(outcome.violations) == ["lines"]


async def test_a_thousand_callers_with_mixed_outcomes_each_get_their_own(service: Harness) -> None:
    await service.create_item("seat", 1000)
    await service.create_item("small", 5)
    async with recorded(service.address) as (client, record):

        async def one(number: int) -> Any:
            return await client.reserve(lines_of(number), holder=f"holder-{number}")

        outcomes = await asyncio.gather(*(one(number) for number in range(1000)), return_exceptions=True)
        for number, outcome in enumerate(outcomes):
            check(number, outcome)
    assert sum(record.methods.values()) <= 5, record.methods
    assert (await service.item("seat")).held == 250
    await service.verify()


async def test_threads_share_batches_and_each_gets_its_own_outcome(service: Harness) -> None:
    await service.create_item("seat", 1000)
    await service.create_item("small", 5)

    def work() -> list[Any]:
        with Client(service.address) as client, ThreadPoolExecutor(100) as threads:

            def one(number: int) -> Any:
                try:
                    return client.reserve(lines_of(number), holder=f"holder-{number}")
                except errors.CallError as error:
                    return error

            return list(threads.map(one, range(1000)))

    for number, outcome in enumerate(await asyncio.to_thread(work)):
        check(number, outcome)
    assert (await service.item("seat")).held == 250
    calls = service.sql("SELECT count(DISTINCT occur_time) FROM holdsvc.event WHERE request_id IS NOT NULL")
    assert calls[0][0] < 200


async def test_threads_that_were_answered_together_travel_together_again(
    service: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    await service.create_item("seat", 1000)
    sent: list[int] = []
    dispatch = Lane._dispatch

    def recording(lane: Lane, entries: list[Entry]) -> None:
        sent.append(len(entries))
        dispatch(lane, entries)

    monkeypatch.setattr(Lane, "_dispatch", recording)

    def work() -> None:
        with Client(service.address) as client, ThreadPoolExecutor(10) as threads:
            list(threads.map(lambda _: [client.reserve({"seat": 1}) for _ in range(30)], range(10)))

    await asyncio.to_thread(work)
    assert (await service.item("seat")).held == 300
    # 5.5 to 7.7 calls a batch; 3.8 to 4.0 where the next batch is sent before the answered threads are awake.
    assert sum(sent) / len(sent) > 4.6, sent


def test_a_thread_that_does_not_wake_keeps_no_other_waiting() -> None:
    wire = Wire()
    first, asleep, next_one = (wire.promise() for _ in range(3))

    def send_the_next() -> None:
        wire.deliver([next_one], ["next"], then=lambda: None)

    wire.deliver([first, asleep], ["first", "never read"], then=send_the_next)
    assert wire.answer(first, 10) == "first"
    assert not next_one.done()
    assert wire.answer(next_one, 10) == "next"


async def test_a_lone_call_goes_alone(service: Harness) -> None:
    await service.create_item("seat", 10)
    async with recorded(service.address) as (client, record):
        for _ in range(5):
            await client.reserve({"seat": 1})
    assert record.methods == {"Reserve": 5}


async def test_coalescing_can_be_turned_off(service: Harness) -> None:
    await service.create_item("seat", 50)
    async with recorded(service.address, coalesce=False) as (client, record):
        await asyncio.gather(*(client.reserve({"seat": 1}) for _ in range(50)))
    assert record.methods == {"Reserve": 50}


async def test_calls_with_different_metadata_never_share_a_batch(service: Harness) -> None:
    await service.create_item("seat", 100)
    async with recorded(service.address) as (client, record):
        await asyncio.gather(
            *(
                client.reservations.Reserve(request_of(holder=name), metadata=(("x-test", name),))
                for name in ["ann", "ben"] * 30
            )
        )
    for name, metadata, data in record.calls:
        entries = pb.BatchReserveRequest.FromString(data).requests if name == "BatchReserve" else [data]
        assert {entry.holder for entry in entries} == {dict(metadata)["x-test"]}
    assert record.methods["BatchReserve"] == 2


async def test_a_batch_is_bounded_in_entries_and_bytes(service: Harness) -> None:
    await service.create_item("seat", 10_000)
    async with recorded(service.address) as (client, record):
        await asyncio.gather(*(client.reserve({"seat": 1}) for _ in range(1300)))
        counts = [len(pb.BatchReserveRequest.FromString(data).requests) for data in record.batches]
        assert max(counts) == ENTRIES_MAX
        assert sum(counts) + record.methods["Reserve"] == 1300
        record.calls.clear()
        large = {f"key-{number}": "x" * 512 for number in range(32)}
        await asyncio.gather(*(client.reserve({"seat": 1}, metadata=large) for _ in range(100)))
        assert len(record.batches) >= 2
        assert max(len(data) for data in record.batches) <= BYTES_MAX


async def test_each_call_of_a_batch_has_its_own_deadline(service: Harness, ledger_dsn: str) -> None:
    await service.create_item("seat", 10)
    async with recorded(service.address) as (client, record):
        with sessions.transaction(ledger_dsn) as other:
            other.execute("SELECT 1 FROM holdsvc.item WHERE sku = 'seat' FOR UPDATE")

            async def timed(timeout_s: float) -> tuple[grpc.StatusCode, float]:
                start = time.monotonic()
                with pytest.raises(errors.CallError) as caught:
                    await client.reservations.Reserve(request_of(), timeout=timeout_s)
                return caught.value.code, time.monotonic() - start

            patient = [asyncio.create_task(client.reserve({"seat": 1}, holder=f"h{number}")) for number in range(3)]
            hurried = [asyncio.create_task(timed(timeout_s)) for timeout_s in (0.3, 0.6)]
            async with Lag() as lag:
                ended = await asyncio.gather(*hurried)
            for timeout_s, (code, seconds) in zip((0.3, 0.6), ended, strict=True):
                assert code is grpc.StatusCode.DEADLINE_EXCEEDED
                assert timeout_s <= seconds < timeout_s + 0.3 + lag.worst_s
            assert not any(task.done() for task in patient)
            assert record.methods["BatchReserve"] == 1
            other.rollback()
        assert [held.holder for held in await asyncio.gather(*patient)] == ["h0", "h1", "h2"]
    # What the others took was given back behind them.
    assert (await service.item("seat")).held == 3


async def test_a_cancelled_call_harms_no_other_and_leaves_nothing_held(service: Harness, ledger_dsn: str) -> None:
    await service.create_item("seat", 10)
    async with recorded(service.address) as (client, record):
        with sessions.transaction(ledger_dsn) as other:
            other.execute("SELECT 1 FROM holdsvc.item WHERE sku = 'seat' FOR UPDATE")
            lone = asyncio.create_task(client.reserve({"seat": 1}))
            await sessions.until_blocked(ledger_dsn)
            shared = [asyncio.create_task(client.reserve({"seat": 1})) for _ in range(5)]
            while not record.batches:
                await asyncio.sleep(0)
            waiting = [asyncio.create_task(client.reserve({"seat": 1}, holder="waiting")) for _ in range(3)]
            await asyncio.sleep(0)
            for task in (shared[0], shared[3], waiting[1]):
                task.cancel()
            other.rollback()
        outcomes = await asyncio.gather(lone, *shared, *waiting, return_exceptions=True)
    cancelled = [isinstance(outcome, asyncio.CancelledError) for outcome in outcomes]
    assert cancelled == [False, True, False, False, True, False, False, True, False]
    assert (await service.item("seat")).held == 6
    # One that had not been sent never was.
    assert service.sql("SELECT count(*) FROM holdsvc.reservation WHERE holder = 'waiting'") == [(2,)]


async def test_a_killed_server_in_the_middle_leaves_each_acknowledged_call_once(
    tmp_path: Path, database_dsn: str
) -> None:
    replica = Replica(tmp_path, dsn=database_dsn)
    replica.start()
    try:
        async with AsyncClient(replica.address, timeout_s=60) as client:
            item = item_pb2.Item(sku="seat", capacity=1_000_000)
            await client.inventory.CreateItem(inventory_service_pb2.CreateItemRequest(item=item))
            answers: dict[str, list[str]] = {}
            stop = asyncio.Event()

            async def one(caller: int) -> None:
                number = 0
                while not stop.is_set():
                    request_id = f"{caller}-{number}"
                    held = await client.reserve({"seat": 1}, request_id=request_id)
                    answers.setdefault(request_id, []).append(held.reservation_id)
                    number += 1

            async def reach(count: int) -> None:
                await until(lambda: len(answers) >= count, timeout_s=90, pause_s=0.01)

            tasks = [asyncio.create_task(one(caller)) for caller in range(200)]
            await reach(2000)
            await asyncio.to_thread(replica.kill)
            await asyncio.to_thread(replica.start)
            await reach(len(answers) + 2000)
            stop.set()
            await asyncio.gather(*tasks)
        rows = sessions.sql_of(database_dsn)(
            "SELECT request_id, reservation_id::text FROM holdsvc.event WHERE request_id IS NOT NULL AND type = 1"
        )
        assert len(rows) == len(dict(rows)), "a request_id took effect twice"
        assert dict(rows) == {request_id: id_ for request_id, [id_] in answers.items()}
        [[held]] = sessions.sql_of(database_dsn)("SELECT held FROM holdsvc.item WHERE sku = 'seat'")
        assert held == len(answers)
    finally:
        replica.terminate()


async def test_a_forked_child_shares_calls_of_its_own(service: Harness) -> None:
    await service.create_item("seat", 100)
    script = f"""
import os
from concurrent.futures import ThreadPoolExecutor
from holdsvc.client import Client
client = Client({service.address!r})
def share():
    with ThreadPoolExecutor(20) as threads:
        list(threads.map(lambda _: client.reserve({{"seat": 1}}), range(20)))
share()
child = os.fork()
share()
os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) if child else 0)
"""
    environment = {**os.environ, "GRPC_ENABLE_FORK_SUPPORT": "1"}
    run = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", script], env=environment, timeout=30, check=False, capture_output=True
    )
    assert run.returncode == 0, run.stderr
    assert (await service.item("seat")).held == 60


Batch = Callable[[Sequence[pb.ReserveRequest]], list[pb.BatchReserveResult]]


class Answering(ReservationServiceServicer):
    """A service that answers every Reserve, and a BatchReserve as the test says."""

    def __init__(self, batch: Batch | None) -> None:
        self.alone = 0
        self.batches = 0
        self._batch = batch
        self.release = asyncio.Event()

    async def Reserve(self, request: pb.ReserveRequest, context: Any) -> pb.ReserveResponse:  # noqa: ARG002, N802
        self.alone += 1
        # The others wait in the client until there is something to share.
        await self.release.wait()
        return pb.ReserveResponse(reservation={"holder": request.holder, "reservation_id": "whole"})

    async def BatchReserve(self, request: pb.BatchReserveRequest, context: Any) -> pb.BatchReserveResponse:  # noqa: N802
        self.batches += 1
        self.release.set()
        if self._batch is None:
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, "unknown method")
            raise AssertionError("abort raises")
        return pb.BatchReserveResponse(results=self._batch(request.requests))


@asynccontextmanager
async def answering(batch: Batch | None = None) -> AsyncIterator[tuple[AsyncClient, Answering]]:
    servicer = Answering(batch)  # type: ignore[abstract]
    server = grpc.aio.server()
    add_ReservationServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with AsyncClient(f"127.0.0.1:{port}") as client:
        yield client, servicer
    await server.stop(0)


async def test_a_service_without_the_batch_is_called_alone_from_then_on() -> None:
    async with answering() as (client, servicer):
        for _ in range(2):
            held = await asyncio.gather(*(client.reserve({"seat": 1}, holder=f"h{n}") for n in range(20)))
            assert [one.holder for one in held] == [f"h{n}" for n in range(20)]
    assert (servicer.alone, servicer.batches) == (40, 1)


async def test_a_batch_that_the_service_does_not_take_is_asked_for_call_by_call(start_service: StartService) -> None:
    service = await start_service(max_message_bytes=65_536)
    await service.create_item("seat", 100)
    large = {f"key-{number}": "x" * 512 for number in range(16)}
    async with AsyncClient(service.address) as client:
        held = await asyncio.gather(*(client.reserve({"seat": 1}, holder=f"h{n}", metadata=large) for n in range(40)))
    assert [one.holder for one in held] == [f"h{n}" for n in range(40)]
    assert (await service.item("seat")).held == 40


def locked(entries: Sequence[pb.ReserveRequest], cause: str = "LOCK_WAIT") -> list[pb.BatchReserveResult]:
    results = [pb.BatchReserveResult(reservation={"holder": entry.holder}) for entry in entries]
    error = results[[entry.holder for entry in entries].index("locked")].error
    error.code, error.message = code_pb2.RESOURCE_EXHAUSTED, "the item stays locked"
    info = error_details_pb2.ErrorInfo(reason="OVERLOADED", domain="holdsvc", metadata={"cause": cause})
    error.details.add().Pack(info)
    return results


async def test_a_call_whose_item_stayed_locked_is_asked_for_again_alone() -> None:
    async with answering(locked) as (client, servicer):
        names = ["lone", "a", "locked", "b"]
        held = await asyncio.gather(*(client.reserve({"seat": 1}, holder=name) for name in names))
        assert [one.holder for one in held] == names
        assert [one.reservation_id for one in held] == ["whole", "", "whole", ""]
    assert (servicer.alone, servicer.batches) == (2, 1)


@pytest.mark.parametrize("cause", ["QUEUE_FULL", "POOL_EXHAUSTED", "CONFLICT"])
async def test_a_call_that_an_overloaded_service_refused_is_not_asked_for_again(cause: str) -> None:
    async with answering(lambda entries: locked(entries, cause)) as (client, servicer):
        calls = (client.reserve({"seat": 1}, holder=name) for name in ["lone", "a", "locked"])
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert isinstance(outcomes[2], errors.Overloaded)
    assert (servicer.alone, servicer.batches) == (1, 1)


async def test_calls_whose_batch_cannot_be_sent_or_read_fail_and_the_lane_goes_on() -> None:
    """With either wire: gRPC may raise on any thread, and what answers may be no holdsvc."""

    class Broken:
        async def __call__(self, *_: Any, **__: Any) -> bytes:
            raise OverflowError

        def future(self, *_: Any, **__: Any) -> Any:
            raise OverflowError

    def no_message(_wire: Any, _request: Any, _timeout_s: float, _metadata: Any, done: Done) -> None:
        done(b"\xff", None)

    def not_sent(wire: Any, *call: Any) -> None:
        wire.send(Broken(), *call)

    for wire, fault in itertools.product((Wire(), AsyncWire()), (no_message, not_sent)):
        alone: list[Done] = []

        def send(_place: int, _path: str, *call: Any, wire: Any = wire, fault: Any = fault, alone: Any = alone) -> None:
            if isinstance(call[0], Message):
                alone.append(call[-1])
            else:
                fault(wire, *call)

        lane = Lane(PAIRS["/inventoryhold.v1.ReservationService/Reserve"], None, 0, wire, send)
        assert lane.enters_alone()
        first = lane.join(request_of(), 30.0)
        await until(partial(bool, alone))
        entries = [lane.join(request_of(), 30.0) for _ in range(2)]
        lane.leave_alone()
        for entry in entries:
            answer = partial(wire.answer, entry.promise, 30.0)
            with pytest.raises(errors.CallError):
                await (answer() if isinstance(wire, AsyncWire) else asyncio.to_thread(answer))
        alone[0](first.request, None)
        wire.answer(first.promise, 30.0) if isinstance(wire, Wire) else await wire.answer(first.promise, 30.0)
        await until(partial(getattr, lane, "is_idle"))


async def test_a_batch_without_a_result_for_each_call_fails_them_all() -> None:
    async with answering(lambda entries: locked(entries)[1:]) as (client, _):
        names = ["lone", "a", "locked"]
        calls = (client.reserve({"seat": 1}, holder=name) for name in names)
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert outcomes[0].holder == "lone"  # type: ignore[union-attr]
        assert [outcome.code for outcome in outcomes[1:]] == [grpc.StatusCode.INTERNAL] * 2  # type: ignore[union-attr]


def abridged(entries: Sequence[pb.ReserveRequest]) -> list[pb.BatchReserveResult]:
    return [pb.BatchReserveResult(reservation={"holder": ""}, abridged=entry.holder == "b") for entry in entries]


async def test_an_abridged_answer_is_asked_for_again_alone() -> None:
    async with answering(abridged) as (client, servicer):
        held = await asyncio.gather(*(client.reserve({"seat": 1}, holder=name) for name in ("lone", "a", "b", "c")))
        assert [one.holder for one in held] == ["lone", "", "b", ""]
    assert (servicer.alone, servicer.batches) == (2, 1)
