"""The heaviest requests that fit into a size, made from the descriptors of each rpc: nothing here names a field."""

from collections.abc import Container, Iterable, Iterator

from google.protobuf.descriptor import Descriptor, FieldDescriptor

_DELIMITED = 2
_TEXTS = ("x", "\U0010ffff", "e\u0301")


def worst_requests(
    descriptor: Descriptor, size: int, known: Container[str] = (), *, few: bool = False
) -> Iterator[tuple[str, bytes]]:
    """Names and bytes of requests of about `size` bytes, valid or not, each heavy in another way.

    Of a message in `known` one field of each kind. With `few` those of the fields of the request itself and of what is
    in it once.
    """
    yield "unknown fields", b"\xf8\x3f\x01" * (size // 3)
    for field in descriptor.fields:
        yield from _of_field(field, size, field.name, known)
        if field.message_type is not None and not few:
            yield from _thousand(field, size, field.name)


def messages_of(descriptor: Descriptor) -> set[str]:
    """The messages that a request is made of."""
    inner = {field.message_type for field in descriptor.fields if field.message_type is not None}
    return {descriptor.full_name}.union(*(messages_of(message) for message in inner))


def _of_field(
    field: FieldDescriptor, size: int, name: str, known: Container[str], texts: tuple[str, ...] = _TEXTS
) -> Iterator[tuple[str, bytes]]:
    """One field with all of it."""
    message = field.message_type
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
        for title, data in _of_field(inner, size - 16, f"{name}.{inner.name}", known, texts):
            yield title, delimited(field.number, data)


def _thousand(field: FieldDescriptor, size: int, name: str) -> Iterator[tuple[str, bytes]]:
    """A thousand fields with a thousandth each; of their own fields one of each kind."""
    if size < 64_000:
        return
    for inner in _one_of_each_kind(field.message_type):
        for title, data in _of_field(inner, size // 1000 - 16, f"{name}.{inner.name}", (), _TEXTS[:1]):
            yield f"1000 x {title}", delimited(field.number, data) * 1000


def _one_of_each_kind(message: Descriptor | None) -> Iterable[FieldDescriptor]:
    assert message is not None
    return {(field.type, field.is_repeated, field.message_type): field for field in message.fields}.values()


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
