import datetime

from buf.validate import validate_pb2 as _validate_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Item(_message.Message):
    __slots__ = ("sku", "pool", "display_name", "capacity", "remaining", "held", "confirmed", "oversell_limit", "revision", "create_time", "update_time", "sale_state", "buffer", "low_at", "return_pool", "return_time", "waitlist_policy", "waiting", "count_time")
    class WaitlistPolicy(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        WAITLIST_POLICY_UNSPECIFIED: _ClassVar[Item.WaitlistPolicy]
        WAITLIST_POLICY_OFF: _ClassVar[Item.WaitlistPolicy]
        WAITLIST_POLICY_FIRST_FITTING: _ClassVar[Item.WaitlistPolicy]
        WAITLIST_POLICY_STRICT: _ClassVar[Item.WaitlistPolicy]
    WAITLIST_POLICY_UNSPECIFIED: Item.WaitlistPolicy
    WAITLIST_POLICY_OFF: Item.WaitlistPolicy
    WAITLIST_POLICY_FIRST_FITTING: Item.WaitlistPolicy
    WAITLIST_POLICY_STRICT: Item.WaitlistPolicy
    class SaleState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        SALE_STATE_UNSPECIFIED: _ClassVar[Item.SaleState]
        SALE_STATE_OPEN: _ClassVar[Item.SaleState]
        SALE_STATE_CLOSED: _ClassVar[Item.SaleState]
    SALE_STATE_UNSPECIFIED: Item.SaleState
    SALE_STATE_OPEN: Item.SaleState
    SALE_STATE_CLOSED: Item.SaleState
    SKU_FIELD_NUMBER: _ClassVar[int]
    POOL_FIELD_NUMBER: _ClassVar[int]
    DISPLAY_NAME_FIELD_NUMBER: _ClassVar[int]
    CAPACITY_FIELD_NUMBER: _ClassVar[int]
    REMAINING_FIELD_NUMBER: _ClassVar[int]
    HELD_FIELD_NUMBER: _ClassVar[int]
    CONFIRMED_FIELD_NUMBER: _ClassVar[int]
    OVERSELL_LIMIT_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    UPDATE_TIME_FIELD_NUMBER: _ClassVar[int]
    SALE_STATE_FIELD_NUMBER: _ClassVar[int]
    BUFFER_FIELD_NUMBER: _ClassVar[int]
    LOW_AT_FIELD_NUMBER: _ClassVar[int]
    RETURN_POOL_FIELD_NUMBER: _ClassVar[int]
    RETURN_TIME_FIELD_NUMBER: _ClassVar[int]
    WAITLIST_POLICY_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    COUNT_TIME_FIELD_NUMBER: _ClassVar[int]
    sku: str
    pool: str
    display_name: str
    capacity: int
    remaining: int
    held: int
    confirmed: int
    oversell_limit: int
    revision: int
    create_time: _timestamp_pb2.Timestamp
    update_time: _timestamp_pb2.Timestamp
    sale_state: Item.SaleState
    buffer: int
    low_at: int
    return_pool: str
    return_time: _timestamp_pb2.Timestamp
    waitlist_policy: Item.WaitlistPolicy
    waiting: int
    count_time: _timestamp_pb2.Timestamp
    def __init__(self, sku: _Optional[str] = ..., pool: _Optional[str] = ..., display_name: _Optional[str] = ..., capacity: _Optional[int] = ..., remaining: _Optional[int] = ..., held: _Optional[int] = ..., confirmed: _Optional[int] = ..., oversell_limit: _Optional[int] = ..., revision: _Optional[int] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., update_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., sale_state: _Optional[_Union[Item.SaleState, str]] = ..., buffer: _Optional[int] = ..., low_at: _Optional[int] = ..., return_pool: _Optional[str] = ..., return_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., waitlist_policy: _Optional[_Union[Item.WaitlistPolicy, str]] = ..., waiting: _Optional[int] = ..., count_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class ItemKey(_message.Message):
    __slots__ = ("sku", "pool")
    SKU_FIELD_NUMBER: _ClassVar[int]
    POOL_FIELD_NUMBER: _ClassVar[int]
    sku: str
    pool: str
    def __init__(self, sku: _Optional[str] = ..., pool: _Optional[str] = ...) -> None: ...

class ItemQuantity(_message.Message):
    __slots__ = ("sku", "pool", "quantity")
    SKU_FIELD_NUMBER: _ClassVar[int]
    POOL_FIELD_NUMBER: _ClassVar[int]
    QUANTITY_FIELD_NUMBER: _ClassVar[int]
    sku: str
    pool: str
    quantity: int
    def __init__(self, sku: _Optional[str] = ..., pool: _Optional[str] = ..., quantity: _Optional[int] = ...) -> None: ...
