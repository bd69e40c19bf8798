"""The hold as a Lua script in Redis, which flushes its log before each answer, compared with BatchReserve."""

import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmark.context import Bench
from benchmark.load import LOADTEST
from benchmark.messages import HOT

PIPELINE = 25
"""Holds that a client sends without waiting: with 20 clients 500 in flight, as many as a batch has."""


def run(bench: Bench) -> None:
    """With 100 clients that wait for each answer, and with 20 that send 25 holds without waiting."""
    results = bench.results
    if shutil.which("redis-server") is None or shutil.which("redis-benchmark") is None:
        results.skip("Redis is not installed (Debian: redis-server)")
        return
    with _server(bench.folder) as socket:
        for key, title, clients, pipeline in (
            ("redis", "Redis Lua, AOF always, hot, 100 clients", 100, 1),
            ("redis_pipeline", f"Redis Lua, AOF always, hot, 20 clients, {PIPELINE} at once each", 20, PIPELINE),
        ):
            # redis-benchmark takes a number of calls, not a duration: a short run tells how many calls it needs.
            count = int(_hold(socket, clients, pipeline, 5_000) * bench.seconds)
            results.add(key, title, _hold(socket, clients, pipeline, count))
    for size in (100, 500):
        results.compare(f"BatchReserve of {size}, hot ÷ Redis Lua, AOF always", f"batch_{size}_hot", "redis", 1.0)
    results.compare("BatchReserve of 500, hot ÷ Redis Lua, pipelined", "batch_500_hot", "redis_pipeline", 1.1)


def _hold(socket: Path, clients: int, pipeline: int, count: int) -> float:
    """Runs some holds and checks the item's counter; holds per second."""
    sha = _cli(socket, "SCRIPT", "LOAD", (LOADTEST / "baseline" / "hold.lua").read_text())
    _cli(socket, "FLUSHALL")
    _cli(socket, "HSET", HOT, "remaining", "1000000000", "held", "0", "revision", "1")
    command = ["redis-benchmark", "-s", str(socket), "-c", str(clients), "-P", str(pipeline), "-n", str(count), "-q"]
    # redis-benchmark replaces the placeholder by twelve random digits.
    command += ["-r", "2000000000", "EVALSHA", sha, "2", HOT, "events", "__rand_int__-4000-8000-benchmarkrun"]
    answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    rate = re.findall(r"([\d.]+) requests per second", answer)
    held = int(_cli(socket, "HGET", HOT, "held"))
    # Two random request ids may be equal; the second is then a replay.
    if not rate or not count * 0.999 <= held <= count + pipeline * clients:
        raise RuntimeError(f"redis-benchmark made {held} of {count} holds:\n{answer}")
    return float(rate[-1])


def _cli(socket: Path, *words: str) -> str:
    command = ["redis-cli", "-s", str(socket), *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@contextmanager
def _server(folder: Path) -> Iterator[Path]:
    socket = folder / "redis.sock"
    command = ["redis-server", "--port", "0", "--unixsocket", str(socket), "--dir", str(folder), "--save", ""]
    command += ["--appendonly", "yes", "--appendfsync", "always"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 10
        while not socket.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("redis-server does not start")
            time.sleep(0.05)
        yield socket
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)
