"""Resume tokens: where a stream of events stands, opaque, signed with the database's key, bound to tenant and epoch.

The key lies in the database, so every worker and replica reads the others' tokens.
"""

import binascii
import hmac
import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from datetime import date
from hashlib import blake2b

from holdsvc import errors
from holdsvc.errors import HoldError
from holdsvc.ledger.feed import Identity, Position

_SIGNATURE_BYTES = 16
_VERSION = 1


class Tokens:
    """Writes and reads the tokens of a tenant's streams."""

    def __init__(self, identity: Identity, tenant: str) -> None:
        self._identity = identity
        self._tenant = tenant

    def _signature(self, data: bytes) -> bytes:
        key = self._identity.token_key.encode()[:64]
        content = self._tenant.encode() + b"\0" + data
        return blake2b(content, digest_size=_SIGNATURE_BYTES, key=key, person=b"holdsvc resume").digest()

    def write(self, position: Position) -> str:
        """The token of a position."""
        content = [_VERSION, self._identity.epoch, position.event_id, position.day.toordinal()]
        data = json.dumps(content, separators=(",", ":")).encode()
        return urlsafe_b64encode(self._signature(data) + data).decode().rstrip("=")

    def read(self, token: str) -> Position:
        """The position of a token; raises RESUME_TOKEN_FOREIGN, RESUME_TOKEN_EXPIRED."""
        try:
            raw = urlsafe_b64decode(token + "=" * (-len(token) % 4))
        except (binascii.Error, ValueError):
            raw = b""
        signature, data = raw[:_SIGNATURE_BYTES], raw[_SIGNATURE_BYTES:]
        if not data or not hmac.compare_digest(signature, self._signature(data)):
            raise HoldError(errors.resume_token_foreign())
        version, epoch, event_id, day = json.loads(data)
        if version != _VERSION or epoch != self._identity.epoch:
            raise HoldError(errors.resume_token_foreign())
        if event_id < self._identity.floor:
            raise HoldError(errors.resume_token_expired())
        return Position(event_id, date.fromordinal(day))
