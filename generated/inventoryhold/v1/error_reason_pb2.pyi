import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ErrorReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ERROR_REASON_UNSPECIFIED: _ClassVar[ErrorReason]
    ERROR_REASON_CAPACITY_EXCEEDED: _ClassVar[ErrorReason]
    ERROR_REASON_ITEM_NOT_FOUND: _ClassVar[ErrorReason]
    ERROR_REASON_RESERVATION_NOT_FOUND: _ClassVar[ErrorReason]
    ERROR_REASON_API_KEY_NOT_FOUND: _ClassVar[ErrorReason]
    ERROR_REASON_ITEM_ALREADY_EXISTS: _ClassVar[ErrorReason]
    ERROR_REASON_ORDER_ID_IN_USE: _ClassVar[ErrorReason]
    ERROR_REASON_DUPLICATE_RESERVATION: _ClassVar[ErrorReason]
    ERROR_REASON_RESERVATION_EXPIRED: _ClassVar[ErrorReason]
    ERROR_REASON_RESERVATION_ALREADY_CONFIRMED: _ClassVar[ErrorReason]
    ERROR_REASON_RESERVATION_ALREADY_CANCELLED: _ClassVar[ErrorReason]
    ERROR_REASON_ALREADY_REFUNDED: _ClassVar[ErrorReason]
    ERROR_REASON_RESERVATION_NOT_CONFIRMED: _ClassVar[ErrorReason]
    ERROR_REASON_CAPACITY_IN_USE: _ClassVar[ErrorReason]
    ERROR_REASON_QUANTITY_EXCEEDED: _ClassVar[ErrorReason]
    ERROR_REASON_REFERENCE_AMBIGUOUS: _ClassVar[ErrorReason]
    ERROR_REASON_INVALID_FIELD: _ClassVar[ErrorReason]
    ERROR_REASON_REQUEST_ID_REUSED: _ClassVar[ErrorReason]
    ERROR_REASON_REVISION_MISMATCH: _ClassVar[ErrorReason]
    ERROR_REASON_UNAUTHENTICATED: _ClassVar[ErrorReason]
    ERROR_REASON_PERMISSION_DENIED: _ClassVar[ErrorReason]
    ERROR_REASON_RATE_LIMITED: _ClassVar[ErrorReason]
    ERROR_REASON_OVERLOADED: _ClassVar[ErrorReason]
    ERROR_REASON_RESUME_TOKEN_EXPIRED: _ClassVar[ErrorReason]
    ERROR_REASON_RESUME_TOKEN_FOREIGN: _ClassVar[ErrorReason]
    ERROR_REASON_DATABASE_UNAVAILABLE: _ClassVar[ErrorReason]
    ERROR_REASON_SHUTTING_DOWN: _ClassVar[ErrorReason]
    ERROR_REASON_OUTCOME_UNKNOWN: _ClassVar[ErrorReason]
    ERROR_REASON_INTERNAL: _ClassVar[ErrorReason]
    ERROR_REASON_FEATURE_NOT_ACTIVE: _ClassVar[ErrorReason]
    ERROR_REASON_SALE_CLOSED: _ClassVar[ErrorReason]
    ERROR_REASON_ALREADY_FULFILLED: _ClassVar[ErrorReason]
    ERROR_REASON_LIMIT_EXCEEDED: _ClassVar[ErrorReason]
    ERROR_REASON_LIMIT_NOT_FOUND: _ClassVar[ErrorReason]
    ERROR_REASON_WAITLIST_CLOSED: _ClassVar[ErrorReason]
    ERROR_REASON_WAITLIST_ENTRY_NOT_FOUND: _ClassVar[ErrorReason]
    ERROR_REASON_ALREADY_WAITING: _ClassVar[ErrorReason]
    ERROR_REASON_WEBHOOK_NOT_FOUND: _ClassVar[ErrorReason]
    ERROR_REASON_TOO_MANY_WEBHOOKS: _ClassVar[ErrorReason]
    ERROR_REASON_TENANT_MOVED: _ClassVar[ErrorReason]
    ERROR_REASON_DATABASE_SPLIT: _ClassVar[ErrorReason]
