"""The columns that every change brings to its SQL function."""

from collections.abc import Sequence
from hashlib import blake2b

from holdsvc.ledger import arrays
from holdsvc.model import Request


def columns(tenant: str, requests: Sequence[Request]) -> tuple[str, str, str, str, str]:
    """Client, key_id, request_id, request_key and fingerprint of each request."""
    return (
        arrays.texts([r.caller.client for r in requests]),
        arrays.texts([r.caller.key_id for r in requests]),
        arrays.texts([r.request_id or None for r in requests]),
        arrays.plain([_key(tenant, r) for r in requests]),
        arrays.blobs([r.fingerprint for r in requests]),
    )


def _key(tenant: str, request: Request) -> str | None:
    """What a request_id is remembered by: 128 bits of tenant, client and id, as a UUID's digits."""
    if not request.request_id:
        return None
    # None of the three may contain a NUL.
    text = f"{tenant}\0{request.caller.client}\0{request.request_id}"
    return blake2b(text.encode(), digest_size=16).hexdigest()
