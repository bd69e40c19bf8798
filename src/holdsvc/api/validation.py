"""What is wrong with a request: the rules in the protos, and those that depend on settings, all at once."""

import re
from collections.abc import Sequence
from datetime import timedelta
from functools import cache
from typing import Any, NamedTuple

from google.protobuf import duration_pb2
from google.protobuf.descriptor import Descriptor
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message
from protovalidate import Validator
from protovalidate import Violation as RuleViolation

from holdsvc import errors
from holdsvc.api import bounds
from holdsvc.durations import format_duration
from holdsvc.errors import HoldError
from holdsvc.model import Violation
from holdsvc.settings import Settings
from inventoryhold.v1 import reservation_service_pb2

_validator = Validator()

_MICROSECOND = timedelta(microseconds=1)

HasTtl = reservation_service_pb2.ReserveRequest | reservation_service_pb2.ExtendRequest

VIOLATIONS_MAX = 50
"""Bad fields that an error names; the others are counted where they are known."""

BATCH_VIOLATIONS_MAX = 1000
"""Bad fields that the errors of one batch name; of each further bad entry the first one is."""

LONG_LIST = 100
"""Lists of more messages than this are looked at item by item once a request is known to be invalid."""

_PATTERNS = {
    r"^[^\p{Cc}]*$": "must not contain control characters",
    r"^(?:[^\p{Cc}]|[\t\n\r])*$": "must not contain control characters other than line breaks and tabs",
    r"^[^\x00]*$": "must not contain the character U+0000",
}
"""What the patterns of the protos mean."""


class Violations(NamedTuple):
    """The bad fields of a message."""

    named: list[Violation]
    omitted: int = 0
    """Bad fields that were found and are not named."""

    def plus(self, more: Sequence[Violation]) -> "Violations":
        """With these as well; a field that is named already is not named again."""
        known = {violation.field for violation in self.named}
        every = self.named + [violation for violation in more if violation.field not in known]
        return Violations(every[:VIOLATIONS_MAX], self.omitted + len(every[VIOLATIONS_MAX:]))


_NONE = Violations([])


def check(request: Message, *more: Violation | None) -> None:
    """Raises INVALID_FIELD with the rules of the proto that the request breaks and every violation in `more`."""
    found = violations(request, *more)
    if found.named:
        raise HoldError(errors.invalid_fields(found.named, found.omitted))


def check_count(request: Message, field: str) -> None:
    """Raises INVALID_FIELD when the list has too few or too many entries; looks at none of them."""
    too_many = bounds.over(request)
    if too_many:
        raise HoldError(errors.invalid_fields(too_many))
    if not getattr(request, field):
        check(request)


def is_valid(request: Message) -> bool:
    """Whether the rules of the proto hold."""
    return not _validator.collect_violations(request, fail_fast=True)


def violations(message: Message, *more: Violation | None, rules: bool = True, first: bool = False) -> Violations:
    """The rules that a message breaks, and the violations in `more`. A valid message is walked once.

    Without `rules` those of the proto are known to hold; with `first` only the first that is broken is found. The
    length of lists comes first: of a message with a list that is too long nothing else is said.
    """
    broken = _validator.collect_violations(message, fail_fast=True) if rules else []
    found = _NONE
    if broken:
        too_many = bounds.over(message)
        if too_many:
            return Violations(too_many)
        found = Violations([_violation(broken[0])]) if first else _broken_rules(message)
    others = [violation for violation in more if violation]
    others += _bad_times(message, "")
    return found.plus(others) if others else found


class BatchRules:
    """The rules of a batch's entries, each by itself, and how many bad fields have been named so far."""

    def __init__(self, *, known_valid: bool) -> None:
        self._known_valid = known_valid
        self._named = 0

    def check(self, entry: Message, *more: Violation | None) -> None:
        """Raises INVALID_FIELD as `check` does."""
        if self._known_valid and more == (None,) * len(more) and not _has_times(entry):
            return
        first = self._named >= BATCH_VIOLATIONS_MAX
        found = violations(entry, *more, rules=not self._known_valid, first=first)
        if found.named:
            self._named += len(found.named)
            raise HoldError(errors.invalid_fields(found.named, found.omitted))


def _broken_rules(message: Message) -> Violations:
    lists = [field.name for field in message.DESCRIPTOR.fields if _is_long(message, field)]
    first = message
    if lists:
        # Collecting all violations of 1,000 items at once would take the loop 60 ms.
        first = type(message)()
        first.CopyFrom(message)
        for name in lists:
            del getattr(first, name)[LONG_LIST:]
    found = _validator.collect_violations(first)
    named = [_violation(each) for each in found[:VIOLATIONS_MAX]]
    for name in lists:
        items = getattr(message, name)
        for index in range(LONG_LIST, len(items)):
            if len(named) >= VIOLATIONS_MAX:
                break
            named += [
                _violation(each, f"{name}[{index}].")
                for each in _validator.collect_violations(items[index])[: VIOLATIONS_MAX - len(named)]
            ]
    return Violations(named, max(0, len(found) - VIOLATIONS_MAX))


def _is_long(message: Message, field: Any) -> bool:
    if not field.is_repeated or field.message_type is None or field.message_type.GetOptions().map_entry:
        return False
    return len(getattr(message, field.name)) > LONG_LIST


