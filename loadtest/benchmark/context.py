"""What the scenarios share: the database server, the folder, the durations, the results."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark import bulk, load, stage
from benchmark.load import Outcome
from benchmark.results import Results
from benchmark.stage import Postgres, Running

FAILED_PRECONDITION = 9


@dataclass
class Bench:
    """One run of the benchmark."""

    postgres: Postgres
    folder: Path
    results: Results
    seconds: float
    """Measured time of each load."""
    rounds: int
    """Rounds of each figure that a ratio uses, interleaved."""
    full: bool
    generators: int = 1
    """Processes that generate load; one is enough for two workers."""
    scale: float = 1.0
    """Factor for the rows that are loaded: 1, or less for a trial."""

    @contextmanager
    def ledger(self) -> Iterator[str]:
        """A fresh database of the service with the items of the load."""
        dsn = self.postgres.ledger()
        try:
            bulk.items(dsn)
            yield dsn
        finally:
            self.postgres.drop(dsn)

    @contextmanager
    def service(self, dsn: str, *, workers: int = 1, **settings: str) -> Iterator[Running]:
        """The service on a database."""
        with stage.holdsvc(dsn, self.folder, workers=workers, **settings) as running:
            yield running

    def scaled(self, count: int) -> int:
        """A count of rows to load."""
        return max(100, int(count * self.scale))

    def holds(
        self,
        running: Running,
        dsn: str,
        messages: Sequence[bytes],
        *,
        method: str = "Reserve",
        each: int = 1,
        units: int = 1,
        **how: Any,
    ) -> Outcome:
        """Puts load on Reserve or BatchReserve and compares the answers with the database.

        Each call answered with OK must have made `each` holds of `units` units.
        """
        before = bulk.count(dsn)
        outcome = self.calls(running, messages, method=method, **how)
        made = bulk.count(dsn) - before
        if made.reservations != outcome.ok * each or made.held != outcome.ok * each * units:
            self.results.fail(f"{method}: {outcome.ok} calls of {each} promised, the database counts {made}")
        return outcome

    def calls(
        self, running: Running, messages: Sequence[bytes], *, method: str = "Reserve", status: int = 0, **how: Any
    ) -> Outcome:
        """Puts load on a method; every call must end with `status`."""
        worker_s, database_s = running.processor_s(), self.postgres.processor_s()
        # Only one generator can number calls on numbered reservations.
        generators = 1 if "first_number" in how else self.generators
        how = {"seconds": self.seconds, "generators": generators, **how}
        outcome = load.run(running.target(method), messages, **how)
        outcome.worker_us = (running.processor_s() - worker_s) / max(1, outcome.calls) * 1e6
        outcome.database_us = (self.postgres.processor_s() - database_s) / max(1, outcome.calls) * 1e6
        if set(outcome.statuses) != {status}:
            self.results.fail(f"{method}: statuses {outcome.statuses}, expected {status} only")
        if outcome.generator_share > 0.9:
            self.results.fail(f"{method}: the load generator was the limit ({outcome.generator_share:.0%} busy)")
        return outcome
