"""Counters of every process that counts: workers, the supervisor, the relay. Prometheus adds them up.

Import it, as every module that makes metrics, only after PROMETHEUS_MULTIPROC_DIR has been set.
"""

from prometheus_client import Counter

LOOP_FAILURES = Counter("holdsvc_loop_failures", "Steps of background loops that failed; the loop goes on.", ["loop"])
LOG_LINES_DROPPED = Counter(
    "holdsvc_log_lines_dropped", "Log lines that were dropped because the log's reader did not take them."
)
PRIMARY_REFUSALS = Counter(
    "holdsvc_primary_refusals",
    "Looks at the DSN's hosts in which a writable server was not taken for the primary, by why.",
    ["why"],
)
