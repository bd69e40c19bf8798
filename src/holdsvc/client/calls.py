"""How the blocking client calls, for any number of threads.

Generated from `async_calls.py` by scripts/generate_client.py: change that and run `make generate`.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import grpc
from google.protobuf.message import Message

from holdsvc.client import errors, messages
from holdsvc.client.background import Sleep
from holdsvc.client.coalescing import ALONE, PAIRS, Done, Lanes
from holdsvc.client.connection import PROBE_S, Connection, Connections, call_metadata
from holdsvc.client.retries import Attempts, RetryBudget, RetryPolicy
from holdsvc.client.wire import Wire


class Calls:
    """Stands in for a channel in the generated stubs: calls are shared, retried, and fail with a `CallError`."""

    def __init__(
        self,
        connections: Connections,
        api_key: str | None,
        policy: RetryPolicy,
        budget: RetryBudget,
        *,
        timeout_s: float,
        sleep: Sleep,
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
        self._stubs: dict[str, Mapping[str, Any]] = {}
        self._wire = Wire()
        self._lanes = Lanes(PAIRS if coalesce else {}, self._wire, self._send_shared)

    def reset(self) -> None:
        """Forgets the calls under way."""
        self._lanes.reset()
        self._wire.reset()

    def unary_unary(self, path: str, **stub: Any) -> Callable[..., Any]:
        """What a generated stub calls for a unary rpc."""
        safe = self._policy.is_safe(path)
        self._stubs[path] = stub

        def call(request: Any, timeout: float | None = None, metadata: Any = None, **more: Any) -> Any:
            sent = messages.with_request_id(request)
            metadata = call_metadata(self._api_key, metadata)
            timeout_s = timeout if timeout is not None else self._timeout_s
            attempts = Attempts(self._policy, self._budget, safe, timeout_s)
            try:
                while True:
                    connection = self._connections.current()
                    try:
                        answer = self._attempt(connection, path, sent, attempts, metadata, more)
                    except errors.CallError as error:
                        pause_s = attempts.pause_s(error)
                        if pause_s is None:
                            raise
                    else:
                        attempts.succeeded()
                        return answer
                    self._sleep(pause_s)
            except BaseException as error:
                if sent is not request and attempts.sent and errors.leaves_outcome_open(error):
                    self._on_lost(path, sent)
                raise

        return call

    def _attempt(
        self, connection: Connection, path: str, request: Any, attempts: Attempts, metadata: Any, more: Any
    ) -> Any:
        """One attempt: alone where its lane is idle, else with the calls that wait there."""
        lane = None if more else self._lanes.lane(path, metadata)
        if lane is None:
            return self._send(connection, path, request, attempts, metadata, more)
        if lane.enters_alone():
            try:
                return self._send(connection, path, request, attempts, metadata, more)
            finally:
                lane.leave_alone()
        entry = lane.join(request, attempts.remaining_s)
        try:
            answer = self._wire.answer(entry.promise, attempts.remaining_s)
        except errors.CallError as error:
            raise self._explained(connection, error) from None
        finally:
            attempts.sent = attempts.sent or entry.sent
        if answer is ALONE:
            return self._send(connection, path, request, attempts, metadata, more)
        return answer

    def _send(
        self, connection: Connection, path: str, request: Any, attempts: Attempts, metadata: Any, more: Any
    ) -> Any:
        attempts.sent = True
        send = connection.method(path, **self._stubs[path])
        try:
            return send(request, timeout=attempts.remaining_s, metadata=metadata, **more)
        except grpc.RpcError as error:
            raise self._explained(connection, errors.from_rpc(error)) from error

    def _send_shared(self, path: str, request: Any, timeout_s: float, metadata: Any, done: Done) -> None:
        """Sends what a lane has ready: a message alone, or the bytes of a batch."""
        try:
            connection = self._connections.current()
        except errors.CallError as error:
            done(None, error)
            return
        send = connection.method(path, **self._stubs[path] if isinstance(request, Message) else {})

        def ended(answer: Any, error: errors.CallError | None) -> None:
            if isinstance(error, errors.ShuttingDown):
                self._connections.leave(connection)
            done(answer, error)

        self._wire.send(send, request, timeout_s, metadata, ended)

    def _explained(self, connection: Connection, failure: errors.CallError) -> errors.CallError:
        """The failure of an attempt, or a missing connection as its cause; where a server stops it is left."""
        if isinstance(failure, errors.ShuttingDown):
            self._connections.leave(connection)
        if failure.code is not grpc.StatusCode.DEADLINE_EXCEEDED or not connection.replaceable:
            return failure
        try:
            connection.probe(b"", timeout=PROBE_S, wait_for_ready=False)
        except grpc.RpcError as probed:
            cause = errors.from_rpc(probed)
            if cause.code is grpc.StatusCode.UNAVAILABLE:
                return errors.no_connection(self._connections.target, cause.message)
        return failure

    def unary_stream(self, path: str, **stub: Any) -> Callable[..., Iterator[Any]]:
        """What a generated stub calls for a streaming rpc."""

        def call(
            request: Any,
            timeout: float | None = None,
            metadata: Any = None,
            **more: Any,
        ) -> Iterator[Any]:
            connection = self._connections.current()
            send = connection.channel.unary_stream(path, **stub)
            stream = send(request, timeout=timeout, metadata=call_metadata(self._api_key, metadata), **more)
            try:
                for message in stream:
                    yield message
            except grpc.RpcError as error:
                raise self._explained(connection, errors.from_rpc(error)) from error
            finally:
                stream.cancel()

        return call
