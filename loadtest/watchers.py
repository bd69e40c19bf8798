"""What a thousand watchers of one hot item cost the sale, and how late they hear of it.

    .venv/bin/python loadtest/watchers.py

Starts a service of its own on an embedded database that it throws away: nothing of yours is touched. Each round has
Reserve at full speed without watchers and with them, and half of that speed with watchers for the delay from the change
to its watcher; the last one is followed by full speed without them once more. A round's ratio is to the mean of
the speed before and after it. A machine's speed changes within a minute, so the promises are about the median of the
rounds; all of them are told. Ends by itself; exit code 1 when a promise is broken.
"""

import argparse
import json
import multiprocessing
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Self

import grpc
from google.protobuf.timestamp_pb2 import Timestamp

from benchmark import listener, load
from benchmark.machine import family_s
from inventoryhold.v1 import inventory_service_pb2, inventory_service_pb2_grpc, item_pb2, reservation_service_pb2_grpc
from inventoryhold.v1 import reservation_service_pb2 as reservations

SKU = "hot"
CONNECTIONS = 20
SAMPLE_S = 0.03
"""Between two changes whose time is known, for the delay to the watchers."""

WATCH = "/inventoryhold.v1.InventoryService/WatchInventory"
RESERVE = "/inventoryhold.v1.ReservationService/Reserve"


@contextmanager
def serving(folder: Path, workers: int) -> Iterator[tuple[str, int]]:
    """A service of our own: its address and the process id of its supervisor."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HOLDSVC_")}
    environment |= {
        "HOLDSVC_LISTEN": "127.0.0.1:0",
        "HOLDSVC_METRICS_LISTEN": "",
        "HOLDSVC_AUTH": "off",
        "HOLDSVC_DATA_DIR": str(folder / "data"),
        "HOLDSVC_WORKERS": str(workers),
    }
    log = folder / "service.log"
    with log.open("w") as output:
        process = subprocess.Popen([sys.executable, "-m", "holdsvc", "serve"], env=environment, stdout=output)
    try:
        yield f"127.0.0.1:{_port(log, process)}", process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def _port(log: Path, process: subprocess.Popen[bytes]) -> int:
    """Where the service listens, as its log says once it does."""
    while process.poll() is None:
        for line in log.read_text().splitlines(keepends=True):
            if line.endswith("\n") and (entry := json.loads(line)).get("event") == "serving":
                return int(entry["port"])
        time.sleep(0.1)
    raise SystemExit("the service did not start")


def workers(supervisor: int) -> list[int]:
    """The serving processes."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            command = (folder / "cmdline").read_text()
        except OSError:
            continue
        if parent == supervisor and "spawn_main" in command:
            found.append(int(folder.name))
    return found


def worker_rss_mb(supervisor: int) -> float:
    """Resident memory of the serving processes, in MB."""
    statuses = [Path(f"/proc/{pid}/status").read_text().splitlines() for pid in workers(supervisor)]
    return sum(int(line.split()[1]) for status in statuses for line in status if line.startswith("VmRSS")) / 1024


@dataclass
class Phase:
    """What a phase of Reserve calls has done, and the processor time that it took."""

    per_second: float
    failed: int
    worker_cores: float
    generator_share: float


def reserve(address: str, pids: list[int], seconds: float, in_flight: int, rate: float = 0.0) -> Phase:
    """Reserves one unit again and again, as fast as it goes or `rate` times a second."""
    host, _, port = address.rpartition(":")
    request = reservations.ReserveRequest(lines=[item_pb2.ItemQuantity(sku=SKU, quantity=1)]).SerializeToString()
    before, began = sum(map(family_s, pids)), time.monotonic()
    outcome = load.run(
        load.Target(host, int(port), RESERVE, {}), [request], seconds=seconds, in_flight=in_flight, rate=rate
    )
    cores = (sum(map(family_s, pids)) - before) / (time.monotonic() - began)
    return Phase(outcome.per_second, outcome.calls - outcome.ok, cores, outcome.generator_share)


