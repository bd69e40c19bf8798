"""The whole service as an operator starts it: `holdsvc serve` in a process of its own, and what it says."""

import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

START_S = 120.0
COMMAND = (sys.executable, "-m", "holdsvc")

Series = dict[tuple[str, frozenset[tuple[str, str]]], float]


class Serving:
    """A running `holdsvc serve`."""

    def __init__(self, environment: dict[str, str]) -> None:
        # Beside the log: what the interpreter and gRPC's core say.
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - as long as the process
        self.process = subprocess.Popen(
            [*COMMAND, "serve"],
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )
        self.lines: list[dict[str, Any]] = []
        self._new: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for text in self.process.stdout:
            line = json.loads(text)
            self.lines.append(line)
            self._new.put(line)
        self.process.stdout.close()
        self._new.put(None)

    def wait_for(self, event: str, matches: Callable[[dict[str, Any]], bool] = lambda _: True) -> dict[str, Any]:
        """The next log line of this event that was not yet waited for."""
        while True:
            line = self._new.get(timeout=START_S)
            assert line is not None, f"it ended before it said {event}: {self.lines}"
            if line["event"] == event and matches(line):
                return line

    def metrics(self) -> str:
        """The metrics page as it is now."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=60) as page:
            return str(page.read().decode())

    def series(self) -> Series:
        """What the metrics page shows now."""
        text = self.metrics()
        return {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def ready(self, workers: int) -> None:
        """Waits until all workers serve."""
        self.metrics_port = int(self.wait_for("metrics.serving")["port"])
        ports = {int(self.wait_for("serving")["port"]) for _ in range(workers)}
        assert len(ports) == 1
        self.port = ports.pop()

    @property
    def address(self) -> str:
        """Where it serves calls."""
        return f"127.0.0.1:{self.port}"

    def said(self) -> str:
        """Everything that it has written by now, the log and whatever else."""
        self._errors.seek(0)
        return "\n".join([*(json.dumps(line, ensure_ascii=False) for line in self.lines), self._errors.read()])

    def stop(self) -> int:
        """Ends it as an operator does, and returns its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.wait()

    def wait(self) -> int:
        """Waits for its end, and returns its exit code."""
        code = self.process.wait(90.0)
        self._reader.join(30.0)
        return code

    def close(self) -> None:
        """Ends it if need be, and shows what it wrote beside its log."""
        if self.process.poll() is None:
            self.stop()
        self._errors.seek(0)
        sys.stderr.write(self._errors.read())
        self._errors.close()


@contextmanager
def serving(workers: int = 1, **settings: str) -> Iterator[Serving]:
    """Runs the service on free ports; settings as keywords, in lower case without their prefix."""
    values = {
        "listen": "127.0.0.1:0",
        "metrics_listen": "127.0.0.1:0",
        "auth": "off",
        "workers": str(workers),
        "drain_grace": "5s",
        **settings,
    }
    service = Serving({f"HOLDSVC_{name.upper()}": value for name, value in values.items()})
    try:
        service.ready(workers)
        yield service
    finally:
        service.close()


def command(*arguments: str, **settings: object) -> subprocess.CompletedProcess[str]:
    """Runs another command to its end, with these settings and no others."""
    bare = {name: value for name, value in os.environ.items() if not name.startswith("HOLDSVC_")}
    given = {f"HOLDSVC_{name.upper()}": str(value) for name, value in settings.items()}
    return subprocess.run(
        [*COMMAND, *arguments], env=bare | given, capture_output=True, text=True, timeout=120, check=False
    )
