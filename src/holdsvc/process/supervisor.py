"""`holdsvc serve`: the process that starts the others, replaces those that die, and ends them all.

It starts the embedded PostgreSQL (without a DSN), migrates, serves the metrics of all workers on one page, and spawns
the workers, who share one port. Everything is started from its main thread: the kernel tells the children when that
ends, so a kill -9 leaves nothing behind.
"""

import asyncio
import ctypes
import gc
import multiprocessing
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
from multiprocessing import resource_tracker
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import TYPE_CHECKING

import structlog
import uvloop
from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_delay, wait_exponential

from holdsvc.embedded.data_folder import EmbeddedServerError
from holdsvc.embedded.server import EmbeddedServer, StartGivenUp
from holdsvc.ledger import migrate
from holdsvc.ledger.schema_files import ConnectionRefused
from holdsvc.settings import PREFIX, Settings, SettingsError, join_address, split_address
from holdsvc.telemetry import logs, tracing

if TYPE_CHECKING:
    # prometheus-client decides at its import where values lie, by a variable that `run` sets.
    from holdsvc.telemetry.census import Census

log = structlog.get_logger(__name__)

TICK_S = 0.2
GC_THRESHOLD = 50_000
"""New objects after which a worker looks for cycles among the youngest; a call leaves none behind."""
GRPC_EXPERIMENTS = "-event_engine_listener"
"""Workers take the listener that gRPC's Python packages had until 1.79: the thread that waits for a call's next step
also reads the sockets. The newer one passes each step on between threads, 7.8 switches a call against 4.0, and an empty
handler costs a fourth more (median of 5: 308 against 248 µs). Where it is gone, the name does nothing."""
TERMINAL_SIGNALS = {signal.SIGINT, signal.SIGHUP}
RESTART_PAUSE_S = 1.0
KILL_AFTER_S = 5.0
"""How much longer than `drain_grace` a worker may take to end."""

_PR_SET_PDEATHSIG = 1


def serve(settings: Settings) -> int:
    """Runs the service until SIGTERM or SIGINT; returns the exit code."""
    tracing.check(settings)
    _check_certificates(settings)
    supervisor = Supervisor(settings)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: supervisor.request_stop())
    if settings.tls_cert is not None:
        signal.signal(signal.SIGHUP, lambda *_: supervisor.request_reload())
    elif signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        # There is nothing to reload: it is the terminal that goes away.
        signal.signal(signal.SIGHUP, lambda *_: supervisor.request_stop())
    return supervisor.run()


def _check_certificates(settings: Settings) -> None:
    """Says what is wrong with them here, once, and not in each worker again and again."""
    if settings.tls_cert is None:
        return
    # Brings gRPC along, which this process needs for nothing else.
    from holdsvc.api.tls import CertificateError, certificates_of

    try:
        certificates_of(settings)
    except CertificateError as error:
        raise SettingsError(f"{PREFIX}TLS_CERT: {error}") from error


