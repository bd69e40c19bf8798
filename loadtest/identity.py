"""Measures what a key costs: unary Reserve with one beside AUTH=off, turn by turn in one run.

python loadtest/identity.py [--rounds 6] [--seconds 5] [--in-flight 100]
"""

import argparse
import tempfile
from pathlib import Path

from benchmark import load, messages, stage
from benchmark.results import median

CAPACITY = 10**12
CONNECTIONS = 4
GOAL = 0.95

_ITEM = """
INSERT INTO holdsvc.item (tenant, sku, pool, display_name, capacity, remaining, oversell_limit, create_time, update_time)
VALUES ('{tenant}', '{sku}', '', '', {capacity}, {capacity}, 0, now(), now())
"""


def main() -> None:
    """Runs the rounds and prints each and the medians of their ratios."""
    parser = argparse.ArgumentParser(description="What a key costs.")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--in-flight", type=int, default=100)
    arguments = parser.parse_args()
    message = [messages.reserve([messages.HOT])]
    ratios: list[float] = []
    processor_ratios: list[float] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        postgres = stage.Postgres(folder / "data")
        postgres.start()
        try:
            ledgers = {"off": postgres.ledger(), "api-key": postgres.ledger()}
            for ledger, tenant in (("off", "default"), ("api-key", stage.TENANT)):
                stage.run_sql(ledgers[ledger], _ITEM.format(tenant=tenant, sku=messages.HOT, capacity=CAPACITY))
            with (
                stage.holdsvc(ledgers["off"], folder, auth="off") as without,
                stage.holdsvc(ledgers["api-key"], folder, auth="api-key") as with_key,
            ):
                without.metadata.clear()
                first_number = 0
                for round_number in range(arguments.rounds):
                    found: dict[str, tuple[float, float]] = {}
                    turn = [("off", without), ("key", with_key)]
                    for kind, running in turn if round_number % 2 else reversed(turn):
                        postgres.settle()
                        used = running.processor_s()
                        outcome = load.run(
                            running.target("Reserve"),
                            message,
                            seconds=arguments.seconds,
                            in_flight=arguments.in_flight,
                            connections=CONNECTIONS,
                            first_number=first_number,
                        )
                        first_number += load.NUMBERS_EACH // 1024
                        if outcome.ok != outcome.calls:
                            raise SystemExit(f"{kind}: {outcome.statuses}")
                        found[kind] = (outcome.per_second, (running.processor_s() - used) / outcome.calls * 1e6)
                    (off, off_us), (key, key_us) = found["off"], found["key"]
                    ratios.append(key / off)
                    processor_ratios.append(off_us / key_us)
                    print(
                        f"AUTH=off {off:7,.0f}/s {off_us:4.0f} µs   with a key {key:7,.0f}/s {key_us:4.0f} µs"
                        f"   {key / off:.3f} by throughput, {off_us / key_us:.3f} by processor time of the worker"
                    )
        finally:
            postgres.stop()
    verdict = "reached" if median(ratios) >= GOAL else "missed"
    print(f"median {median(ratios):.3f} by throughput ({GOAL} {verdict}), {median(processor_ratios):.3f} by processor time")


if __name__ == "__main__":
    main()
