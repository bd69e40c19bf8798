"""API keys, as the rooms of the service say them to each other: plain values, as in `model`."""

from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple


@dataclass(slots=True)
class ApiKey:
    """An API key, without its secret."""

    key_id: str
    tenant: str
    client: str
    secret_hash: bytes
    scopes: list[str]
    pools: list[str]
    create_time: datetime
    expire_time: datetime | None
    revoke_time: datetime | None
    creator_key_id: str = ""
    """The key that made it; empty: an operator."""


class KeyRights(NamedTuple):
    """What a call needs to know of the key that it brings."""

    tenant: str
    client: str
    secret_hash: bytes
    scopes: list[str]
    pools: list[str]
    lives_s: float
    """Seconds until it ends, on the database's clock; not above 0: it has expired or is revoked."""
    away: bool
    """Its tenant is not where this was found: another cell knows whether the key is good."""
