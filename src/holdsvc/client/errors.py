"""One exception for each reason of the error catalogue, with `CallError` as their base.

Catch a class where you can act on that reason, `CallError` elsewhere. `ErrorReason` in the proto says what to do.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import grpc
from google.rpc import error_details_pb2

from inventoryhold.v1 import error_reason_pb2

_OPEN_CODES = (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED, grpc.StatusCode.UNKNOWN)


class CallError(Exception):
    """A call that failed; its subclasses name the reason.

    This class itself is raised where the service gave no reason (no connection, a deadline that passed, a closed
    client) or one that is newer than this client.
    """

    REASON = ""

    def __init__(
        self,
        code: grpc.StatusCode,
        message: str,
        *,
        reason: str = "",
        metadata: Mapping[str, str] | None = None,
        details: Sequence[Any] = (),
    ) -> None:
        super().__init__(f"{reason or code.name}: {message}")
        self.code = code
        self.message = message
        self.reason = reason
        """The ErrorReason without its prefix; empty where the service did not answer."""
        self.metadata = dict(metadata or {})
        """Every variable part of the message."""
        self.details = tuple(details)
        """The other details: BadRequest, RetryInfo, CapacityShortfall, LimitExceeded."""

    @property
    def retry_after_s(self) -> float | None:
        """How long the service asks to wait before another try."""
        for detail in self.details:
            if isinstance(detail, error_details_pb2.RetryInfo):
                return float(detail.retry_delay.seconds + detail.retry_delay.nanos / 1e9)
        return None


class CapacityExceeded(CallError):
    """Not enough units."""

    REASON = "CAPACITY_EXCEEDED"

    @property
    def shortfall(self) -> list[error_reason_pb2.ShortLine]:
        """Every short line: requested, available, shortfall."""
        for detail in self.details:
            if isinstance(detail, error_reason_pb2.CapacityShortfall):
                return list(detail.lines)
        return []


class ItemNotFound(CallError):
    """No such item."""

    REASON = "ITEM_NOT_FOUND"


class SaleClosed(CallError):
    """The sale of an item is closed: it takes no new holds."""

    REASON = "SALE_CLOSED"


class ReservationNotFound(CallError):
    """No such reservation."""

    REASON = "RESERVATION_NOT_FOUND"


class ApiKeyNotFound(CallError):
    """No such API key."""

    REASON = "API_KEY_NOT_FOUND"


class ItemAlreadyExists(CallError):
    """The item is there already."""

    REASON = "ITEM_ALREADY_EXISTS"


class OrderIdInUse(CallError):
    """The order_id belongs to another reservation."""

    REASON = "ORDER_ID_IN_USE"


class DuplicateReservation(CallError):
    """The holder has one of these items already."""

    REASON = "DUPLICATE_RESERVATION"


class ReservationExpired(CallError):
    """The hold has expired."""

    REASON = "RESERVATION_EXPIRED"


class ReservationAlreadyConfirmed(CallError):
    """The reservation is sold."""

    REASON = "RESERVATION_ALREADY_CONFIRMED"


class ReservationAlreadyCancelled(CallError):
    """The reservation was cancelled."""

    REASON = "RESERVATION_ALREADY_CANCELLED"


class AlreadyRefunded(CallError):
    """Every confirmed unit was refunded before."""

    REASON = "ALREADY_REFUNDED"


class AlreadyFulfilled(CallError):
    """Every confirmed unit was fulfilled or refunded before."""

    REASON = "ALREADY_FULFILLED"


class ReservationNotConfirmed(CallError):
    """Only a confirmed reservation can be refunded."""

    REASON = "RESERVATION_NOT_CONFIRMED"


class CapacityInUse(CallError):
    """Fewer units are free than the change takes away."""

    REASON = "CAPACITY_IN_USE"


class QuantityExceeded(CallError):
    """A partial confirm or refund of more units than there are."""

    REASON = "QUANTITY_EXCEEDED"


class WaitlistClosed(CallError):
    """The item has no waitlist."""

    REASON = "WAITLIST_CLOSED"


class WaitlistEntryNotFound(CallError):
    """No such waitlist entry."""

    REASON = "WAITLIST_ENTRY_NOT_FOUND"


class AlreadyWaiting(CallError):
    """The holder waits for one of the items already."""

    REASON = "ALREADY_WAITING"


class ReferenceAmbiguous(CallError):
    """Several reservations have the reference."""

    REASON = "REFERENCE_AMBIGUOUS"


class LimitExceeded(CallError):
    """The holder, or the client, would have more units than a limit allows."""

    REASON = "LIMIT_EXCEEDED"

    @property
    def limit(self) -> error_reason_pb2.LimitExceeded | None:
        """The limit: limit_id, max, used, requested, reset_time."""
        for detail in self.details:
            if isinstance(detail, error_reason_pb2.LimitExceeded):
                return detail
        return None


class LimitNotFound(CallError):
    """No such limit."""

    REASON = "LIMIT_NOT_FOUND"


class InvalidField(CallError):
    """The request is not valid."""

    REASON = "INVALID_FIELD"

    @property
    def violations(self) -> dict[str, str]:
        """What is wrong, by field."""
        return {
            violation.field: violation.description
            for detail in self.details
            if isinstance(detail, error_details_pb2.BadRequest)
            for violation in detail.field_violations
        }


class RequestIdReused(CallError):
    """The request_id was used for another call or other content."""

    REASON = "REQUEST_ID_REUSED"


class FeatureNotActive(CallError):
    """The call asks for a feature that the deployment has not turned on."""

    REASON = "FEATURE_NOT_ACTIVE"


class WebhookNotFound(CallError):
    """No such webhook."""

    REASON = "WEBHOOK_NOT_FOUND"


class TooManyWebhooks(CallError):
    """The tenant has as many webhooks as it may have."""

    REASON = "TOO_MANY_WEBHOOKS"


class RevisionMismatch(CallError):
    """The item has changed since it was read."""

    REASON = "REVISION_MISMATCH"


class Unauthenticated(CallError):
    """No API key, or one that is not valid."""

    REASON = "UNAUTHENTICATED"


class PermissionDenied(CallError):
    """The API key lacks a scope."""

    REASON = "PERMISSION_DENIED"


class RateLimited(CallError):
    """More calls than this client's limit."""

    REASON = "RATE_LIMITED"


