"""Page tokens: opaque, bound to the call, its filters and the tenant.

They carry a position and a checksum; forging one gains nothing, for a list shows a caller only what it may see anyway.
"""

import binascii
import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from hashlib import blake2b

from google.protobuf.message import Message

from holdsvc.model import Violation

_CHECKSUM_BYTES = 8


def _checksum(tenant: str, request: Message, position: bytes) -> bytes:
    filters = type(request)()
    filters.CopyFrom(request)
    for name in ("page_size", "page_token", "include_total"):
        if name in filters.DESCRIPTOR.fields_by_name:
            filters.ClearField(name)
    content = f"{filters.DESCRIPTOR.full_name}\0{tenant}".encode() + filters.SerializeToString(deterministic=True)
    return blake2b(content + b"\0" + position, digest_size=_CHECKSUM_BYTES, person=b"holdsvc page").digest()


def write(tenant: str, request: Message, position: list[str]) -> str:
    """The token of the page after `position`."""
    data = json.dumps(position, separators=(",", ":")).encode()
    return urlsafe_b64encode(_checksum(tenant, request, data) + data).decode().rstrip("=")


def read(tenant: str, request: Message, token: str) -> tuple[list[str] | None, Violation | None]:
    """The position of a token, None without one, and what is wrong with it: another call's, or other filters."""
    if not token:
        return None, None
    try:
        raw = urlsafe_b64decode(token + "=" * (-len(token) % 4))
    except (binascii.Error, ValueError):
        raw = b""
    checksum, data = raw[:_CHECKSUM_BYTES], raw[_CHECKSUM_BYTES:]
    if not data or checksum != _checksum(tenant, request, data):
        return None, Violation(
            "page_token",
            "is not of this call with these filters: send those of the page before, or start without one",
            "PAGE_TOKEN",
        )
    return [str(part) for part in json.loads(data)], None
