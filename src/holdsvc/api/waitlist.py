"""WaitlistService: checks requests, hands them to the engine, makes answers."""

from collections.abc import Awaitable
from datetime import UTC

from holdsvc import change_requests, errors, model
from holdsvc.api import convert, validation
from holdsvc.api.calls import Call
from holdsvc.api.content import check_pools, fingerprint, merged_lines
from holdsvc.api.pages import Pages, Position
from holdsvc.entries import EntryState, WaitlistEntry
from holdsvc.errors import HoldError, unwrap
from holdsvc.ledger import waitlist
from holdsvc.ledger.database import Connection
from holdsvc.ledger.requests import pool_list
from holdsvc.settings import Settings
from inventoryhold.v1 import waitlist_pb2
from inventoryhold.v1 import waitlist_service_pb2 as pb

LIVE = (EntryState.WAITING, EntryState.OFFERED)


class WaitlistServicer:
    """One coroutine each rpc; the proto documents them."""

    def __init__(self, settings: Settings, pages: Pages) -> None:
        self._pages = pages
        self._ttl = validation.TtlRule(settings)

    async def JoinWaitlist(self, request: pb.JoinWaitlistRequest, call: Call) -> pb.JoinWaitlistResponse:
        """Joins the waitlists of items."""
        offer_ttl_us, violation = self._ttl.of(
            request.offer_ttl if request.HasField("offer_ttl") else None, "offer_ttl"
        )
        validation.check(request, violation)
        caller = call.caller
        if request.priority and not caller.manages_waitlists:
            raise HoldError(errors.permission_denied("waitlist.manage"))
        lines = merged_lines(request.lines)
        check_pools(caller, (line[:2] for line in lines))
        change = change_requests.Join(
            caller=caller,
            request_id=request.request_id,
            fingerprint=fingerprint(request),
            entry_id=call.cell.engine.new_id(),
            lines=lines,
            holder=request.holder,
            reference=request.reference,
            priority=request.priority,
            offer_ttl_us=offer_ttl_us,
            expire_time=request.expire_time.ToDatetime(UTC) if request.HasField("expire_time") else None,
            metadata=dict(request.metadata),
        )
        [answer] = await call.cell.engine.join([change], call.deadline)
        if isinstance(answer, model.Refused) and answer.reason == "ALREADY_WAITING":
            raise HoldError(await self._already_waiting(answer, call))
        done = unwrap(answer)
        # An entry whose units were free has been offered them by now.
        entry = await self._read(done.value.entry_id, call) if done.due else None
        response = pb.JoinWaitlistResponse(replayed=done.replayed)
        convert.set_entry(response.entry, entry or done.value)
        return response

    async def _already_waiting(self, refused: model.Refused, call: Call) -> model.Refused:
        """The refusal; it names no entry that the key may not see."""
        entry = await self._read(refused.metadata["entry_id"], call)
        return refused if entry is not None and entry.seen_by(call.caller) else errors.already_waiting(None)

    async def LeaveWaitlist(self, request: pb.LeaveWaitlistRequest, call: Call) -> pb.LeaveWaitlistResponse:
        """Leaves a waitlist."""
        validation.check(request)
        answer = await call.cell.engine.change(
            call.caller.tenant,
            lambda connection: waitlist.leave(connection, call.caller, request.entry_id, request.reason),
            call.deadline,
        )
        response = pb.LeaveWaitlistResponse()
        convert.set_entry(response.entry, unwrap(answer).value)
        return response

    async def GetWaitlistEntry(self, request: pb.GetWaitlistEntryRequest, call: Call) -> pb.GetWaitlistEntryResponse:
        """Reads one entry."""
        validation.check(request)
        entry = await self._read(request.entry_id, call)
        if entry is None or not entry.seen_by(call.caller):
            raise HoldError(errors.waitlist_entry_not_found(request.entry_id))
        response = pb.GetWaitlistEntryResponse()
        convert.set_entry(response.entry, entry)
        return response

    async def _read(self, entry_id: str, call: Call) -> WaitlistEntry | None:
        tenant = call.caller.tenant
        return await call.cell.engine.read(
            tenant, lambda connection: waitlist.get(connection, tenant, entry_id), call.deadline
        )

    async def ListWaitlistEntries(
        self, request: pb.ListWaitlistEntriesRequest, call: Call
    ) -> pb.ListWaitlistEntriesResponse:
        """Lists entries in the order of the queue."""
        caller = call.caller
        page = await self._pages.begin(request, call)
        response = pb.ListWaitlistEntriesResponse()
        client = request.client or None
        if not caller.reads_waitlists:
            if client not in (None, caller.client):
                return response
            client = caller.client
        states = sorted({int(state) for state in request.states}) or [int(state) for state in LIVE]
        wanted = waitlist.Filter(
            client=client,
            states=states,
            sku=request.sku or None,
            pool=request.pool if request.HasField("pool") else None,
            holder=request.holder or None,
        )

        def read(connection: Connection, after: Position | None, limit: int) -> Awaitable[model.Part[WaitlistEntry]]:
            return waitlist.list_page(connection, caller.tenant, wanted, pool_list(caller), after, limit)

        def make(found: WaitlistEntry) -> waitlist_pb2.WaitlistEntry | None:
            # It may have lapsed, or changed between the search and the reading of its row.
            if int(found.state) not in states:
                return None
            convert.set_entry(message := waitlist_pb2.WaitlistEntry(), found)
            return message

        response.next_page_token = await page.fill(
            response.entries.append, read, make, lambda found: [str(found.priority), str(found.sequence)]
        )
        return response
