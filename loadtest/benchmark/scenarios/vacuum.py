"""A fresh database that is never analysed, compared with one under autovacuum."""

from typing import Any

from benchmark import messages
from benchmark.context import Bench
from benchmark.results import median, quotient
from benchmark.scenarios.hot import CONNECTIONS


def run(bench: Bench) -> None:
    """Measures two fresh databases of one server in turns; autovacuum is off for one of them."""
    results = bench.results
    message = [messages.reserve([messages.HOT])]
    found: dict[bool, list[float]] = {True: [], False: []}
    with bench.ledger() as vacuumed, bench.ledger() as never:
        bench.postgres.never_vacuum(never)
        with bench.service(vacuumed) as first, bench.service(never) as second:
            for _ in range(bench.rounds):
                for on, service, dsn in ((True, first, vacuumed), (False, second, never)):
                    outcome = bench.holds(service, dsn, message, connections=CONNECTIONS)
                    found[on].append(outcome.per_second)
            batches = messages.batch(500, hot=False)
            how: dict[str, Any] = {"method": "BatchReserve", "each": 500, "in_flight": 4, "connections": 4}
            both = [
                bench.holds(service, dsn, batches, **how).per_second * 500
                for service, dsn in ((first, vacuumed), (second, never))
            ]
    results.add("vacuum_on", "unary Reserve, hot, fresh, autovacuum on", median(found[True]))
    results.add("vacuum_off", "unary Reserve, hot, fresh, autovacuum off", median(found[False]))
    results.add("vacuum_off_batch", "BatchReserve of 500, over 10,000 items, autovacuum off", both[1])
    rounds = [quotient(off, on) for off, on in zip(found[False], found[True], strict=True)]
    results.ratio("unary Reserve, autovacuum off ÷ on, fresh database", median(rounds), 0.9)
    results.ratio("BatchReserve of 500 over 10,000 items, autovacuum off ÷ on", quotient(both[1], both[0]), 0.9)
