"""What a thousand watchers of one hot item cost the sale, and how late they hear of it.

    .venv/bin/python loadtest/watchers.py

Starts a service of its own on an embedded database that it throws away: nothing of yours is touched. In one run:
Reserve at full speed without watchers, with them, without again (the ratio is that of one machine in one state), then
half the speed with watchers for the delay from the change to its watcher. Ends by itself; exit code 1 when a promise is
broken.
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from inventoryhold.v1 import inventory_service_pb2, inventory_service_pb2_grpc, item_pb2, reservation_service_pb2_grpc
from inventoryhold.v1 import reservation_service_pb2 as reservations

SKU = "hot"
CHANNELS = 20
WATCH = "/inventoryhold.v1.InventoryService/WatchInventory"
_OPTIONS = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]


@contextmanager
def serving(folder: Path, workers: int) -> Iterator[tuple[str, int]]:
    """A service of our own: its address and the process id of its supervisor."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HOLDSVC_")}
    environment |= {
        "HOLDSVC_LISTEN": "127.0.0.1:0",
        "HOLDSVC_METRICS_LISTEN": "",
        "HOLDSVC_AUTH": "off",
        "HOLDSVC_DATA_DIR": str(folder),
        "HOLDSVC_WORKERS": str(workers),
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "holdsvc", "serve"], env=environment, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        for line in process.stdout:
            entry = json.loads(line)
            if entry.get("event") == "serving":
                yield f"127.0.0.1:{entry['port']}", process.pid
                return
        raise SystemExit("the service did not start")
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)


def worker_rss_mb(supervisor: int) -> float:
    """Resident memory of the serving processes, in MB."""
    total = 0
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            fields = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
            command = (status.parent / "cmdline").read_text()
        except OSError:
            continue
        if int(fields["PPid"]) == supervisor and "spawn_main" in command:
            total += int(fields["VmRSS"].split()[0])
    return total / 1024


@dataclass
class Load:
    """What a phase of Reserve calls has done."""

    count: int = 0
    seconds: float = 0.0
    change_times: set[float] = field(default_factory=set)

    @property
    def per_second(self) -> float:
        """Calls in a second."""
        return self.count / self.seconds


async def reserve(address: str, seconds: float, in_flight: int, rate: float | None) -> Load:
    """Reserves one unit again and again, as fast as it goes or `rate` times a second."""
    load = Load()
    channels = [grpc.aio.insecure_channel(address, options=[*_OPTIONS, ("channel", n)]) for n in range(4)]
    request = reservations.ReserveRequest(lines=[item_pb2.ItemQuantity(sku=SKU, quantity=1)])
    start = time.monotonic()
    end = start + seconds
    turn = iter(range(10**12))

    async def caller(number: int) -> None:
        stub = reservation_service_pb2_grpc.ReservationServiceStub(channels[number % len(channels)])
        while (now := time.monotonic()) < end:
            if rate is not None:
                await asyncio.sleep(max(0.0, start + next(turn) / rate - now))
            answer = await stub.Reserve(request)
            load.count += 1
            create = answer.reservation.create_time
            load.change_times.add(create.seconds + create.nanos / 1e9)

    await asyncio.gather(*(caller(number) for number in range(in_flight)))
    load.seconds = time.monotonic() - start
    for channel in channels:
        await channel.close()
    return load


def _watch(address: str, count: int, pipe: Connection) -> None:
    """A process of watchers: keeps every message with its time; on a word, tells what was heard since the last."""
    asyncio.run(_watch_all(address, count, pipe))


async def _watch_all(address: str, count: int, pipe: Connection) -> None:
    channels = [grpc.aio.insecure_channel(address, options=[*_OPTIONS, ("channel", n)]) for n in range(CHANNELS)]
    request = inventory_service_pb2.WatchInventoryRequest(items=[item_pb2.ItemKey(sku=SKU)]).SerializeToString()
    heard: list[list[tuple[float, bytes]]] = [[] for _ in range(count)]

    async def watch(number: int) -> None:
        # Bytes as they come: what they say is looked at when nobody is measuring.
        watch_bytes: Any = channels[number % CHANNELS].unary_stream(WATCH)
        async for message in watch_bytes(request):
            heard[number].append((time.time(), message))

    tasks = [asyncio.create_task(watch(number)) for number in range(count)]
    while sum(len(messages) >= 2 for messages in heard) < count:
        await asyncio.sleep(0.1)
    loop = asyncio.get_running_loop()
    pipe.send("ready")
    while await loop.run_in_executor(None, pipe.recv) == "tell":
        pipe.send(heard)
        for messages in heard:
            messages.clear()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def states(messages: list[tuple[float, bytes]]) -> list[tuple[float, item_pb2.Item]]:
    """When which state was heard."""
    found = []
    for when, data in messages:
        found += [(when, item) for item in inventory_service_pb2.WatchInventoryResponse.FromString(data).items]
    return found


