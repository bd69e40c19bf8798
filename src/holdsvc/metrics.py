"""Metrics for Prometheus. gRPC's have the names of go-grpc-middleware, so that dashboards out there fit.

With several processes the values lie in files of PROMETHEUS_MULTIPROC_DIR; the supervisor serves them all on one page.
"""

from functools import cache
from typing import Any

from prometheus_client import Counter, Gauge, Histogram

_CALL_LABELS = ("grpc_type", "grpc_service", "grpc_method")

CALLS_STARTED = Counter("grpc_server_started_total", "Calls that have arrived.", _CALL_LABELS)
CALLS_HANDLED = Counter("grpc_server_handled_total", "Calls that were answered.", (*_CALL_LABELS, "grpc_code"))
CALL_SECONDS = Histogram(
    "grpc_server_handling_seconds",
    "Time from a call's arrival to its answer.",
    _CALL_LABELS,
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
ERRORS = Counter("holdsvc_errors_total", "Calls answered with an error, by its reason.", ("grpc_method", "reason"))
BATCH_SIZE = Histogram(
    "holdsvc_batch_size", "Requests of a batch.", ("lane",), buckets=(1, 2, 5, 10, 25, 50, 100, 250, 500, 1000)
)
BATCH_WAIT = Histogram(
    "holdsvc_batch_wait_seconds",
    "Time that the first request of a batch waited for it.",
    ("lane",),
    buckets=(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5),
)
BATCH_SECONDS = Histogram(
    "holdsvc_batch_seconds",
    "Time that the database took for a batch.",
    ("lane",),
    buckets=(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5),
)
RETRIES = Counter("holdsvc_retries_total", "Batches, or requests of them, that ran once more.", ("lane", "why"))
SWEEPS = Counter("holdsvc_sweep_runs_total", "Sweeps of lapsed holds that have run.")
SWEEP_FAILURES = Counter("holdsvc_sweep_failures_total", "Sweeps of lapsed holds that failed.")
SWEPT_RESERVATIONS = Counter("holdsvc_sweep_expired_total", "Reservations that sweeps have expired.")
SWEPT_UNITS = Counter("holdsvc_sweep_released_units_total", "Units that sweeps have given back.")
QUEUE_DEPTH = Gauge("holdsvc_queue_depth", "Requests that wait for a batch.", ("lane",), multiprocess_mode="livesum")
DATABASE_UP = Gauge("holdsvc_database_up", "Whether the database answers.", multiprocess_mode="livemin")


class Metrics:
    """Observer of calls, batches and sweeps."""

    def started(self, method: str) -> None:
        """A call has arrived."""
        _call(method)[0].inc()

    def handled(self, method: str, code: str, reason: str, seconds: float) -> None:
        """A call has been answered."""
        _call(method)[1].observe(seconds)
        _handled(method, code).inc()
        if reason:
            ERRORS.labels(method.rpartition("/")[2], reason).inc()

    def batch(self, lane: str, size: int, wait_s: float, run_s: float) -> None:
        """A batch of `size` requests has run; its first waited `wait_s`."""
        sizes, waits, runs = _lane(lane)
        sizes.observe(size)
        waits.observe(wait_s)
        runs.observe(run_s)

    def retried(self, lane: str, why: str) -> None:
        """A batch, or a request of it, runs once more."""
        RETRIES.labels(lane, why).inc()

    def swept(self, expired_count: int, released_quantity: int) -> None:
        """A sweep has released this much."""
        SWEEPS.inc()
        SWEPT_RESERVATIONS.inc(expired_count)
        SWEPT_UNITS.inc(released_quantity)

    def sweep_failed(self) -> None:
        """A sweep has failed."""
        SWEEP_FAILURES.inc()


_STREAMS = {"WatchInventory", "StreamEvents"}


def _labels(method: str) -> tuple[str, str, str]:
    _, service, name = method.split("/")
    return ("server_stream" if name in _STREAMS else "unary", service, name)


# Looking a child up by its labels costs more than counting; there are as many as methods and codes.
@cache
def _call(method: str) -> tuple[Any, Any]:
    labels = _labels(method)
    return CALLS_STARTED.labels(*labels), CALL_SECONDS.labels(*labels)


@cache
def _handled(method: str, code: str) -> Any:
    # As go-grpc-middleware writes them: OK, FailedPrecondition, ….
    name = code if code == "OK" else "".join(word.capitalize() for word in code.split("_"))
    return CALLS_HANDLED.labels(*_labels(method), name)


@cache
def _lane(lane: str) -> tuple[Any, Any, Any]:
    return BATCH_SIZE.labels(lane), BATCH_WAIT.labels(lane), BATCH_SECONDS.labels(lane)