class Supervisor:
    """Keeps `settings.workers` processes serving."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._stopping = False
        self._reloading = False
        self._failed = False
        self._embedded: EmbeddedServer | None = None
        self._workers: list[SpawnProcess] = []
        self._born: dict[int, float] = {}
        self._context = multiprocessing.get_context("spawn")
        self._port_holder: socket.socket | None = None
        self._census: Census | None = None
        self._worker_deaths = 0

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
        # gRPC's core writes past the log, a line for every handshake that fails.
        os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
        os.environ.setdefault("GRPC_EXPERIMENTS", GRPC_EXPERIMENTS)
        try:
            settings = self._claim_address()
            dsn = self._start_database()
            self._migrate(dsn)
            self._serve_metrics(metrics_dir, dsn)
            while not self._stopping:
                self._keep_database()
                self._keep_workers(settings, dsn)
                self._pass_reload_on()
                time.sleep(TICK_S)
        except StartGivenUp:
            log.info("database.start_given_up")
        finally:
            self._stop_workers()
            if self._census is not None:
                self._census.stop()
            if self._embedded is not None:
                self._embedded.stop()
            if self._port_holder is not None:
                self._port_holder.close()
            shutil.rmtree(metrics_dir, ignore_errors=True)
        return 1 if self._failed else 0

    def _start_database(self) -> str:
        dsn = self._settings.dsn.get_secret_value()
        if dsn:
            return dsn
        self._embedded = EmbeddedServer(
            self._settings.data_dir, bin_dir=self._settings.pg_bin, give_up=lambda: self._stopping
        )
        dsn = self._embedded.start()
        log.info("database.started", data_dir=str(self._settings.data_dir))
        return dsn

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
                done = migrate.up(self._settings.effective_migrate_dsn.get_secret_value() or dsn)
        if done is None:
            return
        if done.migrations:
            log.info("database.migrated", applied=len(done.migrations), version=done.migrations[-1].version)
        if done.function_set:
            log.info("database.functions_installed", set=done.function_set)

    def _claim_address(self) -> Settings:
        """Refuses an address that somebody listens on, before anything is started.

        The servers of all workers share one port by SO_REUSEPORT, with which a second service would bind silently and
        take a part of the calls. With port 0 a free one is taken here; it is kept as long as workers may be replaced.
        """
        listen = self._settings.listen
        host, port = split_address(listen)
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(
                host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(address)
            self._port_holder = socket.socket(family, kind, protocol)
            self._port_holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            self._port_holder.bind(address)
        except OSError as error:
            raise SettingsError(f"{PREFIX}LISTEN: cannot listen on {listen}: {error.strerror}") from error
        port = self._port_holder.getsockname()[1]
        return self._settings.model_copy(update={"listen": join_address(host, port)})

    def _serve_metrics(self, folder: Path, dsn: str) -> None:
        if not self._settings.metrics_listen:
            return
        from prometheus_client import CollectorRegistry, start_http_server
        from prometheus_client.multiprocess import MultiProcessCollector

        from holdsvc.telemetry.census import Census, Workforce

        host, port = split_address(self._settings.metrics_listen)
        registry = CollectorRegistry()
        MultiProcessCollector(registry, path=str(folder))  # type: ignore[no-untyped-call]
        try:
            server, _ = start_http_server(port, addr=host, registry=registry)
        except OSError as error:
            raise SettingsError(
                f"{PREFIX}METRICS_LISTEN: cannot listen on {self._settings.metrics_listen}: {error.strerror};"
                " name another address, or leave it empty for no metrics"
            ) from error
        log.info("metrics.serving", host=host, port=server.server_port)
        registry.register(Workforce(lambda: (len(self._workers), self._settings.workers, self._worker_deaths)))
        if self._settings.census_interval:
            self._census = Census(self._settings, dsn)
            registry.register(self._census)
            self._census.start()

    def _keep_database(self) -> None:
        if self._embedded is not None and self._embedded.pid is None:
            log.error("database.died")
            self._embedded.stop()
            try:
                self._embedded.start()
            except EmbeddedServerError as error:
                # A full disk, say: whoever makes room shall not have to start the service too.
                log.error("database.restart_failed", error=str(error))  # noqa: TRY400 - the message says it all
                time.sleep(RESTART_PAUSE_S)
            else:
                log.info("database.restarted")

    def _keep_workers(self, settings: Settings, dsn: str) -> None:
        for worker in [worker for worker in self._workers if not worker.is_alive()]:
            self._workers.remove(worker)
            worker.join()
            if worker.pid is not None:
                _forget_metrics(worker.pid)
            if worker.exitcode == EXIT_FINAL:
                # It said why; trying again would not help.
                self._failed = self._stopping = True
                return
            lived_s = time.monotonic() - self._born.pop(worker.pid or 0, 0.0)
            self._worker_deaths += 1
            log.error("worker.died", pid=worker.pid, exit_code=worker.exitcode)
            if lived_s < RESTART_PAUSE_S:
                time.sleep(RESTART_PAUSE_S)
        while len(self._workers) < settings.workers and not self._stopping:
            worker = self._context.Process(target=_work, args=(settings, dsn, os.getpid()), name="holdsvc worker")
            # A worker inherits the mask: a Ctrl-C or a hang-up of the terminal must not end it before it handles them.
            # The first start of a worker would start the tracker, which unblocks SIGINT.
            resource_tracker.ensure_running()
            signal.pthread_sigmask(signal.SIG_BLOCK, TERMINAL_SIGNALS)
            worker.start()
            signal.pthread_sigmask(signal.SIG_UNBLOCK, TERMINAL_SIGNALS)
            self._workers.append(worker)
            self._born[worker.pid or 0] = time.monotonic()

    def _pass_reload_on(self) -> None:
        if self._reloading:
            self._reloading = False
            for worker in self._workers:
                if worker.pid is not None and worker.is_alive():
                    os.kill(worker.pid, signal.SIGHUP)

    def _stop_workers(self) -> None:
        for worker in self._workers:
            worker.terminate()
        deadline = time.monotonic() + self._settings.drain_grace.total_seconds() + KILL_AFTER_S
        for worker in self._workers:
            worker.join(max(0.0, deadline - time.monotonic()))
            if worker.is_alive():
                # Before it is told: who reads the log may be gone, and then the telling fails.
                worker.kill()
                worker.join()
                log.error("worker.killed", pid=worker.pid)


def _say_what_is_awaited(state: RetryCallState) -> None:
    """Someone who sees nothing for a minute believes that the service hangs."""
    error = state.outcome.exception() if state.outcome else None
    log.warning("database.awaited", attempt=state.attempt_number, error=str(error).partition("\n")[0])


EXIT_FINAL = 3
"""Exit code of a worker that logged why it cannot serve, and that a new start would not help."""


def _forget_metrics(pid: int) -> None:
    from prometheus_client.multiprocess import mark_process_dead

    mark_process_dead(pid)  # type: ignore[no-untyped-call]


def _work(settings: Settings, dsn: str, parent: int) -> None:
    """A worker's whole life."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
    logs.configure(settings.log_level)
    tracing.configure(settings)
    structlog.contextvars.bind_contextvars(pid=os.getpid())
    sys.exit(uvloop.run(_serve_calls(settings, dsn)))


