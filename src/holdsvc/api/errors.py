"""The one place where an error gets its gRPC code and its details."""

import secrets
from collections.abc import Mapping

import structlog
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc import StatusCode

from holdsvc import errors
from holdsvc.errors import HoldError
from inventoryhold.v1 import error_reason_pb2

log = structlog.get_logger(__name__)

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
    "RESERVATION_NOT_CONFIRMED": StatusCode.FAILED_PRECONDITION,
    "CAPACITY_IN_USE": StatusCode.FAILED_PRECONDITION,
    "QUANTITY_EXCEEDED": StatusCode.FAILED_PRECONDITION,
    "REFERENCE_AMBIGUOUS": StatusCode.FAILED_PRECONDITION,
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
    "SHUTTING_DOWN": StatusCode.UNAVAILABLE,
    "OUTCOME_UNKNOWN": StatusCode.UNKNOWN,
    "INTERNAL": StatusCode.INTERNAL,
}

METADATA_VALUE_MAX = 256
"""Characters of a metadata value; longer ones are cut, so that the error fits into a header."""


def as_hold_error(error: BaseException, method: str) -> HoldError:
    """Turns whatever a handler raised into what the caller may read; a bug becomes an incident in the log."""
    if isinstance(error, HoldError):
        return error
    incident_id = secrets.token_hex(8)
    log.error("call.failed", incident_id=incident_id, method=method, exc_info=error)
    return errors.internal(incident_id)


def status(error: HoldError) -> status_pb2.Status:
    """The google.rpc.Status of an error: code, message and details."""
    metadata = {key: value[:METADATA_VALUE_MAX] for key, value in error.metadata.items()}
    details: list[Message] = [error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=metadata)]
    if error.shortfall:
        details.append(
            error_reason_pb2.CapacityShortfall(
                lines=[
                    error_reason_pb2.ShortLine(
                        sku=line.sku,
                        pool=line.pool,
                        requested=line.requested,
                        available=line.available,
                        shortfall=max(0, line.requested - line.available),
                    )
                    for line in error.shortfall
                ]
            )
        )
    if error.violations:
        details.append(
            error_details_pb2.BadRequest(
                field_violations=[
                    error_details_pb2.BadRequest.FieldViolation(
                        field=violation.field, description=violation.description, reason=violation.rule
                    )
                    for violation in error.violations
                ]
            )
        )
    if error.retry_after_s is not None:
        delay = duration_pb2.Duration()
        delay.FromMilliseconds(int(error.retry_after_s * 1000))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    answer = status_pb2.Status(code=CODES[error.reason].value[0], message=error.message[:1000])
    for detail in details:
        packed: any_pb2.Any = answer.details.add()
        packed.Pack(detail)
    return answer
