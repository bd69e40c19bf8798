"""gRPC's health service. It needs no key, so no reader of it may hold up anything but its own call."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import grpc
from google.protobuf.message import DecodeError, Message
from grpc_health.v1 import health_pb2
from grpc_status import rpc_status

from holdsvc.api.bodies import Bodies
from holdsvc.api.statuses import status
from holdsvc.errors import HoldError

SERVICE = "grpc.health.v1.Health"

WATCHERS_MAX = 1000
"""Watch calls that are open in a process; the next one is refused with RESOURCE_EXHAUSTED."""

_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


class Health:
    """Whether calls can be answered, service by service. Construct it on the loop that will serve."""

    def __init__(self, names: Iterable[str], bodies: Bodies) -> None:
        self._serving = dict.fromkeys(names, False)
        self._bodies = bodies
        self._watchers: set[asyncio.Event] = set()
        self._stopping = False
        self._closing = False

    @property
    def serving(self) -> bool:
        """Whether calls can be answered."""
        return self._serving[""]

    def set(self, name: str, *, serving: bool) -> None:
        """Sets a service's state and wakes its watchers; nothing after `stop`."""
        if not self._stopping and self._serving[name] != serving:
            self._serving[name] = serving
            self._wake()

    def stop(self) -> None:
        """Turns every service to NOT_SERVING for good."""
        self._stopping = True
        self._serving = dict.fromkeys(self._serving, False)
        self._wake()

    def close(self) -> None:
        """Ends the watches, when they have been told the last state."""
        self._closing = True
        self._wake()

    def _wake(self) -> None:
        for watcher in self._watchers:
            watcher.set()

    def handlers(self) -> grpc.GenericRpcHandler:
        """The handlers of Check, List and Watch."""
        unary = grpc.stream_unary_rpc_method_handler
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                "Check": unary(self._unary(health_pb2.HealthCheckRequest, self._check)),
                "List": unary(self._unary(health_pb2.HealthListRequest, self._list)),
                "Watch": grpc.stream_stream_rpc_method_handler(self._watch),
            },
        )

    def _unary(self, kind: type[Message], answer: Callable[[Any, Any], Awaitable[Message]]) -> Any:
        async def unary(_messages: object, context: Any) -> bytes:
            return (await answer(await self._request(kind, context), context)).SerializeToString()

        return unary

    async def _request(self, kind: type[Message], context: Any) -> Any:
        try:
            return kind.FromString(await self._bodies.read(context))
        except HoldError as error:
            await context.abort_with_status(rpc_status.to_status(status(error.refused)))
        except DecodeError:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"this is no {kind.DESCRIPTOR.full_name}")

    async def _check(self, request: health_pb2.HealthCheckRequest, context: Any) -> health_pb2.HealthCheckResponse:
        if request.service not in self._serving:
            await context.abort(grpc.StatusCode.NOT_FOUND, "there is no service of this name")
        return health_pb2.HealthCheckResponse(status=self._status(request.service))

    async def _list(self, _request: health_pb2.HealthListRequest, _context: Any) -> health_pb2.HealthListResponse:
        return health_pb2.HealthListResponse(
            statuses={name: health_pb2.HealthCheckResponse(status=self._status(name)) for name in self._serving}
        )

    async def _watch(self, _messages: object, context: Any) -> None:
        name = (await self._request(health_pb2.HealthCheckRequest, context)).service
        if len(self._watchers) >= WATCHERS_MAX:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many watches of health are open: use Check")
        changed = asyncio.Event()
        self._watchers.add(changed)
        told = None
        try:
            while True:
                changed.clear()
                # Only the present state is written: a reader that is late misses those between.
                state = self._status(name)
                if state != told:
                    await context.write(health_pb2.HealthCheckResponse(status=state).SerializeToString())
                    told = state
                elif self._closing:
                    await context.abort(grpc.StatusCode.UNAVAILABLE, "the service stops")
                else:
                    await changed.wait()
        finally:
            self._watchers.discard(changed)

    def _status(self, name: str) -> Any:
        serving = self._serving.get(name)
        return _UNKNOWN if serving is None else _SERVING if serving else _NOT_SERVING
