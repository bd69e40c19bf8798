import datetime

from buf.validate import validate_pb2 as _validate_pb2
from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from inventoryhold.v1 import item_pb2 as _item_pb2
from inventoryhold.v1 import waitlist_pb2 as _waitlist_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class JoinWaitlistRequest(_message.Message):
    __slots__ = ("request_id", "lines", "holder", "reference", "offer_ttl", "expire_time", "priority", "metadata")
    class MetadataEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    LINES_FIELD_NUMBER: _ClassVar[int]
    HOLDER_FIELD_NUMBER: _ClassVar[int]
    REFERENCE_FIELD_NUMBER: _ClassVar[int]
    OFFER_TTL_FIELD_NUMBER: _ClassVar[int]
    EXPIRE_TIME_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    lines: _containers.RepeatedCompositeFieldContainer[_item_pb2.ItemQuantity]
    holder: str
    reference: str
    offer_ttl: _duration_pb2.Duration
    expire_time: _timestamp_pb2.Timestamp
    priority: int
    metadata: _containers.ScalarMap[str, str]
    def __init__(self, request_id: _Optional[str] = ..., lines: _Optional[_Iterable[_Union[_item_pb2.ItemQuantity, _Mapping]]] = ..., holder: _Optional[str] = ..., reference: _Optional[str] = ..., offer_ttl: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., expire_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., priority: _Optional[int] = ..., metadata: _Optional[_Mapping[str, str]] = ...) -> None: ...

class JoinWaitlistResponse(_message.Message):
    __slots__ = ("entry", "replayed")
    ENTRY_FIELD_NUMBER: _ClassVar[int]
    REPLAYED_FIELD_NUMBER: _ClassVar[int]
    entry: _waitlist_pb2.WaitlistEntry
    replayed: bool
    def __init__(self, entry: _Optional[_Union[_waitlist_pb2.WaitlistEntry, _Mapping]] = ..., replayed: _Optional[bool] = ...) -> None: ...

class LeaveWaitlistRequest(_message.Message):
    __slots__ = ("entry_id", "reason")
    ENTRY_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    entry_id: str
    reason: str
    def __init__(self, entry_id: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class LeaveWaitlistResponse(_message.Message):
    __slots__ = ("entry",)
    ENTRY_FIELD_NUMBER: _ClassVar[int]
    entry: _waitlist_pb2.WaitlistEntry
    def __init__(self, entry: _Optional[_Union[_waitlist_pb2.WaitlistEntry, _Mapping]] = ...) -> None: ...

class GetWaitlistEntryRequest(_message.Message):
    __slots__ = ("entry_id",)
    ENTRY_ID_FIELD_NUMBER: _ClassVar[int]
    entry_id: str
    def __init__(self, entry_id: _Optional[str] = ...) -> None: ...

class GetWaitlistEntryResponse(_message.Message):
    __slots__ = ("entry",)
    ENTRY_FIELD_NUMBER: _ClassVar[int]
    entry: _waitlist_pb2.WaitlistEntry
    def __init__(self, entry: _Optional[_Union[_waitlist_pb2.WaitlistEntry, _Mapping]] = ...) -> None: ...

class ListWaitlistEntriesRequest(_message.Message):
    __slots__ = ("page_size", "page_token", "states", "sku", "pool", "holder", "client")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    STATES_FIELD_NUMBER: _ClassVar[int]
    SKU_FIELD_NUMBER: _ClassVar[int]
    POOL_FIELD_NUMBER: _ClassVar[int]
    HOLDER_FIELD_NUMBER: _ClassVar[int]
    CLIENT_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    states: _containers.RepeatedScalarFieldContainer[_waitlist_pb2.WaitlistEntry.State]
    sku: str
    pool: str
    holder: str
    client: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., states: _Optional[_Iterable[_Union[_waitlist_pb2.WaitlistEntry.State, str]]] = ..., sku: _Optional[str] = ..., pool: _Optional[str] = ..., holder: _Optional[str] = ..., client: _Optional[str] = ...) -> None: ...

class ListWaitlistEntriesResponse(_message.Message):
    __slots__ = ("entries", "next_page_token")
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    entries: _containers.RepeatedCompositeFieldContainer[_waitlist_pb2.WaitlistEntry]
    next_page_token: str
    def __init__(self, entries: _Optional[_Iterable[_Union[_waitlist_pb2.WaitlistEntry, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...
