"""API keys: how they look, how they are made, and who calls with one.

A key is `holdsvc_<key_id>_<secret>`: a readable part that finds it and 256 bits of randomness, of which only a SHA-256
is stored (a slow hash guards weak passwords; it would gain nothing here and cost every call).
"""

import asyncio
import hmac
import secrets
from collections import OrderedDict
from datetime import UTC, datetime
from hashlib import sha256
from typing import NamedTuple, TypeVar

from holdsvc import errors
from holdsvc.engine.engine import Engine
from holdsvc.ledger import keys
from holdsvc.model import ApiKey, Caller

K = TypeVar("K")
V = TypeVar("V")

CACHE_S = 2.0
"""How long an answer is remembered: within it a revoked key still works."""

CACHE_MAX = 10_000
"""Good keys, and as many bad ones, that are remembered."""


class NewKey(NamedTuple):
    """A key that was just made: what is stored of it and what its owner gets."""

    key_id: str
    secret: str
    secret_hash: bytes


def make_key() -> NewKey:
    """Makes a key; its secret is nowhere else."""
    key_id = secrets.token_hex(6)
    secret = f"holdsvc_{key_id}_{secrets.token_urlsafe(32)}"
    return NewKey(key_id, secret, hash_of(secret))


def hash_of(secret: str) -> bytes:
    """What is stored of a key."""
    return sha256(secret.encode()).digest()


class Keyring:
    """Tells who calls with a key, from a bounded memory or else from the database."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._good: OrderedDict[bytes, tuple[float, Caller]] = OrderedDict()
        self._bad: OrderedDict[bytes, float] = OrderedDict()

    async def caller(self, secret: str, deadline: float) -> Caller:
        """Returns who calls with this key; raises UNAUTHENTICATED."""
        digest = hash_of(secret)
        now = asyncio.get_running_loop().time()
        known = self._good.get(digest)
        if known is not None and known[0] > now:
            return known[1]
        if self._bad.get(digest, 0.0) > now:
            raise errors.unauthenticated("the API key is not valid")
        caller = await self._look_up(secret, digest, deadline)
        if caller is None:
            _remember(self._bad, digest, now + CACHE_S)
            raise errors.unauthenticated("the API key is not valid")
        _remember(self._good, digest, (now + CACHE_S, caller))
        return caller

    async def _look_up(self, secret: str, digest: bytes, deadline: float) -> Caller | None:
        parts = secret.split("_", 2)
        key = None
        if len(parts) == 3 and parts[0] == "holdsvc" and len(parts[1]) <= 64:
            key = await self._engine.read(lambda connection: keys.find(connection, parts[1]), deadline)
        # The same work whether there is such a key or not.
        if not hmac.compare_digest(digest, key.secret_hash if key else bytes(len(digest))) or key is None:
            return None
        if not _lives(key, datetime.now(UTC)):
            return None
        return Caller(key.tenant, key.client, key.key_id, frozenset(key.scopes), frozenset(key.pools))


def _lives(key: ApiKey, now: datetime) -> bool:
    return key.revoke_time is None and (key.expire_time is None or key.expire_time > now)


def _remember(cache: "OrderedDict[K, V]", key: K, value: V) -> None:
    cache[key] = value
    cache.move_to_end(key)
    if len(cache) > CACHE_MAX:
        cache.popitem(last=False)
