"""The metrics of the service, as queries name them."""

from collections.abc import Iterator
from typing import Any

from prometheus_client import Counter, Gauge, Histogram

from holdsvc.relay import relay
from holdsvc.telemetry import counters, metrics
from holdsvc.telemetry.families import FAMILIES


def labels_by_name() -> dict[str, tuple[str, ...]]:
    """Every metric, by the name that queries use, with its labels; histograms with their series."""
    found: dict[str, tuple[str, ...]] = {}
    for metric in _declared():
        name, labels = str(metric._name), tuple(metric._labelnames)
        if metric._type == "histogram":
            found.update({f"{name}_{part}": labels for part in ("bucket", "sum", "count")})
        else:
            found[f"{name}_total" if metric._type == "counter" else name] = labels
    return found | {family.name: family.labels for family in FAMILIES}


def _declared() -> Iterator[Any]:
    for module in (metrics, relay, counters):
        yield from (value for value in vars(module).values() if isinstance(value, Counter | Gauge | Histogram))
