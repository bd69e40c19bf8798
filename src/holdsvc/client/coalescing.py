"""Calls that are made while others of their kind are under way travel together, as one batch.

A lane is the queue of one rpc with one metadata to one address. A call that finds its lane idle goes alone, at once.
What is called while it is under way becomes the next batch; a second batch starts beside the first once as many calls
wait as the first one has. Each call keeps its request_id, its deadline, its answer and its error. The rules are the
same for asyncio and for threads; what differs is in `wire`.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.descriptor import FieldDescriptor, ServiceDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from holdsvc.client import errors, statuses
from holdsvc.client.errors import CallError
from inventoryhold.v1 import reservation_service_pb2

ENTRIES_MAX = 500
"""Calls of a batch: about where the service is fastest."""

BYTES_MAX = 1_000_000
"""Bytes of a batch, a quarter of what the service takes."""

BATCHES_MAX = 2
"""Batches under way in a lane; four were no faster."""

LANES_MAX = 64
"""Lanes that are kept; beyond, the idle ones are dropped: a caller may send other metadata with each call."""

SHARED = ("Reserve", "Confirm", "Cancel", "Extend", "Refund", "Fulfil", "Modify")
"""The rpcs that travel together where the service has their `Batch` form."""

ALONE: Any = object()
"""In place of an answer: the batch did not have this call's, ask for it alone."""

_BATCH_REFUSALS = (
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.OUT_OF_RANGE,
)

_LENGTH_DELIMITED = 2
"""Protobuf's wire type of messages."""

_LOCK_WAIT = "LOCK_WAIT"
"""The cause of OVERLOADED where an item stays locked; the other causes say that there are too many calls already."""

_CODES = {code.value[0]: code for code in grpc.StatusCode}


@dataclass(frozen=True)
class Pair:
    """An rpc and its batch."""

    path: str
    batch_path: str
    batch_response: type[Message]
    response: type[Message]
    flags: tuple[str, ...]
    """Truth values, as `replayed`, that both a result and the response have."""
    abridges: bool
    """Whether a result may be cut short, where the answer would be too large."""
    tag: bytes
    """What precedes the length of each request in the bytes of a batch."""

    def encoded(self, request: Message) -> bytes:
        """A batch of one request; batches are joined by joining their bytes."""
        data = request.SerializeToString()
        return self.tag + _varint(len(data)) + data

    def answer(self, result: Any) -> Any:
        """What the rpc alone would have answered: its response, its CallError, or ALONE."""
        if self.abridges and result.abridged:
            return ALONE
        if result.HasField("error"):
            status = result.error
            failure = statuses.from_status(_CODES.get(status.code, grpc.StatusCode.UNKNOWN), status.message, status)
            # An item stayed locked longer than the batch could wait; alone the call may wait as long as it likes.
            waits = isinstance(failure, errors.Overloaded) and failure.metadata.get("cause") == _LOCK_WAIT
            return ALONE if waits else failure
        response: Any = self.response()
        response.reservation.CopyFrom(result.reservation)
        for flag in self.flags:
            if getattr(result, flag):
                setattr(response, flag, True)
        return response


def _varint(number: int) -> bytes:
    """A number as Protobuf writes it: seven bits a byte, the lowest first."""
    if number < 128:
        return bytes((number,))
    return bytes((number & 127 | 128,)) + _varint(number >> 7)


def pairs(service: ServiceDescriptor, names: tuple[str, ...] = SHARED) -> Mapping[str, Pair]:
    """The pairs that a service has of these rpcs, by path."""
    found = {}
    for name in names:
        batch = service.methods_by_name.get(f"Batch{name}")
        if batch is not None:
            response: Any = service.methods_by_name[name].output_type
            result: Any = batch.output_type.fields_by_name["results"].message_type
            requests = batch.input_type.fields_by_name["requests"]
            found[f"/{service.full_name}/{name}"] = Pair(
                path=f"/{service.full_name}/{name}",
                batch_path=f"/{service.full_name}/{batch.name}",
                batch_response=GetMessageClass(batch.output_type),
                response=GetMessageClass(response),
                flags=tuple(
                    field.name
                    for field in response.fields
                    if field.type == FieldDescriptor.TYPE_BOOL and field.name in result.fields_by_name
                ),
                abridges="abridged" in result.fields_by_name,
                tag=_varint(requests.number << 3 | _LENGTH_DELIMITED),
            )
    return found


PAIRS = pairs(reservation_service_pb2.DESCRIPTOR.services_by_name["ReservationService"])


class Entry:
    """One call in a lane."""

    __slots__ = ("data", "deadline_s", "promise", "request", "sent")

    def __init__(self, request: Message, data: bytes, deadline_s: float, promise: Any) -> None:
        self.request = request
        self.data = data
        self.deadline_s = deadline_s
        self.promise = promise
        self.sent = False


Done = Callable[[Any, CallError | None], None]
Send = Callable[[int, str, Any, float, Any, Done], None]
"""Sends a request (a message, or a batch's bytes) to a place and path, with a timeout and metadata; tells what came of
it."""


