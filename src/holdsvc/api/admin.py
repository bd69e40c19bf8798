"""AdminService: API keys and the recount of the ledger."""

from collections.abc import Awaitable
from datetime import UTC, datetime
from functools import partial

from holdsvc import errors
from holdsvc.api import convert, validation
from holdsvc.api.auth.keyring import key_id_of, make_key
from holdsvc.api.calls import Call
from holdsvc.api.pages import Pages, Position, whole
from holdsvc.api_keys import ApiKey
from holdsvc.errors import HoldError, unwrap
from holdsvc.ledger import keys, upkeep
from holdsvc.ledger.database import Connection
from holdsvc.model import Answer, Part, Violation
from inventoryhold.v1 import admin_service_pb2 as pb

DRIFTS_MAX = 1000


class AdminServicer:
    """One coroutine each rpc; the proto documents them."""

    def __init__(self, pages: Pages) -> None:
        self._pages = pages

    async def GetCaller(self, request: pb.GetCallerRequest, call: Call) -> pb.GetCallerResponse:
        """Says who the caller is."""
        validation.check(request)
        caller = call.caller
        return pb.GetCallerResponse(
            tenant=caller.tenant,
            client=caller.client,
            key_id=caller.key_id,
            scopes=sorted(caller.scopes),
            pools=sorted(caller.pools),
        )

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
        new = make_key(caller.tenant)

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

        stored = unwrap(await call.cell.engine.change(caller.tenant, create, call.deadline)).value
        return pb.CreateApiKeyResponse(api_key=convert.api_key(stored), secret=new.secret)

    async def ListApiKeys(self, request: pb.ListApiKeysRequest, call: Call) -> pb.ListApiKeysResponse:
        """Lists the tenant's keys, newest first."""
        tenant = call.caller.tenant
        page = await self._pages.begin(request, call)
        response = pb.ListApiKeysResponse()

        def read(connection: Connection, after: Position | None, limit: int) -> Awaitable[Part[ApiKey]]:
            before = (datetime.fromisoformat(after[0]), after[1]) if after else None
            return whole(keys.list_page(connection, tenant, before, limit, _pools(call)))

        response.next_page_token = await page.fill(
            response.api_keys.append, read, convert.api_key, lambda found: [found.create_time.isoformat(), found.key_id]
        )
        return response

    async def RevokeApiKey(self, request: pb.RevokeApiKeyRequest, call: Call) -> pb.RevokeApiKeyResponse:
        """Revokes a key."""
        validation.check(request)
        tenant, key_id = call.caller.tenant, key_id_of(request.key_id)
        revoked = await call.cell.engine.change(
            tenant, lambda connection: keys.revoke(connection, tenant, key_id, _pools(call)), call.deadline
        )
        return pb.RevokeApiKeyResponse(api_key=convert.api_key(unwrap(revoked).value))

    async def VerifyLedger(self, request: pb.VerifyLedgerRequest, call: Call) -> pb.VerifyLedgerResponse:
        """Recounts the tenant's items, in short statements."""
        validation.check(request)
        tenant = call.caller.tenant
        response = pb.VerifyLedgerResponse(ok=True)
        after: str | None = ""
        while after is not None:
            step = await call.cell.engine.read(
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


def _pools(call: Call) -> list[str] | None:
    """The pools that limit what the caller may see of keys; None: it may see all."""
    return sorted(call.caller.pools) or None


def _expire_time(request: pb.CreateApiKeyRequest) -> tuple[datetime | None, Violation | None]:
    """When the key is to end, and what is wrong with it as far as that is visible without the database's clock."""
    if not request.HasField("expire_time"):
        return None, None
    try:
        return request.expire_time.ToDatetime(UTC), None
    except (ValueError, OverflowError):
        return None, Violation("expire_time", "must be from the year 1 to the year 9999", "TIMESTAMP_RANGE")
