"""The cost of a hold with more and more reservations in the tables: it must stay flat."""

import time
from datetime import timedelta

from benchmark import bulk, messages
from benchmark.bench import Bench
from benchmark.results import median
from benchmark.scenarios.hot import CONNECTIONS

SIZES = (0, 100_000, 1_000_000)
SIZES_FULL = (*SIZES, 5_000_000)


def run(bench: Bench) -> None:
    """Loads history up to each size into one database; beside it, turn by turn, an empty one tells how the machine
    does at that moment."""
    results = bench.results
    message = [messages.reserve([messages.HOT])]
    series = []
    with bench.ledger() as ledger, bench.ledger() as empty:
        loaded = 0
        for size in SIZES_FULL if bench.full else SIZES:
            wanted = bench.scaled(size) if size else 0
            started = time.monotonic()
            bulk.reservations(ledger, loaded, wanted - loaded, bulk.HISTORY, lives=timedelta(hours=6))
            bench.postgres.settle()
            took = time.monotonic() - started
            loaded = wanted
            rates: dict[str, list[float]] = {ledger: [], empty: []}
            with bench.service(ledger) as filled_service, bench.service(empty) as empty_service:
                for _ in range(bench.rounds if size == max(SIZES) or size == max(SIZES_FULL) else 1):
                    for service, dsn in ((filled_service, ledger), (empty_service, empty)):
                        outcome = bench.holds(service, dsn, message, connections=CONNECTIONS)
                        rates[dsn].append(outcome.per_second)
            ratio = median([one / other for one, other in zip(rates[ledger], rates[empty], strict=True)])
            title = f"unary Reserve, hot, {wanted:,} reservations in the tables"
            note = f"{median(rates[empty]):,.0f} on a near-empty database beside it" + (f"; loaded in {took:.0f} s" if size else "")
            results.add(f"size_{size}", title, median(rates[ledger]), note=note)
            series.append((wanted, median(rates[ledger]), median(rates[empty])))
            if size >= max(SIZES):
                results.ratio(f"unary Reserve, {wanted:,} reservations ÷ near empty", ratio, 0.9)
    results.series["size"] = series