ERROR_REASON_UNSPECIFIED: ErrorReason
ERROR_REASON_CAPACITY_EXCEEDED: ErrorReason
ERROR_REASON_ITEM_NOT_FOUND: ErrorReason
ERROR_REASON_RESERVATION_NOT_FOUND: ErrorReason
ERROR_REASON_API_KEY_NOT_FOUND: ErrorReason
ERROR_REASON_ITEM_ALREADY_EXISTS: ErrorReason
ERROR_REASON_ORDER_ID_IN_USE: ErrorReason
ERROR_REASON_DUPLICATE_RESERVATION: ErrorReason
ERROR_REASON_RESERVATION_EXPIRED: ErrorReason
ERROR_REASON_RESERVATION_ALREADY_CONFIRMED: ErrorReason
ERROR_REASON_RESERVATION_ALREADY_CANCELLED: ErrorReason
ERROR_REASON_ALREADY_REFUNDED: ErrorReason
ERROR_REASON_RESERVATION_NOT_CONFIRMED: ErrorReason
ERROR_REASON_CAPACITY_IN_USE: ErrorReason
ERROR_REASON_QUANTITY_EXCEEDED: ErrorReason
ERROR_REASON_REFERENCE_AMBIGUOUS: ErrorReason
ERROR_REASON_INVALID_FIELD: ErrorReason
ERROR_REASON_REQUEST_ID_REUSED: ErrorReason
ERROR_REASON_REVISION_MISMATCH: ErrorReason
ERROR_REASON_UNAUTHENTICATED: ErrorReason
ERROR_REASON_PERMISSION_DENIED: ErrorReason
ERROR_REASON_RATE_LIMITED: ErrorReason
ERROR_REASON_OVERLOADED: ErrorReason
ERROR_REASON_RESUME_TOKEN_EXPIRED: ErrorReason
ERROR_REASON_RESUME_TOKEN_FOREIGN: ErrorReason
ERROR_REASON_DATABASE_UNAVAILABLE: ErrorReason
ERROR_REASON_SHUTTING_DOWN: ErrorReason
ERROR_REASON_OUTCOME_UNKNOWN: ErrorReason
ERROR_REASON_INTERNAL: ErrorReason
ERROR_REASON_FEATURE_NOT_ACTIVE: ErrorReason
ERROR_REASON_SALE_CLOSED: ErrorReason
ERROR_REASON_ALREADY_FULFILLED: ErrorReason
ERROR_REASON_LIMIT_EXCEEDED: ErrorReason
ERROR_REASON_LIMIT_NOT_FOUND: ErrorReason
ERROR_REASON_WAITLIST_CLOSED: ErrorReason
ERROR_REASON_WAITLIST_ENTRY_NOT_FOUND: ErrorReason
ERROR_REASON_ALREADY_WAITING: ErrorReason
ERROR_REASON_WEBHOOK_NOT_FOUND: ErrorReason
ERROR_REASON_TOO_MANY_WEBHOOKS: ErrorReason
ERROR_REASON_TENANT_MOVED: ErrorReason
ERROR_REASON_DATABASE_SPLIT: ErrorReason

class CapacityShortfall(_message.Message):
    __slots__ = ("lines",)
    LINES_FIELD_NUMBER: _ClassVar[int]
    lines: _containers.RepeatedCompositeFieldContainer[ShortLine]
    def __init__(self, lines: _Optional[_Iterable[_Union[ShortLine, _Mapping]]] = ...) -> None: ...

class ShortLine(_message.Message):
    __slots__ = ("sku", "pool", "requested", "available", "shortfall", "next_free_time", "next_free_quantity")
    SKU_FIELD_NUMBER: _ClassVar[int]
    POOL_FIELD_NUMBER: _ClassVar[int]
    REQUESTED_FIELD_NUMBER: _ClassVar[int]
    AVAILABLE_FIELD_NUMBER: _ClassVar[int]
    SHORTFALL_FIELD_NUMBER: _ClassVar[int]
    NEXT_FREE_TIME_FIELD_NUMBER: _ClassVar[int]
    NEXT_FREE_QUANTITY_FIELD_NUMBER: _ClassVar[int]
    sku: str
    pool: str
    requested: int
    available: int
    shortfall: int
    next_free_time: _timestamp_pb2.Timestamp
    next_free_quantity: int
    def __init__(self, sku: _Optional[str] = ..., pool: _Optional[str] = ..., requested: _Optional[int] = ..., available: _Optional[int] = ..., shortfall: _Optional[int] = ..., next_free_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., next_free_quantity: _Optional[int] = ...) -> None: ...

class LimitExceeded(_message.Message):
    __slots__ = ("limit_id", "max", "used", "requested", "reset_time")
    LIMIT_ID_FIELD_NUMBER: _ClassVar[int]
    MAX_FIELD_NUMBER: _ClassVar[int]
    USED_FIELD_NUMBER: _ClassVar[int]
    REQUESTED_FIELD_NUMBER: _ClassVar[int]
    RESET_TIME_FIELD_NUMBER: _ClassVar[int]
    limit_id: str
    max: int
    used: int
    requested: int
    reset_time: _timestamp_pb2.Timestamp
    def __init__(self, limit_id: _Optional[str] = ..., max: _Optional[int] = ..., used: _Optional[int] = ..., requested: _Optional[int] = ..., reset_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...
