"""The blocking client, for any number of threads.

Generated from `aio.py` by scripts/generate_client.py: change that and run `make generate`.
"""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self, Unpack

from holdsvc.client import errors, messages
from holdsvc.client.background import Background, Sleep
from holdsvc.client.calls import Calls
from holdsvc.client.connection import TIMEOUT_S, Connections, Tls
from holdsvc.client.messages import ConfirmFields, JoinFields, Lines, ModifyFields, ReserveFields, Time
from holdsvc.client.retries import RETRYABLE, RetryBudget, RetryPolicy, shipped_policy
from holdsvc.client.stubs import (
    AdminStub,
    EventStub,
    InventoryStub,
    LimitStub,
    ReservationStub,
    WaitlistStub,
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


class Client:
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
        sleep: Sleep = time.sleep,
    ) -> None:
        policy = retry_policy or shipped_policy()
        self._budget = RetryBudget(policy.budget_tokens_max, policy.budget_token_ratio)
        self._background = Background()
        targets = (target,) if isinstance(target, str) else tuple(target)
        self._connections = Connections(targets, tls, options, channel, self._reset)
        self._sleep = sleep
        self._calls = Calls(
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
        self.reservations: ReservationStub = ReservationStub(calls)
        self.inventory: InventoryStub = InventoryStub(calls)
        self.limits: LimitStub = LimitStub(calls)
        self.waitlist: WaitlistStub = WaitlistStub(calls)
        self.events: EventStub = EventStub(calls)
        self.admin: AdminStub = AdminStub(calls)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connection and the calls on it, after the cancels behind failed callers, for at most 5 s."""
        self._background.join(CLEANUP_TIMEOUT_S)
        self._connections.close()

    def _reset(self) -> None:
        """Forgets what belonged to an event loop that has ended, or to the parent of a forked process."""
        self._background.reset()
        self._calls.reset()
        self._budget.renew()

    def _lost(self, path: str, request: Any) -> None:
        """Cancels behind a Reserve whose caller has left without an answer and has no request_id to ask with."""
        if path == _RESERVE and not self._connections.closed:
            self._background.spawn(lambda: self._give_back(request))

    def _give_back(self, request: pb.ReserveRequest) -> None:
        """Cancels what a Reserve took whose answer has no reader: its request_id tells which reservation that is."""
        try:
            answer = self.reservations.Reserve(request, timeout=CLEANUP_TIMEOUT_S)
            held = answer.reservation.reservation_id
            self.cancel(held, reason=messages.ABANDONED, timeout=CLEANUP_TIMEOUT_S)
        except Exception as error:  # noqa: BLE001 - there is no caller left to raise it to
            log.info("the units of request %s were not given back, if it took any: %s", request.request_id, error)

    def reserve(self, lines: Lines, **fields: Unpack[ReserveFields]) -> reservation_pb2.Reservation:
        """Takes units for a while: all lines or none. Raises CapacityExceeded, ItemNotFound, DuplicateReservation.

        A call that is cancelled, or passes its deadline, is cancelled behind it, unless `request_id` is given: then
        send it again, with the same one, to learn what it did.
        """
        return (self.reservations.Reserve(messages.reserve(lines, **fields))).reservation

    def confirm(self, reservation_id: str, **fields: Unpack[ConfirmFields]) -> reservation_pb2.Reservation:
        """Sells what is held, or `lines` of it. Raises ReservationExpired, OrderIdInUse and others.

        With `rescue` also a hold that expired a while ago, where its units are free. Empty `lines` are refused.
        """
        return (self.reservations.Confirm(messages.confirm(reservation_id, **fields))).reservation

    def modify(self, reservation_id: str, **fields: Unpack[ModifyFields]) -> reservation_pb2.Reservation:
        """Changes a hold in place: `lines` are the quantities to have, 0 drops an item; what is None stays."""
        return (self.reservations.Modify(messages.modify(reservation_id, **fields))).reservation

    def cancel(
        self,
        reservation_id: str,
        *,
        lines: Lines | None = None,
        reason: str = "",
        timeout: float | None = None,
    ) -> reservation_pb2.Reservation:
        """Gives back what is held, or `lines` of it. Empty `lines` are refused."""
        part = messages.part_of(lines, "cancel")
        request = pb.CancelRequest(reservation_id=reservation_id, lines=part, reason=reason)
        return (self.reservations.Cancel(request, timeout=timeout)).reservation

    def extend(self, reservation_id: str, ttl: Time | None = None) -> reservation_pb2.Reservation:
        """Gives a hold more time; the answer's expire_time tells how much."""
        request = pb.ExtendRequest(reservation_id=reservation_id, ttl=messages.duration_of(ttl))
        return (self.reservations.Extend(request)).reservation

    def fulfil(
        self, reservation_id: str, *, lines: Lines | None = None, reason: str = ""
    ) -> reservation_pb2.Reservation:
        """Takes what was sold, or `lines` of it, out of the building. Empty `lines` are refused."""
        part = messages.part_of(lines, "fulfil")
        request = pb.FulfilRequest(reservation_id=reservation_id, lines=part, reason=reason)
        return (self.reservations.Fulfil(request)).reservation

    def refund(
        self, reservation_id: str, *, lines: Lines | None = None, write_off: bool = False, reason: str = ""
    ) -> reservation_pb2.Reservation:
        """Takes back what was sold, or `lines` of it. Empty `lines` are refused."""
        part = messages.part_of(lines, "refund")
        request = pb.RefundRequest(reservation_id=reservation_id, lines=part, write_off=write_off, reason=reason)
        return (self.reservations.Refund(request)).reservation

    def join_waitlist(self, lines: Lines, holder: str, **fields: Unpack[JoinFields]) -> waitlist_pb2.WaitlistEntry:
        """Waits for units; the entry is OFFERED at once where they are free. Raises WaitlistClosed, AlreadyWaiting."""
        return (self.waitlist.JoinWaitlist(messages.join_waitlist(lines, holder, **fields))).entry

    def leave_waitlist(self, entry_id: str, reason: str = "") -> waitlist_pb2.WaitlistEntry:
        """Leaves a waitlist; an offer is cancelled."""
        request = waitlist_service_pb2.LeaveWaitlistRequest(entry_id=entry_id, reason=reason)
        return (self.waitlist.LeaveWaitlist(request)).entry

    def waitlist_entry(self, entry_id: str) -> waitlist_pb2.WaitlistEntry:
        """Reads a waitlist entry with its position."""
        request = waitlist_service_pb2.GetWaitlistEntryRequest(entry_id=entry_id)
        return (self.waitlist.GetWaitlistEntry(request)).entry

    @contextmanager
    def hold(self, lines: Lines, **fields: Unpack[ReserveFields]) -> Iterator["Hold"]:
        """Reserves, with the arguments of `reserve`, for the time of an `with` block.

        An exception that leaves the block cancels the hold, unless it was confirmed, and so does one that comes before
        the block begins. A block that ends without an exception and without `confirm` leaves the hold until it expires:
        the order may be finished elsewhere.
        """
        request = messages.reserve(lines, **fields)
        try:
            answer = self.reservations.Reserve(request)
        except BaseException as error:
            if request.request_id and errors.leaves_outcome_open(error):
                self._lost(_RESERVE, request)
            raise
        hold = Hold(self, answer.reservation)
        try:
            yield hold
        except BaseException:
            self._background.finish(hold.abandon)
            raise

    def stream_events(
        self, request: event_service_pb2.StreamEventsRequest
    ) -> Iterator[event_service_pb2.StreamEventsResponse]:
        """Streams events without end: a broken stream is opened again at the last resume token."""
        here = messages.copy_of(request)
        for message in self._reopening(lambda: self.events.StreamEvents(here)):
            messages.advance(here, message)
            yield message

    def watch_inventory(
        self, request: inventory_service_pb2.WatchInventoryRequest
    ) -> Iterator[inventory_service_pb2.WatchInventoryResponse]:
        """Watches items without end: a broken stream is opened again and starts with a new snapshot."""
        for message in self._reopening(lambda: self.inventory.WatchInventory(request)):
            yield message

    def _reopening(self, open_stream: Callable[[], Any]) -> Iterator[Any]:
        failures = 0
        while True:
            try:
                for message in open_stream():
                    failures = 0
                    yield message
            except errors.CallError as error:
                if error.code not in RETRYABLE or self._connections.closed:
                    raise
                failures += 1
                self._sleep(messages.reopen_pause_s(failures))


class Hold:
    """A reservation inside its `with` block."""

    def __init__(self, client: Client, reservation: reservation_pb2.Reservation) -> None:
        self._client = client
        self.reservation = reservation
        """As the last answer showed it."""

    @property
    def reservation_id(self) -> str:
        """Its id."""
        return self.reservation.reservation_id

    def confirm(self, **fields: Unpack[ConfirmFields]) -> reservation_pb2.Reservation:
        """Sells it, with the arguments of `Client.confirm`."""
        self.reservation = self._client.confirm(self.reservation_id, **fields)
        return self.reservation

    def modify(self, **fields: Unpack[ModifyFields]) -> reservation_pb2.Reservation:
        """Changes it in place."""
        self.reservation = self._client.modify(self.reservation_id, **fields)
        return self.reservation

    def extend(self, ttl: Time | None = None) -> reservation_pb2.Reservation:
        """Gives it more time."""
        self.reservation = self._client.extend(self.reservation_id, ttl)
        return self.reservation

    def cancel(self, reason: str = "") -> reservation_pb2.Reservation:
        """Gives it back."""
        self.reservation = self._client.cancel(self.reservation_id, reason=reason)
        return self.reservation

    def abandon(self) -> None:
        """Cancels it if it is still held. Never raises an error: the block's own goes on, and the hold expires."""
        if self.reservation.state != reservation_pb2.Reservation.STATE_HELD:
            return
        try:
            self._client.cancel(self.reservation_id, reason=messages.ABANDONED, timeout=CLEANUP_TIMEOUT_S)
        except Exception as error:  # noqa: BLE001 - whatever it is, it must not hide the block's own error
            # A confirm whose answer was lost may have sold it: then the service refuses, rightly.
            log.info("hold %s was not cancelled: %s", self.reservation_id, error)
