"""Cost of load generators: the same load on the empty handler by ours, by h2load and by gRPC's client."""

import asyncio
import re
import resource
import shutil
import subprocess
import time
from typing import Any

import grpc.aio

from benchmark import load, messages, stage
from benchmark.context import Bench
from benchmark.scenarios.hot import CONNECTIONS
from benchmark.stage import Running


def run(bench: Bench) -> None:
    """The cheapest generator leaves the most processor time to the server."""
    results = bench.results
    # Without a request id, because h2load sends the same body in every call.
    message = messages.reserve([messages.HOT], with_request_id=False)
    with stage.baseline("empty_service", bench.folder) as empty:
        before = _children_s()
        outcome = bench.calls(empty, [message], connections=CONNECTIONS)
        cost_us = (_children_s() - before) / outcome.calls * 1e6
        note = f"{outcome.generator_share:.0%} of a processor, {cost_us:.0f} µs a call"
        results.add("generator_ours", "empty handler under our generator", outcome.per_second, "calls/s", note)
        if shutil.which("h2load"):
            rate, cost_us = _h2load(bench, empty, message)
            results.add("generator_h2load", "empty handler under h2load", rate, "calls/s", f"{cost_us:.0f} µs a call")
        else:
            results.skip("h2load is not installed (Debian: nghttp2-client)")
        before_s = time.process_time()
        calls, rate = asyncio.run(_grpc_client(empty, message, bench.seconds))
        cost_us = (time.process_time() - before_s) / calls * 1e6
        results.add(
            "generator_grpc", "empty handler under gRPC's own aio client", rate, "calls/s", f"{cost_us:.0f} µs a call"
        )


def _children_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _h2load(bench: Bench, empty: Running, message: bytes) -> tuple[float, float]:
    body = bench.folder / "body"
    body.write_bytes(load.prefixed(message))
    command = ["h2load", f"--clients={CONNECTIONS}", f"--max-concurrent-streams={100 // CONNECTIONS}"]
    command += [f"--duration={max(1, round(bench.seconds))}", "--warm-up-time=1", f"--data={body}"]
    command += ["--header=content-type: application/grpc", "--header=te: trailers"]
    target = empty.target("Reserve")
    before = _children_s()
    command.append(f"http://{target.host}:{target.port}{target.path}")
    answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    spent_s = _children_s() - before
    rate, done = re.search(r"([\d.]+) req/s", answer), re.search(r"(\d+) succeeded, 0 failed, 0 errored", answer)
    if rate is None or done is None:
        raise RuntimeError(f"h2load failed:\n{answer}")
    return float(rate[1]), spent_s / int(done[1]) * 1e6


async def _grpc_client(empty: Running, message: bytes, seconds: float) -> tuple[int, float]:
    calls = 0
    end = time.monotonic() + seconds

    async def caller(channel: grpc.aio.Channel) -> None:
        nonlocal calls
        reserve: Any = channel.unary_unary(stage.SERVICE + "Reserve")
        while time.monotonic() < end:
            await reserve(message)
            calls += 1

    options = [("grpc.use_local_subchannel_pool", 1)]
    channels = [grpc.aio.insecure_channel(f"127.0.0.1:{empty.port}", options=options) for _ in range(CONNECTIONS)]
    started = time.monotonic()
    await asyncio.gather(*(caller(channels[number % CONNECTIONS]) for number in range(100)))
    rate = calls / (time.monotonic() - started)
    for channel in channels:
        await channel.close()
    return calls, rate
