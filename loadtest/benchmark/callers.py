"""Concurrent callers of the Python client in one process; prints what they saw as JSON.

`python -m benchmark.callers` reads its plan from standard input.
"""

import asyncio
import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass

from holdsvc.client import AsyncClient, Client

WARM_UP_S = 0.5


@dataclass(frozen=True)
class Plan:
    """What the callers do: each reserves one unit, again and again."""

    target: str | list[str]
    api_key: str
    skus: list[str]
    """Of the callers in turn."""
    callers: int
    coalesce: bool
    seconds: float
    threads: bool = False
    """Whether they are threads of the blocking client."""


@dataclass(frozen=True)
class Report:
    """What they saw."""

    calls: int
    """All calls, those of the warm-up too."""
    per_second: float
    processor_us: float
    """Processor time of the callers' process for each call."""
    p50_ms: float


class _Work:
    """What the callers of a plan did, in the warm-up or in the measured time."""

    def __init__(self, plan: Plan, seconds: float) -> None:
        self._plan = plan
        self._start = time.perf_counter()
        self._end = self._start + seconds
        self._processor_s = time.process_time()
        self.latencies_s: list[float] = []

    async def run(self, client: AsyncClient) -> None:
        async def one(sku: str) -> None:
            while (start := time.perf_counter()) < self._end:
                await client.reserve({sku: 1})
                self.latencies_s.append(time.perf_counter() - start)

        await asyncio.gather(*(one(sku) for sku in self._skus()))

    def run_threads(self, client: Client, pool: ThreadPoolExecutor) -> None:
        def one(sku: str) -> None:
            while (start := time.perf_counter()) < self._end:
                client.reserve({sku: 1})
                self.latencies_s.append(time.perf_counter() - start)

        list(pool.map(one, self._skus()))

    def _skus(self) -> list[str]:
        skus = self._plan.skus
        return [skus[number % len(skus)] for number in range(self._plan.callers)]

    def report(self, calls_before: int) -> Report:
        """To be asked as soon as the work is done."""
        seconds, processor_s = time.perf_counter() - self._start, time.process_time() - self._processor_s
        calls = len(self.latencies_s)
        p50_s = sorted(self.latencies_s)[calls // 2]
        return Report(calls_before + calls, calls / seconds, processor_s / calls * 1e6, p50_s * 1000)


async def run(plan: Plan) -> Report:
    """Lets callers of asyncio work for the warm-up and the measured time."""
    async with AsyncClient(plan.target, api_key=plan.api_key, coalesce=plan.coalesce) as client:
        warm_up = _Work(plan, WARM_UP_S)
        await warm_up.run(client)
        work = _Work(plan, plan.seconds)
        await work.run(client)
        return work.report(len(warm_up.latencies_s))


def run_threads(plan: Plan) -> Report:
    """The same with threads."""
    with (
        Client(plan.target, api_key=plan.api_key, coalesce=plan.coalesce) as client,
        ThreadPoolExecutor(plan.callers) as pool,
    ):
        warm_up = _Work(plan, WARM_UP_S)
        warm_up.run_threads(client, pool)
        work = _Work(plan, plan.seconds)
        work.run_threads(client, pool)
        return work.report(len(warm_up.latencies_s))


def main() -> None:
    """Reads the plan, runs it, writes the report."""
    plan = Plan(**json.load(sys.stdin))
    report = run_threads(plan) if plan.threads else asyncio.run(run(plan))
    print(json.dumps(asdict(report)))


if __name__ == "__main__":
    main()
