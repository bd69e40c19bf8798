"""The worker processes: started, watched, replaced when they die or hang, and ended."""

import gc
import multiprocessing
import os
import signal
import time
from collections.abc import Sequence
from ctypes import c_uint64
from multiprocessing import resource_tracker
from multiprocessing.context import SpawnProcess

import structlog

from holdsvc.cell_file import CellAddress
from holdsvc.settings import Settings
from holdsvc.telemetry.monitor import Workers

log = structlog.get_logger(__name__)

TERMINAL_SIGNALS = {signal.SIGINT, signal.SIGHUP}

EXIT_FINAL = 3
"""Exit code of a worker that logged why it cannot serve, and that a new start would not help."""

RESTART_PAUSE_S = 1.0
"""Pause before the next start of a worker, when one lived shorter than that or could not be started."""

KILL_AFTER_S = 5.0
"""How much longer than `drain_grace` a worker may take to end."""

BEAT_INTERVAL_S = 0.5
"""How often a worker counts up its heartbeat."""

HANG_S = 8.0
"""A worker whose heartbeat stands still for so long is replaced."""

FIRST_BEAT_S = 60.0
"""The same until its first beat: by then it has imported its modules."""


class CannotServe(Exception):
    """A worker has logged why it cannot serve, and none would."""


class _Worker:
    """One process, its heartbeat, and for how long that stands still."""

    def __init__(self, name: str, process: SpawnProcess, beat: c_uint64) -> None:
        self.name = name
        self.process = process
        self._beat = beat
        self._seen = 0
        self._silent_s = 0.0
        self.born = time.monotonic()

    def hangs(self, tick_s: float) -> bool:
        """Tells whether it hangs; to be asked every `tick_s`.

        It counts the supervisor's own ticks: when the machine or the supervisor stood still, no worker is to blame.
        """
        beat = int(self._beat.value)
        self._silent_s = 0.0 if beat != self._seen else self._silent_s + tick_s
        self._seen = beat
        return self._silent_s > (HANG_S if beat else FIRST_BEAT_S)


class Workforce:
    """Keeps `settings.workers` processes serving. All calls come from the main thread."""

    def __init__(self, settings: Settings, addresses: Sequence[CellAddress]) -> None:
        self._settings = settings
        self._addresses = addresses
        self._context = multiprocessing.get_context("spawn")
        self._workers: list[_Worker] = []
        self._deaths = 0
        self._hangs = 0
        self._start_failures = 0
        self._next_start = 0.0

    def state(self) -> Workers:
        """What the metrics page shows; from any thread."""
        pids = {worker.name: worker.process.pid or 0 for worker in list(self._workers)}
        return Workers(pids, self._settings.workers, self._deaths, self._hangs, self._start_failures)

    def keep(self, tick_s: float) -> None:
        """Replaces what has died or hangs; to be called every `tick_s`. Raises CannotServe."""
        for worker in list(self._workers):
            if not worker.process.is_alive():
                self._bury(worker)
            elif worker.hangs(tick_s):
                self._replace(worker)
        while len(self._workers) < self._settings.workers and time.monotonic() >= self._next_start:
            self._start()

    def _bury(self, worker: _Worker) -> None:
        self._forget(worker)
        if worker.process.exitcode == EXIT_FINAL:
            raise CannotServe
        self._deaths += 1
        log.error("worker.died", pid=worker.process.pid, exit_code=worker.process.exitcode)
        if time.monotonic() - worker.born < RESTART_PAUSE_S:
            self._next_start = time.monotonic() + RESTART_PAUSE_S

    def _replace(self, worker: _Worker) -> None:
        worker.process.kill()
        self._forget(worker)
        self._hangs += 1
        log.error("worker.hung", pid=worker.process.pid, silent_s=HANG_S)

    def _forget(self, worker: _Worker) -> None:
        from prometheus_client.multiprocess import mark_process_dead

        self._workers.remove(worker)
        worker.process.join()
        if worker.process.pid is not None:
            mark_process_dead(worker.process.pid)  # type: ignore[no-untyped-call]

    def _start(self) -> None:
        taken = {worker.name for worker in self._workers}
        name = next(name for name in (f"worker-{number}" for number in range(256)) if name not in taken)
        # A worker inherits the mask: a Ctrl-C or a hang-up of the terminal must not end it before it handles them.
        # The first start of a worker would start the tracker, which unblocks SIGINT.
        try:
            beat = self._context.RawValue(c_uint64, 0)
            arguments = (self._settings, self._addresses, os.getpid(), beat)
            process = self._context.Process(target=_work, args=arguments, name=name)
            resource_tracker.ensure_running()
            signal.pthread_sigmask(signal.SIG_BLOCK, TERMINAL_SIGNALS)
            process.start()
        except OSError as error:
            # No file descriptor, process or memory left: it may pass, and the other workers serve.
            self._start_failures += 1
            self._next_start = time.monotonic() + RESTART_PAUSE_S
            log.error("worker.not_started", error=str(error))  # noqa: TRY400 - the message says it all
        else:
            self._workers.append(_Worker(name, process, beat))
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, TERMINAL_SIGNALS)

    def reload_certificates(self) -> None:
        """Has every worker take up changed certificates."""
        for worker in self._workers:
            if worker.process.pid is not None and worker.process.is_alive():
                os.kill(worker.process.pid, signal.SIGHUP)

    def stop(self) -> None:
        """Ends all, and kills those that do not end within `drain_grace` and KILL_AFTER_S."""
        for worker in self._workers:
            worker.process.terminate()
        deadline = time.monotonic() + self._settings.drain_grace.total_seconds() + KILL_AFTER_S
        for worker in self._workers:
            worker.process.join(max(0.0, deadline - time.monotonic()))
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
                log.error("worker.killed", pid=worker.process.pid)


def _work(settings: Settings, addresses: Sequence[CellAddress], parent: int, beat: c_uint64) -> None:
    # Imports make many objects and no garbage, which is not looked for meanwhile.
    gc.disable()
    # Imported in the worker: in the supervisor its metrics would be one more worker's.
    from holdsvc.process import worker

    gc.freeze()
    gc.enable()
    worker.main(settings, addresses, parent, beat)
