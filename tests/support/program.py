"""`holdsvc` as a process: commands that end, and `serve` with its log, addresses, metrics and children."""

import json
import os
import queue
import select
import signal
import subprocess
import sys
import tempfile
import threading
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

import grpc
from prometheus_client.parser import text_string_to_metric_families

from inventoryhold.v1 import (
    inventory_service_pb2,
    inventory_service_pb2_grpc,
    item_pb2,
    reservation_pb2,
    reservation_service_pb2,
    reservation_service_pb2_grpc,
)
from tests.support.forks import Fork
from tests.support.polling import wait_until

WAIT_S = 120.0

Series = dict[tuple[str, frozenset[tuple[str, str]]], float]
"""Values of metrics by name and labels."""


def command(
    *arguments: str, environment: Mapping[str, str] | None = None, timeout: float = WAIT_S
) -> subprocess.CompletedProcess[str]:
    """Runs one `holdsvc` command to its end, in a fork of a process that has imported the commands.

    With a variable of Python's the interpreter is started anew.
    """
    wanted = environment or {}
    if any(name.startswith("PYTHON") for name in wanted):
        whole = [sys.executable, "-m", "holdsvc", *arguments]
        return subprocess.run(
            whole, env=_environment(wanted), capture_output=True, text=True, timeout=timeout, check=False
        )
    with tempfile.NamedTemporaryFile("w+") as out, tempfile.NamedTemporaryFile("w+") as err:
        process = Fork(arguments, _environment(wanted), out.fileno(), err.fileno())
        try:
            code = process.wait(timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(arguments, code, out.read(), err.read())


@contextmanager
def serving(
    workers: int = 1, data_dir: Path | None = None, *, anew: bool = False, **settings: str
) -> Iterator["Program"]:
    """Runs the service on free ports until the end of the block; every worker serves when it begins."""
    values = {"metrics_listen": "127.0.0.1:0", "workers": str(workers), "drain_grace": "5s", **settings}
    with Program(data_dir, anew=anew, **values) as program:
        program.metrics_port = int(program.wait_for("metrics.serving")["port"])
        yield program.serving(workers)


def variables(**settings: object) -> dict[str, str]:
    """Settings, in lower case without their prefix, as environment variables."""
    return {f"HOLDSVC_{name.upper()}": str(value) for name, value in settings.items()}


def _environment(more: Mapping[str, str]) -> dict[str, str]:
    own = {name: value for name, value in os.environ.items() if not name.startswith(("HOLDSVC_", "PROMETHEUS_", "PG"))}
    return {**own, "NO_COLOR": "1", **more}


class Program:
    """A running `holdsvc serve`; it ends, with its children, at the end of the block.

    It is a fork of a process that has imported it, unless it is to start `anew` or has the code of another release.
    """

    def __init__(
        self,
        data_dir: Path | None,
        *flags: str,
        dsn: str = "",
        python_path: str = "",
        anew: bool = False,
        **settings: str,
    ) -> None:
        values = {"listen": "127.0.0.1:0", "metrics_listen": "", "auth": "off", "log_level": "info", "dsn": dsn}
        if data_dir is not None:
            values["data_dir"] = str(data_dir)
        self.environment = variables(**values | settings)
        if python_path:
            # The package of another release is found before the installed one.
            self.environment["PYTHONPATH"] = python_path
        (out, out_end), (err, err_end) = os.pipe(), os.pipe()
        self._out, self._err = os.fdopen(out), os.fdopen(err)
        environment = _environment(self.environment)
        self._process: subprocess.Popen[bytes] | Fork
        if anew or python_path:
            whole = [sys.executable, "-m", "holdsvc", "serve", *flags]
            self._process = subprocess.Popen(whole, stdout=out_end, stderr=err_end, env=environment)
        else:
            self._process = Fork(["serve", *flags], environment, out_end, err_end)
        for end in (out_end, err_end):
            os.close(end)
        self.lines: list[str] = []
        self.errors: list[str] = []
        self._news: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._readers = [
            threading.Thread(target=self._read_log, daemon=True),
            threading.Thread(target=self._read_errors, daemon=True),
        ]
        for reader in self._readers:
            reader.start()
        self.port = 0
        self.metrics_port = 0
        self._channels: list[grpc.Channel] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for channel in self._channels:
            channel.close()
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(WAIT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self.end()

    def _read_log(self) -> None:
        for line in self._out:
            self.lines.append(line)
            with suppress(ValueError):
                self._news.put(json.loads(line))
        self._news.put(None)

    def _read_errors(self) -> None:
        self.errors.extend(self._err)

    @property
    def pid(self) -> int:
        """The process id of the supervisor."""
        return self._process.pid

    @property
    def events(self) -> list[dict[str, Any]]:
        """The log so far; every line must be JSON."""
        return [json.loads(line) for line in self.lines]

    def metrics(self) -> str:
        """The metrics page."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=60) as page:
            return str(page.read().decode())

    def series(self) -> Series:
        """The values of the metrics page."""
        return {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(self.metrics())
            for sample in family.samples
        }

    def wait_for(self, event: str, *more: str) -> dict[str, Any]:
        """The next log line of one of these events."""
        while True:
            try:
                news = self._news.get(timeout=WAIT_S)
            except queue.Empty:
                raise AssertionError(f"no {event} within {WAIT_S} s:\n{self.output}") from None
            if news is None:
                raise AssertionError(f"ended before {event}:\n{self.output}")
            if news.get("event") in (event, *more):
                return news

    def serving(self, workers: int = 1) -> Self:
        """Waits until `workers` workers serve."""
        for _ in range(workers):
            self.port = self.wait_for("serving")["port"]
        return self

    @property
    def output(self) -> str:
        """Everything written to standard output and error so far."""
        return "".join(self.lines + self.errors)

    def send_signal(self, number: int) -> None:
        """Sends a signal to the supervisor."""
        self._process.send_signal(number)

    def terminate(self) -> None:
        """Sends SIGTERM."""
        self._process.terminate()

    def stop(self) -> int:
        """Sends SIGTERM and waits for the end; returns the exit code."""
        self.terminate()
        return self.end()

    def kill(self) -> None:
        """Sends SIGKILL to the supervisor alone."""
        self._process.kill()

    def end(self) -> int:
        """Waits for its end; returns the exit code."""
        code = self._process.wait(WAIT_S)
        for reader in self._readers:
            reader.join(WAIT_S)
        for stream in (self._out, self._err):
            stream.close()
        return code

    @property
    def address(self) -> str:
        """Its address."""
        return f"127.0.0.1:{self.port}"

    def channel(self) -> grpc.Channel:
        """A connection of its own, without retries."""
        options = [("grpc.enable_retries", 0), ("grpc.use_local_subchannel_pool", 1)]
        channel = grpc.insecure_channel(self.address, options=options)
        self._channels.append(channel)
        return channel

    def wait_for_child(self, name: str) -> None:
        """Returns when a process below it has `name` in its command line."""
        try:
            wait_until(lambda: self.children(name), timeout_s=WAIT_S)
        except TimeoutError:
            raise AssertionError(f"no {name} within {WAIT_S} s:\n{self.output}") from None

    def children(self, name: str) -> list[int]:
        """Descendants whose command line contains `name`.

        With a name, a process that still has its parent's command line, because it was just forked, does not count.
        """
        return [pid for pid, line, above in descendants(self.pid) if name in line and (not name or line != above)]


class Client:
    """A few calls over one connection; they wait for a server that is starting."""

    def __init__(self, program: Program, key: str = "") -> None:
        channel = program.channel()
        self.reservations = reservation_service_pb2_grpc.ReservationServiceStub(channel)
        self.inventory = inventory_service_pb2_grpc.InventoryServiceStub(channel)
        self._options: dict[str, Any] = {"wait_for_ready": True, "timeout": WAIT_S}
        if key:
            self._options["metadata"] = (("x-api-key", key),)

    def create_item(self, sku: str, capacity: int) -> None:
        item = item_pb2.Item(sku=sku, capacity=capacity)
        self.inventory.CreateItem(inventory_service_pb2.CreateItemRequest(item=item), **self._options)

    def item(self, sku: str) -> item_pb2.Item:
        return self.inventory.GetItem(inventory_service_pb2.GetItemRequest(sku=sku), **self._options).item

    def reserve(self, sku: str, quantity: int = 1, request_id: str = "") -> reservation_pb2.Reservation:
        request = reservation_service_pb2.ReserveRequest(
            lines=[item_pb2.ItemQuantity(sku=sku, quantity=quantity)], request_id=request_id
        )
        return self.reservations.Reserve(request, **self._options).reservation


def descendants(pid: int, above: str = "") -> Iterator[tuple[int, str, str]]:
    """Process id, command line and the parent's command line."""
    with suppress(FileNotFoundError, ProcessLookupError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                line = Path(f"/proc/{child}/cmdline").read_bytes().replace(b"\0", b" ").decode()
                yield int(child), line, above
                yield from descendants(int(child), line)


class Watched:
    """Processes whose end can be awaited although they are not children of this process."""

    def __init__(self, pids: list[int]) -> None:
        self._files = [os.pidfd_open(pid) for pid in pids]

    def kill(self) -> None:
        """Sends SIGKILL to each."""
        for file in self._files:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(file, signal.SIGKILL)

    def have_ended(self, seconds: float = WAIT_S) -> bool:
        """Waits for the end of all of them."""
        ended = []
        for file in self._files:
            poll = select.poll()
            poll.register(file, select.POLLIN)
            ended.append(bool(poll.poll(seconds * 1000)))
            os.close(file)
        return all(ended)
