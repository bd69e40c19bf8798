"""`python loadtest/buckets.py`: what it gives and costs to keep a hot item's units in several rows, hidden buckets.

First a simulation: sales of an item whose units are split among buckets. Each request looks into a bucket of its own,
by chance, as a hash of its request_id would choose it. The table tells how many requests were refused although their
units were left, how many rows a request had to look into, and how much of the sale was left to the single row after the
buckets had collapsed into it. Then a measurement: the service's own function on a PostgreSQL with fsync on, always with
the same number of requests in flight, so that more buckets mean smaller batches. Seeded; ends by itself; docs/scale.md
shows a run.
"""

import argparse
import asyncio
import heapq
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from statistics import median

from benchmark.stage import Postgres
from holdsvc.change_requests import Reserve, Transfer
from holdsvc.engine.identifiers import Uuid7
from holdsvc.ledger import items
from holdsvc.ledger.database import Database
from holdsvc.ledger.holds import reserve
from holdsvc.model import Caller, Done, Item, ItemKey, ReservationLine
from holdsvc.settings import Settings

BUCKETS = (1, 4, 16)
CAPACITY = 10_000
DEMAND = 1.5
"""Units asked for, as a multiple of the capacity."""

QUANTITIES = (1, 1, 1, 1, 1, 1, 2, 2, 3, 6)
RETURNED = 0.2
"""Share of holds that are cancelled, or expire, some time later; their units go back to their bucket."""

RETURN_AFTER = 2000
"""Up to how many requests later."""

IN_FLIGHT = 512
ROUNDS = 3
CALLER = Caller("default", "dev", "", frozenset())


@dataclass(frozen=True)
class Rule:
    """What happens to a request whose bucket has too few units."""

    name: str
    others: bool = False
    """It looks into the other buckets in turn."""
    collapse: bool = False
    """The buckets collapse into one row, where it is judged."""
    collapse_below: int = 0
    """They collapse before that, as soon as a bucket has fewer units left."""


RULES = (
    Rule("refuse"),
    Rule("try the others", others=True),
    Rule("collapse", collapse=True),
    Rule("collapse below 50", collapse=True, collapse_below=50),
)


@dataclass
class Sale:
    """What came of a sale."""

    requests: int = 0
    holds: int = 0
    wrongly_refused: int = 0
    """Although as many units were left in all."""
    most_left: int = 0
    """Units left at such a refusal."""
    looks: int = 0
    """Rows that requests looked into."""
    by_one_row: int = 0
    """Holds made after the buckets had collapsed."""
    units: int = 0
    """Units held at the end."""
    left: int = 0
    """Units free at the end."""


