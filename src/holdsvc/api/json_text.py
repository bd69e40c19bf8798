"""Messages as JSON: the protobuf mapping, bounded before objects are made of it, in slices where it takes long."""

import json
from collections import OrderedDict
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, TypeVar

from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from holdsvc.api import bounds
from holdsvc.api.turns import Turns
from holdsvc.model import Violation

M = TypeVar("M", bound=Message)

REQUEST_BYTES_MAX = 256 * 1024
"""Size of the largest request in JSON. Reading it is Python's work, 25 times that of the binary form."""

BRACES_MAX = 12_000
"""The most objects of a request, counted before any is made: 256 KiB of the smallest valid lines have as many."""

SHARED_MAX = 64
SHARED_BYTES_MAX = 4 * 1024 * 1024
"""What is kept of messages to streams, and its size."""

AT_ONCE = 20
"""Items of a list that are converted without a pause: 10 ms at most, where each is a batch's largest entry."""

DESCRIPTION_CHARS_MAX = 200

_compact = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), check_circular=False).encode


class MalformedJson(ValueError):
    """Text that is no JSON of the message; says why."""


@dataclass(slots=True)
class Read:
    """What reading a request found."""

    violations: list[Violation] = field(default_factory=list)
    """Of the request itself: unknown fields and lists with too many items. With any there is no message."""
    entries: dict[int, list[Violation]] = field(default_factory=dict)
    """Of the entries of the list `entries`, by index; such an entry is empty in the message."""


@dataclass(frozen=True, slots=True, eq=False)
class _Field:
    descriptor: FieldDescriptor
    message: "Mapping[str, _Field] | None"
    """The fields of its messages; None for what is no message and for Google's own types."""
    items: bool
    """Whether it is a list of such messages."""
    too_many: Violation | None
    items_max: int


@cache
def _fields(descriptor: Descriptor) -> Mapping[str, _Field]:
    """The fields of a message type by both of their names."""
    found: dict[str, _Field] = {}
    for each in descriptor.fields:
        of = each.message_type
        walked = of is not None and not of.full_name.startswith("google.") and not of.GetOptions().map_entry
        limit, too_many = bounds.list_limit(each) if each.is_repeated or _is_mask(each) else (0, None)
        message = _fields(of) if walked else None
        found[each.name] = found[each.json_name] = _Field(each, message, walked and each.is_repeated, too_many, limit)
    return found


def _is_mask(descriptor: FieldDescriptor) -> bool:
    return descriptor.message_type is not None and descriptor.message_type.full_name == "google.protobuf.FieldMask"


