"""`holdsvc` commands in forks of a process that has imported them: to start the interpreter anew costs a second."""

import atexit
import multiprocessing
import os
import pkgutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from typing import IO

import holdsvc.__main__
from holdsvc import commands

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(
    [
        "holdsvc.process.supervisor",
        *(f"holdsvc.commands.{one.name}" for one in pkgutil.iter_modules(commands.__path__)),
    ]
)


class Fork:
    """A command, used like a Popen; it writes to two open files, whose numbers stay the caller's."""

    def __init__(self, arguments: Sequence[str], environment: Mapping[str, str], out: int, err: int) -> None:
        # A connection is what the fork can be handed.
        ends = [Connection(os.dup(number), readable=False) for number in (out, err)]
        self._process = _context.Process(target=_run, args=(*ends, arguments, environment))
        self._process.start()
        for end in ends:
            end.close()
        self.pid = self._process.pid or 0

    def poll(self) -> int | None:
        """The exit code of one that has ended."""
        return self._process.exitcode

    @property
    def returncode(self) -> int | None:
        """The same."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Waits for its end; returns the exit code."""
        self._process.join(timeout)
        code = self._process.exitcode
        if code is None:
            raise subprocess.TimeoutExpired("holdsvc", timeout or 0.0)
        return code

    def send_signal(self, number: int) -> None:
        """Sends a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Sends SIGTERM."""
        self._process.terminate()

    def kill(self) -> None:
        """Sends SIGKILL."""
        self._process.kill()


class Piped(Fork):
    """One that writes into pipes, to be read here and closed."""

    def __init__(self, arguments: Sequence[str], environment: Mapping[str, str]) -> None:
        (out, out_end), (err, err_end) = os.pipe(), os.pipe()
        self.stdout: IO[bytes] = os.fdopen(out, "rb")
        self.stderr: IO[bytes] = os.fdopen(err, "rb")
        super().__init__(arguments, environment, out_end, err_end)
        for end in (out_end, err_end):
            os.close(end)


def _run(out: Connection, err: Connection, arguments: Sequence[str], environment: Mapping[str, str]) -> None:
    os.dup2(out.fileno(), 1)
    os.dup2(err.fileno(), 2)
    out.close()
    err.close()
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["holdsvc", *arguments]
    try:
        holdsvc.__main__.main()
    finally:
        atexit._run_exitfuncs()  # a fork ends without them, and the log is written by one