def sell(buckets: int, rule: Rule, seed: int, capacity: int = CAPACITY) -> Sale:
    """One sale, until DEMAND has been asked for."""
    dice = random.Random(seed)
    sale = Sale()
    free = [capacity // buckets + (number < capacity % buckets) for number in range(buckets)]
    coming_back: list[tuple[int, int, int]] = []
    asked = 0
    while asked < DEMAND * capacity:
        quantity, home = dice.choice(QUANTITIES), dice.randrange(buckets)
        comes_back_at = sale.requests + dice.randrange(1, RETURN_AFTER) if dice.random() < RETURNED else None
        asked += quantity
        sale.requests += 1
        while coming_back and coming_back[0][0] <= sale.requests:
            _, bucket, units = heapq.heappop(coming_back)
            free[bucket % len(free)] += units
            sale.units -= units
        found = None
        for bucket in _looked_into(home, len(free), rule):
            sale.looks += 1
            if free[bucket] >= quantity:
                found = bucket
                break
        if found is None and rule.collapse and len(free) > 1:
            free = [sum(free)]
            sale.looks += 1
            found = 0 if free[0] >= quantity else None
        if found is None:
            if sum(free) >= quantity:
                sale.wrongly_refused += 1
                sale.most_left = max(sale.most_left, sum(free))
            continue
        free[found] -= quantity
        sale.units += quantity
        sale.holds += 1
        sale.by_one_row += len(free) == 1
        if comes_back_at is not None:
            heapq.heappush(coming_back, (comes_back_at, found, quantity))
        if free[found] < rule.collapse_below:
            free = [sum(free)]
    sale.left = sum(free)
    return sale


def _looked_into(home: int, buckets: int, rule: Rule) -> Iterable[int]:
    own = home % buckets
    return (own, *(other for other in range(buckets) if other != own)) if rule.others else (own,)


def simulate(seed: int, sales: int) -> list[list[str]]:
    """The table of the simulation; each figure is a mean of `sales` sales."""
    rows = []
    for buckets in BUCKETS:
        for rule in RULES if buckets > 1 else RULES[:1]:
            found = [sell(buckets, rule, seed + number) for number in range(sales)]
            rows.append(
                [
                    str(buckets),
                    rule.name if buckets > 1 else "-",
                    f"{sum(sale.wrongly_refused for sale in found) / sales:,.0f}",
                    f"{max(sale.most_left for sale in found):,}",
                    f"{sum(sale.looks for sale in found) / sum(sale.requests for sale in found):.2f}",
                    f"{100 * sum(sale.by_one_row for sale in found) / sum(sale.holds for sale in found):.1f} %",
                ]
            )
    return rows


@dataclass
class Lanes:
    """Lanes that take turns at the buckets, each with a connection and one batch at a time, as a worker has."""

    buckets: int
    count: int
    rates: list[float] = field(default_factory=list)
    """Holds a second, by round."""
    costs_us: list[float] = field(default_factory=list)
    """Processor time of the database for a hold."""

    @property
    def sku(self) -> str:
        """The item."""
        return f"hot-{self.buckets}-{self.count}"

    @property
    def pools(self) -> list[str]:
        """Its buckets."""
        return [f"#{number}" for number in range(self.buckets)]

    @property
    def batch(self) -> int:
        """Requests of a batch."""
        return IN_FLIGHT // self.count

    async def run(self, database: Database, seconds: float) -> int:
        """Makes holds for so long; returns how many."""
        end = time.perf_counter() + seconds

        async def lane(number: int) -> int:
            done = 0
            async with database.connection() as connection:
                while time.perf_counter() < end:
                    requests = _requests(self.sku, self.pools[number % self.buckets], self.batch)
                    answers = await reserve(connection, CALLER.tenant, requests)
                    assert all(isinstance(answer, Done) for answer in answers)
                    done += self.batch
            return done

        return sum(await asyncio.gather(*(lane(number) for number in range(self.count))))


async def measure(dsn: str, processor_s: Callable[[], float], seconds: float) -> list[list[str]]:
    """The table of the measurement: the ledger's own function, without gRPC; medians of rounds in turns."""
    measured = [*(Lanes(buckets, buckets) for buckets in BUCKETS), Lanes(1, BUCKETS[1])]
    database = Database(Settings(pool_size=max(BUCKETS)), dsn)
    await database.open()
    try:
        for lanes in measured:
            await _create(database, lanes)
        for _ in range(ROUNDS):
            for lanes in measured:
                start, used_s = time.perf_counter(), processor_s()
                holds = await lanes.run(database, seconds / ROUNDS)
                lanes.rates.append(holds / (time.perf_counter() - start))
                lanes.costs_us.append(1e6 * (processor_s() - used_s) / holds)
        return [
            [
                str(lanes.buckets),
                str(lanes.count),
                str(lanes.batch),
                f"{median(lanes.rates):,.0f}",
                f"{median(lanes.costs_us):.0f} µs",
                f"{1e3 * await _collapse(database, lanes):.0f} ms" if lanes.buckets > 1 else "-",
            ]
            for lanes in measured
        ]
    finally:
        await database.close()


def measure_here(seconds: float) -> list[list[str]]:
    """The same on a PostgreSQL of its own, with fsync on."""
    with tempfile.TemporaryDirectory() as folder:
        postgres = Postgres(Path(folder))
        postgres.start()
        try:
            return asyncio.run(measure(postgres.ledger(), postgres.processor_s, seconds))
        finally:
            postgres.stop()


async def _create(database: Database, lanes: Lanes) -> None:
    """Creates the item, and takes a batch of each bucket, so that statements are prepared."""
    stock = [Item(lanes.sku, pool, "", 10**8, 0, 0, 0, 0, 0, None, None) for pool in lanes.pools]  # type: ignore[arg-type]
    async with database.connection() as connection:
        await items.create(connection, CALLER, stock)
    await lanes.run(database, 0.01)


async def _collapse(database: Database, lanes: Lanes) -> float:
    """Brings the units of all buckets into the first; the seconds that it took, with the row locks held."""
    async with database.connection() as connection:
        found = await items.get(connection, CALLER.tenant, [ItemKey(lanes.sku, pool) for pool in lanes.pools[1:]])
        transfers = [
            Transfer(CALLER, "", b"", lanes.sku, item.pool, lanes.pools[0], item.remaining, "")
            for item in found
            if item is not None
        ]
        start = time.perf_counter()
        answers = await items.transfer(connection, CALLER.tenant, transfers)
        assert all(isinstance(answer, Done) for answer in answers)
        return time.perf_counter() - start


_new_id = Uuid7()


def _requests(sku: str, pool: str, count: int) -> list[Reserve]:
    return [
        Reserve(
            caller=CALLER,
            request_id=f"buckets {id_}",
            fingerprint=sha256(id_.encode()).digest(),
            reservation_id=id_,
            lines=[ReservationLine(sku, pool, 1)],
            holder="",
            reference="",
            ttl_us=3_600_000_000,
            metadata={},
            duplicate_window_us=None,
        )
        for id_ in (_new_id() for _ in range(count))
    ]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> int:
    """Prints both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--sales", type=int, default=20, help="sales for each line of the simulation (default 20)")
    parser.add_argument(
        "--seconds", type=float, default=3, help="of each measurement (default 3); 0: only the simulation"
    )
    arguments = parser.parse_args()
    head = ["buckets", "a bucket is short", "refused wrongly", "units left then", "rows a request", "sold by one row"]
    print(table(head, simulate(arguments.seed, arguments.sales)))
    if arguments.seconds:
        head = ["buckets", "lanes", "requests a batch", "holds/s", "database, a hold", "collapse"]
        print("", table(head, measure_here(arguments.seconds)), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
