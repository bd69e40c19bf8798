"""The scenarios, by the names that `--only` takes, in the order of the run."""

from collections.abc import Callable

from benchmark.bench import Bench
from benchmark.scenarios import batch, hot

SCENARIOS: dict[str, Callable[[Bench], None]] = {
    "hot": hot.run,
    "batch": batch.run,
}
