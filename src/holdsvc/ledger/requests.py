"""What every change brings to its SQL function, and the outcome that every change may have."""

from collections.abc import Sequence
from hashlib import blake2b
from typing import TypedDict

from holdsvc import errors
from holdsvc.change_requests import Request
from holdsvc.ledger import arrays
from holdsvc.model import Caller, Refused

REQUEST = ("client", "key_id", "request_id", "request_key", "fingerprint")
"""The arguments that `columns` makes."""


class RequestColumns(TypedDict):
    """What `columns` makes, by the arguments of the SQL functions."""

    client: str
    key_id: str
    request_id: str
    request_key: str
    fingerprint: str


def columns(tenant: str, requests: Sequence[Request]) -> RequestColumns:
    """The array of each request's client, key_id, request_id, request_key and fingerprint."""
    return {
        "client": arrays.texts([r.caller.client for r in requests]),
        "key_id": arrays.texts([r.caller.key_id for r in requests]),
        "request_id": arrays.texts([r.request_id or None for r in requests]),
        "request_key": arrays.plain([_key(tenant, r) for r in requests]),
        "fingerprint": arrays.blobs([r.fingerprint for r in requests]),
    }


def pool_list(caller: Caller) -> str | None:
    """The caller's pools as the SQL functions take them: each between U+001F, which no pool's name may contain."""
    if not caller.pools:
        return None
    return "\x1f" + "".join(f"{pool}\x1f" for pool in sorted(caller.pools))


def inactive_feature(outcome: str) -> Refused | None:
    """The refusal of an outcome that names a feature which is not active; None: it is another outcome."""
    kind, _, feature = outcome.partition(" ")
    return errors.feature_not_active(feature) if kind == "FEATURE_NOT_ACTIVE" else None


def _key(tenant: str, request: Request) -> str | None:
    """What a request_id is remembered by: 128 bits of tenant, client and id, as a UUID's digits."""
    if not request.request_id:
        return None
    # None of the three may contain a NUL.
    text = f"{tenant}\0{request.caller.client}\0{request.request_id}"
    return blake2b(text.encode(), digest_size=16).hexdigest()
