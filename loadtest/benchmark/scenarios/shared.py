"""The Python client: calls that travel together, single ones, and pgbench, each with the same number of callers."""

from collections.abc import Sequence
from typing import Any

from benchmark import front_ends, messages, rivals
from benchmark.callers import Report
from benchmark.context import Bench
from benchmark.results import median, quotient
from benchmark.scenarios.batch import IN_FLIGHT
from benchmark.stage import Running

CALLERS = (1, 10, 100, 1000)
THREADS = 10
SINGLE, SHARED = False, True

CALLER_US = 25.0


def run(bench: Bench) -> None:
    """Everything that a ratio compares is measured in turns."""
    baseline = bench.postgres.baseline()
    with bench.ledger() as ledger, bench.service(ledger) as service:
        for callers in CALLERS:
            _beside(bench, service, ledger, baseline, callers)
        for coalesce in (SINGLE, SHARED):
            reports = front_ends.measure(bench, service, ledger, callers=THREADS, coalesce=coalesce, threads=True)
            _report(bench, f"threads_{THREADS}", f"{THREADS} threads", coalesce, reports)
    bench.postgres.drop(baseline)


def _beside(bench: Bench, service: Running, ledger: str, baseline: str, callers: int) -> None:
    """One number of callers, with as many clients of pgbench."""
    results = bench.results
    rounds: dict[bool, list[Report]] = {SINGLE: [], SHARED: []}
    statement: list[float] = []
    batches: list[float] = []
    # The goals are about 1, 100 and 1,000 callers.
    for number in range(1 if callers == 10 else bench.rounds):
        if callers == 100 or number == 0:
            statement.append(_statement(bench, baseline, callers))
        for coalesce in (SINGLE, SHARED):
            # A thousand single calls show nothing that a hundred do not.
            if callers <= 100 or coalesce or number == 0:
                # Before each: after a checkpoint every page is written once in full.
                bench.postgres.settle()
                rounds[coalesce] += front_ends.measure(bench, service, ledger, callers=callers, coalesce=coalesce)
        if callers == 1000:
            batches.append(_batches(bench, service, ledger))
    results.add(f"cte_{callers}", f"pgbench CTE, hot, {callers} clients", median(statement))
    for coalesce, reports in rounds.items():
        _report(bench, str(callers), f"{callers} callers", coalesce, reports)
    if callers == 1:
        p50s = [median([report.p50_ms for report in rounds[coalesce]]) for coalesce in (SHARED, SINGLE)]
        results.ratio("single caller, coalescing client ÷ plain client, p50", quotient(*p50s), 1.05, most=True)
    if callers == 100:
        shared = _rates(rounds[SHARED])
        results.ratio("shared calls ÷ single calls, 100 callers", _ratio(shared, _rates(rounds[SINGLE])), 4.5)
        results.ratio("shared calls, 100 callers ÷ pgbench CTE, 100 clients", _ratio(shared, statement), 10.0)
        spent_us = median([report.processor_us for report in rounds[SHARED]])
        title = f"caller's processor time of a shared hold, 100 callers ÷ {CALLER_US:g} µs"
        results.ratio(title, spent_us / CALLER_US, 1.0, most=True)
    if callers == 1000:
        title = "shared calls, 1,000 callers ÷ BatchReserve of 500"
        results.ratio(title, _ratio(_rates(rounds[SHARED]), batches), 0.6)


def _statement(bench: Bench, baseline: str, clients: int) -> float:
    pgbench = rivals.pgbench(
        bench.postgres.bin_dir, baseline, bench.folder, hot=True, clients=clients, seconds=bench.seconds
    )
    return pgbench.per_second


def _batches(bench: Bench, service: Running, ledger: str) -> float:
    """BatchReserve of 500 beside 1,000 callers: what a front end that makes its own batches gets."""
    how: dict[str, Any] = {"method": "BatchReserve", "each": 500, "in_flight": IN_FLIGHT, "connections": IN_FLIGHT}
    seconds = bench.seconds * front_ends.SECONDS_SHARE
    return bench.holds(service, ledger, messages.batch(500, hot=True), seconds=seconds, **how).per_second * 500


def _report(bench: Bench, key: str, who: str, coalesce: bool, reports: Sequence[Report]) -> None:
    name = "shared" if coalesce else "single"
    p50_ms = median([report.p50_ms for report in reports])
    processor_us = median([report.processor_us for report in reports])
    note = f"p50 {p50_ms:.2f} ms, caller {processor_us:.0f} µs a hold"
    title = f"Python client, {who}, {name} calls"
    bench.results.add(f"client_{name}_{key}", title, median(_rates(reports)), note=note)


def _rates(reports: Sequence[Report]) -> list[float]:
    return [report.per_second for report in reports]


def _ratio(above: Sequence[float], below: Sequence[float]) -> float:
    """The median of the rounds' ratios: what disturbed one round disturbed both sides."""
    return median([quotient(one, other) for one, other in zip(above, below, strict=True)])
