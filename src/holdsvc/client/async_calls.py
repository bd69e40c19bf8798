"""How a client calls: shared with other calls, retried, on the current connection.

The source of `calls`, which scripts/generate_client.py makes of it.
"""

import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

import grpc
from google.protobuf.message import Message

from holdsvc.client import errors, messages, statuses
from holdsvc.client.affinity import PAUSE_MAX_S, Places
from holdsvc.client.background import AsyncSleep
from holdsvc.client.coalescing import ALONE, PAIRS, Done, Lanes
from holdsvc.client.connection import PROBE_S, AsyncConnections, Connection, call_metadata
from holdsvc.client.retries import RETRYABLE, Attempts, RetryBudget, RetryPolicy
from holdsvc.client.wire import AsyncWire


class AsyncCalls:
    """Stands in for a channel in the generated stubs: calls are shared, retried, and fail with a `CallError`."""

    def __init__(
        self,
        connections: AsyncConnections,
        api_key: str | None,
        policy: RetryPolicy,
        budget: RetryBudget,
        *,
        timeout_s: float,
        sleep: AsyncSleep,
        coalesce: bool,
        on_lost: Callable[[str, Any], None],
    ) -> None:
        self._connections = connections
        self._api_key = api_key
        self._policy = policy
        self._budget = budget
        self._timeout_s = timeout_s
        self._sleep = sleep
        self._on_lost = on_lost
        self._places = Places(connections.targets)
        self._stubs: dict[str, Mapping[str, Any]] = {}
        self._wire = AsyncWire()
        self._lanes = Lanes(PAIRS if coalesce else {}, self._wire, self._send_shared)

    def reset(self) -> None:
        """Forgets the calls under way."""
        self._lanes.reset()
        self._wire.reset()

    def unary_unary(self, path: str, **stub: Any) -> Callable[..., Awaitable[Any]]:
        """What a generated stub calls for a unary rpc."""
        safe = self._policy.is_safe(path)
        self._stubs[path] = stub

        async def call(request: Any, timeout: float | None = None, metadata: Any = None, **more: Any) -> Any:  # noqa: ASYNC109
            sent = messages.with_request_id(request)
            metadata = call_metadata(self._api_key, metadata)
            timeout_s = timeout if timeout is not None else self._timeout_s
            attempts = Attempts(self._policy, self._budget, safe, timeout_s)
            try:
                while True:
                    connection = await self._reached(sent, attempts, safe)
                    try:
                        answer = await self._attempt(connection, path, sent, attempts, metadata, more)
                    except errors.CallError as error:
                        pause_s = attempts.pause_s(error)
                        if pause_s is None:
                            raise
                    else:
                        attempts.succeeded()
                        return answer
                    await self._sleep(pause_s)
            except BaseException as error:
                if sent is not request and attempts.sent and errors.leaves_outcome_open(error):
                    self._on_lost(path, sent)
                raise

        return call

    async def _reached(self, request: Any, attempts: Attempts, safe: bool) -> Connection:
        """The connection to the address of a request.

        A call that may not be repeated asks first whether there is one.
        """
        while True:
            place = self._places.choose(request)
            if place is not None:
                connection = self._connections.current(place)
                if safe or not self._places.several or await self._missing(connection) is None:
                    return connection
                self._places.failed(place)
            elif attempts.remaining_s:
                await self._sleep(random.uniform(0, min(PAUSE_MAX_S, attempts.remaining_s)))
            else:
                raise errors.no_connection(", ".join(self._connections.targets), "none of them answers")

    async def _attempt(
        self, connection: Connection, path: str, request: Any, attempts: Attempts, metadata: Any, more: Any
    ) -> Any:
        """One attempt: alone where its lane is idle, else with the calls that wait there."""
        lane = None if more else self._lanes.lane(path, metadata, connection.place)
        if lane is None:
            return await self._send(connection, path, request, attempts, metadata, more)
        if lane.enters_alone():
            try:
                return await self._send(connection, path, request, attempts, metadata, more)
            finally:
                lane.leave_alone()
        entry = lane.join(request, attempts.remaining_s)
        try:
            answer = await self._wire.answer(entry.promise, attempts.remaining_s)
        except errors.CallError as error:
            raise await self._explained(connection, error) from None
        finally:
            attempts.sent = attempts.sent or entry.sent
        if answer is ALONE:
            return await self._send(connection, path, request, attempts, metadata, more)
        return answer

    async def _send(
        self, connection: Connection, path: str, request: Any, attempts: Attempts, metadata: Any, more: Any
    ) -> Any:
        attempts.sent = True
        send = connection.method(path, **self._stubs[path])
        try:
            answer = await send(request, timeout=attempts.remaining_s, metadata=metadata, **more)
        except grpc.RpcError as error:
            raise await self._explained(connection, statuses.from_rpc(error)) from error
        except self._wire.closed as error:
            if self._was_closed():
                raise errors.interrupted(error) from error
            raise
        self._places.answered(connection.place)
        return answer

    def _send_shared(self, place: int, path: str, request: Any, timeout_s: float, metadata: Any, done: Done) -> None:
        """Sends what a lane has ready: a message alone, or the bytes of a batch."""
        try:
            connection = self._connections.current(place)
        except errors.CallError as error:
            done(None, error)
            return
        send = connection.method(path, **self._stubs[path] if isinstance(request, Message) else {})

        def ended(answer: Any, error: errors.CallError | None) -> None:
            if error is None:
                self._places.answered(place)
            else:
                self._passed_over(connection, error)
            done(answer, error)

        self._wire.send(send, request, timeout_s, metadata, ended)

    def _was_closed(self) -> bool:
        """Whether `close` has ended the present call, and not its caller."""
        return self._connections.closed and not self._wire.cancelled()

    def _passed_over(self, connection: Connection, failure: errors.CallError) -> None:
        """Leaves a connection whose server stops, and passes over an address without a server."""
        if isinstance(failure, errors.ShuttingDown):
            self._connections.leave(connection)
        elif failure.reason or failure.code not in RETRYABLE:
            return
        self._places.failed(connection.place)

    async def _explained(self, connection: Connection, failure: errors.CallError) -> errors.CallError:
        """The failure of an attempt, or a missing connection as its cause."""
        self._passed_over(connection, failure)
        if failure.code is not grpc.StatusCode.DEADLINE_EXCEEDED or not connection.replaceable:
            return failure
        cause = await self._missing(connection)
        return failure if cause is None else errors.no_connection(connection.target, cause)

    async def _missing(self, connection: Connection) -> str | None:
        """Why there is no connection; None where there is one."""
        try:
            await connection.probe(b"", timeout=PROBE_S, wait_for_ready=False)
        except grpc.RpcError as probed:
            cause = statuses.from_rpc(probed)
            if cause.code is grpc.StatusCode.UNAVAILABLE:
                return cause.message
        return None

    def unary_stream(self, path: str, **stub: Any) -> Callable[..., AsyncIterator[Any]]:
        """What a generated stub calls for a streaming rpc."""

        async def call(
            request: Any,
            timeout: float | None = None,  # noqa: ASYNC109
            metadata: Any = None,
            **more: Any,
        ) -> AsyncIterator[Any]:
            place = self._places.choose(request)
            if place is None:
                raise errors.none_answers(self._connections.targets)
            connection = self._connections.current(place)
            send = connection.channel.unary_stream(path, **stub)
            stream = send(request, timeout=timeout, metadata=call_metadata(self._api_key, metadata), **more)
            try:
                async for message in stream:
                    self._places.answered(place)
                    yield message
            except grpc.RpcError as error:
                raise await self._explained(connection, statuses.from_rpc(error)) from error
            except self._wire.closed as error:
                if self._was_closed():
                    raise errors.interrupted(error) from error
                raise
            finally:
                stream.cancel()

        return call
