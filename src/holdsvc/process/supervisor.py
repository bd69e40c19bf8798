"""`holdsvc serve`: the process that starts the others, replaces those that die, and ends them all.

It starts the embedded PostgreSQL (without a DSN), migrates, serves the metrics of all processes on one page, and keeps
the workers, who share one port. It starts everything from its main thread: the kernel ends the children when that
thread ends, so that nothing survives a kill -9.
"""

import os
import resource
import shutil
import signal
import socket
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import structlog
from pydantic import SecretStr
from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_delay, wait_exponential

from holdsvc.addresses import join_address, split_address
from holdsvc.cell_file import CellAddress
from holdsvc.embedded import data_folder
from holdsvc.embedded.data_folder import EmbeddedServerError
from holdsvc.embedded.server import EmbeddedServer, StartGivenUp
from holdsvc.ledger import migrate
from holdsvc.ledger.schema_files import ConnectionRefused
from holdsvc.process.preparation import Preparation, tell
from holdsvc.settings import PREFIX, Settings, SettingsError
from holdsvc.telemetry import logs, tracing
from holdsvc.variables import shown

if TYPE_CHECKING:
    # prometheus-client decides at its import where values lie, by a variable that `run` sets.
    from holdsvc.process.workforce import Workforce
    from holdsvc.telemetry.monitor import Monitor

log = structlog.get_logger(__name__)

TICK_S = 0.2
RESTART_PAUSE_S = 1.0
"""Pause after a start of the database that failed."""


def serve(settings: Settings) -> int:
    """Runs the service until SIGTERM or SIGINT; returns the exit code."""
    tracing.check(settings)
    _check_certificates(settings)
    _raise_file_limit()
    supervisor = Supervisor(settings)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: supervisor.request_stop())
    if settings.tls_cert is not None:
        signal.signal(signal.SIGHUP, lambda *_: supervisor.request_reload())
    elif signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        # Without certificates there is nothing to reload: the signal means that the terminal was closed.
        signal.signal(signal.SIGHUP, lambda *_: supervisor.request_stop())
    return supervisor.run()


def _check_certificates(settings: Settings) -> None:
    """Reports certificates that cannot be used once, before any worker starts."""
    if settings.tls_cert is None:
        return
    # Brings gRPC along, which this process needs for nothing else.
    from holdsvc.api.tls import CertificateError, certificates_of

    try:
        certificates_of(settings)
    except CertificateError as error:
        raise SettingsError(f"{PREFIX}TLS_CERT: {error}") from error


