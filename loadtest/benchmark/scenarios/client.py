"""The Python client: calls that travel together beside single ones, the same callers in one process."""

import json
import subprocess
import sys
from dataclasses import asdict

from benchmark import bulk
from benchmark.callers import Plan, Report
from benchmark.context import Bench
from benchmark.load import LOADTEST
from benchmark.messages import HOT
from benchmark.results import median, quotient
from benchmark.stage import Running

CALLERS = (1, 10, 100, 1000)


def run(bench: Bench) -> None:
    """Rates, latencies and the callers' processor time, both ways in turns."""
    results = bench.results
    with bench.ledger() as ledger, bench.service(ledger) as service:
        for callers in CALLERS:
            rounds: dict[bool, list[Report]] = {False: [], True: []}
            for _ in range(bench.rounds):
                for coalesce in (False, True):
                    rounds[coalesce].append(_measure(bench, service, ledger, callers, coalesce=coalesce))
            for coalesce, reports in rounds.items():
                name = "shared" if coalesce else "single"
                p50_ms = median([report.p50_ms for report in reports])
                processor_us = median([report.processor_us for report in reports])
                results.add(
                    f"client_{name}_{callers}",
                    f"Python client, {callers} callers, {name} calls",
                    median([report.per_second for report in reports]),
                    note=f"p50 {p50_ms:.2f} ms, caller {processor_us:.0f} µs a hold",
                )
                if coalesce and callers == 100:
                    results.ratio("shared calls, 100 callers: 25 µs ÷ caller's processor time", 25 / processor_us, 1.0)
            if callers == 1:
                p50s = [median([report.p50_ms for report in rounds[coalesce]]) for coalesce in (True, False)]
                results.ratio("single caller, coalescing client ÷ plain client, p50", quotient(*p50s), 1.05, most=True)
    results.compare("shared ÷ single calls, 100 callers", "client_shared_100", "client_single_100", 4.5)
    results.compare("shared calls, 100 callers ÷ pgbench CTE", "client_shared_100", "cte", 10.0)
    results.compare("shared calls, 1,000 callers ÷ BatchReserve of 500", "client_shared_1000", "batch_500_hot", 0.6)


def _measure(bench: Bench, service: Running, ledger: str, callers: int, *, coalesce: bool) -> Report:
    """One round; every answered call must be a hold in the database."""
    key = service.metadata["authorization"].removeprefix("Bearer ")
    plan = Plan(f"127.0.0.1:{service.port}", key, HOT, callers, coalesce, bench.seconds)
    before = bulk.count(ledger)
    answer = subprocess.run(
        [sys.executable, "-m", "benchmark.callers"],
        cwd=LOADTEST,
        input=json.dumps(asdict(plan)),
        capture_output=True,
        check=True,
        text=True,
    ).stdout
    report = Report(**json.loads(answer))
    held = bulk.count(ledger).held - before.held
    if held != report.calls:
        bench.results.fail(f"the client's {report.calls} calls were answered, the database counts {held} units")
    return report
