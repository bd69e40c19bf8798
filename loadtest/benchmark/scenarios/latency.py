"""One and two workers: the most that they take, and the latency of calls that come at a fixed rate."""

from benchmark import messages
from benchmark.bench import Bench

CONNECTIONS = 16
"""The kernel gives each worker some of the connections: enough of them that none goes short."""

SHARES = (0.2, 0.5, 0.8)


def run(bench: Bench) -> None:
    """Latencies count from when a call was due, so a stall is charged for the calls that it held up."""
    results = bench.results
    message = [messages.reserve([messages.HOT])]
    series = []
    for workers in (1, 2):
        with bench.ledger() as ledger, bench.service(ledger, workers=workers) as service:
            name = f"{workers} worker{'s' if workers > 1 else ''}"
            closed = bench.holds(service, ledger, message, connections=CONNECTIONS, in_flight=96)
            most = closed.per_second
            note = f"p50 {closed.percentile_ms(50):.1f} ms, p99 {closed.percentile_ms(99):.1f} ms"
            results.add(f"workers_{workers}", f"unary Reserve, hot, 96 in flight, {name}", most, note=note)
            for share in SHARES:
                outcome = bench.holds(
                    service, ledger, message, connections=CONNECTIONS, rate=most * share, seconds=2 * bench.seconds
                )
                p50, p99 = outcome.percentile_ms(50), outcome.percentile_ms(99)
                title = f"open loop at {share:.0%} of it ({most * share:,.0f}/s), {name}: p50"
                results.add(f"open_{workers}_{share:.0%}_p50", title, p50, "ms", f"p99 {p99:,.1f} ms")
                results.add(f"open_{workers}_{share:.0%}_p99", title.replace("p50", "p99"), p99, "ms")
                series.append((workers, share, most * share, p50, p99))
    results.series["latency"] = series
