"""The heaviest requests that fit into a size, made from the descriptors of each rpc: nothing here names a field."""

from collections.abc import Iterator

from google.protobuf.descriptor import Descriptor, FieldDescriptor

_DELIMITED = 2
_TEXTS = ("x", "\U0010ffff", "e\u0301")


def worst_requests(descriptor: Descriptor, size: int, *, few: bool = False) -> Iterator[tuple[str, bytes]]:
    """Names and bytes of requests of about `size` bytes, valid or not, each heavy in another way.

    With `few` those of the fields of the request itself and of what is in it once.
    """
    yield "unknown fields", b"\xf8\x3f\x01" * (size // 3)
    for field in descriptor.fields:
        yield from _of_field(field, size, field.name, (1,) if few else (1, 1000))


def _of_field(field: FieldDescriptor, size: int, name: str, counts: tuple[int, ...]) -> Iterator[tuple[str, bytes]]:
    message = field.message_type
    yield f"{name}, empty ones", delimited(field.number, b"") * (size // 2)
    if message is None and field.type != FieldDescriptor.TYPE_STRING:
        yield f"{name}, packed", delimited(field.number, b"\x01" * (size - 10))
        yield f"{name}, one by one", bytes([*varint(field.number << 3), 1]) * (size // 2)
    if message is None and field.type == FieldDescriptor.TYPE_STRING:
        for text in _TEXTS:
            yield f"{name}, long {text!r}", delimited(field.number, text.encode() * (size // len(text.encode())))
        yield f"{name}, one letter each", delimited(field.number, b"x") * (size // 3)
    if message is None:
        return
    for inner in message.fields:
        # One item with all of it, or a thousand with a thousandth each.
        for count in counts:
            for title, data in _of_field(inner, size // count - 16, f"{name}.{inner.name}", (1,)):
                if size // count > 64:
                    yield f"{count} x {title}", delimited(field.number, data) * count


def delimited(number: int, data: bytes) -> bytes:
    """A field with a length, as it goes over the wire."""
    return bytes([*varint(number << 3 | _DELIMITED), *varint(len(data))]) + data


def varint(value: int) -> Iterator[int]:
    """A number as it goes over the wire."""
    while value > 0x7F:
        yield value & 0x7F | 0x80
        value >>= 7
    yield value
