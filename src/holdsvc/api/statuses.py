"""The one place where an error gets its gRPC code and its details."""

from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple, TypeVar

from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc import StatusCode
from grpc_status import rpc_status

from holdsvc import outages
from holdsvc.errors import HoldError
from holdsvc.model import OverLimit, Refused, ShortLine, Violation
from inventoryhold.v1 import error_reason_pb2

M = TypeVar("M", bound=Message)

DOMAIN = "holdsvc"

CODES: Mapping[str, StatusCode] = {
    "CAPACITY_EXCEEDED": StatusCode.FAILED_PRECONDITION,
    "ITEM_NOT_FOUND": StatusCode.NOT_FOUND,
    "RESERVATION_NOT_FOUND": StatusCode.NOT_FOUND,
    "API_KEY_NOT_FOUND": StatusCode.NOT_FOUND,
    "ITEM_ALREADY_EXISTS": StatusCode.ALREADY_EXISTS,
    "ORDER_ID_IN_USE": StatusCode.ALREADY_EXISTS,
    "DUPLICATE_RESERVATION": StatusCode.ALREADY_EXISTS,
    "RESERVATION_EXPIRED": StatusCode.FAILED_PRECONDITION,
    "RESERVATION_ALREADY_CONFIRMED": StatusCode.FAILED_PRECONDITION,
    "RESERVATION_ALREADY_CANCELLED": StatusCode.FAILED_PRECONDITION,
    "ALREADY_REFUNDED": StatusCode.FAILED_PRECONDITION,
    "ALREADY_FULFILLED": StatusCode.FAILED_PRECONDITION,
    "RESERVATION_NOT_CONFIRMED": StatusCode.FAILED_PRECONDITION,
    "CAPACITY_IN_USE": StatusCode.FAILED_PRECONDITION,
    "SALE_CLOSED": StatusCode.FAILED_PRECONDITION,
    "QUANTITY_EXCEEDED": StatusCode.FAILED_PRECONDITION,
    "WAITLIST_CLOSED": StatusCode.FAILED_PRECONDITION,
    "WAITLIST_ENTRY_NOT_FOUND": StatusCode.NOT_FOUND,
    "ALREADY_WAITING": StatusCode.ALREADY_EXISTS,
    "REFERENCE_AMBIGUOUS": StatusCode.FAILED_PRECONDITION,
    "LIMIT_EXCEEDED": StatusCode.FAILED_PRECONDITION,
    "LIMIT_NOT_FOUND": StatusCode.NOT_FOUND,
    "FEATURE_NOT_ACTIVE": StatusCode.FAILED_PRECONDITION,
    "WEBHOOK_NOT_FOUND": StatusCode.NOT_FOUND,
    "TOO_MANY_WEBHOOKS": StatusCode.FAILED_PRECONDITION,
    "INVALID_FIELD": StatusCode.INVALID_ARGUMENT,
    "REQUEST_ID_REUSED": StatusCode.INVALID_ARGUMENT,
    "REVISION_MISMATCH": StatusCode.ABORTED,
    "UNAUTHENTICATED": StatusCode.UNAUTHENTICATED,
    "PERMISSION_DENIED": StatusCode.PERMISSION_DENIED,
    "RATE_LIMITED": StatusCode.RESOURCE_EXHAUSTED,
    "OVERLOADED": StatusCode.RESOURCE_EXHAUSTED,
    "RESUME_TOKEN_EXPIRED": StatusCode.OUT_OF_RANGE,
    "RESUME_TOKEN_FOREIGN": StatusCode.INVALID_ARGUMENT,
    "DATABASE_UNAVAILABLE": StatusCode.UNAVAILABLE,
    "TENANT_MOVED": StatusCode.UNAVAILABLE,
    "DATABASE_SPLIT": StatusCode.UNAVAILABLE,
    "SHUTTING_DOWN": StatusCode.UNAVAILABLE,
    "OUTCOME_UNKNOWN": StatusCode.UNKNOWN,
    "INTERNAL": StatusCode.INTERNAL,
}

METADATA_VALUE_MAX = 256
"""Characters of a metadata value; longer ones are cut."""

MESSAGE_MAX = 512
"""Characters of a message; longer ones are cut."""