@contextmanager
def watchers(address: str, count: int) -> Iterator[Connection]:
    """Watchers in a process of their own, which has the snapshot of all when this begins."""
    host, _, port = address.rpartition(":")
    request = inventory_service_pb2.WatchInventoryRequest(items=[item_pb2.ItemKey(sku=SKU)])
    message = load.prefixed(request.SerializeToString())
    ours, theirs = multiprocessing.Pipe()
    arguments = (host, int(port), WATCH, message, count, CONNECTIONS, theirs)
    process = multiprocessing.get_context("spawn").Process(target=listener.listen, args=arguments)
    process.start()
    try:
        assert ours.recv() == "ready"
        yield ours
        ours.send("end")
        process.join(20)
    finally:
        process.kill()


def tell(pipe: Connection) -> tuple[listener.Heard, float]:
    """What the watchers have heard since they were last asked, and the processor time of their process so far."""
    pipe.send("tell")
    told: tuple[listener.Heard, float] = pipe.recv()
    return told


class Samples:
    """A caller that reserves a unit every few hundredths of a second and remembers when the database did it."""

    def __init__(self, address: str) -> None:
        self.change_times: list[float] = []
        self._address = address
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        request = reservations.ReserveRequest(lines=[item_pb2.ItemQuantity(sku=SKU, quantity=1)])
        with grpc.insecure_channel(self._address) as channel:
            stub = reservation_service_pb2_grpc.ReservationServiceStub(channel)
            while not self._over.wait(SAMPLE_S):
                created = stub.Reserve(request).reservation.create_time
                self.change_times.append(seconds_of(created))


def seconds_of(timestamp: Timestamp) -> float:
    """A time as a number."""
    return timestamp.seconds + timestamp.nanos / 1e9


@cache
def states(message: bytes) -> list[item_pb2.Item]:
    """The states that a message tells; the same message goes to many watchers."""
    return list(inventory_service_pb2.WatchInventoryResponse.FromString(message).items)


def delays(heard: listener.Heard, change_times: list[float]) -> list[float]:
    """Seconds from each change to the first message of each watcher that has it or a later one."""
    found = []
    for messages in heard:
        told = [(seconds_of(item.update_time), when) for when, message in messages for item in states(message)]
        times = [update for update, _ in told]
        for change in change_times:
            place = bisect_left(times, change - 1e-6)
            if place < len(told):
                found.append(told[place][1] - change)
    return sorted(found)


def count_between(heard: listener.Heard, start: float, end: float) -> int:
    """Messages that came within a time."""
    return sum(start <= when <= end for messages in heard for when, _ in messages)


Run = Callable[..., Phase]
"""Reserves for the length of a phase, as fast as it goes or so many times a second."""


@dataclass
class Round:
    """One round: the calls without watchers, with them, and at half that rate, and what the watchers heard."""

    without: Phase
    full: Phase
    half: Phase
    messages_at_full_load: float
    messages_at_half_load: float
    settled: int
    """Watchers that had the final state after the full load."""
    rss_growth_mb: float
    delays_s: list[float]
    listener_cores: float
    """Of the watchers' process, at half load."""

    def delay_ms(self, q: float) -> float:
        """A percentile of the delays."""
        return 1000 * load.percentile(self.delays_s, q)


def play(stub: Any, run: Run, address: str, supervisor: int, args: argparse.Namespace) -> Round:
    """Runs one round."""
    without = run()
    rss_before = worker_rss_mb(supervisor)
    with watchers(address, args.watchers) as pipe:
        tell(pipe)
        full = run()
        ended = time.time()
        rss_after = worker_rss_mb(supervisor)
        time.sleep(3)
        heard, _ = tell(pipe)
        final = stub.GetItem(inventory_service_pb2.GetItemRequest(sku=SKU)).item
        settled = sum(bool(messages) and states(messages[-1][1]) == [final] for messages in heard)
        at_full_load = count_between(heard, ended - args.seconds, ended) / args.seconds
        _, listened_before_s = tell(pipe)
        with Samples(address) as samples:
            half = run(full.per_second / 2)
        ended = time.time()
        time.sleep(2)
        heard, listened_s = tell(pipe)
        at_half_load = count_between(heard, ended - args.seconds, ended) / args.seconds
        late = delays(heard, samples.change_times)
    cores = (listened_s - listened_before_s) / (args.seconds + 2)
    return Round(without, full, half, at_full_load, at_half_load, settled, rss_after - rss_before, late, cores)


