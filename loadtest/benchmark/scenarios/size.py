"""The cost of a hold as the tables grow; it should stay constant."""

import time
from datetime import timedelta

from benchmark import bulk, messages
from benchmark.context import Bench
from benchmark.results import median, quotient
from benchmark.scenarios.hot import CONNECTIONS

SIZES = (0, 100_000, 1_000_000)
SIZES_FULL = (*SIZES, 5_000_000)
JUDGED = 1_000_000
"""Smallest size with a ratio, taken over several rounds."""


def run(bench: Bench) -> None:
    """Loads history up to each size into one database.

    A near-empty database, measured in turns with it, shows the speed of the machine at that time.
    """
    results = bench.results
    series = []
    with bench.ledger() as ledger, bench.ledger() as empty:
        loaded = 0
        for size in SIZES_FULL if bench.full else SIZES:
            wanted = bench.scaled(size) if size else 0
            started = time.monotonic()
            bulk.reservations(ledger, loaded, wanted - loaded, bulk.HISTORY, lives=timedelta(hours=6))
            bench.postgres.settle()
            loaded, took_s = wanted, time.monotonic() - started
            filled_rates, empty_rates = _rates(bench, ledger, empty, bench.rounds if size >= JUDGED else 1)
            filled, beside = median(filled_rates), median(empty_rates)
            note = f"{beside:,.0f} on a near-empty database beside it, loaded in {took_s:.0f} s"
            results.add(f"size_{size}", f"unary Reserve, hot, {wanted:,} reservations in the tables", filled, note=note)
            series.append((wanted, filled, beside))
            if size >= JUDGED:
                rounds = [quotient(one, other) for one, other in zip(filled_rates, empty_rates, strict=True)]
                results.ratio(f"unary Reserve, {wanted:,} reservations ÷ near empty", median(rounds), 0.9)
    results.series["size"] = series


def _rates(bench: Bench, ledger: str, empty: str, rounds: int) -> tuple[list[float], list[float]]:
    message = [messages.reserve([messages.HOT])]
    filled_rates, empty_rates = [], []
    with bench.service(ledger) as filled_service, bench.service(empty) as empty_service:
        for _ in range(rounds):
            filled_rates.append(bench.holds(filled_service, ledger, message, connections=CONNECTIONS).per_second)
            empty_rates.append(bench.holds(empty_service, empty, message, connections=CONNECTIONS).per_second)
    return filled_rates, empty_rates
