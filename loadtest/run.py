"""`make load`: buyers compete for one item with too few units for 20 seconds; then every promise is checked.

The exit code is 0 only if nothing was oversold, all available units were taken, the counters add up, every call was
answered, and VerifyLedger finds no drift.
"""

import argparse
import sys
import time
from contextlib import suppress

# Before grpc: this import replaces threads, sockets and sleep by those of gevent.
from locust import events  # isort: split

import locustfile
from locust.env import Environment
from target import Target

from holdsvc.commands import CommandError


def main() -> int:
    """Runs the sale; returns the exit code."""
    parser = argparse.ArgumentParser(prog="make load", description=__doc__)
    parser.add_argument("--seconds", type=float, default=20, help="duration (20)")
    parser.add_argument("--buyers", type=int, default=100, help="concurrent buyers (100)")
    parser.add_argument("--units", type=int, default=locustfile.UNITS, help=f"units of the item ({locustfile.UNITS})")
    parser.add_argument(
        "--rush", type=int, default=locustfile.RUSH, help=f"callers at once, before and after ({locustfile.RUSH})"
    )
    options = parser.parse_args()
    try:
        target = Target.load()
        target.check("load")
    except CommandError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{options.buyers} buyers, {options.units} units, {options.seconds:g} s, at {target.address}", flush=True)
    environment = Environment(user_classes=[locustfile.BuyerUser], events=events, parsed_options=options)
    runner = environment.create_local_runner()
    runner.start(options.buyers, spawn_rate=options.buyers)
    assert runner.spawning_greenlet is not None
    runner.spawning_greenlet.join()
    if locustfile.Stand.sale is not None:
        with suppress(KeyboardInterrupt):
            time.sleep(options.seconds)
    runner.quit()
    return environment.process_exit_code or 0


if __name__ == "__main__":
    sys.exit(main())
