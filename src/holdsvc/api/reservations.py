"""ReservationService: checks requests, hands them to the engine, makes answers."""

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import structlog
from google.protobuf.message import Message

from holdsvc import change_requests, errors, model
from holdsvc.api import batches, convert, validation
from holdsvc.api.access_log import Sample
from holdsvc.api.calls import Call
from holdsvc.api.changes import Changes, Check
from holdsvc.api.pages import Pages, Position, whole
from holdsvc.api.turns import Turns
from holdsvc.engine.limits import RateLimit
from holdsvc.errors import HoldError, unwrap
from holdsvc.ledger import events, reservation_lists, reservations
from holdsvc.ledger.database import Connection
from holdsvc.model import Answer, Done, Event, Reservation
from holdsvc.settings import Settings
from inventoryhold.v1 import reservation_pb2
from inventoryhold.v1 import reservation_service_pb2 as pb

log = structlog.get_logger(__name__)

Changed = TypeVar(
    "Changed",
    pb.ModifyResponse,
    pb.ConfirmResponse,
    pb.CancelResponse,
    pb.RefundResponse,
    pb.FulfilResponse,
    pb.ExtendResponse,
)
B = TypeVar("B", bound=batches.Response)
C = TypeVar("C", bound=change_requests.Request)
E = TypeVar("E", bound=Message)

CLEANUP_DEFAULT = 1000
CLEANUP_MAX = 10_000


