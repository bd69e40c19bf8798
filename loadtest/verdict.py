"""The callers' own count, and the checks of every promise."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from benchmark.load import percentile
from inventoryhold.v1 import item_pb2


@dataclass
class Tally:
    """The callers' own count."""

    latencies_ms: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    failed: Counter[str] = field(default_factory=Counter)
    confirmed: int = 0
    """Units that were confirmed and not refunded."""
    reserved_count: int = 0
    confirmed_count: int = 0
    broken: list[str] = field(default_factory=list)
    """Promises that an answer broke, in words."""
    buyers_seconds: float = 1.0
    buyers_calls: int = 0

    @property
    def call_count(self) -> int:
        """Calls that were answered, refusals and failures included."""
        return sum(map(len, self.latencies_ms.values()))


@dataclass(frozen=True)
class Check:
    """A promise and whether it was kept."""

    ok: bool
    text: str


def judge(item: item_pb2.Item, held: int, confirmed: int, tally: Tally) -> list[Check]:
    """Checks an item's counters against the units of its reservations and against the callers' tally."""
    taken = item.held + item.confirmed
    limit = item.capacity + item.oversell_limit
    checks = [
        Check(
            taken <= limit,
            f"{'nothing oversold' if taken <= limit else 'OVERSOLD'}: {item.held} held + {item.confirmed} confirmed, "
            f"{limit} allowed",
        ),
        Check(
            item.capacity == item.remaining + item.held + item.confirmed,
            f"the counters add up: capacity {item.capacity}, remaining {item.remaining}, held {item.held}, "
            f"confirmed {item.confirmed}",
        ),
        Check(
            (item.held, item.confirmed) == (held, confirmed),
            f"the reservations say the same: {held} held, {confirmed} confirmed",
        ),
    ]
    if tally.failed:
        checks.append(
            Check(False, f"{tally.failed.total()} calls failed, so the callers' own count is not compared; see above")
        )
    else:
        checks.append(
            Check(tally.confirmed == confirmed, f"the callers' own count says the same: {tally.confirmed} confirmed")
        )
    checks += [Check(False, promise) for promise in tally.broken[:10]]
    return checks


def summary(tally: Tally, checks: Sequence[Check]) -> str:
    """A table of calls with their latencies, then the checks."""
    rows = [f"{'call':10}{'outcome':24}{'calls':>8}{'p50 ms':>9}{'p95 ms':>9}{'p99 ms':>9}{'max ms':>9}"]
    for (rpc, outcome), latencies in sorted(tally.latencies_ms.items()):
        latencies.sort()
        shown = "".join(f"{percentile(latencies, percent):9.1f}" for percent in (50, 95, 99, 100))
        rows.append(f"{rpc:10}{outcome:24}{len(latencies):8,}{shown}")
    rate = tally.buyers_calls / tally.buyers_seconds
    share = 100 * tally.confirmed_count / max(1, tally.reserved_count)
    rows += [
        f"buyers: {tally.buyers_calls:,} calls in {tally.buyers_seconds:.1f} s, {rate:,.0f} a second",
        f"conversion: {tally.confirmed_count:,} of {tally.reserved_count:,} reservations were confirmed, {share:.0f} %",
        "",
        *(f"{count} x {failure}" for failure, count in tally.failed.most_common(10)),
        *(f"{'ok    ' if check.ok else 'FAILED'} {check.text}" for check in checks),
    ]
    return "\n".join(rows)