class Lane:
    """The calls of one rpc with one metadata to one place."""

    def __init__(self, pair: Pair, metadata: Any, place: int, wire: Any, send: Send) -> None:
        self._pair = pair
        self._place = place
        self._metadata = metadata
        self._wire = wire
        self._send = send
        self._waiting: deque[Entry] = deque()
        self._under_way: list[int] = []
        self._lock = threading.Lock()
        self._shares = True

    @property
    def is_idle(self) -> bool:
        """Whether no call is under way or waits."""
        return not self._under_way and not self._waiting

    def enters_alone(self) -> bool:
        """Whether the caller may send its own call now; if so it must `leave_alone` after it."""
        with self._lock:
            if self._shares and (self._under_way or self._waiting):
                return False
            self._under_way.append(1)
            return True

    def leave_alone(self) -> None:
        """Ends a call that went alone."""
        with self._lock:
            self._under_way.remove(1)
            waiting = bool(self._waiting)
        if waiting:
            self._wire.soon(self._start)

    def join(self, request: Message, timeout_s: float) -> Entry:
        """Puts a call among those that wait."""
        data = self._pair.encoded(request)
        entry = Entry(request, data, time.monotonic() + timeout_s, self._wire.promise())
        with self._lock:
            self._waiting.append(entry)
            starts = self._may_start()
        if starts:
            self._wire.soon(self._start)
        return entry

    def _may_start(self) -> bool:
        if not self._waiting or len(self._under_way) >= BATCHES_MAX:
            return False
        return not self._under_way or len(self._waiting) >= self._under_way[0]

    def _start(self) -> None:
        while True:
            with self._lock:
                if not self._may_start():
                    return
                entries = self._next()
                if not entries:
                    continue
                self._under_way.append(len(entries))
            self._dispatch(entries)

    def _next(self) -> list[Entry]:
        """Takes what fits into a batch, without the calls whose callers have left."""
        entries: list[Entry] = []
        size = 0
        while self._waiting and len(entries) < ENTRIES_MAX:
            entry = self._waiting[0]
            if entries and size + len(entry.data) > BYTES_MAX:
                break
            self._waiting.popleft()
            if not entry.promise.done():
                entry.sent = True
                entries.append(entry)
                size += len(entry.data)
        return entries

    def _dispatch(self, entries: list[Entry]) -> None:
        timeout_s = max(0.0, max(entry.deadline_s for entry in entries) - time.monotonic())
        if len(entries) == 1:
            [entry] = entries
            self._send(
                self._place,
                self._pair.path,
                entry.request,
                timeout_s,
                self._metadata,
                lambda answer, error: self._ended(entries, [error or answer]),
            )
            return
        data = b"".join([entry.data for entry in entries])
        self._send(
            self._place,
            self._pair.batch_path,
            data,
            timeout_s,
            self._metadata,
            lambda answer, error: self._ended(entries, self._outcomes(len(entries), answer, error)),
        )

    def _outcomes(self, count: int, answer: Any, error: CallError | None) -> list[Any]:
        """What came of each call of a batch."""
        if error is not None:
            if error.code is grpc.StatusCode.UNIMPLEMENTED:
                # An older service: from now on each call goes alone.
                self._shares = False
            if _concerns_the_batch(error):
                return [ALONE] * count
            return [errors.copy_of(error) for _ in range(count)]
        try:
            results = self._pair.batch_response.FromString(answer).results  # type: ignore[attr-defined]
            outcomes = [self._pair.answer(result) for result in results]
        except DecodeError:
            outcomes = []
        return outcomes if len(outcomes) == count else [errors.malformed_batch() for _ in range(count)]

    def _ended(self, entries: list[Entry], outcomes: list[Any]) -> None:
        promises = [entry.promise for entry in entries]
        # The callers that were answered run first: what they call now joins the next batch.
        self._wire.deliver(promises, outcomes, then=lambda: self._release(len(entries)))

    def _release(self, size: int) -> None:
        with self._lock:
            self._under_way.remove(size)
        self._start()


def _concerns_the_batch(error: CallError) -> bool:
    """Whether a batch was refused as such, for its size as an example, and says nothing of its calls."""
    if error.code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        # gRPC's own limits; RATE_LIMITED and OVERLOADED are answers to each call.
        return not error.reason
    return error.code in _BATCH_REFUSALS


class Lanes:
    """The lanes of a client."""

    def __init__(self, pairs: Mapping[str, Pair], wire: Any, send: Send) -> None:
        self._pairs = pairs
        self._wire = wire
        self._send = send
        self._lanes: dict[tuple[str, Any, int], Lane] = {}
        self._lock = threading.Lock()

    def lane(self, path: str, metadata: Any, place: int) -> Lane | None:
        """The lane of a call; None where its rpc has no batch."""
        key = (path, metadata, place)
        lane = self._lanes.get(key)
        if lane is not None or path not in self._pairs:
            return lane
        with self._lock:
            if len(self._lanes) >= LANES_MAX:
                self._lanes = {key: lane for key, lane in self._lanes.items() if not lane.is_idle}
            new = Lane(self._pairs[path], metadata, place, self._wire, self._send)
            return self._lanes.setdefault(key, new)

    def reset(self) -> None:
        """Forgets all calls: their event loop, or their process, is gone."""
        self._lock = threading.Lock()
        self._lanes = {}
