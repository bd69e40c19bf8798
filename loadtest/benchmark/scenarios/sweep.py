"""The sweep of expired holds: its rate alone, and its effect on the latency of Reserve."""

import time
from datetime import timedelta
from threading import Event, Thread
from types import TracebackType
from typing import Any, Self

from benchmark import bulk, messages
from benchmark.context import Bench
from benchmark.load import percentile
from benchmark.results import quotient
from benchmark.scenarios.hot import CONNECTIONS
from benchmark.stage import query

LAPSED = 500_000
ALONE_MAX_S = 120.0
LOOK_EVERY_S = 0.2
RESERVE_SHARE = 0.5
"""Share of Reserve's highest rate at which its latency is measured."""


def run(bench: Bench) -> None:
    """First the sweep alone, then while Reserve runs on the hot item, which has a tenth of the expired holds."""
    _alone(bench)
    _beside(bench)


def _alone(bench: Bench) -> None:
    results, count = bench.results, bench.scaled(LAPSED)
    with bench.ledger() as ledger:
        bulk.reservations(ledger, 0, count, [bulk.HELD], lives=timedelta(seconds=-1))
        bench.postgres.settle()
        # The first sweep starts before the service reports that it serves.
        with _Progress(ledger) as progress, bench.service(ledger):
            progress.done.wait(ALONE_MAX_S)
        share, seconds = progress.swept(0.0, float("inf"))
        if progress.done.is_set() and bulk.in_state(ledger, bulk.HELD):
            results.fail("sweep: expired holds remain")
    rate = count * share / seconds
    note = f"{count * share:,.0f} of {count:,} in {seconds:.1f} s"
    results.add("sweep_alone", f"sweep of {count:,} lapsed holds, alone", rate, note=note)
    results.ratio("sweep alone ÷ 40,000 holds/s", rate / 40_000, 1.0)


def _beside(bench: Bench) -> None:
    results, count = bench.results, bench.scaled(LAPSED)
    message = [messages.reserve([messages.HOT])]
    with bench.ledger() as ledger:
        with bench.service(ledger) as service:
            most = bench.holds(service, ledger, message, connections=CONNECTIONS).per_second
            how: dict[str, Any] = {
                "connections": CONNECTIONS,
                "rate": most * RESERVE_SHARE,
                "seconds": 3 * bench.seconds,
            }
            idle = bench.holds(service, ledger, message, **how)
        bulk.reservations(ledger, 0, count, [bulk.HELD], lives=timedelta(seconds=-1))
        bench.postgres.settle()
        with _Progress(ledger) as progress, bench.service(ledger) as service:
            # The sweep lowers the counters that Reserve raises, so only rows are counted.
            before = bulk.count(ledger).reservations
            busy = bench.calls(service, message, **how)
            made = bulk.count(ledger).reservations - before
        if made != busy.ok:
            results.fail(f"Reserve beside the sweep: {busy.ok} calls promised, the database counts {made}")
        share, seconds = progress.swept(busy.measured_from, busy.measured_from + 3 * bench.seconds)
    swept_at = busy.measured_from + seconds
    beside = sorted(latency for ended, latency in busy.timeline if busy.measured_from + ended <= swept_at)
    per_second = f"{most * RESERVE_SHARE:,.0f}/s"
    idle_ms, busy_ms = idle.percentile_ms(99), percentile(beside, 99) * 1000
    results.add(
        "sweep_busy", f"sweep while Reserve runs at {per_second}", count * share / seconds, note=f"{seconds:.1f} s"
    )
    results.add("sweep_idle_p99", f"p99 of Reserve at {per_second} without a sweep", idle_ms, "ms")
    results.add("sweep_busy_p99", f"p99 of Reserve at {per_second} while the sweep runs", busy_ms, "ms")
    results.add(
        "sweep_busy_p50", f"p50 of Reserve at {per_second} while the sweep runs", percentile(beside, 50) * 1000, "ms"
    )
    results.ratio("p99 of Reserve while the sweep runs ÷ without", quotient(busy_ms, idle_ms), 2.0, most=True)


class _Progress:
    """Counts the held units of the uniform items in a thread until none is left."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._stop = Event()
        self._thread = Thread(target=self._look)
        self._seen: list[tuple[float, int]] = []
        self.done = Event()
        """Set when none is left."""

    def __enter__(self) -> Self:
        self._seen.append((time.monotonic(), self._left()))
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _left(self) -> int:
        # Reading the counters of 10,000 items is cheap; the hot item's holds are swept in the same batches.
        return int(query(self._dsn, "SELECT sum(held)::bigint FROM holdsvc.item WHERE sku LIKE 'item-%'")[0][0])

    def _look(self) -> None:
        while not self.done.is_set() and not self._stop.wait(LOOK_EVERY_S):
            self._seen.append((time.monotonic(), self._left()))
            if self._seen[-1][1] == 0:
                self.done.set()

    def swept(self, since: float, until: float) -> tuple[float, float]:
        """The share of all holds that was swept between two times, and how many seconds that took."""
        total = self._seen[0][1]
        # Starts with the last count before `since`, or with the last one before the first release.
        begin = [one for one in self._seen if one[0] <= since or one[1] == total][-1]
        end = [one for one in self._seen if one[0] <= until][-1]
        return (begin[1] - end[1]) / total, max(LOOK_EVERY_S, end[0] - begin[0])
