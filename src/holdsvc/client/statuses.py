"""The exception of a status, as gRPC brings it or an entry of a batch has it."""

from typing import Any

import grpc
from google.rpc import error_details_pb2, status_pb2

from holdsvc.client.errors import BY_REASON, CallError
from inventoryhold.v1 import error_reason_pb2

DOMAIN = "holdsvc"

_DETAILS_KEY = "grpc-status-details-bin"

_DETAIL_TYPES = (
    error_details_pb2.BadRequest,
    error_details_pb2.RetryInfo,
    error_reason_pb2.CapacityShortfall,
    error_reason_pb2.LimitExceeded,
)


def from_rpc(error: grpc.RpcError) -> CallError:
    """Reads a gRPC error's status and details."""
    code = error.code()
    message = error.details() or ""
    return from_status(code, message, _status(error))


def from_status(code: grpc.StatusCode, message: str, status: status_pb2.Status | None) -> CallError:
    """Makes the exception of a status: also of an entry of a BatchReserve."""
    reason, metadata, details = "", {}, []
    for packed in status.details if status is not None else ():
        info = error_details_pb2.ErrorInfo()
        if packed.Unpack(info):
            if info.domain == DOMAIN:
                reason, metadata = info.reason, dict(info.metadata)
            continue
        for detail_type in _DETAIL_TYPES:
            detail = detail_type()
            if packed.Unpack(detail):
                details.append(detail)
    error = BY_REASON.get(reason, CallError)
    return error(code, message, reason=reason, metadata=metadata, details=details)


def _status(error: Any) -> status_pb2.Status | None:
    for key, value in error.trailing_metadata() or ():
        if key == _DETAILS_KEY:
            return status_pb2.Status.FromString(value)
    return None
