import datetime

from buf.validate import validate_pb2 as _validate_pb2
from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Limit(_message.Message):
    __slots__ = ("limit_id", "sku_prefix", "pool", "per", "counts", "max_quantity", "window", "state", "create_time", "update_time")
    class Per(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        PER_UNSPECIFIED: _ClassVar[Limit.Per]
        PER_HOLDER: _ClassVar[Limit.Per]
        PER_CLIENT: _ClassVar[Limit.Per]
    PER_UNSPECIFIED: Limit.Per
    PER_HOLDER: Limit.Per
    PER_CLIENT: Limit.Per
    class Counts(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        COUNTS_UNSPECIFIED: _ClassVar[Limit.Counts]
        COUNTS_HELD: _ClassVar[Limit.Counts]
        COUNTS_HELD_AND_CONFIRMED: _ClassVar[Limit.Counts]
    COUNTS_UNSPECIFIED: Limit.Counts
    COUNTS_HELD: Limit.Counts
    COUNTS_HELD_AND_CONFIRMED: Limit.Counts
    class State(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        STATE_UNSPECIFIED: _ClassVar[Limit.State]
        STATE_BUILDING: _ClassVar[Limit.State]
        STATE_ACTIVE: _ClassVar[Limit.State]
    STATE_UNSPECIFIED: Limit.State
    STATE_BUILDING: Limit.State
    STATE_ACTIVE: Limit.State
    LIMIT_ID_FIELD_NUMBER: _ClassVar[int]
    SKU_PREFIX_FIELD_NUMBER: _ClassVar[int]
    POOL_FIELD_NUMBER: _ClassVar[int]
    PER_FIELD_NUMBER: _ClassVar[int]
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    MAX_QUANTITY_FIELD_NUMBER: _ClassVar[int]
    WINDOW_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    UPDATE_TIME_FIELD_NUMBER: _ClassVar[int]
    limit_id: str
    sku_prefix: str
    pool: str
    per: Limit.Per
    counts: Limit.Counts
    max_quantity: int
    window: _duration_pb2.Duration
    state: Limit.State
    create_time: _timestamp_pb2.Timestamp
    update_time: _timestamp_pb2.Timestamp
    def __init__(self, limit_id: _Optional[str] = ..., sku_prefix: _Optional[str] = ..., pool: _Optional[str] = ..., per: _Optional[_Union[Limit.Per, str]] = ..., counts: _Optional[_Union[Limit.Counts, str]] = ..., max_quantity: _Optional[int] = ..., window: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., state: _Optional[_Union[Limit.State, str]] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., update_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class LimitUsage(_message.Message):
    __slots__ = ("limit_id", "client", "holder", "max_quantity", "used", "available", "held", "confirmed", "reset_time")
    LIMIT_ID_FIELD_NUMBER: _ClassVar[int]
    CLIENT_FIELD_NUMBER: _ClassVar[int]
    HOLDER_FIELD_NUMBER: _ClassVar[int]
    MAX_QUANTITY_FIELD_NUMBER: _ClassVar[int]
    USED_FIELD_NUMBER: _ClassVar[int]
    AVAILABLE_FIELD_NUMBER: _ClassVar[int]
    HELD_FIELD_NUMBER: _ClassVar[int]
    CONFIRMED_FIELD_NUMBER: _ClassVar[int]
    RESET_TIME_FIELD_NUMBER: _ClassVar[int]
    limit_id: str
    client: str
    holder: str
    max_quantity: int
    used: int
    available: int
    held: int
    confirmed: int
    reset_time: _timestamp_pb2.Timestamp
    def __init__(self, limit_id: _Optional[str] = ..., client: _Optional[str] = ..., holder: _Optional[str] = ..., max_quantity: _Optional[int] = ..., used: _Optional[int] = ..., available: _Optional[int] = ..., held: _Optional[int] = ..., confirmed: _Optional[int] = ..., reset_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class SetLimitRequest(_message.Message):
    __slots__ = ("limit",)
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    limit: Limit
    def __init__(self, limit: _Optional[_Union[Limit, _Mapping]] = ...) -> None: ...

class SetLimitResponse(_message.Message):
    __slots__ = ("limit",)
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    limit: Limit
    def __init__(self, limit: _Optional[_Union[Limit, _Mapping]] = ...) -> None: ...

class ListLimitsRequest(_message.Message):
    __slots__ = ("page_size", "page_token")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListLimitsResponse(_message.Message):
    __slots__ = ("limits", "next_page_token")
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    limits: _containers.RepeatedCompositeFieldContainer[Limit]
    next_page_token: str
    def __init__(self, limits: _Optional[_Iterable[_Union[Limit, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class DeleteLimitRequest(_message.Message):
    __slots__ = ("limit_id",)
    LIMIT_ID_FIELD_NUMBER: _ClassVar[int]
    limit_id: str
    def __init__(self, limit_id: _Optional[str] = ...) -> None: ...

class DeleteLimitResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetLimitUsageRequest(_message.Message):
    __slots__ = ("limit_id", "holder", "client")
    LIMIT_ID_FIELD_NUMBER: _ClassVar[int]
    HOLDER_FIELD_NUMBER: _ClassVar[int]
    CLIENT_FIELD_NUMBER: _ClassVar[int]
    limit_id: str
    holder: str
    client: str
    def __init__(self, limit_id: _Optional[str] = ..., holder: _Optional[str] = ..., client: _Optional[str] = ...) -> None: ...

class GetLimitUsageResponse(_message.Message):
    __slots__ = ("usage",)
    USAGE_FIELD_NUMBER: _ClassVar[int]
    usage: LimitUsage
    def __init__(self, usage: _Optional[_Union[LimitUsage, _Mapping]] = ...) -> None: ...
