"""Tokens that callers bring back: opaque, signed with the database's key, bound to what they are for.

The key is in the database, so every worker and replica reads the others' tokens, and no caller can make one.
"""

import binascii
import hmac
import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from datetime import date
from hashlib import blake2b
from typing import NamedTuple

from holdsvc import outages
from holdsvc.errors import HoldError
from holdsvc.ledger.feed import Identity, Position
from holdsvc.ledger.proofs import Proof

_SIGNATURE_BYTES = 16
_VERSION = 2


def seal(key: str, purpose: str, context: bytes, data: bytes) -> str:
    """The token of `data`; it is valid for this purpose (at most 8 characters) and context only."""
    return urlsafe_b64encode(_signature(key, purpose, context, data) + data).decode().rstrip("=")


def unseal(key: str, purpose: str, context: bytes, token: str) -> bytes | None:
    """The data of a token, or None when it was not made by `seal` with the same arguments."""
    try:
        raw = urlsafe_b64decode(token + "=" * (-len(token) % 4))
    except (binascii.Error, ValueError):
        return None
    signature, data = raw[:_SIGNATURE_BYTES], raw[_SIGNATURE_BYTES:]
    return data if data and hmac.compare_digest(signature, _signature(key, purpose, context, data)) else None


def _signature(key: str, purpose: str, context: bytes, data: bytes) -> bytes:
    content = context + b"\0" + data
    person = b"holdsvc " + purpose.encode()
    return blake2b(content, digest_size=_SIGNATURE_BYTES, key=key.encode()[:64], person=person).digest()


class Held(NamedTuple):
    """What a token says: where a stream stood, in which history, and what proves that it was told so far."""

    position: Position
    epoch: str
    timeline: str
    proof: Proof

    @property
    def history(self) -> str:
        """As `Identity.history`."""
        return f"{self.epoch}-{self.timeline}"


class Tokens:
    """Writes and reads the resume tokens of a tenant's streams."""

    def __init__(self, identity: Identity, tenant: str) -> None:
        self._identity = identity
        self._tenant = tenant

    def write(self, position: Position, proof: Proof) -> str:
        """The token of a position."""
        place = [position.event_id, position.day.toordinal()]
        told = proof._replace(day=proof.day.toordinal())  # type: ignore[arg-type]
        content = [_VERSION, self._identity.epoch, self._identity.timeline, *place, *told]
        data = json.dumps(content, separators=(",", ":")).encode()
        return seal(self._identity.token_key, "resume", self._tenant.encode(), data)

    def read(self, token: str) -> Held:
        """What a token says, perhaps of another epoch; raises RESUME_TOKEN_FOREIGN, RESUME_TOKEN_EXPIRED."""
        data = unseal(self._identity.token_key, "resume", self._tenant.encode(), token)
        if data is None:
            raise HoldError(outages.resume_token_foreign())
        version, epoch, timeline, event_id, day, *told = json.loads(data)
        if version != _VERSION:
            raise HoldError(outages.resume_token_foreign())
        if epoch == self._identity.epoch and event_id < self._identity.floor:
            raise HoldError(outages.resume_token_expired())
        proof = Proof(*told)
        proof = proof._replace(day=date.fromordinal(proof.day))  # type: ignore[arg-type]
        return Held(Position(event_id, date.fromordinal(day)), epoch, timeline, proof)