ENDINGS_MAX = 64
"""Endings that are kept: the calls of a batch share refusals, and are answered one after the other."""

TRAILER_BYTES_MAX = 7600
"""An error travels in the trailing metadata. Callers drop calls with more than 8,192 bytes of it (gRPC's own default),
some at once and some at random, and would see RESOURCE_EXHAUSTED in place of the error."""


def refused_of(error: BaseException, method: str) -> Refused:
    """What the caller may read of an error that a handler raised; a fault of the service becomes an incident."""
    return error.refused if isinstance(error, HoldError) else outages.internal(error, method=method)


class Ending(NamedTuple):
    """How a call ends that is refused: what gRPC's `abort` takes."""

    code: StatusCode
    message: str
    metadata: tuple[tuple[str, str | bytes], ...]


@lru_cache(ENDINGS_MAX)
def ending(refused: Refused) -> Ending:
    """Ends a call: the status with its details and, where a retry has to wait, gRPC's pushback (gRFC A6)."""
    made = rpc_status.to_status(status(refused))
    metadata = tuple(made.trailing_metadata)
    if refused.retry_after_s is not None:
        # It paces gRPC's own retries; RetryInfo is for the application's.
        metadata += (("grpc-retry-pushback-ms", str(int(refused.retry_after_s * 1000))),)
    return Ending(made.code, made.details, metadata)


def status(refused: Refused) -> status_pb2.Status:
    """The google.rpc.Status of a refusal: code, message and details.

    Lines and fields that would not fit into a trailer are left out; the metadata word `omitted` counts them.
    """
    answer = status_pb2.Status(code=CODES[refused.reason].value[0], message=refused.message[:MESSAGE_MAX])
    info = error_details_pb2.ErrorInfo(reason=refused.reason, domain=DOMAIN)
    info.metadata.update({key: value[:METADATA_VALUE_MAX] for key, value in refused.metadata.items()})
    details: list[Message] = [info]
    if refused.retry_after_s is not None:
        delay = duration_pb2.Duration()
        delay.FromMilliseconds(int(refused.retry_after_s * 1000))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    # The message travels twice: in the status and, percent-encoded, on its own.
    room = TRAILER_BYTES_MAX - 4 * len(answer.message.encode()) - info.ByteSize()
    if refused.shortfall:
        short = _fitting([_short_line(line) for line in refused.shortfall], room)
        details.insert(1, error_reason_pb2.CapacityShortfall(lines=short))
        _count_omitted(info, len(refused.shortfall) - len(short))
    if refused.over_limit:
        details.insert(1, _limit_exceeded(refused.over_limit))
    if refused.violations:
        bad = _fitting([_field_violation(violation) for violation in refused.violations], room)
        details.insert(1, error_details_pb2.BadRequest(field_violations=bad))
        _count_omitted(info, refused.omitted + len(refused.violations) - len(bad))
    for detail in details:
        packed: any_pb2.Any = answer.details.add()
        packed.Pack(detail)
    return answer


def _short_line(line: ShortLine) -> error_reason_pb2.ShortLine:
    return error_reason_pb2.ShortLine(
        sku=line.sku,
        pool=line.pool,
        requested=line.requested,
        available=line.available,
        shortfall=max(0, line.requested - line.available),
        next_free_time=line.next_free_time,
        next_free_quantity=line.next_free_quantity,
    )


def _limit_exceeded(over: OverLimit) -> error_reason_pb2.LimitExceeded:
    return error_reason_pb2.LimitExceeded(
        limit_id=over.limit_id, max=over.max, used=over.used, requested=over.requested, reset_time=over.reset_time
    )


def _field_violation(violation: Violation) -> error_details_pb2.BadRequest.FieldViolation:
    return error_details_pb2.BadRequest.FieldViolation(
        field=violation.field, description=violation.description, reason=violation.rule
    )


def _fitting(parts: list[M], room: int) -> list[M]:
    """As many of the first parts as fit into `room` bytes."""
    for count, part in enumerate(parts):
        # Each is preceded by its tag and its length.
        room -= part.ByteSize() + 3
        if room < 0:
            return parts[:count]
    return parts


def _count_omitted(info: error_details_pb2.ErrorInfo, count: int) -> None:
    if count:
        info.metadata["omitted"] = str(count)
