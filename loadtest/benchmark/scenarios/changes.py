"""Other calls: Confirm, Cancel, Refund, BatchConfirm and BatchCancel, holds of three items, refusals."""

from datetime import timedelta

from benchmark import bulk, load, messages
from benchmark.context import FAILED_PRECONDITION, Bench
from benchmark.load import Outcome
from benchmark.results import median, quotient
from benchmark.scenarios.batch import IN_FLIGHT
from benchmark.scenarios.hot import CONNECTIONS
from benchmark.stage import Running

PER_SECOND_MAX = 8_000
"""Reservations loaded for each second of Confirm, Cancel or Refund; the load ends early if they are used up."""


BATCH = 500
BATCHED_PER_SECOND_MAX = 40_000
"""Reservations loaded for each second of BatchConfirm or BatchCancel."""


def run(bench: Bench) -> None:
    """Every call changes a different reservation; all loads use one database."""
    results = bench.results
    spent_us: dict[str, float] = {}
    count = max(500, int((bench.seconds + load.WARM_UP_S) * PER_SECOND_MAX * bench.scale))
    with bench.ledger() as ledger:
        lives = timedelta(hours=1)
        bulk.reservations(ledger, 0, 2 * count, [bulk.HELD], lives=lives)
        bulk.reservations(ledger, 2 * count, count, [bulk.CONFIRMED], lives=lives)
        with bench.service(ledger) as service:
            turns = (("Confirm", messages.confirm()), ("Cancel", messages.cancel()), ("Refund", messages.refund()))
            for turn, (method, message) in enumerate(turns):
                bench.postgres.settle()
                how = {"connections": CONNECTIONS, "call_limit": count, "first_number": turn * count}
                outcome = bench.calls(service, [message], method=method, **how)
                title = f"unary {method}, 100 in flight"
                results.add(method.lower(), title, outcome.per_second, "calls/s", outcome.cost)
                spent_us[method] = outcome.worker_us
                _check(bench, ledger, method, outcome)
            _batches(bench, service, ledger, 3 * count)
            outcome = bench.holds(service, ledger, messages.reserves_uniform(), connections=CONNECTIONS)
            results.add(
                "unary_uniform",
                "unary Reserve, over 10,000 items, 100 in flight",
                outcome.per_second,
                note=outcome.cost,
            )
            three = messages.reserves_uniform(3)
            outcome = bench.holds(service, ledger, three, connections=CONNECTIONS, units=3)
            results.add(
                "unary_3", "unary Reserve of 3 items, over 10,000, 100 in flight", outcome.per_second, note=outcome.cost
            )
            _refusals(bench, service, ledger, spent_us["Cancel"])


def _batches(bench: Bench, service: Running, ledger: str, loaded: int) -> None:
    """BatchConfirm and BatchCancel; `loaded` reservations have been loaded before."""
    count = max(2, int((bench.seconds + load.WARM_UP_S) * BATCHED_PER_SECOND_MAX * bench.scale) // BATCH)
    first = loaded // messages.ENTRIES_MAX + 1
    for method, message in (("Confirm", messages.batch_confirm(BATCH)), ("Cancel", messages.batch_cancel(BATCH))):
        bulk.batches(ledger, first, count, BATCH, bulk.HELD, lives=timedelta(hours=1))
        bench.postgres.settle()
        before = bulk.changed(ledger)[method]
        outcome = bench.calls(
            service,
            [message],
            method=f"Batch{method}",
            in_flight=IN_FLIGHT,
            connections=IN_FLIGHT,
            call_limit=count,
            first_number=first,
        )
        title, key = f"Batch{method} of {BATCH}", method.lower()
        bench.results.add(f"batch_{key}", title, outcome.per_second * BATCH, "calls/s", outcome.cost)
        if (changed := bulk.changed(ledger)[method] - before) != outcome.ok * BATCH:
            bench.results.fail(f"Batch{method}: {outcome.ok} calls ended with OK, the database counts {changed}")
        bench.results.compare(f"{title} ÷ unary {method}", f"batch_{key}", key, 10.0)
        first += count


def _check(bench: Bench, ledger: str, method: str, outcome: Outcome) -> None:
    """Compares the calls that ended with OK with the reservations in the resulting state."""
    changed = bulk.changed(ledger)
    if changed[method] != outcome.ok:
        bench.results.fail(f"{method}: {outcome.ok} calls ended with OK, the database counts {changed[method]}")


def _refusals(bench: Bench, service: Running, ledger: str, cancel_us: float) -> None:
    """Refusals in turns with holds, and what both and a Cancel cost the worker."""
    refused: list[Outcome] = []
    made: list[Outcome] = []
    for _ in range(bench.rounds):
        made.append(bench.holds(service, ledger, [messages.reserve([messages.HOT])], connections=CONNECTIONS))
        before = bulk.count(ledger)
        message = [messages.reserve([messages.SOLD_OUT])]
        refused.append(bench.calls(service, message, status=FAILED_PRECONDITION, connections=CONNECTIONS))
        if bulk.count(ledger) != before:
            bench.results.fail("sold-out Reserve: something was held")
    title = "unary Reserve refused, sold out, 100 in flight"
    rate = median([outcome.per_second for outcome in refused])
    bench.results.add("sold_out", title, rate, "calls/s", refused[-1].cost)
    rounds = [quotient(one.worker_us, other.worker_us) for one, other in zip(refused, made, strict=True)]
    bench.results.ratio("processor time of the worker: refused ÷ made hold", median(rounds), 1.0, most=True)
    hold_us = median([outcome.worker_us for outcome in made])
    bench.results.ratio("processor time of the worker: Cancel ÷ hold", quotient(cancel_us, hold_us), 1.1, most=True)
