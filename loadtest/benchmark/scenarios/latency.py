"""One and two workers: the highest rate, and the latency at fixed rates below it."""

from benchmark import messages
from benchmark.context import Bench

CONNECTIONS = 16
"""The kernel distributes connections over the workers; this many reach each of them."""

SHARES = (0.2, 0.5, 0.8)


def run(bench: Bench) -> None:
    """Latencies count from the time at which a call was due, so a stall counts for every call that it delayed."""
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
