"""`make torture MINUTES=10`: the long form of the model and fault tests, in rounds with new seeds.

Stops at the first failure and prints how to repeat it. The first round runs whole: about an hour with attacks of 30 s,
half of that with those of 10 s that fewer minutes than 4 bring.
"""

import argparse
import os
import random
import subprocess
import sys
import time

TESTS = (
    "tests/model",
    "tests/faults",
    "tests/concurrency",
    "tests/cells",
    "tests/contract/test_bounds.py",
    "tests/http/test_connections.py",
    "tests/http/test_processes.py",
    "tests/process/test_workers.py",
    "tests/streams/test_checker.py",
    "tests/streams/test_clock_steps.py",
    "tests/telemetry/test_logs.py",
)

LONG_FORM = {
    "HOLDSVC_TEST_MODEL_EXAMPLES": "100",
    "HOLDSVC_TEST_FAULT_ROUNDS": "3",
    "HOLDSVC_TEST_ROLLS": "20",
    "HOLDSVC_TEST_FAILOVERS": "crash,kill,orphan",
    "HOLDSVC_TEST_FUZZ_ROUNDS": "4000",
    "HOLDSVC_TEST_WATCHERS": "2000",
    "HOLDSVC_TEST_REOPENINGS": "20000",
    "HOLDSVC_TEST_CHANGES": "50000",
    "HOLDSVC_TEST_CHECKER_ROUNDS": "3",
    "HOLDSVC_TEST_OUTAGE_ROUNDS": "30",
}
"""Sizes of a round, larger than those of `make test`; the environment overrides them."""

ATTACK_S = "HOLDSVC_TEST_ATTACK_S"
ATTACK_S_MIN, ATTACK_S_MAX = 10, 30
"""How long each attack and each quiet turn lasts: 3 s for each minute asked for. Shorter ones are no long form."""


def main() -> int:
    """Runs rounds until the time is up; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10, help="the last round starts before this time (default 10)")
    minutes = parser.parse_args().minutes
    end = time.monotonic() + 60 * minutes
    attack_s = min(ATTACK_S_MAX, max(ATTACK_S_MIN, int(3 * minutes)))
    environment = {**LONG_FORM, ATTACK_S: str(attack_s), **os.environ}
    number = 0
    while number == 0 or time.monotonic() < end:
        number += 1
        seed = random.SystemRandom().randrange(2**32)
        command = [sys.executable, "-m", "pytest", "-q", "-x", "--timeout=1800", f"--hypothesis-seed={seed}", *TESTS]
        print(f"round {number}, seed {seed}", flush=True)
        start = time.monotonic()
        code = subprocess.run(command, env=environment, check=False).returncode
        if code != 0:
            settings = " ".join(f"{name}={environment[name]}" for name in (*LONG_FORM, ATTACK_S))
            print(f"failed in round {number}; repeat it with: {settings} {' '.join(command)}", file=sys.stderr)
            return code
        print(f"round {number} passed in {time.monotonic() - start:.0f} s", flush=True)
    print(f"{number} rounds passed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
