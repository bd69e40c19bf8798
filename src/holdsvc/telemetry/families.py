"""Metrics that the supervisor collects: once, however many workers there are.

The supervisor must not import those of workers: in its process they would count as one more worker.
"""

from collections.abc import Iterable
from typing import NamedTuple

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

Series = CounterMetricFamily | GaugeMetricFamily


class Family(NamedTuple):
    """A gauge or, if its name ends in `_total`, a counter."""

    name: str
    description: str
    labels: tuple[str, ...] = ()


UNITS = Family("holdsvc_units", "Units of a tenant's items by where they are.", ("cell", "tenant", "state"))
ITEMS = Family("holdsvc_items", "Items of a tenant.", ("cell", "tenant"))
WAITLIST_ENTRIES = Family(
    "holdsvc_waitlist_entries",
    "Waitlist entries of a tenant that wait, or whose offer is held.",
    ("cell", "tenant", "state"),
)
CLOSED_ITEMS = Family("holdsvc_closed_items", "Items of a tenant whose sale is closed.", ("cell", "tenant"))
LEVELS = Family(
    "holdsvc_item_levels", "Items of a tenant with low_at that are low or out.", ("cell", "tenant", "level")
)
ACTIVE_HOLDS = Family("holdsvc_active_holds", "Reservations of a tenant that are held.", ("cell", "tenant"))
LAPSED_HOLDS = Family("holdsvc_lapsed_holds", "Expired holds whose units no sweep has released yet.", ("cell",))
OLDEST_LAPSED_HOLD = Family(
    "holdsvc_oldest_lapsed_hold_age_seconds", "Time since the oldest of the lapsed holds expired.", ("cell",)
)
FENCE_AGE = Family(
    "holdsvc_fence_age_seconds", "Age of the oldest writing transaction; the event feed waits for it.", ("cell",)
)
SNAPSHOT_AGE = Family("holdsvc_oldest_snapshot_age_seconds", "Age of the oldest snapshot.", ("cell",))
TOP_ITEM_UNITS = Family(
    "holdsvc_top_item_units",
    "Units of the items with the most units held by where they are.",
    ("cell", "tenant", "sku", "pool", "state"),
)
LIMITS = Family("holdsvc_limits", "Limits of all tenants; one that is building refuses nothing yet.", ("cell", "state"))
WEBHOOKS = Family("holdsvc_webhooks", "Webhooks of all tenants by how they fare.", ("cell", "state"))
WEBHOOK_OVERDUE = Family(
    "holdsvc_webhook_overdue_seconds",
    "For how long the webhook that waits longest has been due without a sender.",
    ("cell",),
)
CENSUS_TIME = Family("holdsvc_census_timestamp_seconds", "When units and holds were last counted.", ("cell",))
CENSUS_SECONDS = Family("holdsvc_census_seconds", "How long the last count of units and holds took.", ("cell",))
WORKERS = Family("holdsvc_workers", "Worker processes that run.")
WORKERS_WANTED = Family("holdsvc_workers_wanted", "Worker processes that are configured.")
WORKER_HANGS = Family("holdsvc_worker_hangs_total", "Workers that were replaced because they no longer answered.")
WORKER_START_FAILURES = Family("holdsvc_worker_start_failures_total", "Workers that could not be started.")
BUILD_INFO = Family("holdsvc_build_info", "The version that runs; the value is 1.", ("version", "python_version"))
WORKER_DEATHS = Family("holdsvc_worker_deaths_total", "Workers that have died since the service started.")

FAMILIES = (
    UNITS,
    ITEMS,
    WAITLIST_ENTRIES,
    CLOSED_ITEMS,
    LEVELS,
    ACTIVE_HOLDS,
    LAPSED_HOLDS,
    OLDEST_LAPSED_HOLD,
    FENCE_AGE,
    SNAPSHOT_AGE,
    TOP_ITEM_UNITS,
    LIMITS,
    WEBHOOKS,
    WEBHOOK_OVERDUE,
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
