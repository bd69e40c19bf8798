"""Batches: entries that are judged and answered one by one, in parts small enough for the loop and for the caller."""

from collections.abc import Iterator, Sequence
from typing import TypeVar

from google.rpc import error_details_pb2, status_pb2

from holdsvc.change_requests import Request
from inventoryhold.v1 import reservation_pb2
from inventoryhold.v1 import reservation_service_pb2 as pb

R = TypeVar("R", bound=Request)

Response = (
    pb.BatchReserveResponse
    | pb.BatchModifyResponse
    | pb.BatchConfirmResponse
    | pb.BatchCancelResponse
    | pb.BatchRefundResponse
    | pb.BatchFulfilResponse
    | pb.BatchExtendResponse
)

PART_LINES_MAX = 5000
"""Lines that the engine gets at once: making their SQL parameters takes some 10 ms."""

WHOLE_BYTES_MAX = 3 * 1024 * 1024
"""Bytes of an answer's results that are told in full. gRPC's clients take 4 MiB."""

MESSAGE_MAX = 100
"""Characters of an abridged error's message."""


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


def abridge(response: Response) -> Iterator[None]:
    """Shortens the last results of an answer that is larger than its reader takes; may pause at each."""
    if response.ByteSize() <= WHOLE_BYTES_MAX:
        return
    size = 0
    for result in response.results:
        if size <= WHOLE_BYTES_MAX:
            size += result.ByteSize()
        if size > WHOLE_BYTES_MAX:
            result.abridged = True
            if result.HasField("reservation"):
                whole = result.reservation
                result.reservation.CopyFrom(
                    reservation_pb2.Reservation(
                        reservation_id=whole.reservation_id, state=whole.state, revision=whole.revision
                    )
                )
            else:
                result.error.CopyFrom(_short(result.error))
        yield


def _short(error: status_pb2.Status) -> status_pb2.Status:
    info = error_details_pb2.ErrorInfo()
    error.details[0].Unpack(info)
    info.ClearField("metadata")
    short = status_pb2.Status(code=error.code, message=error.message[:MESSAGE_MAX])
    short.details.add().Pack(info)
    return short
