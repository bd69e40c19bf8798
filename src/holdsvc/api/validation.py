"""What is wrong with a request: the rules in the protos, and those that depend on settings, all at once."""

import re
from collections.abc import Sequence

from google.protobuf import duration_pb2
from google.protobuf.message import Message
from protovalidate import Validator
from protovalidate import Violation as RuleViolation

from holdsvc import errors
from holdsvc.errors import Violation
from holdsvc.settings import Settings, format_duration

_validator = Validator()

PAGE_SIZE_DEFAULT = 50
PAGE_SIZE_MAX = 1000


def check(request: Message, *more: Violation | None) -> None:
    """Raises INVALID_FIELD with every rule of the proto that the request breaks and every violation in `more`."""
    found = _validator.collect_violations(request)
    if found or any(more):
        violations = [_violation(violation) for violation in found]
        raise errors.invalid_fields(violations + [violation for violation in more if violation])


def _violation(violation: RuleViolation) -> Violation:
    proto = violation.proto
    # A rule over several fields is named after the one that it is about.
    path = _path(proto.field.elements) if proto.field else proto.rule_id.partition(".")[0]
    message = "must not contain control characters" if proto.rule_id == "string.pattern" else proto.message
    return Violation(path, message, re.sub("[^A-Z0-9]+", "_", proto.rule_id.upper()).strip("_"))


def _path(elements: Sequence[object]) -> str:
    path = ""
    for element in elements:
        path += ("." if path else "") + element.field_name  # type: ignore[attr-defined]
        subscript = element.subscript  # type: ignore[attr-defined]
        # A map's key is the caller's own words: metadata stays out of errors.
        if subscript is not None and subscript.field == "index":
            path += f"[{subscript.value}]"
    return path


def ttl(duration: duration_pb2.Duration, given: bool, settings: Settings) -> tuple[int, Violation | None]:
    """The microseconds that a hold shall last, and what is wrong with them."""
    if not given:
        return int(settings.default_ttl.total_seconds() * 1_000_000), None
    microseconds = microseconds_of(duration)
    low, high = settings.min_ttl, settings.max_ttl
    if not low.total_seconds() * 1_000_000 <= microseconds <= high.total_seconds() * 1_000_000:
        bounds = f"must be from {format_duration(low)} to {format_duration(high)}"
        return 0, Violation("ttl", bounds, "DURATION_BOUNDS")
    return microseconds, None


def microseconds_of(duration: duration_pb2.Duration) -> int:
    """Whole microseconds of a duration."""
    return duration.seconds * 1_000_000 + duration.nanos // 1000


def page_size(requested: int) -> int:
    """Rows of a page: 0 reads as 50, above 1,000 as 1,000."""
    return min(requested or PAGE_SIZE_DEFAULT, PAGE_SIZE_MAX)
