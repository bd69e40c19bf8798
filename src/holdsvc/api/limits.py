"""LimitService: how many units a holder or a client may have at once."""

import asyncio
from collections.abc import Awaitable
from functools import partial

import structlog

from holdsvc import errors
from holdsvc.api import convert, validation
from holdsvc.api.calls import Call
from holdsvc.api.pages import Pages, Position, whole
from holdsvc.errors import HoldError, unwrap
from holdsvc.ledger import limits
from holdsvc.ledger.database import Connection
from holdsvc.ledger.limits import Built, Counts, Limit, LimitState, LimitTerms, Per
from holdsvc.model import Done, Part, Violation
from inventoryhold.v1 import limit_service_pb2 as pb

log = structlog.get_logger(__name__)

BUILD_WAIT_S = 1.0
"""How long the answer of SetLimit waits for a new limit to be ACTIVE; longer work goes on in the background."""

BUILD_PAUSE_S = 0.01
"""Pause between two looks whether older transactions have ended."""


class LimitServicer:
    """One coroutine each rpc; the proto documents them."""

    def __init__(self, pages: Pages) -> None:
        self._pages = pages

    async def SetLimit(self, request: pb.SetLimitRequest, call: Call) -> pb.SetLimitResponse:
        """Creates or changes a limit."""
        validation.check(request, *contradictions(request.limit))
        terms = terms_of(request.limit)
        _check_pool(call, terms.pool)
        tenant = call.caller.tenant
        found = unwrap(
            await call.cell.engine.change(
                tenant, lambda connection: limits.set_limit(connection, tenant, terms), call.deadline
            )
        ).value
        log.info("limit.set", tenant=tenant, limit_id=terms.limit_id, key_id=call.caller.key_id)
        if found.state is LimitState.BUILDING:
            found = await self._built(found, call)
        return pb.SetLimitResponse(limit=convert.limit(found))

    async def _built(self, new: Limit, call: Call) -> Limit:
        """Brings a new limit as far as it comes in BUILD_WAIT_S; returns it as it is then."""
        tenant, limit_id = call.caller.tenant, new.terms.limit_id

        async def step(connection: Connection) -> Done[Built]:
            return Done(await limits.build(connection, tenant, limit_id), replayed=False)

        loop = asyncio.get_running_loop()
        end = min(call.deadline, loop.time() + BUILD_WAIT_S)
        try:
            while loop.time() < end:
                built = unwrap(await call.cell.engine.change(tenant, step, call.deadline)).value
                if built.waiting:
                    await asyncio.sleep(BUILD_PAUSE_S)
                elif not built.busy:
                    break
            read = partial(limits.get, tenant=tenant, limit_id=limit_id)
            return await call.cell.engine.read(tenant, read, call.deadline) or new
        except HoldError as error:
            # The limit is set: what is left to do is the background's.
            log.info("limit.not_built_at_once", tenant=tenant, limit_id=limit_id, reason=error.reason)
            return new

    async def ListLimits(self, request: pb.ListLimitsRequest, call: Call) -> pb.ListLimitsResponse:
        """Lists the tenant's limits."""
        tenant = call.caller.tenant
        page = await self._pages.begin(request, call)
        response = pb.ListLimitsResponse()

        def read(connection: Connection, after: Position | None, count: int) -> Awaitable[Part[Limit]]:
            return whole(limits.list_page(connection, tenant, after[0] if after else "", count, _pools(call)))

        response.next_page_token = await page.fill(
            response.limits.append, read, convert.limit, lambda found: [found.terms.limit_id]
        )
        return response

    async def DeleteLimit(self, request: pb.DeleteLimitRequest, call: Call) -> pb.DeleteLimitResponse:
        """Deletes a limit."""
        validation.check(request)
        tenant, limit_id = call.caller.tenant, request.limit_id
        _check_pool(call, (await self._find(limit_id, call)).terms.pool)
        unwrap(
            await call.cell.engine.change(
                tenant, lambda connection: limits.delete(connection, tenant, limit_id), call.deadline
            )
        )
        log.info("limit.deleted", tenant=tenant, limit_id=limit_id, key_id=call.caller.key_id)
        return pb.DeleteLimitResponse()

    async def GetLimitUsage(self, request: pb.GetLimitUsageRequest, call: Call) -> pb.GetLimitUsageResponse:
        """Tells how much of a limit is used."""
        validation.check(request)
        tenant, caller = call.caller.tenant, call.caller
        client = request.client or caller.client
        if client != caller.client and not caller.reads_all:
            raise HoldError(errors.permission_denied("reservations.read_all"))
        terms = (await self._find(request.limit_id, call)).terms
        holder = request.holder if terms.per is Per.HOLDER else ""
        if terms.per is Per.HOLDER and not holder:
            raise HoldError(errors.holder_required(terms.limit_id))
        used = await call.cell.engine.read(
            tenant,
            lambda connection: limits.usage(connection, tenant, terms.limit_id, client, holder),
            call.deadline,
        )
        if used is None:
            raise HoldError(errors.limit_not_found(request.limit_id))
        usage = pb.LimitUsage(
            limit_id=terms.limit_id,
            client=client,
            holder=holder,
            max_quantity=used.max_quantity,
            used=used.held + used.confirmed,
            available=max(0, used.max_quantity - used.held - used.confirmed),
            held=used.held,
            confirmed=used.confirmed,
        )
        if used.reset_time is not None:
            convert.set_time(usage.reset_time, used.reset_time)
        return pb.GetLimitUsageResponse(usage=usage)

    async def _find(self, limit_id: str, call: Call) -> Limit:
        """A limit that the caller may see; raises LIMIT_NOT_FOUND."""
        tenant = call.caller.tenant
        found = await call.cell.engine.read(
            tenant, lambda connection: limits.get(connection, tenant, limit_id, _pools(call)), call.deadline
        )
        if found is None:
            raise HoldError(errors.limit_not_found(limit_id))
        return found


def _pools(call: Call) -> list[str] | None:
    """The pools that limit which limits the caller sees; None: it sees all."""
    return sorted(call.caller.pools) or None


def _check_pool(call: Call, pool: str | None) -> None:
    """Raises PERMISSION_DENIED for a limit that is also about pools that the caller's key may not see."""
    if pool is None and call.caller.pools:
        raise HoldError(errors.pool_denied("*"))
    if pool is not None and not call.caller.sees_pool(pool):
        raise HoldError(errors.pool_denied(pool))


def contradictions(limit: pb.Limit) -> list[Violation]:
    """Fields of a limit that do not go together."""
    found = []
    if limit.HasField("window") and limit.counts == pb.Limit.COUNTS_HELD:
        found.append(Violation("limit.window", "is about confirmed units, which COUNTS_HELD does not count", "WINDOW"))
    if limit.per == pb.Limit.PER_CLIENT and limit.counts == pb.Limit.COUNTS_HELD_AND_CONFIRMED:
        found.append(Violation("limit.counts", "must be COUNTS_HELD with PER_CLIENT", "PER_CLIENT"))
    return found


def terms_of(limit: pb.Limit) -> LimitTerms:
    """What a valid message says of a limit."""
    return LimitTerms(
        limit.limit_id,
        limit.sku_prefix,
        limit.pool if limit.HasField("pool") else None,
        Per(limit.per),
        Counts(limit.counts),
        limit.max_quantity,
        limit.window.ToTimedelta() if limit.HasField("window") else None,
    )
