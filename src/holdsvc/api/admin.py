"""AdminService: API keys and the recount of the ledger."""

from datetime import UTC, datetime
from functools import partial

from holdsvc import errors
from holdsvc.api import convert, pages, validation
from holdsvc.api.auth.keyring import key_id_of, make_key
from holdsvc.api.calls import Call
from holdsvc.engine.engine import Engine
from holdsvc.errors import HoldError, unwrap
from holdsvc.ledger import keys, upkeep
from holdsvc.ledger.database import Connection
from holdsvc.model import Answer, ApiKey, Violation
from inventoryhold.v1 import admin_service_pb2 as pb

DRIFTS_MAX = 1000


class AdminServicer:
    """One coroutine each rpc; the proto documents them."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def CreateApiKey(self, request: pb.CreateApiKeyRequest, call: Call) -> pb.CreateApiKeyResponse:
        """Creates a key with no more rights than the caller's."""
        expire_time, violation = _expire_time(request)
        validation.check(request, violation)
        caller = call.caller
        for scope in request.scopes:
            if scope not in caller.scopes:
                raise HoldError(errors.permission_denied(scope))
        pools = list(request.pools) or sorted(caller.pools)
        for pool in pools:
            if not caller.sees_pool(pool):
                raise HoldError(errors.pool_denied(pool))
        new = make_key()

        async def create(connection: Connection) -> Answer[ApiKey]:
            return await keys.create(
                connection,
                tenant=caller.tenant,
                key_id=new.key_id,
                client=request.client,
                secret_hash=new.secret_hash,
                scopes=list(request.scopes),
                pools=pools,
                expire_time=expire_time,
                creator_id=caller.key_id or None,
            )

        stored = unwrap(await self._engine.change(caller.tenant, create, call.deadline)).value
        return pb.CreateApiKeyResponse(api_key=convert.api_key(stored), secret=new.secret)

    async def ListApiKeys(self, request: pb.ListApiKeysRequest, call: Call) -> pb.ListApiKeysResponse:
        """Lists the tenant's keys, newest first."""
        tenant = call.caller.tenant
        position, violation = pages.read(tenant, request, request.page_token)
        validation.check(request, violation)
        before = (datetime.fromisoformat(position[0]), position[1]) if position else None
        size = validation.page_size(request.page_size)
        found = await self._engine.read(
            tenant, lambda connection: keys.list_page(connection, tenant, before, size + 1), call.deadline
        )
        response = pb.ListApiKeysResponse(api_keys=[convert.api_key(key) for key in found[:size]])
        if len(found) > size:
            last = found[size - 1]
            response.next_page_token = pages.write(tenant, request, [last.create_time.isoformat(), last.key_id])
        return response

    async def RevokeApiKey(self, request: pb.RevokeApiKeyRequest, call: Call) -> pb.RevokeApiKeyResponse:
        """Revokes a key."""
        validation.check(request)
        tenant, key_id = call.caller.tenant, key_id_of(request.key_id)
        revoked = await self._engine.change(
            tenant, lambda connection: keys.revoke(connection, tenant, key_id), call.deadline
        )
        return pb.RevokeApiKeyResponse(api_key=convert.api_key(unwrap(revoked).value))

    async def VerifyLedger(self, request: pb.VerifyLedgerRequest, call: Call) -> pb.VerifyLedgerResponse:
        """Recounts the tenant's items, in short statements."""
        validation.check(request)
        tenant = call.caller.tenant
        response = pb.VerifyLedgerResponse(ok=True)
        after: str | None = ""
        while after is not None:
            step = await self._engine.read(
                tenant, partial(upkeep.verify_step, tenant=tenant, after_sku=after), call.deadline
            )
            response.item_count += step.item_count
            response.reservation_count += step.reservation_count
            response.ok &= not step.drifts
            seen = [drift for drift in step.drifts if call.caller.sees_pool(drift.pool)]
            for drift in seen[: DRIFTS_MAX - len(response.drifts)]:
                response.drifts.add(**drift._asdict())
            after = step.last_sku
        return response


def _expire_time(request: pb.CreateApiKeyRequest) -> tuple[datetime | None, Violation | None]:
    """When the key shall end, and what is wrong with that as far as one can see without the database's clock."""
    if not request.HasField("expire_time"):
        return None, None
    try:
        return request.expire_time.ToDatetime(UTC), None
    except (ValueError, OverflowError):
        return None, Violation("expire_time", "must be from the year 1 to the year 9999", "TIMESTAMP_RANGE")