def _raise_file_limit() -> None:
    """Allows this process and its children as many files as the system lets them have: a connection is one."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


class Supervisor:
    """Keeps `settings.workers` processes serving."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._stopping = False
        self._reloading = False
        self._failed = False
        self._embedded: EmbeddedServer | None = None
        self._port_holders: list[socket.socket] = []
        self._workforce: Workforce | None = None
        self._monitor: Monitor | None = None

    def request_stop(self) -> None:
        """Asks for the end; safe in a signal handler."""
        self._stopping = True

    def request_reload(self) -> None:
        """Asks the workers to take up changed certificates; safe in a signal handler."""
        self._reloading = True

    def run(self) -> int:
        """Starts everything, watches over it, ends everything."""
        metrics_dir = Path(tempfile.mkdtemp(prefix="holdsvc-metrics-"))
        # Workers inherit it; prometheus-client reads it when it is imported.
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(metrics_dir)
        # gRPC's core writes past the log, a line for every handshake that fails; a reader that does not take them would
        # stop it.
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")
        from holdsvc.process.workforce import CannotServe, Workforce
        from holdsvc.telemetry import counters

        logs.count_dropped(counters.LOG_LINES_DROPPED.inc)
        try:
            settings = self._claim_addresses()
            addresses = self._start_database()
            if self._embedded is not None:
                data_folder.note_settings(settings.data_dir, shown(settings))
            if settings.state_dir is None:
                # Workers that are started later know what the others have seen.
                settings = settings.model_copy(update={"state_dir": metrics_dir})
            self._prepare(addresses)
            self._workforce = Workforce(settings, addresses)
            self._serve_metrics(metrics_dir, addresses, self._workforce)
            while not self._stopping:
                self._keep_database()
                self._workforce.keep(TICK_S)
                if self._reloading:
                    self._reloading = False
                    self._workforce.reload_certificates()
                time.sleep(TICK_S)
        except CannotServe:
            self._failed = True
        except StartGivenUp:
            log.info("database.start_given_up")
        finally:
            self._end(metrics_dir)
        return 1 if self._failed else 0

    def _end(self, metrics_dir: Path) -> None:
        if self._workforce is not None:
            self._workforce.stop()
        if self._monitor is not None:
            self._monitor.stop()
        if self._embedded is not None:
            self._embedded.stop()
        for holder in self._port_holders:
            holder.close()
        shutil.rmtree(metrics_dir, ignore_errors=True)

    def _start_database(self) -> list[CellAddress]:
        if self._settings.cells is not None or self._settings.dsn.get_secret_value():
            return self._settings.addresses
        self._embedded = EmbeddedServer(
            self._settings.data_dir, bin_dir=self._settings.pg_bin, give_up=lambda: self._stopping
        )
        dsn = self._embedded.start()
        log.info("database.started", data_dir=str(self._settings.data_dir))
        return [CellAddress("", SecretStr(dsn), self._settings.migrate_dsn)]

    def _prepare(self, addresses: list[CellAddress]) -> None:
        if self._settings.cells is None:
            self._migrate(addresses[0].owner)
        else:
            Preparation(addresses, lambda: self._stopping, open_to_all=self._settings.auth == "off").run()

    def _migrate(self, dsn: str) -> None:
        done: migrate.Done | None = None
        for attempt in Retrying(
            # A database that is still starting refuses connections; anything else will not get better.
            retry=retry_if_exception_type(ConnectionRefused),
            stop=lambda state: self._stopping or stop_after_delay(60)(state),
            wait=wait_exponential(multiplier=0.2, max=1),
            before_sleep=_say_what_is_awaited,
            reraise=True,
        ):
            with attempt:
                done = migrate.up(dsn)
        if done is not None:
            tell(done)

    def _claim_addresses(self) -> Settings:
        """Refuses an address that is in use, before anything is started.

        The servers of all workers share a port by SO_REUSEPORT, with which a second service could bind silently and
        get a part of the calls. With port 0 a free one is chosen here and kept for replaced workers.
        """
        listen = {"listen": self._settings.listen, "http_listen": self._settings.http_listen}
        claimed = {name: self._claim(name, address) for name, address in listen.items() if address}
        return self._settings.model_copy(update=claimed)

    def _claim(self, name: str, listen: str) -> str:
        host, port = split_address(listen)
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(
                host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(address)
            holder = socket.socket(family, kind, protocol)
            self._port_holders.append(holder)
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            holder.bind(address)
        except OSError as error:
            raise SettingsError(f"{PREFIX}{name.upper()}: cannot listen on {listen}: {error.strerror}") from error
        return join_address(host, holder.getsockname()[1])

    def _serve_metrics(self, folder: Path, addresses: list[CellAddress], workforce: "Workforce") -> None:
        if not self._settings.metrics_listen:
            return
        from holdsvc.telemetry.monitor import Monitor

        try:
            self._monitor = Monitor(self._settings, addresses, folder, workforce.state)
        except OSError as error:
            raise SettingsError(
                f"{PREFIX}METRICS_LISTEN: cannot listen on {self._settings.metrics_listen}: {error.strerror};"
                " name another address, or leave it empty for no metrics"
            ) from error
        host, _ = split_address(self._settings.metrics_listen)
        log.info("metrics.serving", host=host, port=self._monitor.port)
        self._monitor.start()

    def _keep_database(self) -> None:
        if self._embedded is not None and self._embedded.pid is None:
            log.error("database.died")
            self._embedded.stop()
            try:
                self._embedded.start()
            except EmbeddedServerError as error:
                # A full disk, for example: the next try may succeed.
                log.error("database.restart_failed", error=str(error))  # noqa: TRY400 - the message says it all
                time.sleep(RESTART_PAUSE_S)
            else:
                log.info("database.restarted")


def _say_what_is_awaited(state: RetryCallState) -> None:
    """Logs why the start takes long."""
    error = state.outcome.exception() if state.outcome else None
    log.warning("database.awaited", attempt=state.attempt_number, error=str(error).partition("\n")[0])