def read(request_class: type[M], data: bytes, entries: str = "") -> Generator[None, None, tuple[M, Read]]:
    """Reads a message; pauses now and then. `entries` names the list whose items are refused one by one.

    Unknown fields are refused: with a misspelt requestId a retry would run twice. Raises MalformedJson.
    """
    message, found = request_class(), Read()
    if data.count(b"{") > BRACES_MAX:
        raise MalformedJson(f"has more than {BRACES_MAX} braces: send it as application/proto")
    try:
        value = json.loads(data, object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError) as error:
        raise MalformedJson(_said(error)) from None
    if not isinstance(value, dict):
        raise MalformedJson("is not a JSON object")
    lists: dict[_Field, list[Any]] = {}
    fields = _fields(request_class.DESCRIPTOR)
    for name, inner, bad in _checked(value, fields):
        found.violations += bad
        known = fields.get(name)
        if known is not None and known.items and isinstance(inner, list) and not bad:
            yield from _check_items(known, inner, found, one_by_one=known.descriptor.name == entries)
            if len(inner) > AT_ONCE:
                lists[known] = inner
        if found.violations:
            return message, found
    taken = {id(items) for items in lists.values()}
    try:
        json_format.ParseDict({name: inner for name, inner in value.items() if id(inner) not in taken}, message)
        for known, items in lists.items():
            into = getattr(message, known.descriptor.name)
            for start in range(0, len(items), AT_ONCE):
                part = {known.descriptor.name: items[start : start + AT_ONCE]}
                into.MergeFrom(getattr(json_format.ParseDict(part, request_class()), known.descriptor.name))
                yield
    except (json_format.Error, ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise MalformedJson(_said(error)) from None
    except SystemError as error:
        # upb's table of names raises it for half a character, with the real error as its cause.
        raise MalformedJson(_said(error.__cause__ or error)) from None
    return message, found


def _check_items(known: _Field, items: list[Any], found: Read, *, one_by_one: bool) -> Generator[None]:
    assert known.message is not None
    for index, item in enumerate(items):
        if not isinstance(item, dict):
            continue
        violations = [violation for _, _, bad in _checked(item, known.message, deep=True) for violation in bad]
        if violations and one_by_one and all(violation.rule != "UNKNOWN_FIELD" for violation in violations):
            found.entries[index] = violations
            items[index] = {}
        else:
            path = f"{known.descriptor.name}[{index}]."
            found.violations += [each._replace(field=path + each.field) for each in violations]
        if found.violations:
            return
        if index % AT_ONCE == AT_ONCE - 1:
            yield


def _checked(
    value: dict[str, Any], fields: Mapping[str, _Field], *, deep: bool = False
) -> Iterator[tuple[str, Any, list[Violation]]]:
    """The fields of an object, each with what is wrong with it: an unknown name, or too many items.

    `deep`: also of the messages in its lists.
    """
    if len(value) > len(fields):
        yield "", None, [Violation("request", "has more fields than any valid request", "TOO_MANY_FIELDS")]
        return
    seen = set()
    for name, inner in value.items():
        known = fields.get(name)
        if known in seen:
            yield name, inner, [Violation(name, "stands under both of its names", "REPEATED_FIELD")]
            continue
        seen.add(known)
        if known is None:
            yield name, inner, [Violation(_text(name), "is no field of this message", "UNKNOWN_FIELD")]
        elif known.too_many is not None and _count(inner) > known.items_max:
            yield name, inner, [known.too_many]
        elif known.message is not None and isinstance(inner, dict):
            yield name, inner, _within(f"{known.descriptor.name}.", inner, known.message)
        elif deep and known.message is not None and isinstance(inner, list):
            bad: list[Violation] = []
            for index, item in enumerate(inner):
                if isinstance(item, dict) and not bad:
                    bad = _within(f"{known.descriptor.name}[{index}].", item, known.message)
            yield name, inner, bad
        else:
            yield name, inner, []


def _count(value: Any) -> int:
    """Items of a list or map; a FieldMask is its paths in one text."""
    return value.count(",") + 1 if isinstance(value, str) else len(value) if isinstance(value, list | dict) else 0


def _within(path: str, value: dict[str, Any], fields: Mapping[str, _Field]) -> list[Violation]:
    return [each._replace(field=path + each.field) for _, _, bad in _checked(value, fields, deep=True) for each in bad]


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice in one object")
    return found


def _said(error: BaseException) -> str:
    if isinstance(error, RecursionError):
        return "is nested too deeply"
    return _text(f"is no JSON of this message: {error}")


def _text(found: str) -> str:
    """What a message can hold: JSON has halves of characters, too."""
    return found.encode(errors="replace").decode()[:DESCRIPTION_CHARS_MAX]


def write(message: Message) -> Generator[None, None, bytes]:
    """The message as JSON, fields in lowerCamelCase, those with their default left out; pauses in long lists."""
    long = [field for field, value in message.ListFields() if _is_long(field, value)]
    if not long:
        return _compact(json_format.MessageToDict(message)).encode()
    rest = type(message)()
    rest.CopyFrom(message)
    parts = []
    for each in long:
        rest.ClearField(each.name)
        items = []
        for index, item in enumerate(getattr(message, each.name)):
            items.append(_compact(json_format.MessageToDict(item)))
            if index % AT_ONCE == AT_ONCE - 1:
                yield
        parts.append(f'"{each.json_name}":[{",".join(items)}]')
    others = _compact(json_format.MessageToDict(rest))[1:-1]
    return f"{{{','.join([*parts, *([others] if others else [])])}}}".encode()


def _is_long(field: FieldDescriptor, value: Any) -> bool:
    if not field.is_repeated or field.message_type is None or field.message_type.GetOptions().map_entry:
        return False
    return len(value) > AT_ONCE


class Shared:
    """The JSON of messages that go to several streams: converted once for those that send it at the same time."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self._recent: OrderedDict[tuple[type[Message], bytes], bytes] = OrderedDict()
        self._bytes = 0

    async def of(self, message_class: type[Message], encoded: bytes) -> bytes:
        """The JSON of a message that is there in binary form."""
        key = message_class, encoded
        known = self._recent.get(key)
        if known is None:
            known = await self._turns.run(write(message_class.FromString(encoded)))
            if key not in self._recent:
                self._recent[key] = known
                self._bytes += len(encoded) + len(known)
            while self._bytes > SHARED_BYTES_MAX or len(self._recent) > SHARED_MAX:
                (_, oldest), text = self._recent.popitem(last=False)
                self._bytes -= len(oldest) + len(text)
        return known


def compact(value: dict[str, Any]) -> bytes:
    """An object as JSON without spaces."""
    return _compact(value).encode()


def dict_of(message: Message) -> dict[str, Any]:
    """A small message as a JSON object."""
    found: dict[str, Any] = json_format.MessageToDict(message)
    return found
