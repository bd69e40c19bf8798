"""The client for asyncio, and the source of the blocking one, which scripts/generate_client.py makes of it.

An `AsyncClient` belongs to the event loop of its first call, and moves to another one when that loop has stopped.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Self, Unpack

from holdsvc.client import errors, messages
from holdsvc.client.async_calls import AsyncCalls
from holdsvc.client.background import AsyncBackground, AsyncSleep
from holdsvc.client.connection import TIMEOUT_S, AsyncConnections, Tls
from holdsvc.client.messages import ConfirmFields, JoinFields, Lines, ModifyFields, ReserveFields, Time
from holdsvc.client.retries import RETRYABLE, RetryBudget, RetryPolicy, shipped_policy
from holdsvc.client.stubs import (
    AsyncAdminStub,
    AsyncEventStub,
    AsyncInventoryStub,
    AsyncLimitStub,
    AsyncReservationStub,
    AsyncWaitlistStub,
)
from inventoryhold.v1 import (
    event_service_pb2,
    inventory_service_pb2,
    reservation_pb2,
    waitlist_pb2,
    waitlist_service_pb2,
)
from inventoryhold.v1 import reservation_service_pb2 as pb

log = logging.getLogger(__name__)

CLEANUP_TIMEOUT_S = 5.0
"""The longest that cancelling a hold behind a failed caller takes, and that `close` waits for it."""

_RESERVE = "/inventoryhold.v1.ReservationService/Reserve"


class AsyncClient:
    """Calls holdsvc. Close it, or use it as a context manager.

    `reservations`, `inventory`, `waitlist`, `events` and `admin` are the generated
    stubs: every rpc with its messages. Calls that are made at the same time travel together as a batch, unless
    `coalesce` is False. A change gets a request_id unless the request has one, so it is retried safely
    within its deadline. Failures are raised as `CallError`, one class for each reason.

    `target` is an address, or several: then the calls of an item go to one of them, and to the next where that is down.
    """

    def __init__(
        self,
        target: str | Sequence[str] = "127.0.0.1:50051",
        *,
        api_key: str | None = None,
        tls: Tls | None = None,
        timeout_s: float = TIMEOUT_S,
        retry_policy: RetryPolicy | None = None,
        options: Mapping[str, Any] | None = None,
        channel: Any = None,
        coalesce: bool = True,
        sleep: AsyncSleep = asyncio.sleep,
    ) -> None:
        policy = retry_policy or shipped_policy()
        self._budget = RetryBudget(policy.budget_tokens_max, policy.budget_token_ratio)
        self._background = AsyncBackground()
        targets = (target,) if isinstance(target, str) else tuple(target)
        self._connections = AsyncConnections(targets, tls, options, channel, self._reset)
        self._sleep = sleep
        self._calls = AsyncCalls(
            self._connections,
            api_key,
            policy,
            self._budget,
            timeout_s=timeout_s,
            sleep=sleep,
            coalesce=coalesce,
            on_lost=self._lost,
        )
        calls: Any = self._calls
        self.reservations: AsyncReservationStub = AsyncReservationStub(calls)
        self.inventory: AsyncInventoryStub = AsyncInventoryStub(calls)
        self.limits: AsyncLimitStub = AsyncLimitStub(calls)
        self.waitlist: AsyncWaitlistStub = AsyncWaitlistStub(calls)
        self.events: AsyncEventStub = AsyncEventStub(calls)
        self.admin: AsyncAdminStub = AsyncAdminStub(calls)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends the connection and the calls on it, after the cancels behind failed callers, for at most 5 s."""
        await self._background.join(CLEANUP_TIMEOUT_S)
        await self._connections.close()

    def _reset(self) -> None:
        """Forgets what belonged to an event loop that has ended, or to the parent of a forked process."""
        self._background.reset()
        self._calls.reset()
        self._budget.renew()

    def _lost(self, path: str, request: Any) -> None:
        """Cancels behind a Reserve whose caller has left without an answer and has no request_id to ask with."""
        if path == _RESERVE and not self._connections.closed:
            self._background.spawn(lambda: self._give_back(request))

    async def _give_back(self, request: pb.ReserveRequest) -> None:
        """Cancels what a Reserve took whose answer has no reader: its request_id tells which reservation that is."""
        try:
            answer = await self.reservations.Reserve(request, timeout=CLEANUP_TIMEOUT_S)
            held = answer.reservation.reservation_id
            await self.cancel(held, reason=messages.ABANDONED, timeout=CLEANUP_TIMEOUT_S)
        except Exception as error:  # noqa: BLE001 - there is no caller left to raise it to
            log.info("the units of request %s were not given back, if it took any: %s", request.request_id, error)

    async def reserve(self, lines: Lines, **fields: Unpack[ReserveFields]) -> reservation_pb2.Reservation:
        """Takes units for a while: all lines or none. Raises CapacityExceeded, ItemNotFound, DuplicateReservation.

        A call that is cancelled, or passes its deadline, is cancelled behind it, unless `request_id` is given: then
        send it again, with the same one, to learn what it did.
        """
        return (await self.reservations.Reserve(messages.reserve(lines, **fields))).reservation

    async def confirm(self, reservation_id: str, **fields: Unpack[ConfirmFields]) -> reservation_pb2.Reservation:
        """Sells what is held, or `lines` of it. Raises ReservationExpired, OrderIdInUse and others.

        With `rescue` also a hold that expired a while ago, where its units are free. Empty `lines` are refused.
        """
        return (await self.reservations.Confirm(messages.confirm(reservation_id, **fields))).reservation

    async def modify(self, reservation_id: str, **fields: Unpack[ModifyFields]) -> reservation_pb2.Reservation:
        """Changes a hold in place: `lines` are the quantities to have, 0 drops an item; what is None stays."""
        return (await self.reservations.Modify(messages.modify(reservation_id, **fields))).reservation

    async def cancel(
        self,
        reservation_id: str,
        *,
        lines: Lines | None = None,
        reason: str = "",
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> reservation_pb2.Reservation:
        """Gives back what is held, or `lines` of it. Empty `lines` are refused."""
        part = messages.part_of(lines, "cancel")
        request = pb.CancelRequest(reservation_id=reservation_id, lines=part, reason=reason)
        return (await self.reservations.Cancel(request, timeout=timeout)).reservation

    async def extend(self, reservation_id: str, ttl: Time | None = None) -> reservation_pb2.Reservation:
        """Gives a hold more time; the answer's expire_time tells how much."""
        request = pb.ExtendRequest(reservation_id=reservation_id, ttl=messages.duration_of(ttl))
        return (await self.reservations.Extend(request)).reservation

    async def fulfil(
        self, reservation_id: str, *, lines: Lines | None = None, reason: str = ""
    ) -> reservation_pb2.Reservation:
        """Takes what was sold, or `lines` of it, out of the building. Empty `lines` are refused."""
        part = messages.part_of(lines, "fulfil")
        request = pb.FulfilRequest(reservation_id=reservation_id, lines=part, reason=reason)
        return (await self.reservations.Fulfil(request)).reservation

    async def refund(
        self, reservation_id: str, *, lines: Lines | None = None, write_off: bool = False, reason: str = ""
    ) -> reservation_pb2.Reservation:
        """Takes back what was sold, or `lines` of it. Empty `lines` are refused."""
        part = messages.part_of(lines, "refund")
        request = pb.RefundRequest(reservation_id=reservation_id, lines=part, write_off=write_off, reason=reason)
        return (await self.reservations.Refund(request)).reservation

    async def join_waitlist(
        self, lines: Lines, holder: str, **fields: Unpack[JoinFields]
    ) -> waitlist_pb2.WaitlistEntry:
        """Waits for units; the entry is OFFERED at once where they are free. Raises WaitlistClosed, AlreadyWaiting."""
        return (await self.waitlist.JoinWaitlist(messages.join_waitlist(lines, holder, **fields))).entry

    async def leave_waitlist(self, entry_id: str, reason: str = "") -> waitlist_pb2.WaitlistEntry:
        """Leaves a waitlist; an offer is cancelled."""
        request = waitlist_service_pb2.LeaveWaitlistRequest(entry_id=entry_id, reason=reason)
        return (await self.waitlist.LeaveWaitlist(request)).entry

    async def waitlist_entry(self, entry_id: str) -> waitlist_pb2.WaitlistEntry:
        """Reads a waitlist entry with its position."""
        request = waitlist_service_pb2.GetWaitlistEntryRequest(entry_id=entry_id)
        return (await self.waitlist.GetWaitlistEntry(request)).entry

    @asynccontextmanager
    async def hold(self, lines: Lines, **fields: Unpack[ReserveFields]) -> AsyncIterator["AsyncHold"]:
        """Reserves, with the arguments of `reserve`, for the time of an `async with` block.

        An exception that leaves the block cancels the hold, unless it was confirmed, and so does one that comes before
        the block begins. A block that ends without an exception and without `confirm` leaves the hold until it expires:
        the order may be finished elsewhere.
        """
        request = messages.reserve(lines, **fields)
        try:
            answer = await self.reservations.Reserve(request)
        except BaseException as error:
            if request.request_id and errors.leaves_outcome_open(error):
                self._lost(_RESERVE, request)
            raise
        hold = AsyncHold(self, answer.reservation)
        try:
            yield hold
        except BaseException:
            await self._background.finish(hold.abandon)
            raise

    async def stream_events(
        self, request: event_service_pb2.StreamEventsRequest
    ) -> AsyncIterator[event_service_pb2.StreamEventsResponse]:
        """Streams events without end: a broken stream is opened again at the last resume token."""
        here = messages.copy_of(request)
        async for message in self._reopening(lambda: self.events.StreamEvents(here)):
            messages.advance(here, message)
            yield message

    async def watch_inventory(
        self, request: inventory_service_pb2.WatchInventoryRequest
    ) -> AsyncIterator[inventory_service_pb2.WatchInventoryResponse]:
        """Watches items without end: a broken stream is opened again and starts with a new snapshot."""
        async for message in self._reopening(lambda: self.inventory.WatchInventory(request)):
            yield message

    async def _reopening(self, open_stream: Callable[[], Any]) -> AsyncIterator[Any]:
        failures = 0
        while True:
            try:
                async for message in open_stream():
                    failures = 0
                    yield message
            except errors.CallError as error:
                if error.code not in RETRYABLE or self._connections.closed:
                    raise
                failures += 1
                await self._sleep(messages.reopen_pause_s(failures))


class AsyncHold:
    """A reservation inside its `async with` block."""

    def __init__(self, client: AsyncClient, reservation: reservation_pb2.Reservation) -> None:
        self._client = client
        self.reservation = reservation
        """As the last answer showed it."""

    @property
    def reservation_id(self) -> str:
        """Its id."""
        return self.reservation.reservation_id

    async def confirm(self, **fields: Unpack[ConfirmFields]) -> reservation_pb2.Reservation:
        """Sells it, with the arguments of `AsyncClient.confirm`."""
        self.reservation = await self._client.confirm(self.reservation_id, **fields)
        return self.reservation

    async def modify(self, **fields: Unpack[ModifyFields]) -> reservation_pb2.Reservation:
        """Changes it in place."""
        self.reservation = await self._client.modify(self.reservation_id, **fields)
        return self.reservation

    async def extend(self, ttl: Time | None = None) -> reservation_pb2.Reservation:
        """Gives it more time."""
        self.reservation = await self._client.extend(self.reservation_id, ttl)
        return self.reservation

    async def cancel(self, reason: str = "") -> reservation_pb2.Reservation:
        """Gives it back."""
        self.reservation = await self._client.cancel(self.reservation_id, reason=reason)
        return self.reservation

    async def abandon(self) -> None:
        """Cancels it if it is still held. Never raises an error: the block's own goes on, and the hold expires."""
        if self.reservation.state != reservation_pb2.Reservation.STATE_HELD:
            return
        try:
            await self._client.cancel(self.reservation_id, reason=messages.ABANDONED, timeout=CLEANUP_TIMEOUT_S)
        except Exception as error:  # noqa: BLE001 - whatever it is, it must not hide the block's own error
            # A confirm whose answer was lost may have sold it: then the service refuses, rightly.
            log.info("hold %s was not cancelled: %s", self.reservation_id, error)