def delays(heard: list[list[tuple[float, bytes]]], change_times: set[float]) -> list[float]:
    """Seconds from each change to the first message of each watcher that has it or a later one."""
    changes = sorted(change_times)
    found = []
    for messages in heard:
        told = [(item.update_time.seconds + item.update_time.nanos / 1e9, when) for when, item in states(messages)]
        times = [update for update, _ in told]
        for change in changes:
            place = bisect_left(times, change - 1e-6)
            if place < len(told):
                found.append(told[place][1] - change)
    return found


@contextmanager
def watchers(address: str, count: int) -> Iterator[Connection]:
    """Watchers in a process of their own, which has the snapshot of all when this begins."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_watch, args=(address, count, theirs))
    process.start()
    try:
        assert ours.recv() == "ready"
        yield ours
        ours.send("end")
        process.join(20)
    finally:
        process.kill()


def tell(pipe: Connection) -> list[list[tuple[float, bytes]]]:
    """What the watchers have heard since they were last asked."""
    pipe.send("tell")
    heard: list[list[tuple[float, bytes]]] = pipe.recv()
    return heard


def measure(address: str, supervisor: int, args: argparse.Namespace) -> dict[str, Any]:
    """Runs the phases and returns the figures."""
    with grpc.insecure_channel(address) as channel:
        stub = inventory_service_pb2_grpc.InventoryServiceStub(channel)
        create = inventory_service_pb2.CreateItemRequest(item=item_pb2.Item(sku=SKU, capacity=10**12))
        stub.CreateItem(create)

        def run(seconds: float, rate: float | None = None) -> Load:
            return asyncio.run(reserve(address, seconds, args.in_flight, rate))

        run(args.seconds / 2)  # warm up
        before = run(args.seconds)
        rss_before = worker_rss_mb(supervisor)
        with watchers(address, args.watchers) as pipe:
            tell(pipe)
            started = time.time()
            full = run(args.seconds)
            rss_after = worker_rss_mb(supervisor)
            time.sleep(3)
            heard = tell(pipe)
            final = stub.GetItem(inventory_service_pb2.GetItemRequest(sku=SKU)).item
            settled = sum(bool(found) and found[-1][1] == final for found in map(states, heard))
            messages = sum(when <= started + full.seconds for found in heard for when, _ in found)
            half = run(args.seconds, full.per_second / 2)
            time.sleep(2)
            late = sorted(delays(tell(pipe), half.change_times))
        after = run(args.seconds)
    without = (before.per_second + after.per_second) / 2
    return {
        "watchers": args.watchers,
        "reserve_per_second_without": [round(before.per_second), round(after.per_second)],
        "reserve_per_second_with": round(full.per_second),
        "throughput_ratio": round(full.per_second / without, 3),
        "messages_per_second_at_full_load": round(messages / full.seconds),
        "watchers_on_final_state": settled,
        "rss_growth_mb": round(rss_after - rss_before, 1),
        "half_load_per_second": round(half.per_second),
        "delay_ms": {f"p{q}": round(1000 * late[int(len(late) * q / 100)], 1) for q in (50, 90, 99)},
    }


def main() -> int:
    """Prints the figures as JSON; the promises decide the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--watchers", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=10, help="length of each phase")
    parser.add_argument("--in-flight", type=int, default=100)
    parser.add_argument("--workers", type=int, default=1)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder), args.workers) as (address, supervisor):
        figures = measure(address, supervisor, args)
    kept = {
        "throughput ratio at least 0.8": figures["throughput_ratio"] >= 0.8,
        "every watcher ends on the final state": figures["watchers_on_final_state"] == args.watchers,
        "memory grows by less than 100 MB": figures["rss_growth_mb"] < 100,
        "delay p99 under 150 ms at half load": figures["delay_ms"]["p99"] < 150,
    }
    print(json.dumps({**figures, "kept": kept}, indent=2))
    return 0 if all(kept.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
