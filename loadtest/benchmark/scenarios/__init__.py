"""The scenarios by their names for `--only`, in the order of a run."""

from collections.abc import Callable

from benchmark.context import Bench
from benchmark.scenarios import affinity, batch, changes, generators, hot, latency, redis, shared, size, sweep, vacuum

SCENARIOS: dict[str, Callable[[Bench], None]] = {
    "generators": generators.run,
    "hot": hot.run,
    "batch": batch.run,
    "redis": redis.run,
    "shared": shared.run,
    "affinity": affinity.run,
    "changes": changes.run,
    "vacuum": vacuum.run,
    "latency": latency.run,
    "sweep": sweep.run,
    "size": size.run,
}
