"""Callers with API keys of their own, for a service that asks for them."""

from collections.abc import Sequence

from holdsvc.api.auth.keyring import make_key
from holdsvc.api.rpcs import ALL_SCOPES
from tests.support.harness import Harness

Metadata = tuple[tuple[str, str], ...]


def new_caller(
    service: Harness,
    client: str,
    *,
    tenant: str = "default",
    scopes: Sequence[str] = ALL_SCOPES,
    pools: Sequence[str] = (),
) -> Metadata:
    """Makes a key and returns the metadata that a call brings."""
    key = make_key()
    service.sql(
        "SELECT create_api_key(%s, %s, %s, %s, %s, %s, NULL, NULL)",
        (tenant, key.key_id, client, key.secret_hash, list(scopes), list(pools)),
    )
    return (("x-api-key", key.secret),)
