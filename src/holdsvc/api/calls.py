"""The way of a call: identity, scope, request, handler, answer, with one place where errors become statuses.

One function for unary calls and one for streams, instead of a chain of interceptors: gRPC's aio stack makes a coroutine
of each, and a call has to pay for it. The order is that of the code, and a test holds it.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import Any, NoReturn, Protocol

import grpc
import grpc.aio
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from holdsvc import errors, outages
from holdsvc.api import bounds, json_text
from holdsvc.api.auth.guard import Recheck, StreamGuard
from holdsvc.api.auth.identity import Authenticate
from holdsvc.api.bodies import Bodies
from holdsvc.api.cells import Cell, Cells
from holdsvc.api.rpcs import RPCS, Rpc
from holdsvc.api.statuses import CODES, ending, refused_of
from holdsvc.api.turns import Turns
from holdsvc.engine.engine import CALLERS_OWN_S
from holdsvc.engine.limits import AtOnce, ClientLimits, Entrances, Place
from holdsvc.errors import HoldError
from holdsvc.model import Caller, Cause, Violation
from holdsvc.telemetry import tracing

RECHECK_S = 1.0
"""The longest to wait for the check of an open stream's key; the next round checks again."""

STREAM_SHORT_S = 1.0
"""A stream that its caller ends earlier counts as given up: to open one costs as much as a read."""


@dataclass(frozen=True, slots=True)
class Call:
    """What a handler knows of its call besides the request."""

    method: str
    caller: Caller
    cell: Cell = field(repr=False)
    deadline: float
    """On the loop's clock."""
    metadata: Sequence[tuple[str, str | bytes]] = field(repr=False)
    """As the caller sent it; it holds the key, so it is never logged or passed on."""
    large: bool = False
    """Whether the request is so large that its lists were counted before it was parsed."""
    bad_entries: Mapping[int, Sequence[Violation]] = field(default_factory=dict, repr=False)
    """Entries of a batch that were too long to be parsed, by index; they are empty in the request."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An rpc as its callers reach it, by whatever protocol."""

    path: str
    descriptor: MethodDescriptor
    run: Any
    """Takes (ignored, context, json=False); returns the answer's bytes, or yields those of each message.

    The context is gRPC's, or one that behaves like it: `time_remaining`, `invocation_metadata`, `read`, `abort`,
    `abort_with_status`.
    """


def grpc_handlers(service: ServiceDescriptor, endpoints: Iterable[Endpoint]) -> grpc.GenericRpcHandler:
    """The endpoints of a service as gRPC's handlers.

    To gRPC each takes a stream of requests, whose only message is read when the call may make it: for the others
    gRPC reads, and buffers, the message before it calls the handler.
    """
    handlers: dict[str, Any] = {}
    for endpoint in endpoints:
        streams = endpoint.descriptor.server_streaming
        kind = grpc.stream_stream_rpc_method_handler if streams else grpc.stream_unary_rpc_method_handler
        handlers[endpoint.descriptor.name] = kind(endpoint.run)
    return grpc.method_handlers_generic_handler(service.full_name, handlers)


class CallObserver(Protocol):
    """Who hears of calls: metrics and the access log."""

    def started(self, method: str) -> None:
        """A call has arrived."""

    def handled(
        self, method: str, call: Call | None, request: Message | None, code: str, reason: str, seconds: float
    ) -> None:
        """A call has been answered; `call` is None when it had no valid identity, `request` when it was not read."""


