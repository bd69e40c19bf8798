"""Load on a server: starts the generator processes, merges their reports."""

import base64
import itertools
import json
import math
import subprocess
import sys
import time
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from benchmark.generator import Plan, Report

START_AFTER_S = 0.4
WARM_UP_S = 1.0
NUMBERS_EACH = 2**32
"""Numbers of one generator; the next generator's begin after them, so no request id occurs twice in a run."""

_first_numbers = itertools.count(NUMBERS_EACH, NUMBERS_EACH)

LOADTEST = Path(__file__).parent.parent


@dataclass(frozen=True)
class Target:
    """A method of a running server and the metadata of its callers."""

    host: str
    port: int
    path: str
    metadata: dict[str, str]


@dataclass
class Outcome:
    """The calls as the callers saw them."""

    calls: int
    """All calls, those before and after the measured time included."""
    statuses: dict[int, int]
    """Number of calls by grpc-status, of all calls."""
    per_second: float
    """Calls that ended, per second of the measured time."""
    latencies_s: "array[float]"
    """Latencies of the measured calls, ascending."""
    timeline: list[tuple[float, float]]
    """When each measured call ended, and its latency."""
    measured_from: float
    """When the measured time began, on the monotonic clock."""
    generator_share: float
    """Share of a processor that the busiest generator used; near 1 the generator is the limit."""
    worker_us: float = 0.0
    """Processor time of the server's workers per call."""
    database_us: float = 0.0
    """Processor time of PostgreSQL per call."""

    @property
    def cost(self) -> str:
        """Processor time per call, which is a better measure than a rate on a shared machine."""
        return f"worker {self.worker_us:.0f} µs, database {self.database_us:.0f} µs a call"

    @property
    def ok(self) -> int:
        """Calls that ended with OK."""
        return self.statuses.get(0, 0)

    def percentile_ms(self, percent: float) -> float:
        """A percentile of the latency, in milliseconds."""
        return percentile(self.latencies_s, percent) * 1000


def percentile(ascending: Sequence[float], percent: float) -> float:
    """The nearest-rank percentile; NaN without values."""
    if not ascending:
        return math.nan
    return ascending[max(0, math.ceil(len(ascending) * percent / 100) - 1)]


def run(
    target: Target,
    messages: Sequence[bytes],
    *,
    seconds: float,
    in_flight: int = 100,
    connections: int = 10,
    rate: float = 0.0,
    warm_up_s: float = WARM_UP_S,
    generators: int = 1,
    call_limit: int = 0,
    first_number: int | None = None,
) -> Outcome:
    """Puts load on a method: a closed loop of `in_flight` calls, or an open loop of `rate` calls per second.

    `first_number` is the first number that replaces placeholders in messages; only for one generator.
    """
    plan = Plan(
        **asdict(target),
        messages=[base64.b64encode(prefixed(message)).decode() for message in messages],
        connections=max(1, connections // generators),
        in_flight=in_flight // generators,
        rate=rate / generators,
        start_at=time.monotonic() + START_AFTER_S,
        warm_up_s=min(warm_up_s, seconds),
        seconds=seconds,
        number_limit=call_limit,
    )
    plans = [
        replace(plan, first_number=next(_first_numbers) if first_number is None else first_number)
        for _ in range(generators)
    ]
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "benchmark.generator"],
            cwd=LOADTEST,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in plans
    ]
    try:
        for process, one in zip(processes, plans, strict=True):
            assert process.stdin is not None
            json.dump(asdict(one), process.stdin)
            process.stdin.close()
        reports = [_report(process) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    return _merge(reports, plan)


def prefixed(message: bytes) -> bytes:
    """A message as gRPC sends it: uncompressed, preceded by its length."""
    return b"\x00" + len(message).to_bytes(4) + message


def _report(process: "subprocess.Popen[str]") -> Report:
    assert process.stdout is not None
    text = process.stdout.read()
    if process.wait() != 0:
        raise RuntimeError("a load generator failed; its error is above")
    return Report(**json.loads(text))


def _merge(reports: Sequence[Report], plan: Plan) -> Outcome:
    statuses: Counter[int] = Counter()
    timeline: list[tuple[float, float]] = []
    for report in reports:
        statuses.update({int(status): count for status, count in report.statuses.items()})
        timeline += zip(_doubles(report.ended), _doubles(report.latency), strict=True)
    timeline.sort()
    calls = sum(report.calls for report in reports)
    seconds = plan.seconds
    if timeline and plan.number_limit and calls >= plan.number_limit * len(reports):
        seconds = min(seconds, timeline[-1][0])
    return Outcome(
        calls=calls,
        statuses=dict(statuses),
        per_second=len(timeline) / seconds,
        latencies_s=array("d", sorted(latency for _, latency in timeline)),
        timeline=timeline,
        measured_from=plan.start_at + plan.warm_up_s,
        generator_share=max(report.processor_s for report in reports) / (plan.warm_up_s + plan.seconds),
    )


def _doubles(text: str) -> "array[float]":
    values = array("d")
    values.frombytes(base64.b64decode(text))
    return values
