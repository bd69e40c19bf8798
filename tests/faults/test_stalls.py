"""A machine that stalls: the workers get little processor time, and no caller is refused for it."""

import asyncio
import os
import signal
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from inventoryhold.v1 import item_pb2, reservation_service_pb2_grpc
from inventoryhold.v1 import reservation_service_pb2 as pb
from tests.support.program import Client, Program, command, serving

CALLERS = 200
PROBES = 40
STOPPED_S, RUNS_S = 0.025, 0.003
STALLS = 100
"""Short ones: between two of them a timer runs, and hardly anything else."""

DEADLINE_S = 60


@contextmanager
def stalling(pids: Sequence[int]) -> Iterator[threading.Event]:
    """Stops the processes again and again; the event is set after STALLS of them."""
    enough, end = threading.Event(), threading.Event()

    def stall() -> None:
        count = 0
        while not end.wait(RUNS_S):
            for number in (signal.SIGSTOP, signal.SIGCONT):
                for pid in pids:
                    os.kill(pid, number)
                if number == signal.SIGSTOP:
                    end.wait(STOPPED_S)
            count += 1
            if count == STALLS:
                enough.set()

    thread = threading.Thread(target=stall)
    thread.start()
    try:
        yield enough
    finally:
        end.set()
        thread.join()


async def call_until(enough: threading.Event, program: Program, key: str) -> Counter[str]:
    """Honest callers and probes of health, each with a connection of its own; returns what they were answered."""
    answers: Counter[str] = Counter()
    metadata = (("x-api-key", key),) if key else ()
    request = pb.ReserveRequest(lines=[item_pb2.ItemQuantity(sku="seat", quantity=1)])

    async def call(number: int) -> None:
        options = [("grpc.enable_retries", 0), ("grpc.use_local_subchannel_pool", 1)]
        async with grpc.aio.insecure_channel(program.address, options=options) as channel:
            reserve = reservation_service_pb2_grpc.ReservationServiceStub(channel).Reserve
            check = health_pb2_grpc.HealthStub(channel).Check
            while not enough.is_set():
                try:
                    if number < CALLERS:
                        await reserve(request, timeout=DEADLINE_S, metadata=metadata, wait_for_ready=True)
                    else:
                        await check(health_pb2.HealthCheckRequest(), timeout=DEADLINE_S, wait_for_ready=True)
                    answers["OK"] += 1
                except grpc.aio.AioRpcError as error:
                    answers[f"{error.code().name}: {error.details()}"] += 1

    await asyncio.gather(*(call(number) for number in range(CALLERS + PROBES)))
    return answers


@pytest.mark.parametrize("auth", ["off", "api-key"])
async def test_no_caller_is_refused_because_the_machine_stalls(migrated: str, auth: str) -> None:
    with serving(dsn=migrated, auth=auth) as program:
        key = ""
        if auth == "api-key":
            made = command("keys", "create", "--client", "web", "--scopes", "all", environment=program.environment)
            key = made.stdout.strip()
        Client(program, key).create_item("seat", 100_000_000)
        with stalling(program.children("spawn_main")) as enough:
            answers = await call_until(enough, program, key)
    assert set(answers) == {"OK"}, answers
