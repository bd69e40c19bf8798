"""BatchReserve of 100 and 500, on the hot item and over 10,000 items."""

from benchmark import messages, rivals
from benchmark.context import Bench

IN_FLIGHT = 4
"""Batches in flight: one commits, the next is collected, the others are on the wire."""


def run(bench: Bench) -> None:
    """Measures the four combinations on one database, then the CTE over 10,000 items."""
    results = bench.results
    memory = 0.0
    with bench.ledger() as ledger, bench.service(ledger) as service:
        for hot in (True, False):
            for size in (100, 500):
                bench.postgres.settle()
                outcome = bench.holds(
                    service,
                    ledger,
                    messages.batch(size, hot=hot),
                    method="BatchReserve",
                    each=size,
                    in_flight=IN_FLIGHT * 500 // size,
                    connections=IN_FLIGHT,
                )
                where = "hot" if hot else "uniform"
                title = f"BatchReserve of {size}, {'hot' if hot else 'over 10,000 items'}"
                results.add(f"batch_{size}_{where}", title, outcome.per_second * size, note=outcome.cost)
                memory = max(memory, service.resident_mb())
    results.add("memory_batch", "resident memory of a worker, peak under batch load", memory, "MB")
    dsn = bench.postgres.baseline()
    uniform = rivals.pgbench(
        bench.postgres.bin_dir, dsn, bench.folder, hot=False, clients=100, seconds=bench.seconds
    ).per_second
    results.add("cte_uniform", "pgbench, CTE over 10,000 items, 100 clients", uniform)
    if "cte" not in results.figures:
        hot_cte = rivals.pgbench(
            bench.postgres.bin_dir, dsn, bench.folder, hot=True, clients=100, seconds=bench.seconds
        )
        results.add("cte", "pgbench, the hold as one CTE statement, hot, 100 clients", hot_cte.per_second)
    bench.postgres.drop(dsn)
    results.compare("BatchReserve of 500, hot ÷ pgbench CTE", "batch_500_hot", "cte", 40.0)
    results.compare("BatchReserve of 500, over 10,000 items ÷ pgbench CTE", "batch_500_uniform", "cte", 30.0)
    results.ratio("150 MB ÷ resident memory of a worker", 150 / memory, 1.0)
