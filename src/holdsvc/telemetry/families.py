"""Metrics that the supervisor fills in: once, however many workers there are.

Apart from the metrics of the workers, which it must not import: in its process they would be one more worker's.
"""

from collections.abc import Iterable
from typing import NamedTuple

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

Series = CounterMetricFamily | GaugeMetricFamily


class Family(NamedTuple):
    """What the supervisor fills in: a gauge or, where its name ends so, a counter."""

    name: str
    description: str
    labels: tuple[str, ...] = ()


UNITS = Family("holdsvc_units", "Units of a tenant's items by where they are.", ("tenant", "state"))
ITEMS = Family("holdsvc_items", "Items of a tenant.", ("tenant",))
ACTIVE_HOLDS = Family("holdsvc_active_holds", "Reservations of a tenant that are held.", ("tenant",))
LAPSED_HOLDS = Family("holdsvc_lapsed_holds", "Holds whose time is over and that no sweep has returned yet.")
OLDEST_LAPSED_HOLD = Family(
    "holdsvc_oldest_lapsed_hold_age_seconds", "For how long the oldest lapsed hold waits for a sweep."
)
FENCE_AGE = Family(
    "holdsvc_fence_age_seconds", "For how long the oldest writer, which the event feed waits for, has been open."
)
SNAPSHOT_AGE = Family("holdsvc_oldest_snapshot_age_seconds", "For how long the oldest snapshot has been open.")
TOP_ITEM_UNITS = Family(
    "holdsvc_top_item_units",
    "Units of the items with the most units held by where they are.",
    ("tenant", "sku", "pool", "state"),
)
CENSUS_TIME = Family("holdsvc_census_timestamp_seconds", "When units and holds were last counted.")
CENSUS_SECONDS = Family("holdsvc_census_seconds", "How long the last count of units and holds took.")
WORKERS = Family("holdsvc_workers", "Worker processes that live.")
WORKERS_WANTED = Family("holdsvc_workers_wanted", "Worker processes that there should be.")
WORKER_HANGS = Family("holdsvc_worker_hangs_total", "Workers that were replaced because they no longer answered.")
WORKER_START_FAILURES = Family("holdsvc_worker_start_failures_total", "Workers that could not be started.")
BUILD_INFO = Family("holdsvc_build_info", "The version that runs; the value is 1.", ("version", "python_version"))
WORKER_DEATHS = Family("holdsvc_worker_deaths_total", "Workers that have died since the service started.")

FAMILIES = (
    UNITS,
    ITEMS,
    ACTIVE_HOLDS,
    LAPSED_HOLDS,
    OLDEST_LAPSED_HOLD,
    FENCE_AGE,
    SNAPSHOT_AGE,
    TOP_ITEM_UNITS,
    CENSUS_TIME,
    CENSUS_SECONDS,
    WORKERS,
    WORKERS_WANTED,
    WORKER_DEATHS,
    WORKER_HANGS,
    WORKER_START_FAILURES,
    BUILD_INFO,
)

OTHER_TENANTS = "(other)"
"""Tenants beyond `metrics_tenants`, added up."""


def family(which: Family, rows: Iterable[tuple[tuple[str, ...], float]]) -> Series:
    """A family's series from their labels and values."""
    counts = which.name.endswith("_total")
    made = (CounterMetricFamily if counts else GaugeMetricFamily)(which.name, which.description, labels=which.labels)
    for labels, value in rows:
        made.add_metric(labels, value)
    return made