class Calls:
    """Makes endpoints of a servicer's coroutines. Construct it on the loop that will serve."""

    def __init__(
        self,
        authenticate: Authenticate,
        cells: Cells,
        limits: ClientLimits,
        bodies: Bodies,
        entrances: Entrances,
        observer: CallObserver,
        default_deadline_s: float,
    ) -> None:
        self._authenticate = authenticate
        self._cells = cells
        self._limits = limits
        self._bodies = bodies
        self._entrances = entrances
        self._guard = StreamGuard()
        self._observer = observer
        self._default_deadline_s = default_deadline_s
        self.turns = Turns()
        """For the long work of large requests and answers."""
        self._shared_json = json_text.Shared(self.turns)
        # Asking for the running loop costs a system call: Python 3.11 looks whether the process has forked.
        self._loop = asyncio.get_running_loop()

    def endpoints(self, service: ServiceDescriptor, servicer: object) -> list[Endpoint]:
        """Each method of the service is a coroutine, or an async generator, of the servicer by its name."""
        found = []
        for method in service.methods:
            handle = getattr(servicer, method.name)
            if method.server_streaming:
                run = _traced_stream(_path(method), self._stream(method, handle))
            else:
                run = _traced(_path(method), self._unary(method, handle))
            found.append(Endpoint(_path(method), method, run))
        return found

    async def _identify(self, method: str, context: Any) -> Call:
        remaining = context.time_remaining()
        deadline = self._loop.time() + (remaining if remaining is not None else self._default_deadline_s)
        metadata = context.invocation_metadata()
        caller = await self._authenticate(metadata, deadline)
        return Call(method, caller, self._cells.of(caller.tenant), deadline, metadata)

    def _admit(self, call: Call, rpc: Rpc) -> None:
        """Limit and scope come before the request: who may not call must not learn what is valid or what exists."""
        caller = call.caller
        self._limits.call(caller.tenant, caller.client)
        if caller.scopes.isdisjoint(rpc.scopes):
            raise HoldError(errors.permission_denied(rpc.scopes[0]))

    @staticmethod
    def _enter(at_once: AtOnce, call: Call) -> Awaitable[Place]:
        return at_once.enter((call.caller.tenant, call.caller.client), call.deadline + CALLERS_OWN_S)

    def _read(self, context: Any, caller: Caller) -> Awaitable[bytes]:
        return self._bodies.read(context, (caller.tenant, caller.client))

    async def _parse(
        self, rpc: Rpc, request_class: type[Message], data: bytes, call: Call, *, json: bool
    ) -> tuple[Message, Call]:
        """Parses a request once it is known that it cannot become much more than it is on the wire."""
        if json:
            return await self._parse_json(rpc, request_class, data, call)
        try:
            if len(data) <= bounds.UNCOUNTED_BYTES:
                return request_class.FromString(data), call
            counted = await self.turns.run(bounds.count(request_class.DESCRIPTOR, data, rpc.entries))
            if counted.violations:
                raise HoldError(errors.invalid_fields(counted.violations))
            request = await self.turns.run(bounds.parse(request_class, counted.pieces))
            return request, replace(call, large=True, bad_entries=counted.entries)
        except DecodeError:
            malformed = f"is not a well-formed {request_class.DESCRIPTOR.full_name}"
            raise HoldError(errors.invalid_field("request", malformed, "MALFORMED")) from None

    async def _parse_json(
        self, rpc: Rpc, request_class: type[Message], data: bytes, call: Call
    ) -> tuple[Message, Call]:
        try:
            request, read = await self.turns.run(json_text.read(request_class, data, rpc.entries))
        except json_text.MalformedJson as error:
            raise HoldError(errors.invalid_field("request", str(error), "MALFORMED")) from None
        if read.violations:
            raise HoldError(errors.invalid_fields(read.violations))
        return request, replace(call, large=len(data) > bounds.UNCOUNTED_BYTES, bad_entries=read.entries)

    def _unary(self, descriptor: MethodDescriptor, handle: Callable[[Any, Call], Awaitable[Message]]) -> Any:
        rpc, request_class = _row(descriptor), GetMessageClass(descriptor.input_type)
        method = rpc.method
        observer = self._observer

        async def unary(_messages: object, context: Any, *, json: bool = False) -> bytes:
            start = perf_counter()
            observer.started(method)
            call = request = place = None
            try:
                call = await self._identify(method, context)
                self._admit(call, rpc)
                if not rpc.lane:
                    place = await self._enter(self._entrances.calls, call)
                data = await self._read(context, call.caller)
                request, call = await self._parse(rpc, request_class, data, call, json=json)
                try:
                    message = await handle(request, call)
                except HoldError as error:
                    call = await self._followed(call, error)
                    message = await handle(request, call)
                answer = await self.turns.run(json_text.write(message)) if json else message.SerializeToString()
            except BaseException as error:
                if not isinstance(error, Exception):
                    _give_up(place, call)
                await self._fail(context, method, call, request, error, start)
                raise
            finally:
                if place is not None:
                    place.leave()
            observer.handled(method, call, request, "OK", "", perf_counter() - start)
            return answer

        return unary

    def _stream(
        self, descriptor: MethodDescriptor, handle: Callable[[Any, Call], AsyncGenerator[Message | bytes]]
    ) -> Any:
        rpc, request_class = _row(descriptor), GetMessageClass(descriptor.input_type)
        answer_class = GetMessageClass(descriptor.output_type)
        method = rpc.method
        observer = self._observer

        async def stream(_messages: object, context: Any, *, json: bool = False) -> AsyncIterator[bytes]:
            start = perf_counter()
            observer.started(method)
            call = request = place = None
            try:
                call = await self._identify(method, context)
                self._admit(call, rpc)
                place = await self._enter(self._entrances.streams, call)
                data = await self._read(context, call.caller)
                request, call = await self._parse(rpc, request_class, data, call, json=json)
                with self._limits.stream(call.caller.tenant, call.caller.client):
                    async with (
                        aclosing(handle(request, call)) as messages,
                        aclosing(self._guard.watch(messages, (call.caller, call.cell), self._recheck(call))) as guarded,
                    ):
                        async for message in guarded:
                            place.leave()
                            encoded = message if isinstance(message, bytes) else message.SerializeToString()
                            yield await self._shared_json.of(answer_class, encoded) if json else encoded
            except BaseException as error:
                if not isinstance(error, Exception) and perf_counter() - start < STREAM_SHORT_S:
                    _give_up(place, call)
                await self._fail(context, method, call, request, error, start)
                raise
            finally:
                if place is not None:
                    place.leave()
            observer.handled(method, call, request, "OK", "", perf_counter() - start)

        return stream

    def _recheck(self, call: Call) -> Recheck:
        async def recheck() -> None:
            await self._authenticate(call.metadata, self._loop.time() + RECHECK_S)
            if not self._cells.is_home(call.caller.tenant, call.cell):
                raise HoldError(outages.tenant_moved())

        return recheck

    async def _followed(self, call: Call, error: HoldError) -> Call:
        """The call for the cell that its tenant has moved to.

        Raises the error where it has another reason, or where no other cell is known. Nothing has been changed: the
        cell refused what the call did first.
        """
        if error.reason != "TENANT_MOVED":
            raise error
        cell = await self._cells.after(call.cell, call.caller.tenant)
        if cell is None:
            raise error
        return replace(call, cell=cell)

    async def _fail(
        self,
        context: Any,
        method: str,
        call: Call | None,
        request: Message | None,
        error: BaseException,
        start: float,
    ) -> None:
        """Ends a call, unary or stream, that raised: every error becomes a status here.

        Returns where the caller has ended the call. The caller of this must raise that error: gRPC frees the call's
        memory by it.
        """
        if not isinstance(error, Exception):
            # gRPC cancels a call whose deadline passes, too.
            code = "DEADLINE_EXCEEDED" if context.time_remaining() == 0 else "CANCELLED"
            self._observer.handled(method, call, request, code, "", perf_counter() - start)
            return
        refused = refused_of(error, method)
        if refused.metadata.get("cause") == Cause.DEADLINE_EXCEEDED and context.time_remaining() is not None:
            # The caller's own deadline: gRPC has told the caller already, and it is no failure of the service.
            self._observer.handled(method, call, request, "DEADLINE_EXCEEDED", "", perf_counter() - start)
            await _abort(context, grpc.StatusCode.DEADLINE_EXCEEDED, refused.message)
        code = CODES[refused.reason].name
        self._observer.handled(method, call, request, code, refused.reason, perf_counter() - start)
        await _abort(context, *ending(refused))