class ReservationServicer:
    """One coroutine each rpc; the proto documents them."""

    def __init__(self, settings: Settings, turns: Turns, pages: Pages) -> None:
        self._turns = turns
        self._pages = pages
        self._changes = Changes(settings)
        self._cleanup_limit = RateLimit(settings.cleanup_rate_per_second)
        self._cancelled = Sample(settings.log_calls_per_second)

    async def Reserve(self, request: pb.ReserveRequest, call: Call) -> pb.ReserveResponse:
        """Takes units for a while."""
        change = self._changes.reserve(request, call, validation.check)
        [answer] = await call.cell.engine.reserve([change], call.deadline)
        done = unwrap(answer)
        response = pb.ReserveResponse(replayed=done.replayed)
        convert.set_reservation(response.reservation, done.value)
        return response

    async def BatchReserve(self, request: pb.BatchReserveRequest, call: Call) -> pb.BatchReserveResponse:
        """Makes many reservations, each by itself."""
        validation.check_count(request, "requests")
        ids = iter(call.cell.engine.new_id.many(len(request.requests)))

        def make(entry: pb.ReserveRequest, call: Call, check: Check) -> change_requests.Reserve:
            return self._changes.reserve(entry, call, check, next(ids))

        return await self._batch(
            request, request.requests, call, make, call.cell.engine.reserve, pb.BatchReserveResponse()
        )

    async def Modify(self, request: pb.ModifyRequest, call: Call) -> pb.ModifyResponse:
        """Changes a hold in place."""
        change = self._changes.modify(request, call, validation.check)
        return _changed(await call.cell.engine.modify([change], call.deadline), pb.ModifyResponse())

    async def BatchModify(self, request: pb.BatchModifyRequest, call: Call) -> pb.BatchModifyResponse:
        """Changes many holds, each by itself."""
        return await self._batch(
            request, request.requests, call, self._changes.modify, call.cell.engine.modify, pb.BatchModifyResponse()
        )

    async def Confirm(self, request: pb.ConfirmRequest, call: Call) -> pb.ConfirmResponse:
        """Sells what is held."""
        change = self._changes.confirm(request, call, validation.check)
        answers = await call.cell.engine.confirm([change], call.deadline)
        response = _changed(answers, pb.ConfirmResponse())
        response.rescued = unwrap(answers[0]).value.rescued
        return response

    async def BatchConfirm(self, request: pb.BatchConfirmRequest, call: Call) -> pb.BatchConfirmResponse:
        """Sells what many reservations hold, each by itself."""
        validation.check_count(request, "requests")
        engine = call.cell.engine
        order_ids = iter(engine.new_id.many(len(request.requests)))

        def make(entry: pb.ConfirmRequest, call: Call, check: Check) -> change_requests.Confirm:
            return self._changes.confirm(entry, call, check, next(order_ids))

        return await self._batch(request, request.requests, call, make, engine.confirm, pb.BatchConfirmResponse())

    async def Cancel(self, request: pb.CancelRequest, call: Call) -> pb.CancelResponse:
        """Gives back what is held."""
        change = self._changes.cancel(request, call, validation.check)
        response = _changed(await call.cell.engine.cancel([change], call.deadline), pb.CancelResponse())
        if not response.replayed and (skipped := self._cancelled.take()) is not None:
            log.info(
                "reservation.cancelled",
                tenant=call.caller.tenant,
                client=call.caller.client,
                request_id=request.request_id,
                reservation_id=response.reservation.reservation_id,
                quantity_released=sum(line.quantity for line in change.lines or response.reservation.lines),
                skipped=skipped,
            )
        return response

    async def BatchCancel(self, request: pb.BatchCancelRequest, call: Call) -> pb.BatchCancelResponse:
        """Gives back what many reservations hold, each by itself."""
        return await self._batch(
            request, request.requests, call, self._changes.cancel, call.cell.engine.cancel, pb.BatchCancelResponse()
        )

    async def Refund(self, request: pb.RefundRequest, call: Call) -> pb.RefundResponse:
        """Takes back what was sold."""
        change = self._changes.refund(request, call, validation.check)
        return _changed(await call.cell.engine.refund([change], call.deadline), pb.RefundResponse())

    async def BatchRefund(self, request: pb.BatchRefundRequest, call: Call) -> pb.BatchRefundResponse:
        """Takes back what many reservations have sold, each by itself."""
        return await self._batch(
            request, request.requests, call, self._changes.refund, call.cell.engine.refund, pb.BatchRefundResponse()
        )

    async def Fulfil(self, request: pb.FulfilRequest, call: Call) -> pb.FulfilResponse:
        """Takes what was sold out of the building."""
        change = self._changes.fulfil(request, call, validation.check)
        return _changed(await call.cell.engine.fulfil([change], call.deadline), pb.FulfilResponse())

    async def BatchFulfil(self, request: pb.BatchFulfilRequest, call: Call) -> pb.BatchFulfilResponse:
        """Takes what many reservations have sold out of the building, each by itself."""
        return await self._batch(
            request, request.requests, call, self._changes.fulfil, call.cell.engine.fulfil, pb.BatchFulfilResponse()
        )

    async def Extend(self, request: pb.ExtendRequest, call: Call) -> pb.ExtendResponse:
        """Gives a hold more time."""
        change = self._changes.extend(request, call, validation.check)
        return _changed(await call.cell.engine.extend([change], call.deadline), pb.ExtendResponse())

    async def BatchExtend(self, request: pb.BatchExtendRequest, call: Call) -> pb.BatchExtendResponse:
        """Gives many holds more time, each by itself."""
        return await self._batch(
            request, request.requests, call, self._changes.extend, call.cell.engine.extend, pb.BatchExtendResponse()
        )

    async def _batch(
        self,
        request: Message,
        entries: Sequence[E],
        call: Call,
        make: Callable[[E, Call, Check], C],
        submit: Callable[[Sequence[C], float], Awaitable[list[Answer[Reservation]]]],
        response: B,
    ) -> B:
        validation.check_count(request, "requests")
        return await batches.answer(
            request, entries, call, self._turns, response, make=make, submit=submit, put=_put_result
        )

    async def GetReservation(self, request: pb.GetReservationRequest, call: Call) -> pb.GetReservationResponse:
        """Reads one reservation."""
        validation.check(request)
        if request.WhichOneof("target") == "reference":
            reservation_id = await self._by_reference(request.reference, call)
        else:
            reservation_id = request.reservation_id
        found = await self._find(reservation_id, call)
        if found is None:
            raise HoldError(errors.reservation_not_found(request.reservation_id or None, request.reference or None))
        response = pb.GetReservationResponse()
        convert.set_reservation(response.reservation, found)
        return response

    async def _by_reference(self, reference: str, call: Call) -> str:
        ids = await call.cell.engine.read(
            call.caller.tenant,
            lambda connection: reservations.find_reference(connection, call.caller, reference),
            call.deadline,
        )
        if len(ids) > 1:
            raise HoldError(errors.reference_ambiguous(reference))
        if not ids:
            raise HoldError(errors.reservation_not_found(None, reference))
        return ids[0]

    async def _find(self, reservation_id: str, call: Call) -> model.Reservation | None:
        """The reservation, where the caller may see it."""
        caller = call.caller
        [found] = await call.cell.engine.read(
            caller.tenant,
            lambda connection: reservations.get(connection, caller.tenant, [reservation_id]),
            call.deadline,
        )
        return found if found is not None and caller.sees(found) else None

    async def _saw_removed(self, reservation_id: str, call: Call) -> bool:
        """Whether retention has removed the reservation, and the caller might see it until then."""
        caller = call.caller
        owner = await call.cell.engine.read(
            caller.tenant,
            lambda connection: events.owner_of_removed(connection, caller.tenant, reservation_id),
            call.deadline,
        )
        return owner is not None and caller.sees_of(*owner)

    async def ListReservations(self, request: pb.ListReservationsRequest, call: Call) -> pb.ListReservationsResponse:
        """Lists reservations, newest first."""
        caller = call.caller
        page = await self._pages.begin(request, call)
        response = pb.ListReservationsResponse()
        client = request.client or None
        if not caller.reads_all:
            if client not in (None, caller.client):
                return response
            client = caller.client
        wanted = reservation_lists.Filter(
            client=client,
            states=list(request.states) or None,
            sku=request.sku or None,
            pool=request.pool if request.HasField("pool") else None,
            holder=request.holder or None,
            reference=request.reference or None,
            order_id=request.order_id or None,
            pools=sorted(caller.pools) or None,
        )

        def read(connection: Connection, after: Position | None, limit: int) -> Awaitable[model.Part[Reservation]]:
            return reservation_lists.list_page(connection, caller.tenant, wanted, after[0] if after else None, limit)

        def make(found: Reservation) -> reservation_pb2.Reservation | None:
            # It may have changed between the search and the reading of its row.
            if request.states and int(found.state) not in request.states:
                return None
            convert.set_reservation(message := reservation_pb2.Reservation(), found)
            return message

        response.next_page_token = await page.fill(
            response.reservations.append, read, make, lambda found: [found.reservation_id]
        )
        log.info("reservation.listed", tenant=caller.tenant, client=caller.client, count=len(response.reservations))
        if request.include_total:
            response.total_count = await call.cell.engine.read(
                caller.tenant,
                lambda connection: reservation_lists.count(connection, caller.tenant, wanted),
                call.deadline,
            )
        return response

    async def ListReservationEvents(
        self, request: pb.ListReservationEventsRequest, call: Call
    ) -> pb.ListReservationEventsResponse:
        """Lists what happened to a reservation."""
        tenant = call.caller.tenant
        page = await self._pages.begin(request, call)
        subject = await self._find(request.reservation_id, call)
        if subject is None and not await self._saw_removed(request.reservation_id, call):
            raise HoldError(errors.reservation_not_found(request.reservation_id, None))
        response = pb.ListReservationEventsResponse()

        def read(connection: Connection, after: Position | None, limit: int) -> Awaitable[model.Part[Event]]:
            last = int(after[0]) if after else 0
            return whole(events.list_of_reservation(connection, tenant, request.reservation_id, subject, last, limit))

        response.next_page_token = await page.fill(
            response.events.append, read, convert.event, lambda found: [str(found.event_id)]
        )
        return response

    async def Cleanup(self, request: pb.CleanupRequest, call: Call) -> pb.CleanupResponse:
        """Releases lapsed holds now."""
        validation.check(request)
        tenant = call.caller.tenant
        self._cleanup_limit.take(tenant, "Cleanup calls per second of a tenant")
        max_count = min(request.max_count or CLEANUP_DEFAULT, CLEANUP_MAX)
        released = await call.cell.engine.cleanup(tenant, max_count, call.deadline)
        return pb.CleanupResponse(
            expired_count=released.expired_count, released_quantity=released.released_quantity, more=released.more
        )


def _changed(answers: list[Answer[Reservation]], response: Changed) -> Changed:
    """Fills the response to a change of one reservation; raises its refusal."""
    [answer] = answers
    done = unwrap(answer)
    convert.set_reservation(response.reservation, done.value)
    response.replayed = done.replayed
    return response


def _put_result(result: pb.BatchReserveResult | pb.ChangeResult, done: Done[Reservation]) -> None:
    convert.set_reservation(result.reservation, done.value)
    if done.replayed:
        result.replayed = True
    if isinstance(result, pb.ChangeResult) and done.value.rescued:
        result.rescued = True
