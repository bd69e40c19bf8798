"""Programs that work against a service beside a test, each in a process of its own, and say when they are at work."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_AT_WORK = b"at work\n"


@contextmanager
def running(module: str, *arguments: object) -> Iterator[subprocess.Popen[bytes]]:
    """Runs a program while the block runs, which begins when the program is at work."""
    command = [sys.executable, "-m", module, *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == _AT_WORK
            yield process
        finally:
            process.kill()


def tell_at_work() -> None:
    """Lets the block of the caller begin."""
    sys.stdout.buffer.write(_AT_WORK)
    sys.stdout.flush()
