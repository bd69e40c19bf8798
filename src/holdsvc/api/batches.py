"""Batches: entries that are judged and answered one by one, in parts small enough for the loop and for the caller."""

from collections.abc import Awaitable, Callable, Generator, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from holdsvc import errors, outages
from holdsvc.api import validation
from holdsvc.api.calls import Call
from holdsvc.api.changes import Check
from holdsvc.api.statuses import status
from holdsvc.api.turns import Turns
from holdsvc.change_requests import Request
from holdsvc.errors import HoldError
from holdsvc.model import Answer, Done, Refused
from inventoryhold.v1 import inventory_service_pb2 as inventory_pb
from inventoryhold.v1 import item_pb2, reservation_pb2
from inventoryhold.v1 import reservation_service_pb2 as pb

E = TypeVar("E", bound=Message)
R = TypeVar("R", bound=Request)
V = TypeVar("V")

Response = (
    pb.BatchReserveResponse
    | pb.BatchModifyResponse
    | pb.BatchConfirmResponse
    | pb.BatchCancelResponse
    | pb.BatchRefundResponse
    | pb.BatchFulfilResponse
    | pb.BatchExtendResponse
    | inventory_pb.BatchSetStockResponse
)
B = TypeVar("B", bound=Response)

PART_LINES_MAX = 5000
"""Lines that the engine gets at once: making their SQL parameters takes some 10 ms."""

WHOLE_BYTES_MAX = 3 * 1024 * 1024
"""Bytes of an answer's results that are told in full. gRPC's clients take 4 MiB."""

MESSAGE_CHARS_MAX = 100
"""Characters of an abridged error's message."""


async def answer(
    request: Message,
    entries: Sequence[E],
    call: Call,
    turns: Turns,
    response: B,
    *,
    make: Callable[[E, Call, Check], R],
    submit: Callable[[Sequence[R], float], Awaitable[list[Answer[V]]]],
    put: Callable[[Any, Done[V]], None],
) -> B:
    """Judges, runs and answers the entries of a batch one by one, in slices that alternate with other calls.

    `make` makes an entry's change, `submit` runs changes, `put` writes what came of one into its result.
    """
    refused: dict[int, status_pb2.Status] = {}
    changes = await turns.run(_judge(request, entries, call, make, refused))
    done = await _run_all(changes, call, submit)
    return await turns.run(_fill(response, len(entries), refused, done, put))


def parts(changes: Sequence[R]) -> Iterator[Sequence[R]]:
    """The changes in order, cut so that no part has many more than `PART_LINES_MAX` lines."""
    start = lines = 0
    for index, change in enumerate(changes):
        lines += change.line_count
        if lines >= PART_LINES_MAX:
            yield changes[start : index + 1]
            start, lines = index + 1, 0
    if start < len(changes):
        yield changes[start:]


def _judge(
    request: Message,
    entries: Sequence[E],
    call: Call,
    make: Callable[[E, Call, Check], R],
    refused: dict[int, status_pb2.Status],
) -> Generator[None, None, list[R]]:
    """Makes the changes of the valid entries; puts the errors of the others into `refused`, by index."""
    changes = []
    # One walk through a small batch costs less than one through each of its entries.
    known_valid = not call.large and validation.is_valid(request)
    rules = validation.BatchRules(known_valid=known_valid)
    for index, entry in enumerate(entries):
        yield
        try:
            if index in call.bad_entries:
                raise HoldError(errors.invalid_fields(call.bad_entries[index]))
            changes.append(make(entry, call, rules.check))
        except HoldError as error:
            refused[index] = status(error.refused)
    return changes


async def _run_all(
    changes: Sequence[R],
    call: Call,
    submit: Callable[[Sequence[R], float], Awaitable[list[Answer[V]]]],
) -> list[Answer[V]]:
    """What came of each change. An error that ends a part is the answer to all changes that have not run by then."""
    results: list[Answer[V]] = []
    for part in parts(changes):
        try:
            results += await submit(part, call.deadline)
        except HoldError as error:
            if not results:
                raise
            results += [error.refused] * (len(changes) - len(results))
            break
    if results and all(isinstance(answer, Refused) and answer.reason == "TENANT_MOVED" for answer in results):
        # Nothing ran: the whole call can be made in the tenant's new cell.
        raise HoldError(outages.tenant_moved())
    return results


def _fill(
    response: B,
    size: int,
    refused: Mapping[int, status_pb2.Status],
    done: Sequence[Answer[V]],
    put: Callable[[Any, Done[V]], None],
) -> Generator[None, None, B]:
    """Fills the answer: the refused entries by index, what came of the others in their order."""
    others = iter(done)
    for index in range(size):
        added = response.results.add()
        if index in refused:
            added.error.CopyFrom(refused[index])
        elif isinstance(answer := next(others), Refused):
            added.error.CopyFrom(status(answer))
        else:
            put(added, answer)
        yield
    yield from _abridge(response)
    return response


def _abridge(response: Response) -> Iterator[None]:
    """Shortens the last results of an answer that is larger than its reader takes; may pause at each."""
    if response.ByteSize() <= WHOLE_BYTES_MAX:
        return
    size = 0
    for result in response.results:
        if size <= WHOLE_BYTES_MAX:
            size += result.ByteSize()
        if size > WHOLE_BYTES_MAX:
            result.abridged = True
            if result.HasField("error"):
                result.error.CopyFrom(_short(result.error))
            elif isinstance(result, inventory_pb.SetStockResult):
                item = result.item
                result.item.CopyFrom(
                    item_pb2.Item(sku=item.sku, pool=item.pool, capacity=item.capacity, revision=item.revision)
                )
            else:
                whole = result.reservation
                result.reservation.CopyFrom(
                    reservation_pb2.Reservation(
                        reservation_id=whole.reservation_id, state=whole.state, revision=whole.revision
                    )
                )
        yield


def _short(error: status_pb2.Status) -> status_pb2.Status:
    info = error_details_pb2.ErrorInfo()
    error.details[0].Unpack(info)
    info.ClearField("metadata")
    short = status_pb2.Status(code=error.code, message=error.message[:MESSAGE_CHARS_MAX])
    short.details.add().Pack(info)
    return short
