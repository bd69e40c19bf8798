"""`holdsvc serve` as an operator runs it: a process of its own, with its log and its metrics."""

import json
import os
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

COMMAND = (sys.executable, "-m", "holdsvc")


def environment(settings: Mapping[str, object]) -> dict[str, str]:
    """This process's environment with these settings and no others."""
    bare = {name: value for name, value in os.environ.items() if not name.startswith("HOLDSVC_")}
    return bare | {f"HOLDSVC_{name.upper()}": str(value) for name, value in settings.items()}


def command(*arguments: str, **settings: object) -> subprocess.CompletedProcess[str]:
    """Runs one command to its end."""
    return subprocess.run(
        [*COMMAND, *arguments], env=environment(settings), capture_output=True, text=True, timeout=60, check=False
    )


class Served:
    """A running `holdsvc serve`."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process
        self.lines: list[str] = []
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._changed:
                self.lines.append(line)
                self._changed.notify_all()

    def events(self, name: str) -> list[dict[str, Any]]:
        """The log's entries of this name."""
        entries = (json.loads(line) for line in list(self.lines) if line.startswith("{"))
        return [entry for entry in entries if entry["event"] == name]

    def wait_for(self, name: str, count: int = 1) -> list[dict[str, Any]]:
        """Waits until the log has this many entries of a name."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.events(name)) >= count, timeout=60), "".join(self.lines)
        return self.events(name)

    @property
    def address(self) -> str:
        """Where it serves calls."""
        return f"127.0.0.1:{self.wait_for('serving')[0]['port']}"

    def metrics(self) -> str:
        """The metrics page."""
        port = self.wait_for("metrics.serving")[0]["port"]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as page:  # noqa: S310 - loopback
            return str(page.read().decode())

    def stop(self) -> int:
        """Ends it as an operator does; returns the exit code."""
        self.process.terminate()
        return self.wait()

    def wait(self) -> int:
        """Waits for its end, and that its log is read; returns the exit code."""
        code = self.process.wait(60)
        self._reader.join(10)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code


@contextmanager
def served(**settings: object) -> Iterator[Served]:
    """Runs the service on free ports; its log is read to the end."""
    values = {"listen": "127.0.0.1:0", "metrics_listen": "127.0.0.1:0", "drain_grace": "5s", **settings}
    process = subprocess.Popen(
        [*COMMAND, "serve"],
        env=environment(values),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    service = Served(process)
    try:
        service.wait_for("serving", int(str(settings.get("workers", 1))))
        yield service
    finally:
        if process.stdout is not None and not process.stdout.closed:
            service.stop()
