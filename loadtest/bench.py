"""`make bench`: measures the service on this machine, beside its rivals; table, JSON and plots go to loadtest/results.

python loadtest/bench.py                             everything, under 10 minutes on 2 cores
python loadtest/bench.py --full                      with 5 million reservations and long runs
python loadtest/bench.py --only hot,batch --seconds 5
"""

import argparse
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from benchmark import machine, profile, report
from benchmark.context import Bench
from benchmark.load import LOADTEST
from benchmark.results import Results
from benchmark.scenarios import SCENARIOS
from benchmark.stage import Postgres

DOCUMENT = LOADTEST.parent / "docs" / "performance.md"
SECONDS, SECONDS_FULL = 3.0, 10.0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bench.py", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--only", default="", help=f"some of {','.join(SCENARIOS)}")
    parser.add_argument(
        "--profile", choices=profile.KINDS, help="no figures: a profile of a worker under this load, by py-spy"
    )
    parser.add_argument("--full", action="store_true", help="5 million reservations, longer runs")
    parser.add_argument("--publish", action="store_true", help="put table and plots into docs/performance.md too")
    parser.add_argument("--seconds", type=float, help="measured time of each load (BENCH_SECONDS)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each figure that a ratio uses")
    parser.add_argument("--generators", type=int, default=1, help="processes that generate load")
    parser.add_argument("--scale", type=float, default=1.0, help="factor for row counts: below 1 for a trial")
    parser.add_argument("--pg-bin", type=Path, help="folder of another PostgreSQL's programs")
    parser.add_argument("--folder", type=Path, help="parent of the database's folder; default: the temporary folder")
    parser.add_argument("--out", type=Path, default=LOADTEST / "results", help="where the results go")
    parser.add_argument("--name", default="", help="file name of the results; default: date, commit and scenarios")
    arguments = parser.parse_args()
    arguments.names = arguments.only.split(",") if arguments.only else list(SCENARIOS)
    unknown = [name for name in arguments.names if name not in SCENARIOS]
    if unknown:
        parser.error(f"no scenario {', '.join(unknown)}; there are {', '.join(SCENARIOS)}")
    if arguments.seconds is None:
        default = SECONDS_FULL if arguments.full else SECONDS
        arguments.seconds = float(os.environ.get("BENCH_SECONDS") or default)
    return arguments


def main() -> None:
    """Runs the benchmark; exit code 1 if a count does not add up or a call failed unexpectedly."""
    arguments = _arguments()
    results = Results()
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="holdsvc-bench-", dir=arguments.folder) as name:
        postgres = Postgres(Path(name) / "database", arguments.pg_bin)
        postgres.start()
        try:
            where = machine.describe(postgres.version)
            bench = Bench(
                postgres,
                Path(name),
                results,
                arguments.seconds,
                arguments.rounds,
                full=arguments.full,
                generators=arguments.generators,
                scale=arguments.scale,
            )
            if arguments.profile:
                profile.run(bench, arguments.profile, where, arguments.out)
                return
            # Other load distorts absolute figures first, then ratios.
            where["used by others"] = _run(bench, arguments.names)
        finally:
            postgres.stop()
    spent_s = time.monotonic() - started
    where["load"] = f"{arguments.seconds:g} s each, {arguments.rounds} rounds, {spent_s:.0f} s in all"
    report.write(results, where, arguments.out, arguments.name or report.file_name(where, arguments.only))
    if arguments.publish:
        report.publish(results, where, DOCUMENT)
    if results.failures:
        sys.exit(1)


def _run(bench: Bench, names: Sequence[str]) -> str:
    """Runs the scenarios; returns the share of the machine that other processes used during each."""
    others = []
    started = time.monotonic()
    meter = machine.Meter()
    for name in names:
        print(f"{name} (at {time.monotonic() - started:.0f} s)", flush=True)
        try:
            SCENARIOS[name](bench)
        except Exception as error:  # noqa: BLE001 - keeps the figures of the other scenarios
            traceback.print_exc()
            bench.results.fail(f"{name}: {type(error).__name__}: {error}")
        others.append(f"{name} {meter.others():.0%}")
        print(f"  (used by others: {others[-1]})", flush=True)
    return ", ".join(others)


if __name__ == "__main__":
    main()