def measure(address: str, supervisor: int, args: argparse.Namespace) -> dict[str, Any]:
    """Runs the rounds and returns the figures, of each and their median."""
    with grpc.insecure_channel(address) as channel:
        stub = inventory_service_pb2_grpc.InventoryServiceStub(channel)
        stub.CreateItem(inventory_service_pb2.CreateItemRequest(item=item_pb2.Item(sku=SKU, capacity=10**12)))
        pids = workers(supervisor)

        def run(rate: float = 0.0) -> Phase:
            return reserve(address, pids, args.seconds, args.in_flight, rate)

        reserve(address, pids, args.seconds / 2, args.in_flight)  # warm up
        rounds = [play(stub, run, address, supervisor, args) for _ in range(args.rounds)]
        last = run()
    without = [each.without.per_second for each in rounds] + [last.per_second]
    ratios = [
        each.full.per_second / statistics.mean(pair) for each, pair in zip(rounds, pairwise(without), strict=True)
    ]
    phases = {name: [getattr(each, name) for each in rounds] for name in ("without", "full", "half")}
    phases["without"].append(last)

    def median(values: Iterable[float], digits: int = 0) -> float:
        return round(statistics.median(values), digits or None)

    return {
        "watchers": args.watchers,
        "reserve_per_second_without": [round(each) for each in without],
        "reserve_per_second_with": [round(each.full.per_second) for each in rounds],
        "throughput_ratios": [round(each, 3) for each in ratios],
        "throughput_ratio": median(ratios, 3),
        "messages_per_second_at_full_load": median(each.messages_at_full_load for each in rounds),
        "watchers_on_final_state": min(each.settled for each in rounds),
        "rss_growth_mb": round(max(each.rss_growth_mb for each in rounds), 1),
        "half_load_per_second": [round(each.half.per_second) for each in rounds],
        "messages_per_second_at_half_load": median(each.messages_at_half_load for each in rounds),
        "delay_p99_ms_of_rounds": [round(each.delay_ms(99), 1) for each in rounds],
        "delay_ms": {f"p{q}": median((each.delay_ms(q) for each in rounds), 1) for q in (50, 90, 99)},
        "failed_calls": {name: sum(phase.failed for phase in all_) for name, all_ in phases.items()},
        "worker_cores": {name: median((phase.worker_cores for phase in all_), 2) for name, all_ in phases.items()},
        "generator_cores": {
            name: median((phase.generator_share for phase in all_), 2) for name, all_ in phases.items()
        },
        "listener_cores_at_half_load": median((each.listener_cores for each in rounds), 2),
    }


def main() -> int:
    """Prints the figures as JSON; the promises decide the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--watchers", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=6, help="length of each phase")
    parser.add_argument("--in-flight", type=int, default=100)
    parser.add_argument("--workers", type=int, default=1)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder), args.workers) as (address, supervisor):
        figures = measure(address, supervisor, args)
    kept = {
        "throughput ratio at least 0.75": figures["throughput_ratio"] >= 0.75,
        "every watcher ends on the final state": figures["watchers_on_final_state"] == args.watchers,
        "no call fails": not any(figures["failed_calls"].values()),
        "memory grows by less than 100 MB": figures["rss_growth_mb"] < 100,
        "delay p99 at most 300 ms at half load": figures["delay_ms"]["p99"] <= 300,
    }
    print(json.dumps({**figures, "kept": kept}, indent=2))
    return 0 if all(kept.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
