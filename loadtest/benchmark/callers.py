"""Concurrent callers of the Python client in one process; prints what they saw as JSON.

`python -m benchmark.callers` reads its plan from standard input.
"""

import asyncio
import json
import sys
import time
from dataclasses import asdict, dataclass

from holdsvc.client import AsyncClient

WARM_UP_S = 1.0


@dataclass(frozen=True)
class Plan:
    """What the callers do: each reserves one unit, again and again."""

    address: str
    api_key: str
    sku: str
    callers: int
    coalesce: bool
    seconds: float


@dataclass(frozen=True)
class Report:
    """What they saw."""

    calls: int
    """All calls, those of the warm-up too."""
    per_second: float
    processor_us: float
    """Processor time of the callers' process for each call."""
    p50_ms: float


async def run(plan: Plan) -> Report:
    """Lets the callers work for the warm-up and the measured time."""
    latencies_s: list[float] = []

    async def one(client: AsyncClient, end: float) -> None:
        while (start := time.perf_counter()) < end:
            await client.reserve({plan.sku: 1})
            latencies_s.append(time.perf_counter() - start)

    async with AsyncClient(plan.address, api_key=plan.api_key, coalesce=plan.coalesce) as client:
        end = time.perf_counter() + WARM_UP_S
        await asyncio.gather(*(one(client, end) for _ in range(plan.callers)))
        calls = len(latencies_s)
        latencies_s.clear()
        processor_s, start = time.process_time(), time.perf_counter()
        await asyncio.gather(*(one(client, start + plan.seconds) for _ in range(plan.callers)))
        seconds = time.perf_counter() - start
        processor_us = (time.process_time() - processor_s) / len(latencies_s) * 1e6
    latencies_s.sort()
    measured = len(latencies_s)
    return Report(calls + measured, measured / seconds, processor_us, latencies_s[measured // 2] * 1000)


if __name__ == "__main__":
    print(json.dumps(asdict(asyncio.run(run(Plan(**json.load(sys.stdin)))))))
