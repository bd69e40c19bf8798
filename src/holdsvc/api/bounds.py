"""What a request may hold, counted on the wire before protobuf makes objects of it.

Two bytes on the wire become 50 to 130 bytes in memory. The limits come from the rules of the protos (`max_items`,
`max_pairs`), so a new list needs nothing here.
"""

from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any, TypeVar

from buf.validate import validate_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import DecodeError, Message

from holdsvc.model import Violation

M = TypeVar("M", bound=Message)

UNCOUNTED_BYTES = 64 * 1024
"""Requests up to this size are parsed at once: 5 MB of objects and 3 ms at most. No text or message without lists
within a request is larger."""

ITEMS_MAX = 100
"""Items of a list whose proto has no rule, such as google.protobuf.FieldMask."""

OTHER_FIELDS_MAX = 100
"""Fields of a message on the wire besides the items of its lists; an encoder writes each once. With 1,000, a request of
4 MB could keep counting for 4 s of processor time."""

PIECE_BYTES = 128 * 1024
"""Bytes that are parsed at a time, if no single field is larger: 2 ms at most."""

LISTS_BYTES = 512 * 1024
"""No message with lists within a request is larger: the largest valid one, an entry of BatchReserve, has 200 KB. It is
parsed in 8 ms at most."""

_VARINT_BYTES_MAX = 10
_STEPS_PER_PAUSE = 256
_VARINT, _FIXED64, _DELIMITED, _GROUP_START, _GROUP_END, _FIXED32 = range(6)


@dataclass(frozen=True, slots=True)
class _List:
    """A repeated field or a map."""

    name: str
    items_max: int
    is_map: bool
    packed: bool
    message: "_Bounds | None"
    """Of its items, where they have lists themselves."""

    @property
    def violation(self) -> Violation:
        return _too_many(self.name, self.items_max, is_map=self.is_map)


@dataclass(frozen=True, slots=True)
class _Bounds:
    """The lists of a message type, and the single messages that have lists, by field number."""

    lists: dict[int, _List]
    parts: dict[int, tuple[str, "_Bounds"]]
    large: dict[int, tuple[str, int]]
    """The most bytes of a single text, a single message, or a message in a list that has no lists itself."""

    @property
    def fields_max(self) -> int:
        return OTHER_FIELDS_MAX + sum(each.items_max for each in self.lists.values())


@cache
def _bounds(descriptor: Descriptor) -> _Bounds:
    lists: dict[int, _List] = {}
    parts: dict[int, tuple[str, _Bounds]] = {}
    large: dict[int, tuple[str, int]] = {}
    for each in descriptor.fields:
        of_items = None if each.message_type is None else _bounds(each.message_type)
        is_text = each.type in (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES)
        if of_items is not None and not of_items.lists and not of_items.parts:
            of_items = None
        if of_items is None and (each.message_type is not None or (is_text and not each.is_repeated)):
            large[each.number] = each.name, UNCOUNTED_BYTES
        if each.is_repeated:
            is_map = _is_map(each)
            packed = each.message_type is None and not is_text
            lists[each.number] = _List(each.name, _items_max(each), is_map, packed, of_items)
        elif of_items is not None:
            parts[each.number] = (each.name, of_items)
            large[each.number] = each.name, LISTS_BYTES
    return _Bounds(lists, parts, large)


def rules_of(descriptor: Any) -> validate_pb2.FieldRules:
    """The rules of a field in its proto."""
    rules: validate_pb2.FieldRules = descriptor.GetOptions().Extensions[validate_pb2.field]
    return rules


def list_limit(descriptor: FieldDescriptor) -> tuple[int, Violation]:
    """How many items a list or map may have, and what is said of one that has more."""
    most = _items_max(descriptor)
    return most, _too_many(descriptor.name, most, is_map=_is_map(descriptor))


def _is_map(descriptor: FieldDescriptor) -> bool:
    return descriptor.message_type is not None and descriptor.message_type.GetOptions().map_entry


def _too_many(name: str, items_max: int, *, is_map: bool) -> Violation:
    noun, rule = ("entries", "MAP_MAX_PAIRS") if is_map else ("items", "REPEATED_MAX_ITEMS")
    return Violation(name, f"must not have more than {items_max} {noun}", rule)


def _too_large(name: str) -> Violation:
    return Violation(name, "is larger than any valid one", "TOO_LARGE")


def _items_max(descriptor: FieldDescriptor) -> int:
    rules = rules_of(descriptor)
    return rules.repeated.max_items or rules.map.max_pairs or ITEMS_MAX


@dataclass(slots=True)
class Counted:
    """What counting a request found: what to parse, and what has too many items."""

    pieces: list[bytes] = field(default_factory=list)
    """The request in pieces that protobuf merges into one message."""
    violations: list[Violation] = field(default_factory=list)
    """Of the request itself. With any the request must not be parsed."""
    entries: dict[int, list[Violation]] = field(default_factory=dict)
    """Of the entries of the list `entries`, by index; such an entry is empty in `pieces`."""


@dataclass(slots=True)
class _Counts:
    """What was seen so far of each list of a message, and of its single fields, by field number."""

    items: dict[int, int] = field(default_factory=dict)
    sizes: dict[int, int] = field(default_factory=dict)
    parts: dict[int, "_Counts"] = field(default_factory=dict)