async def _serve_calls(settings: Settings, dsn: str) -> int:
    from holdsvc.api.tls import CertificateError
    from holdsvc.ledger.upkeep import SetTooOld
    from holdsvc.process.worker import Service

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(logs.unhandled)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    service = Service(settings, dsn)
    if settings.tls_cert is not None:
        loop.add_signal_handler(signal.SIGHUP, service.reload_certificates)
    elif signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        loop.add_signal_handler(signal.SIGHUP, stop.set)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, TERMINAL_SIGNALS)
    starting, stopping = asyncio.create_task(service.start()), asyncio.create_task(stop.wait())
    await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():
        # It waits for the database and has served nobody, so nothing is left to do; taking a pool apart in the
        # middle of a connection can take for ever.
        os._exit(0)
    try:
        await starting
    except CertificateError as error:
        log.error("tls.unusable", error=str(error))  # noqa: TRY400 - the message says it all
        return 1
    except SetTooOld as error:
        log.error("database.newer", error=str(error))  # noqa: TRY400 - the message says it all
        return EXIT_FINAL
    except OSError as error:
        log.error("address.taken", listen=settings.listen, error=str(error))  # noqa: TRY400 - the address says it all
        return EXIT_FINAL
    # What is there by now stays: without this 5 % of a busy worker's time went into looking for cycles among it.
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD, 20, 50)
    await stop.wait()
    await service.stop()
    tracing.close()
    return 0
