"""Reserve of one hot item, 100 in flight, beside pgbench, the empty handler and the plain service, turn by turn."""

from benchmark import messages, rivals, stage
from benchmark.bench import Bench
from benchmark.results import median, quotient

CLIENTS = 100
CONNECTIONS = 4


def run(bench: Bench) -> None:
    """Interleaves the rivals, so that what else the machine does falls on all of them."""
    results = bench.results
    dsn = bench.postgres.baseline()
    found: dict[str, list[float]] = {"cte": [], "unary": [], "unary_no_id": [], "empty": [], "plain": []}
    costs: dict[str, list[float]] = {"unary_cpu": [], "unary_database_cpu": [], "empty_cpu": []}
    memory = 0.0
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
            used, used_by_database = service.processor_s(), bench.postgres.processor_s()
            outcome = bench.holds(service, ledger, message, connections=CONNECTIONS)
            costs["unary_cpu"].append((service.processor_s() - used) / outcome.calls)
            costs["unary_database_cpu"].append((bench.postgres.processor_s() - used_by_database) / outcome.calls)
            memory = max(memory, service.resident_mb())
            found["unary"].append(outcome.per_second)
            used = empty.processor_s()
            outcome = bench.calls(empty, message, connections=CONNECTIONS)
            costs["empty_cpu"].append((empty.processor_s() - used) / outcome.calls)
            found["empty"].append(outcome.per_second)
            found["plain"].append(bench.calls(plain, message, connections=CONNECTIONS).per_second)
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
    for key, title in (
        ("unary_cpu", "processor time of the worker per unary Reserve"),
        ("unary_database_cpu", "processor time of the database per unary Reserve"),
        ("empty_cpu", "processor time of the empty handler per call"),
    ):
        results.add(key, title, median(costs[key]) * 1e6, "µs")
    results.add("memory_unary", "resident memory of a worker, peak under unary load", memory, "MB")
    for title, below, goal in (
        ("unary Reserve, hot ÷ pgbench CTE", "cte", 4.0),
        ("unary Reserve, hot ÷ empty handler", "empty", 0.6),
        ("unary Reserve, hot ÷ plain service", "plain", 8.0),
    ):
        # Round by round: what disturbed a round disturbed both.
        rounds = [quotient(above, under) for above, under in zip(found["unary"], found[below], strict=True)]
        results.ratio(title, median(rounds), goal)