def _violation(violation: RuleViolation, prefix: str = "") -> Violation:
    proto = violation.proto
    elements = proto.field.elements if proto.field else []
    # A rule over several fields is named after the one that it is about.
    path = _path(elements) if elements else proto.rule_id.partition(".")[0]
    message = proto.message
    if proto.rule_id == "string.pattern":
        message = _PATTERNS.get(str(violation.rule_value), message)
    return Violation(prefix + path, message, re.sub("[^A-Z0-9]+", "_", proto.rule_id.upper()).strip("_"))


def _path(elements: Sequence[Any]) -> str:
    path = ""
    for element in elements:
        path += ("." if path else "") + element.field_name
        subscript = element.subscript
        # A map's key is the caller's own text: metadata stays out of errors.
        if subscript is not None and subscript.field == "index":
            path += f"[{subscript.value}]"
    return path


class _Times(NamedTuple):
    """A field that is a Duration or a Timestamp, or a message or list that contains some."""

    name: str
    repeated: bool
    rule: "tuple[int, int, str] | None"
    inner: "tuple[_Times, ...]"


_DURATION_S = 315_576_000_000
_RULES = {
    "google.protobuf.Duration": (
        -_DURATION_S,
        _DURATION_S,
        "must be a duration of at most 10,000 years whose nanos are less than a second and have the sign of seconds",
    ),
    "google.protobuf.Timestamp": (
        -62_135_596_800,
        253_402_300_799,
        "must be from the year 1 to the year 9999, with nanos from 0 to 999,999,999",
    ),
}


@cache
def _times(descriptor: Descriptor) -> tuple[_Times, ...]:
    found = []
    for field in descriptor.fields:
        if field.message_type is None or field.message_type.GetOptions().map_entry:
            continue
        rule = _RULES.get(field.message_type.full_name)
        inner = () if rule else _times(field.message_type)
        if rule or inner:
            found.append(_Times(field.name, field.is_repeated, rule, inner))
    return tuple(found)


@cache
def _time_names(descriptor: Descriptor) -> tuple[str, ...] | None:
    """The fields in which times may be; None where lists may have some."""
    found = _times(descriptor)
    return None if any(field.repeated for field in found) else tuple(field.name for field in found)


def _has_times(message: Message) -> bool:
    """Whether a duration or timestamp may be set in it."""
    names = _time_names(message.DESCRIPTOR)
    return names is None or any(map(message.HasField, names))


def _bad_times(message: Message, path: str) -> list[Violation]:
    """Durations and timestamps that no language's own type can hold: nanos of a second and more, mixed signs."""
    found: list[Violation] = []
    for name, repeated, rule, _ in _times(message.DESCRIPTOR):
        if repeated:
            for index, item in enumerate(getattr(message, name)):
                found += _bad_times(item, f"{path}{name}[{index}].")
        elif message.HasField(name):
            value = getattr(message, name)
            if rule is None:
                found += _bad_times(value, f"{path}{name}.")
            elif not _is_normal(value, rule):
                found.append(Violation(path + name, rule[2], "TIME_RANGE"))
    return found


def _is_normal(value: Any, rule: tuple[int, int, str]) -> bool:
    seconds, nanos = value.seconds, value.nanos
    if not (rule[0] <= seconds <= rule[1] and -1_000_000_000 < nanos < 1_000_000_000):
        return False
    if isinstance(value, duration_pb2.Duration):
        return bool(nanos == 0 or seconds == 0 or (nanos < 0) == (seconds < 0))
    return bool(nanos >= 0)


def mask_rule(mask: FieldMask) -> Violation | None:
    """What is wrong with an `update_mask` that the rules of the proto let pass: they allow parts of the fields, too."""
    if not mask.paths:
        return Violation("update_mask", "must name a field to set", "EMPTY_MASK")
    if any("." in path for path in mask.paths):
        return Violation("update_mask", "must name whole fields, not parts of them", "WHOLE_FIELDS")
    return None


class TtlRule:
    """How long a hold may last: the bounds and the default of the settings."""

    def __init__(self, settings: Settings) -> None:
        self._default_us = settings.default_ttl // _MICROSECOND
        self._min_us = settings.min_ttl // _MICROSECOND
        self._max_us = settings.max_ttl // _MICROSECOND
        self._bounds = f"must be from {format_duration(settings.min_ttl)} to {format_duration(settings.max_ttl)}"

    def read(self, request: HasTtl) -> tuple[int, Violation | None]:
        """The microseconds that the request's hold is to last, and what is wrong with them."""
        if not request.HasField("ttl"):
            return self._default_us, None
        return self.of(request.ttl, "ttl")

    def of(self, ttl: duration_pb2.Duration | None, field: str) -> tuple[int, Violation | None]:
        """The microseconds that a hold is to last by this field, None for the default, and what is wrong with them."""
        if ttl is None:
            return self._default_us, None
        microseconds = microseconds_of(ttl)
        if not self._min_us <= microseconds <= self._max_us:
            return 0, Violation(field, self._bounds, "DURATION_BOUNDS")
        return microseconds, None


def microseconds_of(duration: duration_pb2.Duration) -> int:
    """Whole microseconds of a duration."""
    return duration.seconds * 1_000_000 + duration.nanos // 1000
