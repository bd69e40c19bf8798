"""The long form of the model and the faults: rounds of them, each with another seed, until the time is over.

Stops at the first failure and says how to repeat it: `make torture MINUTES=10`.
"""

import argparse
import os
import random
import subprocess
import sys
import time

TESTS = ("tests/model", "tests/faults", "tests/concurrency", "tests/streams/test_checker.py")

LONG_FORM = {
    "HOLDSVC_TEST_MODEL_EXAMPLES": "100",
    "HOLDSVC_TEST_FAULT_ROUNDS": "3",
    "HOLDSVC_TEST_FUZZ_ROUNDS": "4000",
    "HOLDSVC_TEST_WATCHERS": "2000",
    "HOLDSVC_TEST_REOPENINGS": "20000",
    "HOLDSVC_TEST_CHANGES": "50000",
}
"""What each round does more of than `make test`; the environment goes over it."""


def main() -> int:
    """Runs rounds until the time is over; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10, help="no round begins after so many minutes (default 10)")
    end = time.monotonic() + 60 * parser.parse_args().minutes
    environment = {**LONG_FORM, **os.environ}
    number = 0
    while number == 0 or time.monotonic() < end:
        number += 1
        seed = random.SystemRandom().randrange(2**32)
        command = [sys.executable, "-m", "pytest", "-q", "-x", "--timeout=1800", f"--hypothesis-seed={seed}", *TESTS]
        print(f"round {number}, seed {seed}", flush=True)
        start = time.monotonic()
        code = subprocess.run(command, env=environment, check=False).returncode
        if code != 0:
            settings = " ".join(f"{name}={environment[name]}" for name in LONG_FORM)
            print(f"failed in round {number}; again: {settings} {' '.join(command)}", file=sys.stderr)
            return code
        print(f"round {number} passed in {time.monotonic() - start:.0f} s", flush=True)
    print(f"{number} rounds passed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
