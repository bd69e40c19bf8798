"""Reserve of one hot item, 100 in flight, in turns with pgbench, the empty handler and the plain service."""

from benchmark import messages, rivals, stage
from benchmark.context import Bench
from benchmark.load import Outcome
from benchmark.results import median, quotient

CLIENTS = 100
CONNECTIONS = 4


def run(bench: Bench) -> None:
    """Interleaves the rivals, so that other load on the machine affects all of them."""
    results = bench.results
    message = [messages.reserve([messages.HOT])]
    without_id = [messages.reserve([messages.HOT], with_request_id=False)]
    outcomes: dict[str, list[Outcome]] = {"plain": [], "empty": [], "unary": [], "unary_no_id": []}
    statement: list[float] = []
    dsn = bench.postgres.baseline()
    with (
        bench.ledger() as ledger,
        bench.service(ledger) as service,
        stage.baseline("empty_service", bench.folder) as empty,
        stage.baseline("plain_service", bench.folder, dsn) as plain,
    ):
        for _ in range(bench.rounds):
            bench.postgres.settle()
            statement.append(
                rivals.pgbench(
                    bench.postgres.bin_dir, dsn, bench.folder, hot=True, clients=CLIENTS, seconds=bench.seconds
                ).per_second
            )
            outcomes["unary"].append(bench.holds(service, ledger, message, connections=CONNECTIONS))
            outcomes["empty"].append(bench.calls(empty, message, connections=CONNECTIONS))
            outcomes["plain"].append(bench.calls(plain, message, connections=CONNECTIONS))
        outcomes["unary_no_id"].append(bench.holds(service, ledger, without_id, connections=CONNECTIONS))
        memory = service.resident_mb()
    bench.postgres.drop(dsn)
    title = f"pgbench, the hold as one CTE statement, hot, {CLIENTS} clients"
    results.add("cte", title, median(statement), note=_rounds(statement))
    _report(bench, outcomes)
    results.add("memory_unary", "resident memory of a worker, peak under unary load", memory, "MB")
    rates = {key: [outcome.per_second for outcome in rounds] for key, rounds in outcomes.items()}
    for title, below, goal in (
        ("unary Reserve, hot ÷ pgbench CTE", statement, 4.0),
        ("unary Reserve, hot ÷ empty handler", rates["empty"], 0.6),
        ("unary Reserve, hot ÷ plain service", rates["plain"], 8.0),
    ):
        # Ratios of rounds: what disturbed one round disturbed both.
        rounds = [quotient(above, under) for above, under in zip(rates["unary"], below, strict=True)]
        results.ratio(title, median(rounds), goal)
    # Processor time depends least on other load.
    spent = [[outcome.worker_us for outcome in outcomes[key]] for key in ("empty", "unary")]
    rounds = [quotient(empty_us, unary_us) for empty_us, unary_us in zip(*spent, strict=True)]
    results.ratio("processor time of the worker: empty handler ÷ unary Reserve", median(rounds), 0.75)


def _report(bench: Bench, outcomes: dict[str, list[Outcome]]) -> None:
    results = bench.results
    for key, title, unit in (
        ("plain", "plain service (transaction per call), hot, 100 in flight", "holds/s"),
        ("empty", "empty unary handler (grpc.aio, uvloop), 100 in flight", "calls/s"),
        ("unary", "unary Reserve, hot, 100 in flight", "holds/s"),
        ("unary_no_id", "unary Reserve without request ids, hot, 100 in flight", "holds/s"),
    ):
        rates = [outcome.per_second for outcome in outcomes[key]]
        results.add(key, title, median(rates), unit, _rounds(rates))
    for key, title in (("unary", "unary Reserve"), ("empty", "call of the empty handler")):
        spent = median([outcome.worker_us for outcome in outcomes[key]])
        results.add(f"{key}_worker", f"processor time of the worker, each {title}", spent, "µs")
    spent = median([outcome.database_us for outcome in outcomes["unary"]])
    results.add("unary_database", "processor time of the database, each unary Reserve", spent, "µs")
    p50, p99 = (median([one.percentile_ms(percent) for one in outcomes["unary"]]) for percent in (50, 99))
    results.add("unary_p50", "unary Reserve, hot, 100 in flight: p50", p50, "ms", f"p99 {p99:,.1f} ms")


def _rounds(rates: list[float]) -> str:
    return f"{len(rates)} rounds: {', '.join(f'{rate:,.0f}' for rate in rates)}" if len(rates) > 1 else ""
