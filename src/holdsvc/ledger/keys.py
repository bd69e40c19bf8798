"""API keys in the tables."""

from datetime import datetime

from holdsvc.ledger.database import Connection
from holdsvc.model import ApiKey

_CREATE = "SELECT * FROM holdsvc.create_api_key(%s, %s, %s, %s, %s, %s, %s)"


async def find(connection: Connection, key_id: str) -> ApiKey | None:
    """The key with this readable part, of whatever tenant."""
    rows = await connection.fetch("SELECT * FROM holdsvc.find_api_key(%s)", (key_id,))
    return ApiKey(*rows[0]) if rows else None


async def create(
    connection: Connection,
    *,
    tenant: str,
    key_id: str,
    client: str,
    secret_hash: bytes,
    scopes: list[str],
    pools: list[str],
    expire_time: datetime | None,
) -> ApiKey:
    """Stores a new key."""
    [row] = await connection.fetch(_CREATE, (tenant, key_id, client, secret_hash, scopes, pools, expire_time))
    return ApiKey(*row)


async def list_page(
    connection: Connection, tenant: str, before: tuple[datetime, str] | None, limit: int
) -> list[ApiKey]:
    """One page of a tenant's keys, newest first, after the key `before`."""
    before_time, before_id = before or (None, None)
    rows = await connection.fetch(
        "SELECT * FROM holdsvc.list_api_keys(%s, %s, %s, %s)", (tenant, before_time, before_id, limit)
    )
    return [ApiKey(*row) for row in rows]


async def revoke(connection: Connection, tenant: str, key_id: str) -> ApiKey | None:
    """Revokes a tenant's key; None: there is none."""
    rows = await connection.fetch("SELECT * FROM holdsvc.revoke_api_key(%s, %s)", (tenant, key_id))
    return ApiKey(*rows[0]) if rows else None
