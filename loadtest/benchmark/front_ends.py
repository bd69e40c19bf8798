"""Front ends of the service: processes with callers of the Python client, whose holds are counted in the database."""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict

from benchmark import bulk
from benchmark.callers import Plan, Report
from benchmark.context import Bench
from benchmark.load import LOADTEST
from benchmark.messages import HOT
from benchmark.stage import Running

SECONDS_SHARE = 2 / 3
"""Share of a load's time: with all numbers of callers the whole run would take too long."""


def measure(
    bench: Bench,
    service: Running,
    ledger: str,
    *,
    callers: int,
    coalesce: bool,
    processes: int = 1,
    target: str | list[str] = "",
    skus: Sequence[str] = (HOT,),
    threads: bool = False,
) -> list[Report]:
    """Lets processes with so many callers each work at the same time; each answered call must be a hold."""
    plan = Plan(
        target=target or service.address,
        api_key=service.metadata["authorization"].removeprefix("Bearer "),
        skus=list(skus),
        callers=callers,
        coalesce=coalesce,
        seconds=bench.seconds * SECONDS_SHARE,
        threads=threads,
    )
    before = bulk.count(ledger)
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "benchmark.callers"],
            cwd=LOADTEST,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(processes)
    ]
    for process in running:
        assert process.stdin is not None
        json.dump(asdict(plan), process.stdin)
        process.stdin.close()
    reports = [_report(process) for process in running]
    calls, held = sum(report.calls for report in reports), bulk.count(ledger).held - before.held
    if held != calls:
        bench.results.fail(f"the client's {calls} calls were answered, the database counts {held} units")
    return reports


def _report(process: "subprocess.Popen[str]") -> Report:
    assert process.stdout is not None
    with process.stdout:
        text = process.stdout.read()
    if process.wait() != 0:
        raise RuntimeError("callers failed; their error is above")
    return Report(**json.loads(text))