def _give_up(place: Place | None, call: Call | None) -> None:
    """Beside other tenants' changes a client that gives up its calls waits for the next ones."""
    if place is not None and call is not None and call.cell.engine.activity.beside(call.caller.tenant):
        place.give_up()


async def _abort(context: Any, *status: Any) -> NoReturn:
    try:
        await context.abort(*status)
    except grpc.aio.InternalError:
        # The caller has gone meanwhile. gRPC would log a traceback of each.
        raise asyncio.CancelledError from None
    raise AssertionError


def _traced(method: str, handle: Any) -> Any:
    """The handler within a span; the handler itself where nothing is traced."""
    if tracing.active is None:
        return handle
    active = tracing.active

    async def traced(messages: object, context: Any, *, json: bool = False) -> bytes:
        with active.call(method, dict(context.invocation_metadata()), getattr(context, "system", "grpc")):
            return bytes(await handle(messages, context, json=json))

    return traced


def _traced_stream(method: str, handle: Any) -> Any:
    if tracing.active is None:
        return handle
    active = tracing.active

    async def traced(messages: object, context: Any, *, json: bool = False) -> AsyncIterator[bytes]:
        with active.call(method, dict(context.invocation_metadata()), getattr(context, "system", "grpc")):
            async with aclosing(handle(messages, context, json=json)) as answers:
                async for answer in answers:
                    yield answer

    return traced


def _path(descriptor: MethodDescriptor) -> str:
    return f"/{descriptor.containing_service.full_name}/{descriptor.name}"


def _row(descriptor: MethodDescriptor) -> Rpc:
    method = _path(descriptor)
    if method not in RPCS:
        raise LookupError(f"{method} has no row in the table of rpcs")
    return RPCS[method]
