"""Two services on one database, two front ends: calls balanced over both, or the calls of an item at one of them."""

from collections.abc import Sequence

from benchmark import front_ends, messages
from benchmark.context import Bench
from benchmark.results import median
from benchmark.stage import Running

CALLERS = 100
"""Of each of the two processes."""

ROUNDS_MAX = 2

ITEMS = {"one hot item": [messages.HOT], "20 hot items": [messages.sku(number) for number in range(20)]}


def run(bench: Bench) -> None:
    """In turns, one hot item and twenty."""
    with bench.ledger() as ledger, bench.service(ledger) as one, bench.service(ledger) as other:
        addresses = [one.address, other.address]
        targets: dict[str, str | list[str]] = {"balanced": "ipv4:" + ",".join(addresses), "by item": addresses}
        for what, skus in ITEMS.items():
            rates: dict[str, list[float]] = {name: [] for name in targets}
            spent_us: dict[str, list[float]] = {name: [] for name in targets}
            for _ in range(min(ROUNDS_MAX, bench.rounds)):
                for name, target in targets.items():
                    rate, cost_us = _measure(bench, (one, other), ledger, target, skus)
                    rates[name].append(rate)
                    spent_us[name].append(cost_us)
            for name in targets:
                title = f"two services, {what}, {name}"
                note = f"services and database {median(spent_us[name]):.0f} µs a hold"
                bench.results.add(f"affinity_{len(skus)}_{name}", title, median(rates[name]), note=note)


def _measure(
    bench: Bench, services: Sequence[Running], ledger: str, target: str | list[str], skus: list[str]
) -> tuple[float, float]:
    """Holds per second, and processor time of the services and the database for each."""

    def spent_s() -> float:
        return sum(service.processor_s() for service in services) + bench.postgres.processor_s()

    before_s = spent_s()
    reports = front_ends.measure(
        bench, services[0], ledger, callers=CALLERS, coalesce=True, processes=2, target=target, skus=skus
    )
    calls = sum(report.calls for report in reports)
    return sum(report.per_second for report in reports), (spent_s() - before_s) / calls * 1e6
