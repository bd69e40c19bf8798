"""The access log: a line for each call, sampled. It never holds a customer, a reservation's metadata or a key."""

import re
from time import monotonic

import structlog
from google.protobuf.message import Message

from holdsvc.api.calls import Call
from holdsvc.engine.limits import Bucket

log = structlog.get_logger("holdsvc.access")

FAILURES = {"INTERNAL", "OUTCOME_UNKNOWN"}
"""Reasons that are logged each time, because they need attention."""

REQUEST_ID_CHARS = 128
"""Characters of a request_id that are logged: no valid one is longer."""

_TRACEPARENT = re.compile(r"[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}.*", re.ASCII)


class Sample:
    """Lets through `rate` lines a second, with bursts of one second's worth (one line at least)."""

    def __init__(self, rate: float) -> None:
        self._bucket = Bucket(rate) if rate else None
        self._skipped = 0

    def take(self) -> int | None:
        """Returns the number of lines skipped since the last one, or None when this one is to be skipped too."""
        if self._bucket is None:
            return None
        if self._bucket.take(monotonic()) > 0:
            self._skipped += 1
            return None
        skipped, self._skipped = self._skipped, 0
        return skipped


class AccessLog:
    """Logs calls: successful and refused ones up to a rate each, and every failure."""

    def __init__(self, lines_per_second: float) -> None:
        self._good = Sample(lines_per_second)
        self._refused = Sample(lines_per_second)

    def tell(
        self, method: str, call: Call | None, request: Message | None, code: str, reason: str, seconds: float
    ) -> None:
        """Logs a call, or counts it as skipped."""
        failed = reason in FAILURES
        skipped = 0 if failed else (self._refused if reason else self._good).take()
        if skipped is None:
            return
        line: dict[str, object] = {
            "method": method,
            "code": code,
            "reason": reason,
            "tenant": call.caller.tenant if call else "",
            "client": call.caller.client if call else "",
            "request_id": getattr(request, "request_id", "")[:REQUEST_ID_CHARS],
            "duration_ms": round(seconds * 1000, 3),
        }
        if skipped:
            line["skipped"] = skipped
        for key, value in call.metadata if call else ():
            if key == "traceparent" and (found := _TRACEPARENT.fullmatch(str(value))):
                line["trace_id"] = found[1]
        (log.error if failed else log.info)("call", **line)