def count(descriptor: Any, data: bytes, entries: str = "") -> Generator[None, None, Counted]:
    """Counts the items of every list on the wire, up to one more than its limit; pauses every few hundred fields.

    `entries` names the list whose items are refused one by one instead of with the whole request.
    Raises DecodeError for what is no message at all.
    """
    found = Counted()
    kept_from = 0
    bounds = _bounds(descriptor)
    for item in _fields(data, 0, len(data), bounds, _Counts(), found.violations):
        yield
        if item is None:
            continue
        list_, index, tag_at, start, end = item
        if tag_at - kept_from >= PIECE_BYTES:
            found.pieces.append(data[kept_from:tag_at])
            kept_from = tag_at
        if list_.message is None:
            continue
        violations: list[Violation] = []
        for inner in _fields(data, start, end, list_.message, _Counts(), violations):
            if inner is None:
                yield
        if not violations and end - start > LISTS_BYTES:
            violations.append(_too_large("request"))
        if violations and list_.name == entries:
            found.entries[index] = violations
            found.pieces.append(data[kept_from:tag_at] + _empty(data, tag_at))
            kept_from = end
        else:
            path = f"{list_.name}[{index}]."
            found.violations += [each._replace(field=path + each.field) for each in violations]
        if found.violations:
            break
    found.pieces.append(data[kept_from:])
    return found


def parse(request_class: Callable[[], M], pieces: Iterable[bytes]) -> Generator[None, None, M]:
    """The message of the pieces; pauses between them."""
    message = request_class()
    for piece in pieces:
        message.MergeFromString(piece)
        yield
    return message


def over(message: Message) -> list[Violation]:
    """The lists of a parsed message, and of its single messages, that have too many items."""
    bounds = _bounds(message.DESCRIPTOR)
    found = [each.violation for each in bounds.lists.values() if len(getattr(message, each.name)) > each.items_max]
    for name, _ in bounds.parts.values():
        if message.HasField(name):
            found += [each._replace(field=f"{name}.{each.field}") for each in over(getattr(message, name))]
    return found


_Item = tuple[_List, int, int, int, int]
"""An item of a list: its index, and where its tag stands, where it begins and ends."""


def _fields(
    data: bytes, at: int, end: int, bounds: _Bounds, counts: _Counts, bad: list[Violation]
) -> Iterator[_Item | None]:
    """Walks the fields of a message; yields each delimited item of a list, and None now and then.

    Stops at the first list that has too many items, or message that is too large, and adds it to `bad`.
    """
    for step, (number, kind, tag_at, start, stop) in enumerate(_walk(data, at, end), 1):
        if step > bounds.fields_max:
            bad.append(Violation("request", "has more fields than any valid request", "TOO_MANY_FIELDS"))
            return
        if step % _STEPS_PER_PAUSE == 0:
            yield None
        list_ = bounds.lists.get(number)
        if number in bounds.large:
            # A single field that comes several times is merged: its size goes on growing.
            name, most = bounds.large[number]
            size = stop - start + (counts.sizes.get(number, 0) if list_ is None else 0)
            if size > most:
                bad.append(_too_large(name))
                return
            counts.sizes[number] = size
        if list_ is not None:
            index = counts.items.get(number, 0)
            packed = list_.packed and kind == _DELIMITED
            counts.items[number] = index + (_varints(data, start, stop, list_.items_max) if packed else 1)
            if counts.items[number] > list_.items_max:
                bad.append(list_.violation)
                return
            if kind == _DELIMITED:
                yield list_, index, tag_at, start, stop
        elif number in bounds.parts and kind == _DELIMITED:
            name, inside = bounds.parts[number]
            found: list[Violation] = []
            for item in _fields(data, start, stop, inside, counts.parts.setdefault(number, _Counts()), found):
                if item is None:
                    yield None
            if found:
                bad += [each._replace(field=f"{name}.{each.field}") for each in found]
                return


def _walk(data: bytes, at: int, end: int) -> Iterator[tuple[int, int, int, int, int]]:
    """The fields of a message on the wire: number, wire type, where the tag stands, where the value begins and ends."""
    while at < end:
        tag_at = at
        tag, at = _varint(data, at, end)
        kind = tag & 7
        start = at
        if kind == _VARINT:
            _, at = _varint(data, at, end)
        elif kind == _DELIMITED:
            size, start = _varint(data, at, end)
            at = start + size
        elif kind in (_FIXED64, _FIXED32):
            at += 8 if kind == _FIXED64 else 4
        elif kind not in (_GROUP_START, _GROUP_END):
            raise DecodeError("unknown wire type")
        if at > end:
            raise DecodeError("truncated")
        yield tag >> 3, kind, tag_at, start, at


def _varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    """The value and where it ends."""
    value = shift = 0
    while at < end and shift < 7 * _VARINT_BYTES_MAX:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise DecodeError("truncated")


def _varints(data: bytes, at: int, end: int, most: int) -> int:
    """How many numbers are packed there, one more than `most` at most."""
    found = 0
    while at < end and found <= most:
        _, at = _varint(data, at, end)
        found += 1
    return found


def _empty(data: bytes, tag_at: int) -> bytes:
    """An item of the same list, without any field."""
    _, tag_end = _varint(data, tag_at, len(data))
    return data[tag_at:tag_end] + b"\0"
