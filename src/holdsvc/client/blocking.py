"""The blocking client. `aio` is the same for asyncio: what they share is in the other modules."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from types import TracebackType
from typing import Any, Self

import grpc
from tenacity import Retrying

from holdsvc.client import errors, messages
from holdsvc.client.connection import TIMEOUT_S, Tls, call_metadata, channel_options, with_request_id
from holdsvc.client.messages import Lines
from holdsvc.client.retries import Attempts, RetryBudget, RetryPolicy, shipped_policy
from inventoryhold.v1 import event_service_pb2, inventory_service_pb2, reservation_pb2
from inventoryhold.v1 import reservation_service_pb2 as pb
from inventoryhold.v1.admin_service_pb2_grpc import AdminServiceStub
from inventoryhold.v1.event_service_pb2_grpc import EventServiceStub
from inventoryhold.v1.inventory_service_pb2_grpc import InventoryServiceStub
from inventoryhold.v1.reservation_service_pb2_grpc import ReservationServiceStub

log = logging.getLogger(__name__)

CANCEL_TIMEOUT_S = 5.0
"""The longest that leaving a `hold` with an exception waits for its Cancel."""


class _Calls:
    """Stands in for a channel in the generated stubs: what they call is retried, and fails with a `CallError`."""

    def __init__(
        self,
        channel: grpc.Channel,
        api_key: str | None,
        policy: RetryPolicy,
        timeout_s: float,
        sleep: Callable[[float], None],
    ) -> None:
        self._channel = channel
        self._api_key = api_key
        self._policy = policy
        self._budget = RetryBudget(policy.budget_tokens_max, policy.budget_token_ratio)
        self._timeout_s = timeout_s
        self._sleep = sleep

    def unary_unary(self, method: str, **stub: Any) -> Callable[..., Any]:
        send = self._channel.unary_unary(method, **stub)

        def call(request: Any, timeout: float | None = None, metadata: Any = None, **more: Any) -> Any:
            request = with_request_id(request)
            attempts = Attempts(self._policy, self._budget, method, timeout if timeout is not None else self._timeout_s)

            def attempt() -> Any:
                try:
                    return send(
                        request,
                        timeout=attempts.remaining_s,
                        metadata=call_metadata(self._api_key, metadata),
                        **more,
                    )
                except grpc.RpcError as error:
                    raise errors.from_rpc(error) from error

            return Retrying(sleep=self._sleep, **attempts.retrying())(attempt)

        return call

    def unary_stream(self, method: str, **stub: Any) -> Callable[..., Any]:
        send = self._channel.unary_stream(method, **stub)

        def call(request: Any, timeout: float | None = None, metadata: Any = None, **more: Any) -> Iterator[Any]:
            stream = send(request, timeout=timeout, metadata=call_metadata(self._api_key, metadata), **more)
            try:
                yield from stream
            except grpc.RpcError as error:
                raise errors.from_rpc(error) from error
            finally:
                stream.cancel()

        return call


class Client:
    """Calls holdsvc. Safe in any number of threads; close it, or use it in a `with`.

    `reservations`, `inventory`, `events` and `admin` are the generated stubs: every rpc with its messages. A change
    gets a request_id of its own unless the request has one, so each is retried safely within its deadline. Failures
    are raised as `CallError`, a class each reason.
    """

    def __init__(
        self,
        target: str = "127.0.0.1:50051",
        *,
        api_key: str | None = None,
        tls: Tls | None = None,
        timeout_s: float = TIMEOUT_S,
        retry_policy: RetryPolicy | None = None,
        options: Mapping[str, Any] | None = None,
        channel: grpc.Channel | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        if channel is None:
            settings = channel_options(options)
            channel = (
                grpc.secure_channel(target, tls.credentials(), settings)
                if tls
                else grpc.insecure_channel(target, settings)
            )
        self._channel = channel
        calls: Any = _Calls(channel, api_key, retry_policy or shipped_policy(), timeout_s, sleep)
        self.reservations: ReservationServiceStub = ReservationServiceStub(calls)
        self.inventory: InventoryServiceStub = InventoryServiceStub(calls)
        self.events: EventServiceStub = EventServiceStub(calls)
        self.admin: AdminServiceStub = AdminServiceStub(calls)
        self._sleep = sleep

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connection and what is still under way on it."""
        self._channel.close()

    def reserve(
        self,
        lines: Lines,
        *,
        ttl: timedelta | None = None,
        holder: str = "",
        reference: str = "",
        metadata: Mapping[str, str] | None = None,
        duplicate_window: timedelta | None = None,
        request_id: str = "",
    ) -> reservation_pb2.Reservation:
        """Takes units for a while: all lines or none. Raises CapacityExceeded, ItemNotFound, DuplicateReservation."""
        request = messages.reserve(lines, ttl, holder, reference, metadata, duplicate_window, request_id)
        return self.reservations.Reserve(request).reservation

    def confirm(
        self,
        reservation_id: str,
        *,
        order_id: str = "",
        name: str = "",
        email: str = "",
        lines: Lines | None = None,
        request_id: str = "",
    ) -> reservation_pb2.Reservation:
        """Sells what is held, or `lines` of it. Raises ReservationExpired, OrderIdInUse and others."""
        request = messages.confirm(reservation_id, order_id, name, email, lines, request_id)
        return self.reservations.Confirm(request).reservation

    def cancel(
        self, reservation_id: str, *, reason: str = "", timeout: float | None = None
    ) -> reservation_pb2.Reservation:
        """Gives back what is held."""
        request = pb.CancelRequest(reservation_id=reservation_id, reason=reason)
        return self.reservations.Cancel(request, timeout=timeout).reservation

    def extend(self, reservation_id: str, ttl: timedelta | None = None) -> reservation_pb2.Reservation:
        """Gives a hold more time; the answer's expire_time tells how much."""
        request = pb.ExtendRequest(reservation_id=reservation_id, ttl=messages.duration_of(ttl))
        return self.reservations.Extend(request).reservation

    def refund(
        self, reservation_id: str, *, lines: Lines | None = None, write_off: bool = False, reason: str = ""
    ) -> reservation_pb2.Reservation:
        """Takes back what was sold, or `lines` of it."""
        request = pb.RefundRequest(
            reservation_id=reservation_id, lines=messages.lines_of(lines or ()), write_off=write_off, reason=reason
        )
        return self.reservations.Refund(request).reservation

    @contextmanager
    def hold(self, lines: Lines, **fields: Any) -> Iterator["Hold"]:
        """Reserves, with the arguments of `reserve`, for the time of a `with` block.

        An exception that leaves the block cancels the hold, unless it was confirmed. A block that ends well without
        `confirm` leaves the hold until it expires: the order may be finished elsewhere.
        """
        hold = Hold(self, self.reserve(lines, **fields))
        try:
            yield hold
        except BaseException:
            hold.abandon()
            raise

    def stream_events(
        self, request: event_service_pb2.StreamEventsRequest
    ) -> Iterator[event_service_pb2.StreamEventsResponse]:
        """Streams events for ever: whenever the stream breaks it is opened again where it stood."""
        here = messages.copy_of(request)
        for message in self._reopening(lambda: self.events.StreamEvents(here)):
            messages.advance(here, message)
            yield message

    def watch_inventory(
        self, request: inventory_service_pb2.WatchInventoryRequest
    ) -> Iterator[inventory_service_pb2.WatchInventoryResponse]:
        """Watches items for ever: whenever the stream breaks it is opened again, with a new snapshot first."""
        yield from self._reopening(lambda: self.inventory.WatchInventory(request))

    def _reopening(self, open_stream: Callable[[], Any]) -> Iterator[Any]:
        failures = 0
        while True:
            try:
                for message in open_stream():
                    failures = 0
                    yield message
            except errors.CallError as error:
                if error.code is not grpc.StatusCode.UNAVAILABLE:
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

    def confirm(self, **fields: Any) -> reservation_pb2.Reservation:
        """Sells it, with the arguments of `Client.confirm`."""
        self.reservation = self._client.confirm(self.reservation_id, **fields)
        return self.reservation

    def extend(self, ttl: timedelta | None = None) -> reservation_pb2.Reservation:
        """Gives it more time."""
        self.reservation = self._client.extend(self.reservation_id, ttl)
        return self.reservation

    def cancel(self, reason: str = "") -> reservation_pb2.Reservation:
        """Gives it back."""
        self.reservation = self._client.cancel(self.reservation_id, reason=reason)
        return self.reservation

    def abandon(self) -> None:
        """Cancels it if it is still held; never raises: it would expire by itself."""
        if self.reservation.state != reservation_pb2.Reservation.STATE_HELD:
            return
        try:
            self._client.cancel(self.reservation_id, reason=messages.ABANDONED, timeout=CANCEL_TIMEOUT_S)
        except errors.CallError as error:
            # A confirm whose answer was lost may have sold it: then the service refuses, rightly.
            log.info("hold %s was not cancelled: %s", self.reservation_id, error)
