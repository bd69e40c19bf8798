"""ReservationService: checks requests, hands them to the engine, makes answers."""

from collections.abc import Awaitable, Generator, Mapping, Sequence
from typing import TypeVar

import structlog
from google.rpc import status_pb2

from holdsvc import errors, model
from holdsvc.api import batches, convert, validation
from holdsvc.api.calls import Call
from holdsvc.api.content import check_pools, fingerprint, merged_lines, units
from holdsvc.api.pages import Pages, Position
from holdsvc.api.statuses import status
from holdsvc.api.turns import Turns
from holdsvc.engine.engine import Engine
from holdsvc.engine.limits import RateLimit
from holdsvc.errors import HoldError, unwrap
from holdsvc.ledger import events, reservation_lists, reservations
from holdsvc.ledger.database import Connection
from holdsvc.model import Answer, Event, Refused, Reservation, ReservationLine, Violation
from holdsvc.settings import Settings
from inventoryhold.v1 import event_pb2, reservation_pb2
from inventoryhold.v1 import reservation_service_pb2 as pb

log = structlog.get_logger(__name__)

TargetedRequest = pb.ConfirmRequest | pb.CancelRequest | pb.RefundRequest | pb.ExtendRequest

Changed = TypeVar("Changed", pb.ConfirmResponse, pb.CancelResponse, pb.RefundResponse, pb.ExtendResponse)

CLEANUP_DEFAULT = 1000
CLEANUP_MAX = 10_000


