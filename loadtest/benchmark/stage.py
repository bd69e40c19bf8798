"""Servers under measurement: one PostgreSQL for the run, a database per scenario, services as processes."""

import itertools
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import psycopg
from psycopg.conninfo import make_conninfo

from benchmark import machine
from benchmark.load import LOADTEST, Target
from holdsvc.commands.health import ask
from holdsvc.commands.keys import create_key
from holdsvc.embedded import binaries
from holdsvc.embedded.server import EmbeddedServer
from holdsvc.ledger import migrate
from holdsvc.settings import Settings

TENANT = "bench"
SERVICE = "/inventoryhold.v1.ReservationService/"
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 40.0

CONNECTIONS_MAX = 1200
"""pgbench runs with up to 1,000 clients."""

_numbers = itertools.count(1)


class Postgres:
    """The embedded server with the service's own settings (fsync on) and more connections, in a folder of the run."""

    def __init__(self, folder: Path, bin_dir: Path | None = None) -> None:
        self._folder = folder
        self.bin_dir = binaries.find(bin_dir, None)
        self._server: EmbeddedServer | None = None
        self._dsn = ""
        self._templates: dict[str, str] = {}

    def start(self) -> None:
        """Starts the server."""
        self._folder.mkdir(exist_ok=True)
        settings = {"max_connections": str(CONNECTIONS_MAX)}
        self._server = EmbeddedServer(self._folder, bin_dir=self.bin_dir, settings=settings)
        self._dsn = self._server.start()

    def stop(self) -> None:
        """Stops the server."""
        if self._server is not None:
            self._server.stop()
            self._server = None

    def ledger(self) -> str:
        """The owner's DSN of a fresh, migrated database."""
        if "ledger" not in self._templates:
            dsn = self._create("template1")
            migrate.up(dsn)
            self._templates["ledger"] = _name_of(dsn)
        return self._create(self._templates["ledger"])

    def baseline(self) -> str:
        """The owner's DSN of a fresh database with the hand-written tables."""
        if "baseline" not in self._templates:
            dsn = self._create("template1")
            run_sql(dsn, (LOADTEST / "baseline" / "schema.sql").read_text())
            self._templates["baseline"] = _name_of(dsn)
        return self._create(self._templates["baseline"])

    def _create(self, template: str) -> str:
        name = f"bench_{next(_numbers)}"
        run_sql(self._dsn, f"CREATE DATABASE {name} TEMPLATE {template}")
        return make_conninfo(self._dsn, dbname=name)

    def drop(self, dsn: str) -> None:
        """Drops a database, so that its vacuum does not disturb the next scenario."""
        run_sql(self._dsn, f"DROP DATABASE {_name_of(dsn)} WITH (FORCE)")

    def never_vacuum(self, dsn: str) -> None:
        """Turns autovacuum, and so autoanalyze, off for all tables of a database."""
        tables = query(
            dsn,
            "SELECT c.oid::regclass::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
            " WHERE c.relkind = 'r' AND n.nspname = 'holdsvc'",
        )
        for (table,) in tables:
            run_sql(dsn, f"ALTER TABLE {table} SET (autovacuum_enabled = off)")

    def settle(self) -> None:
        """Runs a checkpoint, so that none falls into the next measurement."""
        run_sql(self._dsn, "CHECKPOINT")

    def processor_s(self) -> float:
        """Processor time of the server's processes."""
        return machine.family_s(self._server.pid) if self._server is not None and self._server.pid is not None else 0.0

    @property
    def version(self) -> str:
        """The server's version."""
        return str(query(self._dsn, "SHOW server_version")[0][0])


def _name_of(dsn: str) -> str:
    return str(psycopg.conninfo.conninfo_to_dict(dsn)["dbname"])


def run_sql(dsn: str, sql: str) -> None:
    """Runs statements in autocommit mode."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(sql.encode())


def query(dsn: str, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
    """Runs a query."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        return connection.execute(sql.encode(), parameters or None).fetchall()


@dataclass
class Running:
    """A server process under load."""

    process: "subprocess.Popen[bytes]"
    port: int
    metadata: dict[str, str]
    log: Path

    @property
    def address(self) -> str:
        """Where it listens."""
        return f"127.0.0.1:{self.port}"

    def target(self, method: str) -> Target:
        """A method of the reservation service."""
        return Target("127.0.0.1", self.port, SERVICE + method, self.metadata)

    @property
    def workers(self) -> list[int]:
        """Processes that serve calls: the supervisor's workers, or the process itself."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        workers = [int(pid) for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
        return workers or [self.process.pid]

    def resident_mb(self) -> float:
        """Peak resident memory of the largest worker."""
        peaks = [_status_kb(pid, "VmHWM") for pid in self.workers]
        return max(peaks) / 1024

    def processor_s(self) -> float:
        """Processor time of the workers."""
        return sum(_processor_s(pid) for pid in self.workers)


def _status_kb(pid: int, name: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1])
    raise LookupError(name)


def _processor_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def holdsvc(dsn: str, folder: Path, *, workers: int = 1, **settings: str) -> Iterator[Running]:
    """The service with identity, metrics, sweep, health and reflection on."""
    secret = create_key(dsn, TENANT, "bench", "all", "", None)
    port = free_port()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HOLDSVC_")}
    environment |= {
        "HOLDSVC_DSN": dsn,
        "HOLDSVC_LISTEN": f"127.0.0.1:{port}",
        "HOLDSVC_METRICS_LISTEN": f"127.0.0.1:{free_port()}",
        "HOLDSVC_WORKERS": str(workers),
        **{f"HOLDSVC_{name.upper()}": value for name, value in settings.items()},
    }
    command = [sys.executable, "-c", "from holdsvc.commands.cli import main; main()", "serve"]
    with _running(command, environment, port, {"authorization": f"Bearer {secret}"}, folder) as running:
        _await_serving(running)
        yield running


@contextmanager
def baseline(name: str, folder: Path, dsn: str = "", **environment: str) -> Iterator[Running]:
    """A server of loadtest/baseline, with more variables in its environment."""
    port = free_port()
    command = [sys.executable, str(LOADTEST / "baseline" / f"{name}.py"), str(port), dsn]
    with _running(command, os.environ | environment, port, {}, folder) as running:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            grpc.channel_ready_future(channel).result(START_TIMEOUT_S)
        yield running


@contextmanager
def _running(
    command: Sequence[str], environment: dict[str, str], port: int, metadata: dict[str, str], folder: Path
) -> Iterator[Running]:
    log = folder / f"server-{port}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output, stdin=subprocess.DEVNULL)
    try:
        yield Running(process, port, metadata, log)
        if process.poll() is not None:
            raise RuntimeError(f"the server ended under load:\n{log.read_text()[-2000:]}")
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _await_serving(running: Running) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if running.process.poll() is not None:
            break
        if ask(Settings.model_construct(), running.address, 1.0, liveness=False) == "SERVING":
            return
        time.sleep(0.05)
    raise RuntimeError(f"the service does not serve:\n{running.log.read_text()[-2000:]}")


def free_port() -> int:
    """A port that was free when asked."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
