"""The heaviest requests that fit into a size, made from the descriptors of each rpc: nothing here names a field."""

from collections.abc import Container, Iterable, Iterator

from google.protobuf.descriptor import Descriptor, FieldDescriptor

_DELIMITED = 2
_UNKNOWN = 1023
"""A field that no message has."""
_TEXTS = ("x", "\U0010ffff", "e\u0301")


Part = tuple[int, str, bool, int]
"""A kind of field within a request: its type, its message, whether it is a list, and its depth."""


def worst_requests(
    descriptor: Descriptor, size: int, known: Container[str | Part] = (), known_parts: Container[Part] = ()
) -> Iterator[tuple[str, bytes]]:
    """Names and bytes of requests of about `size` bytes, valid or not, each heavy in another way.

    Of a message whose name is in `known` one field of each kind, and nothing of a part that is known; a thousand of the
    kinds of fields that are not in `known_parts`.
    """
    yield "unknown fields", _filled(bytes([*varint(_UNKNOWN << 3), 1]), size)
    for field in descriptor.fields:
        yield from _of_field(field, size, field.name, known)
        if field.message_type is not None:
            yield from _thousand(field, size, field.name, known_parts)


def messages_of(descriptor: Descriptor) -> set[str]:
    """The names of the messages that a request is made of."""
    return {descriptor.full_name, *(name for _, name, _, _ in parts_of(descriptor) if name)}


def parts_of(descriptor: Descriptor, depth: int = 1) -> set[Part]:
    """The kinds of fields of a request."""
    inner = (parts_of(field.message_type, depth + 1) for field in descriptor.fields if field.message_type is not None)
    return {_part(field, depth) for field in descriptor.fields}.union(*inner)


def _part(field: FieldDescriptor, depth: int) -> Part:
    name = field.message_type.full_name if field.message_type is not None else ""
    return field.type, name, field.is_repeated, depth


def _of_field(
    field: FieldDescriptor,
    size: int,
    name: str,
    known: Container[str | Part],
    texts: tuple[str, ...] = _TEXTS,
    depth: int = 1,
) -> Iterator[tuple[str, bytes]]:
    """One field with all of it, unless its part is known."""
    message = field.message_type
    if _part(field, depth) in known:
        return
    yield f"{name}, empty ones", _filled(delimited(field.number, b""), size)
    if message is None and field.type != FieldDescriptor.TYPE_STRING:
        yield f"{name}, packed", delimited(field.number, b"\x01" * (size - 10))
        yield f"{name}, one by one", _filled(bytes([*varint(field.number << 3), 1]), size)
    if message is None and field.type == FieldDescriptor.TYPE_STRING:
        for text in texts:
            yield f"{name}, long {text!r}", delimited(field.number, text.encode() * (size // len(text.encode())))
        yield f"{name}, one letter each", _filled(delimited(field.number, b"x"), size)
    if message is None:
        return
    every = texts == _TEXTS and message.full_name not in known
    for inner in message.fields if every else _one_of_each_kind(message):
        for title, data in _of_field(inner, size - 16, f"{name}.{inner.name}", known, texts, depth + 1):
            yield title, delimited(field.number, data)


def _thousand(field: FieldDescriptor, size: int, name: str, known: Container[Part]) -> Iterator[tuple[str, bytes]]:
    """A thousand fields with a thousandth each: of their own fields one of each kind that is not known."""
    if size < 64_000:
        return
    part = size // 1000 - 16
    yield f"1000 x {name}, one unknown field", delimited(field.number, delimited(_UNKNOWN, b"x" * part)) * 1000
    for inner in _one_of_each_kind(field.message_type):
        if _part(inner, 2) not in known:
            for title, data in _of_field(inner, part, f"{name}.{inner.name}", known, _TEXTS[:1], 2):
                yield f"1000 x {title}", delimited(field.number, data) * 1000


def _one_of_each_kind(message: Descriptor | None) -> Iterable[FieldDescriptor]:
    assert message is not None
    return {_part(field, 1): field for field in message.fields}.values()


def _filled(part: bytes, size: int) -> bytes:
    return part * (size // len(part))


def delimited(number: int, data: bytes) -> bytes:
    """A field with a length, as it goes over the wire."""
    return bytes([*varint(number << 3 | _DELIMITED), *varint(len(data))]) + data


def varint(value: int) -> Iterator[int]:
    """A number as it goes over the wire."""
    while value > 0x7F:
        yield value & 0x7F | 0x80
        value >>= 7
    yield value
