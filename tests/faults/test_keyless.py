"""Callers without a key: whatever they send, callers with one are served, memory is bounded, and the service ends.

`HOLDSVC_TEST_ATTACK_S` sets how long each attack lasts; in the long form the callers' times are judged too.
"""

import os
import shutil
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from uuid import uuid4

import grpc
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from holdsvc.client import RETRY_POLICY
from inventoryhold.v1 import item_pb2
from inventoryhold.v1 import reservation_service_pb2 as pb
from inventoryhold.v1.reservation_service_pb2_grpc import ReservationServiceStub
from tests.faults import attackers
from tests.support.polling import wait_until
from tests.support.program import Client, Program, command, serving

ATTACK_S = float(os.environ.get("HOLDSVC_TEST_ATTACK_S", "0.3"))
LONG_FORM_S = 10.0
CALLERS = 8
GROWTH_MAX = 100 * 1024 * 1024
GIVEN_BACK_MAX = 60 * 1024 * 1024
GIVEN_BACK_S = 10.0
HEALTH_S = 3.0
GRACE_S = 3.0
DRAIN_GRACE_S = 1.0
FILL_THE_LISTENER = {"idle_connections", "idle_after_the_preface"}
"""Attacks that take every connection there may be: while they last, new connections are refused."""


@dataclass
class Guarded:
    """A service with keys, and a caller who has one."""

    program: Program
    key: str
    quiet_s: float = 0.0

    def memory(self) -> int:
        return sum(int(psutil.Process(pid).memory_info().rss) for pid in self.program.children("spawn_main"))

    def healthy(self) -> bool:
        """Whether health says so over a new connection, in time."""
        with grpc.insecure_channel(self.program.address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=HEALTH_S, wait_for_ready=True)
            return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    def call_until(self, stop: Event, times: list[float]) -> None:
        """Calls with the shipped retry policy, as callers are told to: gRPC itself may answer CANCELLED."""
        options = [("grpc.service_config", RETRY_POLICY), ("grpc.use_local_subchannel_pool", 1)]
        with grpc.insecure_channel(self.program.address, options) as channel:
            stub = ReservationServiceStub(channel)
            while not stop.is_set():
                start = time.monotonic()
                lines = [item_pb2.ItemQuantity(sku="seat", quantity=1)]
                request = pb.ReserveRequest(lines=lines, request_id=uuid4().hex)
                stub.Reserve(request, timeout=10, metadata=(("x-api-key", self.key),))
                times.append(time.monotonic() - start)


def p99(times: list[float]) -> float:
    return sorted(times)[int(len(times) * 0.99)]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory, prepared: Path) -> Path:
    return Path(shutil.copytree(prepared, tmp_path_factory.mktemp("keyless") / "data"))


@pytest.fixture(scope="module")
def guarded(data_dir: Path) -> Iterator[Guarded]:
    with serving(data_dir=data_dir, auth="api-key", drain_grace=f"{GRACE_S:.0f}s", log_calls_per_second="1") as program:
        made = command("keys", "create", "--client", "web", "--scopes", "all", environment=program.environment)
        found = Guarded(program, made.stdout.strip())
        Client(program, found.key).create_item("seat", 100_000_000)
        times: list[float] = []
        with calling(found, times):
            time.sleep(ATTACK_S)
        found.quiet_s = p99(times)
        yield found


@contextmanager
def calling(guarded: Guarded, times: list[float]) -> Iterator[None]:
    """Callers at work while the block runs; a failed call fails the block."""
    stop = Event()
    with ThreadPoolExecutor(CALLERS) as pool:
        work = [pool.submit(guarded.call_until, stop, times) for _ in range(CALLERS)]
        try:
            wait_until(lambda: len(times) >= CALLERS)
            yield
        finally:
            stop.set()
    for done in work:
        done.result()


ATTACKS = [("port", name) for name in attackers.GRPC] + [("metrics_port", name) for name in attackers.METRICS]


@pytest.mark.alone
@pytest.mark.parametrize(("port", "name"), ATTACKS, ids=[f"{port}-{name}" for port, name in ATTACKS])
def test_callers_with_a_key_are_served_beside(guarded: Guarded, port: str, name: str) -> None:
    program = guarded.program
    before = guarded.memory()
    times: list[float] = []
    growth = 0
    with calling(guarded, times):
        times.clear()
        with attackers.attacking(name, getattr(program, port)) as attack:
            end = time.monotonic() + ATTACK_S
            while time.monotonic() < end:
                assert attack.poll() is None
                growth = max(growth, guarded.memory() - before)
                time.sleep(0.05)
            if port == "metrics_port" or name not in FILL_THE_LISTENER:
                assert guarded.healthy()
    wait_until(lambda: guarded.memory() - before < GIVEN_BACK_MAX, timeout_s=GIVEN_BACK_S)
    assert wait_until(guarded.healthy, timeout_s=GIVEN_BACK_S) < HEALTH_S
    print(f"{name}: {len(times)} calls, p99 {p99(times) * 1000:.0f} ms, quiet {guarded.quiet_s * 1000:.0f} ms,"  # noqa: T201
          f" + {growth / 1e6:.0f} MB")  # fmt: skip
    assert growth < GROWTH_MAX
    if ATTACK_S >= LONG_FORM_S:
        assert p99(times) < max(5 * guarded.quiet_s, 0.25)
    assert program.series()["holdsvc_database_up", frozenset({("cell", "")})] == 1.0


@pytest.mark.parametrize(
    "names",
    [("unread_watches", "unread_settings", "half_bodies"), ("idle_after_the_preface",)],
    ids="-".join,
)
def test_the_drain_ends_within_its_grace(migrated: str, names: Sequence[str]) -> None:
    """Attacks at once, but for the one that leaves no connection to the others."""
    with serving(dsn=migrated, drain_grace=f"{DRAIN_GRACE_S:.0f}s") as program:
        with ExitStack() as attacks:
            for name in names:
                attacks.enter_context(attackers.attacking(name, program.port))
            start = time.monotonic()
            assert program.stop() == 0
            took_s = time.monotonic() - start
        assert "worker.killed" not in program.output
        assert took_s < DRAIN_GRACE_S + 5.0
