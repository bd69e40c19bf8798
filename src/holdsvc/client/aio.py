"""The client for asyncio. `blocking` is the same without it, and says more about each method."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import grpc
import grpc.aio
from tenacity import AsyncRetrying

from holdsvc.client import errors, messages
from holdsvc.client.blocking import CANCEL_TIMEOUT_S
from holdsvc.client.connection import TIMEOUT_S, Tls, call_metadata, channel_options, with_request_id
from holdsvc.client.messages import Lines
from holdsvc.client.retries import Attempts, RetryBudget, RetryPolicy, shipped_policy
from inventoryhold.v1 import event_service_pb2, inventory_service_pb2, reservation_pb2
from inventoryhold.v1 import reservation_service_pb2 as pb
from inventoryhold.v1.admin_service_pb2_grpc import AdminServiceStub
from inventoryhold.v1.event_service_pb2_grpc import EventServiceStub
from inventoryhold.v1.inventory_service_pb2_grpc import InventoryServiceStub
from inventoryhold.v1.reservation_service_pb2_grpc import ReservationServiceStub

if TYPE_CHECKING:  # The stub files alone know these classes.
    from inventoryhold.v1.admin_service_pb2_grpc import AdminServiceAsyncStub
    from inventoryhold.v1.event_service_pb2_grpc import EventServiceAsyncStub
    from inventoryhold.v1.inventory_service_pb2_grpc import InventoryServiceAsyncStub
    from inventoryhold.v1.reservation_service_pb2_grpc import ReservationServiceAsyncStub

log = logging.getLogger(__name__)

Sleep = Callable[[float], Awaitable[None]]


class _Calls:
    """Stands in for a channel in the generated stubs: what they call is retried, and fails with a `CallError`."""

    def __init__(
        self, channel: grpc.aio.Channel, api_key: str | None, policy: RetryPolicy, timeout_s: float, sleep: Sleep
    ) -> None:
        self._channel = channel
        self._api_key = api_key
        self._policy = policy
        self._budget = RetryBudget(policy.budget_tokens_max, policy.budget_token_ratio)
        self._timeout_s = timeout_s
        self._sleep = sleep

    def unary_unary(self, method: str, **stub: Any) -> Callable[..., Any]:
        send = self._channel.unary_unary(method, **stub)

        async def call(request: Any, timeout: float | None = None, metadata: Any = None, **more: Any) -> Any:  # noqa: ASYNC109
            request = with_request_id(request)
            attempts = Attempts(self._policy, self._budget, method, timeout if timeout is not None else self._timeout_s)

            async def attempt() -> Any:
                try:
                    return await send(
                        request,
                        timeout=attempts.remaining_s,
                        metadata=call_metadata(self._api_key, metadata),
                        **more,
                    )
                except grpc.RpcError as error:
                    raise errors.from_rpc(error) from error

            return await AsyncRetrying(sleep=self._sleep, **attempts.retrying())(attempt)

        return call

    def unary_stream(self, method: str, **stub: Any) -> Callable[..., Any]:
        send = self._channel.unary_stream(method, **stub)

        async def call(
            request: Any,
            timeout: float | None = None,  # noqa: ASYNC109
            metadata: Any = None,
            **more: Any,
        ) -> AsyncIterator[Any]:
            stream = send(request, timeout=timeout, metadata=call_metadata(self._api_key, metadata), **more)
            try:
                async for message in stream:
                    yield message
            except grpc.RpcError as error:
                raise errors.from_rpc(error) from error
            finally:
                stream.cancel()

        return call


class AsyncClient:
    """`Client` for asyncio: the same arguments and methods, each awaited. Construct it on the loop that uses it."""

    def __init__(
        self,
        target: str = "127.0.0.1:50051",
        *,
        api_key: str | None = None,
        tls: Tls | None = None,
        timeout_s: float = TIMEOUT_S,
        retry_policy: RetryPolicy | None = None,
        options: Mapping[str, Any] | None = None,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        settings = channel_options(options)
        self._channel = (
            grpc.aio.secure_channel(target, tls.credentials(), settings)
            if tls
            else grpc.aio.insecure_channel(target, settings)
        )
        calls: Any = _Calls(self._channel, api_key, retry_policy or shipped_policy(), timeout_s, sleep)
        self.reservations: ReservationServiceAsyncStub = ReservationServiceStub(calls)
        self.inventory: InventoryServiceAsyncStub = InventoryServiceStub(calls)
        self.events: EventServiceAsyncStub = EventServiceStub(calls)
        self.admin: AdminServiceAsyncStub = AdminServiceStub(calls)
        self._sleep = sleep

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends the connection and what is still under way on it."""
        await self._channel.close()

    async def reserve(
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
        """Takes units for a while: all lines or none."""
        request = messages.reserve(lines, ttl, holder, reference, metadata, duplicate_window, request_id)
        return (await self.reservations.Reserve(request)).reservation

    async def confirm(
        self,
        reservation_id: str,
        *,
        order_id: str = "",
        name: str = "",
        email: str = "",
        lines: Lines | None = None,
        request_id: str = "",
    ) -> reservation_pb2.Reservation:
        """Sells what is held, or `lines` of it."""
        request = messages.confirm(reservation_id, order_id, name, email, lines, request_id)
        return (await self.reservations.Confirm(request)).reservation

    async def cancel(
        self,
        reservation_id: str,
        *,
        reason: str = "",
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> reservation_pb2.Reservation:
        """Gives back what is held."""
        request = pb.CancelRequest(reservation_id=reservation_id, reason=reason)
        return (await self.reservations.Cancel(request, timeout=timeout)).reservation

    async def extend(self, reservation_id: str, ttl: timedelta | None = None) -> reservation_pb2.Reservation:
        """Gives a hold more time; the answer's expire_time tells how much."""
        request = pb.ExtendRequest(reservation_id=reservation_id, ttl=messages.duration_of(ttl))
        return (await self.reservations.Extend(request)).reservation

    async def refund(
        self, reservation_id: str, *, lines: Lines | None = None, write_off: bool = False, reason: str = ""
    ) -> reservation_pb2.Reservation:
        """Takes back what was sold, or `lines` of it."""
        request = pb.RefundRequest(
            reservation_id=reservation_id, lines=messages.lines_of(lines or ()), write_off=write_off, reason=reason
        )
        return (await self.reservations.Refund(request)).reservation

    @asynccontextmanager
    async def hold(self, lines: Lines, **fields: Any) -> AsyncIterator["AsyncHold"]:
        """Reserves for the time of an `async with` block, as `Client.hold` does."""
        hold = AsyncHold(self, await self.reserve(lines, **fields))
        try:
            yield hold
        except BaseException:
            await hold.abandon()
            raise

    async def stream_events(
        self, request: event_service_pb2.StreamEventsRequest
    ) -> AsyncIterator[event_service_pb2.StreamEventsResponse]:
        """Streams events for ever: whenever the stream breaks it is opened again where it stood."""
        here = messages.copy_of(request)
        async for message in self._reopening(lambda: self.events.StreamEvents(here)):
            messages.advance(here, message)
            yield message

    async def watch_inventory(
        self, request: inventory_service_pb2.WatchInventoryRequest
    ) -> AsyncIterator[inventory_service_pb2.WatchInventoryResponse]:
        """Watches items for ever: whenever the stream breaks it is opened again, with a new snapshot first."""
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
                if error.code is not grpc.StatusCode.UNAVAILABLE:
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

    async def confirm(self, **fields: Any) -> reservation_pb2.Reservation:
        """Sells it, with the arguments of `AsyncClient.confirm`."""
        self.reservation = await self._client.confirm(self.reservation_id, **fields)
        return self.reservation

    async def extend(self, ttl: timedelta | None = None) -> reservation_pb2.Reservation:
        """Gives it more time."""
        self.reservation = await self._client.extend(self.reservation_id, ttl)
        return self.reservation

    async def cancel(self, reason: str = "") -> reservation_pb2.Reservation:
        """Gives it back."""
        self.reservation = await self._client.cancel(self.reservation_id, reason=reason)
        return self.reservation

    async def abandon(self) -> None:
        """Cancels it if it is still held; never raises a CallError: it would expire by itself."""
        if self.reservation.state != reservation_pb2.Reservation.STATE_HELD:
            return
        try:
            await self._client.cancel(self.reservation_id, reason=messages.ABANDONED, timeout=CANCEL_TIMEOUT_S)
        except errors.CallError as error:
            log.info("hold %s was not cancelled: %s", self.reservation_id, error)
