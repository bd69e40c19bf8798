"""A replica that a test kills and starts again: `holdsvc serve` on a fixed port, its log in a file."""

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import psutil
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.support.forks import Fork
from tests.support.polling import wait_until
from tests.support.ports import free_port

START_TIMEOUT_S = 120.0
END_TIMEOUT_S = 90.0
"""Drain grace, the margin after it, and a shutdown of PostgreSQL, which may take a minute."""


class Replica:
    """A service in a process of its own, a fork of one that has imported it; AUTH off."""

    def __init__(self, folder: Path, environment: dict[str, str] | None = None, **settings: Any) -> None:
        """With an `environment` the interpreter is started anew, in it."""
        self.port = free_port()
        self.folder = folder
        self.data_dir = Path(settings.get("data_dir", folder / "data"))
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("HOLDSVC_")},
            "HOLDSVC_LISTEN": f"127.0.0.1:{self.port}",
            "HOLDSVC_METRICS_LISTEN": "",
            "HOLDSVC_AUTH": "off",
            "HOLDSVC_DRAIN_GRACE": "5s",
            "HOLDSVC_DATA_DIR": str(self.data_dir),
            **{f"HOLDSVC_{name.upper()}": str(value) for name, value in settings.items()},
        }
        self._anew = environment
        self.process: subprocess.Popen[bytes] | Fork | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        """Starts the service and waits until it serves."""
        with (self.folder / "serve.log").open("ab") as log:
            if self._anew is None:
                self.process = Fork(["serve"], self._environment, log.fileno(), log.fileno())
            else:
                whole = [sys.executable, "-m", "holdsvc", "serve"]
                self.process = subprocess.Popen(whole, env=self._environment | self._anew, stdout=log, stderr=log)
        self.wait_serving()

    def wait_serving(self, timeout_s: float = START_TIMEOUT_S) -> float:
        """Waits until health is SERVING; returns the seconds that took."""

        def is_serving() -> bool:
            assert self.process is not None
            assert self.process.poll() is None, self.log_tail()
            return bool(self.health() == health_pb2.HealthCheckResponse.SERVING)

        try:
            return wait_until(is_serving, timeout_s=timeout_s, pause_s=0.05)
        except TimeoutError:
            raise AssertionError(f"not serving after {timeout_s} s:\n{self.log_tail()}") from None

    def health(self) -> int:
        """The status of the health service; 0 without an answer."""
        with grpc.insecure_channel(self.address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
            try:
                request = health_pb2.HealthCheckRequest()
                stub: Any = health_pb2_grpc.HealthStub(channel)
                return int(stub.Check(request, timeout=2).status)
            except grpc.RpcError:
                return 0

    def workers(self) -> list[psutil.Process]:
        """The processes that serve calls."""
        found = []
        for child in self._children():
            with suppress(psutil.NoSuchProcess):  # it ends just now
                if "multiprocessing.spawn" in " ".join(child.cmdline()):
                    found.append(child)
        return found

    def postmaster(self) -> psutil.Process:
        """The embedded PostgreSQL's main process."""
        pid = int((self.data_dir / "pgdata" / "postmaster.pid").read_text().split()[0])
        return psutil.Process(pid)

    def _children(self) -> list[psutil.Process]:
        assert self.process is not None
        return list(psutil.Process(self.process.pid).children())

    def kill(self) -> None:
        """Kills the supervisor with SIGKILL; the kernel then ends its children. Returns when its port is free."""
        assert self.process is not None
        workers = self.workers()
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        psutil.wait_procs(workers, timeout=END_TIMEOUT_S)

    def terminate(self) -> None:
        """Sends SIGTERM and waits for the end."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(END_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self.kill()
                raise AssertionError(f"the service does not end:\n{self.log_tail()}") from None

    def log_tail(self) -> str:
        lines = (self.folder / "serve.log").read_text(errors="replace").splitlines()
        return "\n".join(lines[-30:])