class Overloaded(CallError):
    """The service has more work than it can finish in time; nothing ran."""

    REASON = "OVERLOADED"


class ResumeTokenExpired(CallError):
    """The events after the token are no longer kept."""

    REASON = "RESUME_TOKEN_EXPIRED"


class ResumeTokenForeign(CallError):
    """The token is not of this database and tenant."""

    REASON = "RESUME_TOKEN_FOREIGN"


class DatabaseUnavailable(CallError):
    """The service's database does not answer."""

    REASON = "DATABASE_UNAVAILABLE"


class TenantMoved(CallError):
    """The tenant is on its way to another of the service's databases."""

    REASON = "TENANT_MOVED"


class DatabaseSplit(CallError):
    """Two databases of the service say that they are the primary; it makes no change until one has been stopped."""

    REASON = "DATABASE_SPLIT"


class ShuttingDown(CallError):
    """The server that answered is stopping."""

    REASON = "SHUTTING_DOWN"


class OutcomeUnknown(CallError):
    """It is not known whether the call took effect."""

    REASON = "OUTCOME_UNKNOWN"


class Internal(CallError):
    """A fault of the service; the metadata has its incident_id."""

    REASON = "INTERNAL"


class NoConnection(CallError):
    """No connection to the service could be made within the deadline; the service gave no reason."""


BY_REASON: Mapping[str, type[CallError]] = {error.REASON: error for error in CallError.__subclasses__() if error.REASON}


def deadline_exceeded() -> CallError:
    """The error of a call whose deadline has passed in this process."""
    return CallError(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")


def interrupted(cause: BaseException) -> CallError:
    """The error of a call that this process ended before its answer."""
    return CallError(grpc.StatusCode.CANCELLED, f"the call was ended in this process: {type(cause).__name__}")


def malformed_batch() -> CallError:
    """The error of a batch whose answer has not one result for each call."""
    return CallError(grpc.StatusCode.INTERNAL, "the answer of the batch does not have a result for each call")


def copy_of(error: CallError) -> CallError:
    """The same error for another call: each is raised with a traceback of its own."""
    return type(error)(error.code, error.message, reason=error.reason, metadata=error.metadata, details=error.details)


def no_connection(target: str, cause: str) -> CallError:
    """The error of a call whose deadline has passed while there was no connection."""
    return NoConnection(
        grpc.StatusCode.DEADLINE_EXCEEDED, f"no connection to {target} could be made within the deadline: {cause}"
    )


def none_answers(targets: Sequence[str]) -> CallError:
    """The error of a stream that finds none of several addresses up."""
    return CallError(grpc.StatusCode.UNAVAILABLE, f"none of {', '.join(targets)} answers")


def leaves_outcome_open(error: BaseException) -> bool:
    """Whether a call that ended like this may have taken effect."""
    if not isinstance(error, CallError):
        # A cancelled task or an interrupt; other exceptions come from the call's arguments.
        return not isinstance(error, Exception)
    if isinstance(error, NoConnection):
        return False
    return error.code in _OPEN_CODES or (error.code is grpc.StatusCode.UNAVAILABLE and not error.reason)
