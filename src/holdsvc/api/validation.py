"""What is wrong with a request: the rules in the protos, and those that depend on settings, all at once."""

import re
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from google.protobuf import duration_pb2
from google.protobuf.message import Message
from protovalidate import Validator
from protovalidate import Violation as RuleViolation

from holdsvc import errors
from holdsvc.errors import HoldError
from holdsvc.model import Violation
from holdsvc.settings import Settings, format_duration
from inventoryhold.v1 import reservation_service_pb2

_validator = Validator()

_MICROSECOND = timedelta(microseconds=1)

HasTtl = reservation_service_pb2.ReserveRequest | reservation_service_pb2.ExtendRequest

PAGE_SIZE_DEFAULT = 50
PAGE_SIZE_MAX = 1000


def check(request: Message, *more: Violation | None) -> None:
    """Raises INVALID_FIELD with every rule of the proto that the request breaks and every violation in `more`."""
    found = _validator.collect_violations(request)
    if found or any(more):
        violations = [_violation(each, each.proto.field.elements if each.proto.field else []) for each in found]
        raise HoldError(errors.invalid_fields(violations + [violation for violation in more if violation]))


def check_entries(request: Message, field: str) -> dict[int, list[Violation]]:
    """The rules that each entry of a repeated field breaks, by index; paths begin at the entry.

    Raises INVALID_FIELD for what concerns the request as a whole.
    """
    found: dict[int, list[Violation]] = {}
    whole = []
    for violation in _validator.collect_violations(request):
        elements = violation.proto.field.elements if violation.proto.field else []
        if len(elements) > 1 and elements[0].field_name == field and elements[0].subscript is not None:
            entry = found.setdefault(int(elements[0].subscript.value), [])
            entry.append(_violation(violation, elements[1:]))
        else:
            whole.append(_violation(violation, elements))
    if whole:
        raise HoldError(errors.invalid_fields(whole))
    return found


def _violation(violation: RuleViolation, elements: Sequence[Any]) -> Violation:
    proto = violation.proto
    # A rule over several fields is named after the one that it is about.
    path = _path(elements) if elements else proto.rule_id.partition(".")[0]
    message = "must not contain control characters" if proto.rule_id == "string.pattern" else proto.message
    return Violation(path, message, re.sub("[^A-Z0-9]+", "_", proto.rule_id.upper()).strip("_"))


def _path(elements: Sequence[Any]) -> str:
    path = ""
    for element in elements:
        path += ("." if path else "") + element.field_name
        subscript = element.subscript
        # A map's key is the caller's own words: metadata stays out of errors.
        if subscript is not None and subscript.field == "index":
            path += f"[{subscript.value}]"
    return path


class TtlRule:
    """How long a hold may last: the bounds and the default of the settings."""

    def __init__(self, settings: Settings) -> None:
        self._default_us = settings.default_ttl // _MICROSECOND
        self._min_us = settings.min_ttl // _MICROSECOND
        self._max_us = settings.max_ttl // _MICROSECOND
        self._bounds = f"must be from {format_duration(settings.min_ttl)} to {format_duration(settings.max_ttl)}"

    def read(self, request: HasTtl) -> tuple[int, Violation | None]:
        """The microseconds that the request's hold shall last, and what is wrong with them."""
        if not request.HasField("ttl"):
            return self._default_us, None
        microseconds = microseconds_of(request.ttl)
        if not self._min_us <= microseconds <= self._max_us:
            return 0, Violation("ttl", self._bounds, "DURATION_BOUNDS")
        return microseconds, None


def microseconds_of(duration: duration_pb2.Duration) -> int:
    """Whole microseconds of a duration."""
    return duration.seconds * 1_000_000 + duration.nanos // 1000


def page_size(requested: int) -> int:
    """Rows of a page: 0 reads as 50, above 1,000 as 1,000."""
    return min(requested or PAGE_SIZE_DEFAULT, PAGE_SIZE_MAX)
