"""API keys in the tables."""

from datetime import datetime

from holdsvc import errors
from holdsvc.ledger import stock
from holdsvc.ledger.database import Connection
from holdsvc.model import Answer, ApiKey, Done, KeyRights, Violation

_CREATE = "SELECT * FROM holdsvc.create_api_key(%s, %s, %s, %s, %s, %s, %s, %s)"


async def find(connection: Connection, key_id: str) -> KeyRights | None:
    """What the key with this readable part may do, of whatever tenant it is."""
    rows = await connection.fetch("SELECT * FROM holdsvc.find_api_key(%s)", (key_id,))
    return KeyRights(*rows[0]) if rows else None


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
    creator_id: str | None,
) -> Answer[ApiKey]:
    """Stores a new key; refuses when `expire_time` has passed or the key `creator_id`, that asks for it, has ended."""
    [row] = await connection.fetch(
        _CREATE, (tenant, key_id, client, secret_hash, scopes, pools, expire_time, creator_id)
    )
    outcome, *columns = row
    if outcome == "EXPIRE_TIME_PAST":
        return errors.invalid_fields([Violation("expire_time", "must be in the future", "IN_THE_PAST")])
    if outcome == "CREATOR_ENDED":
        return errors.invalid_key()
    return Done(ApiKey(*columns), replayed=False)


async def now(connection: Connection) -> datetime:
    """The ledger's clock, which expiry is judged by; for the schema's owner only."""
    [[time]] = await connection.fetch("SELECT holdsvc.wall_clock()")
    return time  # type: ignore[no-any-return]


async def list_page(
    connection: Connection, tenant: str, before: tuple[datetime, str] | None, limit: int
) -> list[ApiKey]:
    """One page of a tenant's keys, newest first, after the key `before`."""
    before_time, before_id = before or (None, None)
    rows = await connection.fetch(
        "SELECT * FROM holdsvc.list_api_keys(%s, %s, %s, %s)", (tenant, before_time, before_id, limit)
    )
    return [ApiKey(*row) for row in rows]


async def any_made(connection: Connection) -> bool:
    """Whether any tenant has a key; revoked ones count."""
    for tenant in await stock.tenants(connection):
        if await list_page(connection, tenant, None, 1):
            return True
    return False


async def revoke(connection: Connection, tenant: str, key_id: str) -> Answer[ApiKey]:
    """Revokes a tenant's key."""
    rows = await connection.fetch("SELECT * FROM holdsvc.revoke_api_key(%s, %s)", (tenant, key_id))
    return Done(ApiKey(*rows[0]), replayed=False) if rows else errors.api_key_not_found(key_id)
