"""Reserve of one hot item, 100 in flight, beside pgbench, the empty handler and the plain service, turn by turn."""

from benchmark import load, messages, rivals, stage
from benchmark.bench import Bench
from benchmark.results import median

CLIENTS = 100
CONNECTIONS = 4


def run(bench: Bench) -> None:
    """Interleaves the rivals, so that what else the machine does falls on all of them."""
    results = bench.results
    dsn = bench.postgres.baseline()
    found: dict[str, list[float]] = {"cte": [], "unary": [], "unary_no_id": [], "empty": [], "plain": []}
    memory = processor_us = 0.0
    with (
        bench.ledger() as ledger,
        bench.service(ledger) as service,
        stage.baseline("empty_service", bench.folder) as empty,
        stage.baseline("plain_service", bench.folder, dsn) as plain,
    ):
        message = [messages.reserve([messages.HOT])]
        for _ in range(bench.rounds):
            bench.postgres.settle()
            found["cte"].append(
                rivals.pgbench(
                    bench.postgres.bin_dir, dsn, bench.folder, hot=True, clients=CLIENTS, seconds=bench.seconds
                ).per_second
            )
            used = service.processor_s()
            outcome = bench.holds(service, ledger, message, connections=CONNECTIONS)
            processor_us = (service.processor_s() - used) / max(1, outcome.calls) * 1e6
            memory = max(memory, service.resident_mb())
            found["unary"].append(outcome.per_second)
            outcome = load.run(empty.target("Reserve"), message, seconds=bench.seconds, connections=CONNECTIONS)
            bench.expect(outcome, "empty Reserve")
            found["empty"].append(outcome.per_second)
            outcome = load.run(plain.target("Reserve"), message, seconds=bench.seconds, connections=CONNECTIONS)
            bench.expect(outcome, "plain Reserve")
            found["plain"].append(outcome.per_second)
        without = [messages.reserve([messages.HOT], with_request_id=False)]
        found["unary_no_id"].append(bench.holds(service, ledger, without, connections=CONNECTIONS).per_second)
    bench.postgres.drop(dsn)
    for key, title, unit in (
        ("cte", f"pgbench, the hold as one CTE statement, hot, {CLIENTS} clients", "holds/s"),
        ("plain", "plain service (transaction per call), hot, 100 in flight", "holds/s"),
        ("empty", "empty unary handler (grpc.aio, uvloop), 100 in flight", "calls/s"),
        ("unary", "unary Reserve, hot, 100 in flight", "holds/s"),
        ("unary_no_id", "unary Reserve without request ids, hot, 100 in flight", "holds/s"),
    ):
        values = found[key]
        note = f"{len(values)} rounds: {', '.join(f'{value:,.0f}' for value in values)}" if len(values) > 1 else ""
        results.add(key, title, median(values), unit, note)
    results.add("unary_cpu", "processor time of the worker per unary Reserve", processor_us, "µs")
    results.add("memory_unary", "resident memory of a worker, peak under unary load", memory, "MB")
    for title, below, goal in (
        ("unary Reserve, hot ÷ pgbench CTE", "cte", 4.0),
        ("unary Reserve, hot ÷ empty handler", "empty", 0.6),
        ("unary Reserve, hot ÷ plain service", "plain", 8.0),
    ):
        # Round by round: what disturbed a round disturbed both.
        rounds = [above / under for above, under in zip(found["unary"], found[below], strict=True)]
        results.ratio(title, median(rounds), goal)
