"""The supervisor's second thread: it serves the metrics page of all processes and counts the census."""

import asyncio
import os
import platform
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from holdsvc.cell_file import CellAddress
from holdsvc.engine import tasks
from holdsvc.settings import Settings
from holdsvc.telemetry import families
from holdsvc.telemetry.census import Census, CensusPage
from holdsvc.telemetry.families import family
from holdsvc.telemetry.page import MetricsPage

STOP_S = 5.0


class Workers(NamedTuple):
    """What the supervisor knows of its workers."""

    pids: Mapping[str, int]
    """The living ones by their names."""
    wanted: int
    deaths: int
    hangs: int
    start_failures: int


class Monitor:
    """Works between `start` and `stop`."""

    def __init__(
        self, settings: Settings, addresses: Sequence[CellAddress], folder: Path, workers: Callable[[], Workers]
    ) -> None:
        """Binds the page's address; raises OSError. `folder` holds the metrics of the processes."""
        registry = CollectorRegistry()
        MultiProcessCollector(registry, path=str(folder))  # type: ignore[no-untyped-call]
        registry.register(_Processes(workers))
        self._page = MetricsPage(settings.metrics_listen, registry)
        self._censuses = [Census(settings, address) for address in addresses] if settings.census_interval else []
        registry.register(CensusPage(self._censuses))
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="holdsvc monitor", daemon=True)

    @property
    def port(self) -> int:
        """The page's port."""
        return self._page.port

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread."""
        if self._loop is not None and self._stop is not None:
            with suppress(RuntimeError):  # it has just ended
                self._loop.call_soon_threadsafe(self._stop.set)
        if self._thread.ident is not None:
            self._thread.join(STOP_S)

    async def _run(self) -> None:
        self._stop = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        work = [asyncio.create_task(self._page.serve())]
        work += [asyncio.create_task(tasks.forever("census", census.step)) for census in self._censuses]
        await self._stop.wait()
        await tasks.end(work)
        await asyncio.gather(*(census.close() for census in self._censuses))


class _Processes(Collector):
    """The supervisor, the workers and what they run, as they are when the page is made."""

    def __init__(self, workers: Callable[[], Workers]) -> None:
        self._workers = workers

    def collect(self) -> Iterator[Metric]:
        """Yields the numbers of the workers, the version, and memory, processor time and files of each process."""
        workers = self._workers()
        yield family(families.WORKERS, [((), len(workers.pids))])
        yield family(families.WORKERS_WANTED, [((), workers.wanted)])
        yield family(families.WORKER_DEATHS, [((), workers.deaths)])
        yield family(families.WORKER_HANGS, [((), workers.hangs)])
        yield family(families.WORKER_START_FAILURES, [((), workers.start_failures)])
        yield family(families.BUILD_INFO, [((version("holdsvc"), platform.python_version()), 1)])
        yield from _of_processes({"supervisor": os.getpid(), **workers.pids})


def _of_processes(pids: Mapping[str, int]) -> Iterator[Metric]:
    """The standard process_* families, with the process as label."""
    found: dict[str, Metric] = {}
    for name, pid in pids.items():
        for metric in ProcessCollector(pid=lambda pid=pid: pid, registry=None).collect():  # type: ignore[misc]
            whole = found.setdefault(metric.name, Metric(metric.name, metric.documentation, metric.type))
            for sample in metric.samples:
                whole.add_sample(sample.name, {"process": name}, sample.value)
    yield from found.values()
