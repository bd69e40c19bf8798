"""API keys in the tables."""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from holdsvc import errors
from holdsvc.api_keys import ApiKey, KeyRights
from holdsvc.ledger import arrays, stock
from holdsvc.ledger.binding import bind, bind_out, bind_scalar
from holdsvc.ledger.database import Connection
from holdsvc.model import Answer, Done, Violation


class _KeyRow(NamedTuple):
    outcome: str | None
    key_id: str
    tenant: str
    client: str
    secret_hash: bytes
    scopes: list[str]
    pools: list[str]
    create_time: datetime
    expire_time: datetime | None
    revoke_time: datetime | None
    creator_key_id: str | None


class _Now(NamedTuple):
    now: datetime


_FIND = bind_out("find_api_key", KeyRights, "key_id")
_CREATE = bind(
    "create_api_key",
    _KeyRow,
    *("tenant", "key_id", "client", "secret_hash", "scopes", "pools", "expire_time", "creator_id"),
)
_NOW = bind_scalar("ledger_time", _Now)
_LIST = bind("list_api_keys", _KeyRow, "tenant", "caller_pools", "before_time", "before_id", "limit")
_REVOKE = bind("revoke_api_key", _KeyRow, "tenant", "caller_pools", "key_id")


async def find(connection: Connection, key_id: str) -> KeyRights | None:
    """What the key with this readable part may do, of whatever tenant it is."""
    rows = await _FIND.fetch(connection, key_id=key_id)
    return rows[0] if rows else None


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
    """Stores a new key; refuses when `expire_time` has passed or the key `creator_id`, that asks for it, has ended.

    It ends with the creator's own time at the latest.
    """
    row = await _CREATE.one(
        connection,
        tenant=tenant,
        key_id=key_id,
        client=client,
        secret_hash=secret_hash,
        scopes=scopes,
        pools=pools,
        expire_time=expire_time,
        creator_id=creator_id,
    )
    if row.outcome == "EXPIRE_TIME_PAST":
        return errors.invalid_fields([Violation("expire_time", "must be in the future", "IN_THE_PAST")])
    if row.outcome == "CREATOR_ENDED":
        return errors.invalid_key()
    return Done(_key(row), replayed=False)


def _key(row: _KeyRow) -> ApiKey:
    return ApiKey(
        key_id=row.key_id,
        tenant=row.tenant,
        client=row.client,
        secret_hash=row.secret_hash,
        scopes=row.scopes,
        pools=row.pools,
        create_time=row.create_time,
        expire_time=row.expire_time,
        revoke_time=row.revoke_time,
        creator_key_id=row.creator_key_id or "",
    )


def _pools(caller_pools: Sequence[str] | None) -> str | None:
    return None if caller_pools is None else arrays.texts(caller_pools)


async def now(connection: Connection) -> datetime:
    """The ledger's clock, which expiry is judged by; for the schema's owner only."""
    return (await _NOW.one(connection)).now


async def list_page(
    connection: Connection,
    tenant: str,
    before: tuple[datetime, str] | None,
    limit: int,
    caller_pools: Sequence[str] | None = None,
) -> list[ApiKey]:
    """One page of a tenant's keys, newest first, after the key `before`; for a caller with pools those it may see."""
    before_time, before_id = before or (None, None)
    rows = await _LIST.fetch(
        connection,
        tenant=tenant,
        caller_pools=_pools(caller_pools),
        before_time=before_time,
        before_id=before_id,
        limit=limit,
    )
    return [_key(row) for row in rows]


async def any_made(connection: Connection) -> bool:
    """Whether any tenant has a key; revoked ones count."""
    for tenant in await stock.tenants(connection):
        if await list_page(connection, tenant, None, 1):
            return True
    return False


async def revoke(
    connection: Connection, tenant: str, key_id: str, caller_pools: Sequence[str] | None = None
) -> Answer[ApiKey]:
    """Revokes a tenant's key; where it is limited in time or to pools, with it all keys that come from it."""
    rows = await _REVOKE.fetch(connection, tenant=tenant, caller_pools=_pools(caller_pools), key_id=key_id)
    return Done(_key(rows[0]), replayed=False) if rows else errors.api_key_not_found(key_id)
