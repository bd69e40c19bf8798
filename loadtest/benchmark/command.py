"""The command: chooses the scenarios, sets the stage, runs them, reports."""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

from benchmark import machine, profile, report
from benchmark.bench import Bench
from benchmark.load import LOADTEST
from benchmark.results import Results
from benchmark.scenarios import SCENARIOS
from benchmark.stage import Postgres


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench.py", description="Measures the service beside its rivals.")
    parser.add_argument("--only", default="", help=f"some of {','.join(SCENARIOS)}")
    parser.add_argument(
        "--profile", choices=profile.KINDS, help="no figures: py-spy's view of a worker under this load"
    )
    parser.add_argument("--full", action="store_true", help="5 million reservations, longer runs")
    parser.add_argument("--seconds", type=float, help="measured time of each load (BENCH_SECONDS)")
    parser.add_argument("--rounds", type=int, default=3, help="turns of the figures that ratios are made of")
    parser.add_argument("--scale", type=float, default=1.0, help="of the row counts: less than 1 for a trial")
    parser.add_argument("--pg-bin", type=Path, help="folder of another PostgreSQL's programs")
    parser.add_argument("--folder", type=Path, help="where the database is made; default: the temporary folder")
    parser.add_argument("--out", type=Path, default=LOADTEST / "results", help="where the results go")
    parser.add_argument("--name", default="", help="file name of the results; default: date, commit and scenarios")
    return parser.parse_args()


def main() -> None:
    """Runs the benchmark; exit code 1 when a count does not add up or a call failed that must not."""
    arguments = _arguments()
    names = arguments.only.split(",") if arguments.only else list(SCENARIOS)
    unknown = [name for name in names if name not in SCENARIOS]
    if unknown:
        sys.exit(f"bench.py: no scenario {', '.join(unknown)}; there are {', '.join(SCENARIOS)}")
    seconds = arguments.seconds or float(os.environ.get("BENCH_SECONDS", "10" if arguments.full else "3"))
    results = Results()
    others: dict[str, float] = {}
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="holdsvc-bench-", dir=arguments.folder) as name:
        folder = Path(name)
        postgres = Postgres(folder / "database", arguments.pg_bin)
        (folder / "database").mkdir()
        postgres.start()
        try:
            where = machine.describe(postgres.version)
            bench = Bench(
                postgres, folder, results, seconds, arguments.rounds, full=arguments.full, scale=arguments.scale
            )
            if arguments.profile:
                profile.run(bench, arguments.profile, where, arguments.out)
                return
            meter = machine.Meter()
            for scenario in names:
                print(f"{scenario} (at {time.monotonic() - started:.0f} s)", flush=True)
                SCENARIOS[scenario](bench)
                others[scenario] = meter.others()
                print(f"  (others used {others[scenario]:.0%} of the machine)", flush=True)
        finally:
            postgres.stop()
    where["load"] = f"{seconds:g} s each, {arguments.rounds} rounds, {time.monotonic() - started:.0f} s in all"
    # Ratios bear it better than absolute figures, and neither bears much of it.
    where["used by others"] = ", ".join(f"{name} {share:.0%}" for name, share in others.items())
    report.write(results, where, arguments.out, arguments.name or report.file_name(where, arguments.only))
    if results.failures:
        sys.exit(1)
