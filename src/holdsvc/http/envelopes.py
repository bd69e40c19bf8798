"""How messages lie in bodies: in envelopes, base64, gzip; each bounded before it is undone."""

import base64
import binascii
import zlib

import grpc

from holdsvc import errors
from holdsvc.errors import HoldError
from holdsvc.http.context import failed
from holdsvc.http.exchange import too_large

HEAD_BYTES = 5
COMPRESSED = 1
END_STREAM = 2
TRAILERS = 0x80

_GZIP_WBITS = 31


def envelope(message: bytes, flags: int = 0) -> bytes:
    """A message with its flags and length in front."""
    return bytes((flags,)) + len(message).to_bytes(4, "big") + message


def is_gzip(encoding: str) -> bool:
    """Whether messages are gzip, not as they are; raises Failed for any other encoding."""
    if encoding not in ("", "identity", "gzip"):
        raise failed(grpc.StatusCode.UNIMPLEMENTED, "this compression is not supported: send gzip or none")
    return encoding == "gzip"


def unwrap(body: bytes, size_max: int, advice: str, *, gzip: bool) -> bytes:
    """The one message of a body; raises INVALID_FIELD."""
    if len(body) < HEAD_BYTES or int.from_bytes(body[1:HEAD_BYTES], "big") != len(body) - HEAD_BYTES:
        raise HoldError(errors.invalid_field("request", "is not one enveloped message", "MALFORMED"))
    flags, message = body[0], body[HEAD_BYTES:]
    if flags & ~COMPRESSED or (flags and not gzip):
        raise HoldError(errors.invalid_field("request", "has flags that are not known", "MALFORMED"))
    return inflate(message, size_max, advice) if flags else message


def inflate(data: bytes, size_max: int, advice: str) -> bytes:
    """Undoes gzip, up to `size_max` bytes; raises INVALID_FIELD."""
    inflating = zlib.decompressobj(_GZIP_WBITS)
    try:
        found = inflating.decompress(data, size_max + 1)
    except zlib.error:
        raise HoldError(errors.invalid_field("request", "is not gzip", "MALFORMED")) from None
    if len(found) > size_max:
        raise too_large(size_max, advice)
    if not inflating.eof or inflating.unused_data:
        raise HoldError(errors.invalid_field("request", "is not one gzip stream", "MALFORMED"))
    return found


def from_base64(text: str | bytes) -> bytes:
    """Undoes base64, that of URLs too, with or without padding; raises INVALID_FIELD."""
    raw = text.encode("ascii", "replace") if isinstance(text, str) else text
    raw = raw.translate(_FROM_URLS)
    try:
        return base64.b64decode(raw + b"=" * (-len(raw) % 4), validate=True)
    except binascii.Error:
        raise HoldError(errors.invalid_field("request", "is not base64", "MALFORMED")) from None


_FROM_URLS = bytes.maketrans(b"-_", b"+/")