class ReservationServicer:
    """One coroutine each rpc; the proto documents them."""

    def __init__(self, settings: Settings, engine: Engine, turns: Turns, pages: Pages) -> None:
        self._engine = engine
        self._turns = turns
        self._pages = pages
        self._ttl = validation.TtlRule(settings)
        self._cleanup_limit = RateLimit(settings.cleanup_rate_per_second)

    async def Reserve(self, request: pb.ReserveRequest, call: Call) -> pb.ReserveResponse:
        """Takes units for a while."""
        ttl_us, violation = self._ttl.read(request)
        validation.check(request, violation, _duplicate_window_rule(request))
        change = _reserve(request, call, ttl_us, self._engine.new_id())
        [answer] = await self._engine.reserve([change], call.deadline)
        done = unwrap(answer)
        response = pb.ReserveResponse(replayed=done.replayed)
        convert.set_reservation(response.reservation, done.value)
        return response

    async def BatchReserve(self, request: pb.BatchReserveRequest, call: Call) -> pb.BatchReserveResponse:
        """Makes many reservations, each by itself."""
        validation.check_count(request, "requests")
        refused: dict[int, status_pb2.Status] = {}
        changes = await self._turns.run(self._judge(request, call, refused))
        done = await self._reserve_all(changes, call)
        return await self._turns.run(_batch_response(len(request.requests), refused, done))

    def _judge(
        self, request: pb.BatchReserveRequest, call: Call, refused: dict[int, status_pb2.Status]
    ) -> Generator[None, None, list[model.Reserve]]:
        """Makes the changes of the valid entries; puts the errors of the others into `refused`, by index."""
        changes = []
        ids = self._engine.new_id.many(len(request.requests))
        # One walk through a small batch costs less than one through each of its entries.
        known_valid = not call.large and validation.is_valid(request)
        rules = validation.BatchRules(known_valid=known_valid)
        for index, (entry, id_) in enumerate(zip(request.requests, ids, strict=True)):
            yield
            try:
                if index in call.bad_entries:
                    raise HoldError(errors.invalid_fields(call.bad_entries[index]))
                ttl_us, violation = self._ttl.read(entry)
                rules.check(entry, violation, _duplicate_window_rule(entry))
                changes.append(_reserve(entry, call, ttl_us, id_))
            except HoldError as error:
                refused[index] = status(error.refused)
        return changes

    async def _reserve_all(self, changes: Sequence[model.Reserve], call: Call) -> list[Answer[Reservation]]:
        """What came of each change. An error that stops the engine is that of the changes that were still to come."""
        if not changes:
            return []
        results: list[Answer[Reservation]] = []
        for part in batches.parts(changes):
            try:
                results += await self._engine.reserve(part, call.deadline)
            except HoldError as error:
                if not results:
                    raise
                results += [error.refused] * (len(changes) - len(results))
                break
        return results

    async def Confirm(self, request: pb.ConfirmRequest, call: Call) -> pb.ConfirmResponse:
        """Sells what is held."""
        validation.check(request)
        change = model.Confirm(
            *_target(request, call),
            order_id=request.order_id or self._engine.new_id(),
            minted=not request.order_id,
            customer_name=request.customer.name,
            customer_email=request.customer.email,
            lines=merged_lines(request.lines),
        )
        return _changed(await self._engine.confirm([change], call.deadline), pb.ConfirmResponse())

    async def Cancel(self, request: pb.CancelRequest, call: Call) -> pb.CancelResponse:
        """Gives back what is held."""
        validation.check(request)
        change = model.Cancel(*_target(request, call), reason=request.reason)
        response = _changed(await self._engine.cancel([change], call.deadline), pb.CancelResponse())
        if not response.replayed:
            log.info(
                "reservation.cancelled",
                tenant=call.caller.tenant,
                client=call.caller.client,
                request_id=request.request_id,
                reservation_id=response.reservation.reservation_id,
                quantity_released=sum(line.quantity for line in response.reservation.lines),
            )
        return response

    async def Refund(self, request: pb.RefundRequest, call: Call) -> pb.RefundResponse:
        """Takes back what was sold."""
        validation.check(request)
        change = model.Refund(
            *_target(request, call),
            lines=merged_lines(request.lines),
            write_off=request.write_off,
            reason=request.reason,
        )
        return _changed(await self._engine.refund([change], call.deadline), pb.RefundResponse())

    async def Extend(self, request: pb.ExtendRequest, call: Call) -> pb.ExtendResponse:
        """Gives a hold more time."""
        ttl_us, violation = self._ttl.read(request)
        validation.check(request, violation)
        change = model.Extend(*_target(request, call), ttl_us=ttl_us)
        return _changed(await self._engine.extend([change], call.deadline), pb.ExtendResponse())

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
        ids = await self._engine.read(
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
        [found] = await self._engine.read(
            caller.tenant,
            lambda connection: reservations.get(connection, caller.tenant, [reservation_id]),
            call.deadline,
        )
        return found if found is not None and caller.sees(found) else None

    async def ListReservations(self, request: pb.ListReservationsRequest, call: Call) -> pb.ListReservationsResponse:
        """Lists reservations, newest first."""
        caller = call.caller
        start, violation = await self._pages.position(request, call)
        validation.check(request, violation)
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

        def read(connection: Connection, after: Position | None, limit: int) -> Awaitable[list[Reservation]]:
            return reservation_lists.list_page(connection, caller.tenant, wanted, after[0] if after else None, limit)

        def add(found: Reservation) -> pb.ListReservationsResponse | reservation_pb2.Reservation:
            # It may have changed between the search and the reading of its row.
            if request.states and int(found.state) not in request.states:
                return pb.ListReservationsResponse()
            convert.set_reservation(message := response.reservations.add(), found)
            return message

        response.next_page_token = await self._pages.fill(
            request, call, start, read, add, lambda found: [found.reservation_id]
        )
        log.info("reservation.listed", tenant=caller.tenant, client=caller.client, count=len(response.reservations))
        if request.include_total:
            response.total_count = await self._engine.read(
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
        start, violation = await self._pages.position(request, call)
        validation.check(request, violation)
        subject = await self._find(request.reservation_id, call)
        if subject is None:
            raise HoldError(errors.reservation_not_found(request.reservation_id, None))
        response = pb.ListReservationEventsResponse()

        def read(connection: Connection, after: Position | None, limit: int) -> Awaitable[list[Event]]:
            return events.list_of_reservation(connection, tenant, subject, int(after[0]) if after else 0, limit)

        def add(found: Event) -> event_pb2.Event:
            response.events.append(convert.event(found))
            return response.events[-1]

        response.next_page_token = await self._pages.fill(
            request, call, start, read, add, lambda found: [str(found.event_id)]
        )
        return response

    async def Cleanup(self, request: pb.CleanupRequest, call: Call) -> pb.CleanupResponse:
        """Releases lapsed holds now."""
        validation.check(request)
        tenant = call.caller.tenant
        self._cleanup_limit.take(tenant, "Cleanup calls per second of a tenant")
        max_count = min(request.max_count or CLEANUP_DEFAULT, CLEANUP_MAX)
        released = await self._engine.cleanup(tenant, max_count, call.deadline)
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


def _batch_response(
    size: int, refused: Mapping[int, status_pb2.Status], done: Sequence[Answer[Reservation]]
) -> Generator[None, None, pb.BatchReserveResponse]:
    """The answer to a batch: the refused entries by index, what came of the others in their order."""
    response = pb.BatchReserveResponse()
    others = iter(done)
    for index in range(size):
        added = response.results.add()
        if index in refused:
            added.error.CopyFrom(refused[index])
        elif isinstance(answer := next(others), Refused):
            added.error.CopyFrom(status(answer))
        else:
            convert.set_reservation(added.reservation, answer.value)
            if answer.replayed:
                added.replayed = True
        yield
    yield from batches.abridge(response)
    return response


def _reserve(request: pb.ReserveRequest, call: Call, ttl_us: int, reservation_id: str) -> model.Reserve:
    wanted = units(request.lines)
    check_pools(call.caller, wanted)
    metadata = request.metadata
    return model.Reserve(
        caller=call.caller,
        request_id=request.request_id,
        fingerprint=fingerprint(request),
        reservation_id=reservation_id,
        lines=[ReservationLine(sku, pool, quantity) for (sku, pool), quantity in wanted.items()],
        holder=request.holder,
        reference=request.reference,
        ttl_us=ttl_us,
        # Most have none; the copy of an empty map costs as much as the rest of this.
        metadata=dict(metadata) if metadata else {},
        duplicate_window_us=(
            validation.microseconds_of(request.duplicate_window) if request.HasField("duplicate_window") else None
        ),
    )


def _duplicate_window_rule(request: pb.ReserveRequest) -> Violation | None:
    if request.HasField("duplicate_window") and not request.holder:
        return Violation(
            "duplicate_window", "needs holder: it looks for other reservations of the same holder", "NEEDS_HOLDER"
        )
    return None


def _target(request: TargetedRequest, call: Call) -> tuple[model.Caller, str, bytes, str | None, str | None]:
    """The first fields of every change of a reservation."""
    by_reference = request.WhichOneof("target") == "reference"
    return (
        call.caller,
        request.request_id,
        fingerprint(request),
        None if by_reference else request.reservation_id,
        request.reference if by_reference else None,
    )
