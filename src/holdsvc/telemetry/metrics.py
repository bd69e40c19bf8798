"""A worker's metrics for Prometheus; those of calls have the names of go-grpc-middleware, which dashboards know.

With several processes the values lie in files of PROMETHEUS_MULTIPROC_DIR; the supervisor serves them all on one page.
`families` has what the supervisor collects, `counters` what every process counts.
"""

import os
from functools import cache
from typing import Any

from prometheus_client import Counter, Gauge, Histogram, values

if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
    # The library would ask the kernel for the process id at each count: 2.5 % of a worker's time. No worker forks.
    _PID = os.getpid()
    values.ValueClass = values.MultiProcessValue(process_identifier=lambda: _PID)  # type: ignore[no-untyped-call]

_CALL_LABELS = ("grpc_type", "grpc_service", "grpc_method")
_FAST_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5)

CALLS_STARTED = Counter("grpc_server_started_total", "Calls that have arrived.", _CALL_LABELS)
CALLS_HANDLED = Counter("grpc_server_handled_total", "Calls that were answered.", (*_CALL_LABELS, "grpc_code"))
CALL_SECONDS = Histogram(
    "grpc_server_handling_seconds",
    "Time from a call's arrival to its answer.",
    _CALL_LABELS,
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
ERRORS = Counter("holdsvc_errors_total", "Calls answered with an error, by its reason.", ("grpc_method", "reason"))
RESERVATIONS = Counter(
    "holdsvc_reservations_total",
    "Transitions of reservations that were asked for or, `expire`, due; reason is OK, REPLAYED, or why it was refused.",
    ("transition", "reason"),
)
BATCH_SIZE = Histogram(
    "holdsvc_batch_size", "Requests of a batch.", ("lane",), buckets=(1, 2, 5, 10, 25, 50, 100, 250, 500, 1000)
)
BATCH_WAIT = Histogram(
    "holdsvc_batch_wait_seconds", "Time that the first request of a batch waited for it.", ("lane",), buckets=_FAST_S
)
BATCH_SECONDS = Histogram(
    "holdsvc_batch_seconds", "Time that the database took for a batch.", ("cell", "lane"), buckets=_FAST_S
)
DATABASE_FAILURES = Counter(
    "holdsvc_database_failures_total",
    "Batches, changes and reads that the database did not carry out.",
    ("cell", "cause"),
)
RETRIES = Counter("holdsvc_retries_total", "Batches, or requests of them, that ran once more.", ("lane", "why"))
SWEEPS = Counter("holdsvc_sweep_runs_total", "Sweeps of lapsed holds that have run.", ("cell",))
RETURNED_UNITS = Counter(
    "holdsvc_allotment_returned_units", "Units that sweeps sent from allotments to their return pools.", ("cell",)
)
QUARANTINED = Counter(
    "holdsvc_quarantined_holds",
    "Holds that a sweep could not expire, because their lines and their items contradict each other.",
    ("cell",),
)
SWEEP_FAILURES = Counter("holdsvc_sweep_failures_total", "Sweeps of lapsed holds that failed.", ("cell",))
SWEPT_RESERVATIONS = Counter("holdsvc_sweep_expired_total", "Reservations that sweeps have expired.", ("cell",))
SWEPT_UNITS = Counter("holdsvc_sweep_released_units_total", "Units that sweeps have given back.", ("cell",))
TIME_TO_OFFER = Histogram(
    "holdsvc_waitlist_offer_wait_seconds",
    "Time from a waitlist entry's join to its offer.",
    buckets=(1, 10, 60, 600, 3600, 6 * 3600, 86400, 7 * 86400, 30 * 86400),
)
OFFERS_TAKEN = Counter("holdsvc_waitlist_taken_total", "Offers of waitlist entries that were confirmed.")
SERVE_FAILURES = Counter(
    "holdsvc_waitlist_serve_failures_total", "Serves of waitlists that failed; the sweep repeats them.", ("cell",)
)
QUEUE_DEPTH = Gauge(
    "holdsvc_queue_depth", "Requests that wait for a batch.", ("cell", "lane"), multiprocess_mode="livesum"
)
POOL_SIZE = Gauge("holdsvc_pool_size", "Database connections that are open.", ("cell",), multiprocess_mode="livesum")
POOL_MAX = Gauge("holdsvc_pool_max", "Database connections that may be open.", ("cell",), multiprocess_mode="livesum")
POOL_IDLE = Gauge("holdsvc_pool_idle", "Database connections that are idle.", ("cell",), multiprocess_mode="livesum")
POOL_WAITING = Gauge(
    "holdsvc_pool_waiting", "Requests that wait for a connection.", ("cell",), multiprocess_mode="livesum"
)
DATABASE_UP = Gauge("holdsvc_database_up", "Whether the database answers.", ("cell",), multiprocess_mode="livemin")


STREAM_WATCHERS = Gauge(
    "holdsvc_stream_watchers", "Streams that are open.", ("cell", "grpc_method"), multiprocess_mode="livesum"
)
HTTP_CONNECTIONS = Gauge("holdsvc_http_connections", "Connections of HTTP that are open.", multiprocess_mode="livesum")
FEED_LAG = Gauge(
    "holdsvc_feed_lag_seconds",
    "How far the event feed is behind what was committed.",
    ("cell",),
    multiprocess_mode="livemax",
)
FEED_DAYS_BEHIND = Gauge(
    "holdsvc_feed_days_behind",
    "Days by which the partition for new events is behind the database's clock.",
    ("cell",),
    multiprocess_mode="livemax",
)

WEBHOOK_ATTEMPTS = Counter(
    "holdsvc_webhook_attempts_total",
    "Attempts to send an event to a webhook; reason is OK or why it failed.",
    ("reason",),
)
WEBHOOKS_DISABLED = Counter("holdsvc_webhooks_disabled_total", "Webhooks that were disabled.", ("reason",))

TRANSITIONS = ("reserve", "confirm", "cancel", "refund", "extend", "fulfil", "modify", "expire")

_OF_CELL = (
    SWEEPS,
    RETURNED_UNITS,
    QUARANTINED,
    SWEEP_FAILURES,
    SWEPT_RESERVATIONS,
    SWEPT_UNITS,
    SERVE_FAILURES,
)

STREAMS = {"WatchInventory", "StreamEvents"}


class CallMetrics:
    """Observer of calls."""

    def started(self, method: str) -> None:
        """A call has arrived."""
        _call(method)[0].inc()

    def handled(self, method: str, code: str, reason: str, seconds: float) -> None:
        """A call has been answered."""
        _call(method)[1].observe(seconds)
        _handled(method, code).inc()
        if reason:
            _errors(method, reason).inc()


class CellMetrics:
    """Observer of the batches, sweeps and webhooks of a cell; the only database has no name."""

    def __init__(self, cell: str = "") -> None:
        self._cell = cell
        # Prometheus sees an increase only of a series that it has seen before.
        for counter in _OF_CELL:
            counter.labels(cell)
        for transition in TRANSITIONS:
            _transition(transition, "OK")

    def batch(self, lane: str, size: int, wait_s: float, run_s: float) -> None:
        """A batch of `size` requests has run; its first waited `wait_s`."""
        sizes, waits, runs = _lane(self._cell, lane)
        sizes.observe(size)
        waits.observe(wait_s)
        runs.observe(run_s)

    def settled(self, lane: str, outcomes: dict[str, int]) -> None:
        """Requests have come to an end: how many, by OK, REPLAYED or the reason of the refusal."""
        if lane in TRANSITIONS:
            for reason, count in outcomes.items():
                _transition(lane, reason).inc(count)

    def retried(self, lane: str, why: str) -> None:
        """A batch, or a request of it, runs once more."""
        RETRIES.labels(lane, why).inc()

    def not_run(self, cause: str) -> None:
        """The database did not carry out a batch, a change or a read."""
        DATABASE_FAILURES.labels(self._cell, cause).inc()

    def offered(self, waited_us: list[int]) -> None:
        """Waitlist entries have been offered units, each after so many microseconds."""
        for wait in waited_us:
            TIME_TO_OFFER.observe(wait / 1_000_000)

    def taken(self, count: int) -> None:
        """Offers of waitlist entries have been confirmed."""
        if count:
            OFFERS_TAKEN.inc(count)

    def serve_failed(self) -> None:
        """A serve of a waitlist has failed."""
        SERVE_FAILURES.labels(self._cell).inc()

    def expired(self, expired_count: int) -> None:
        """Lapsed holds have been released, by whatever sweep."""
        _transition("expire", "OK").inc(expired_count)

    def swept(self, expired_count: int, released_quantity: int) -> None:
        """A background sweep has released this much."""
        SWEEPS.labels(self._cell).inc()
        SWEPT_RESERVATIONS.labels(self._cell).inc(expired_count)
        SWEPT_UNITS.labels(self._cell).inc(released_quantity)
        self.expired(expired_count)

    def quarantined(self, count: int) -> None:
        """A sweep has found holds that it cannot expire."""
        QUARANTINED.labels(self._cell).inc(count)

    def allotments_returned(self, quantity: int) -> None:
        """A sweep has sent so many units of allotments back to their return pools."""
        RETURNED_UNITS.labels(self._cell).inc(quantity)

    def sweep_failed(self) -> None:
        """A background sweep has failed."""
        SWEEP_FAILURES.labels(self._cell).inc()

    def webhook_attempted(self, reason: str) -> None:
        """An event was sent to a webhook: OK, or why that failed."""
        WEBHOOK_ATTEMPTS.labels(reason).inc()

    def webhook_disabled(self, reason: str) -> None:
        """A webhook was disabled."""
        WEBHOOKS_DISABLED.labels(reason).inc()


# To look up a child by its labels costs more than to count; methods, codes, cells, lanes, reasons bound their number.
@cache
def _call(method: str) -> tuple[Any, Any]:
    labels = _labels(method)
    # Prometheus sees an increase only of a series that it has seen before; alerts watch these two.
    for reason in ("INTERNAL", "OUTCOME_UNKNOWN"):
        ERRORS.labels(labels[2], reason)
    return CALLS_STARTED.labels(*labels), CALL_SECONDS.labels(*labels)


def _labels(method: str) -> tuple[str, str, str]:
    _, service, name = method.split("/")
    return ("server_stream" if name in STREAMS else "unary", service, name)


@cache
def _handled(method: str, code: str) -> Any:
    # As go-grpc-middleware writes them: OK, FailedPrecondition, ….
    name = code if code == "OK" else "".join(word.capitalize() for word in code.split("_"))
    return CALLS_HANDLED.labels(*_labels(method), name)


@cache
def _errors(method: str, reason: str) -> Any:
    return ERRORS.labels(method.rpartition("/")[2], reason)


@cache
def _lane(cell: str, lane: str) -> tuple[Any, Any, Any]:
    return BATCH_SIZE.labels(lane), BATCH_WAIT.labels(lane), BATCH_SECONDS.labels(cell, lane)


@cache
def _transition(lane: str, reason: str) -> Any:
    return RESERVATIONS.labels(lane, reason)
