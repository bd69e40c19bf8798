import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from inventoryhold.v1 import item_pb2 as _item_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class WaitlistEntry(_message.Message):
    __slots__ = ("entry_id", "client", "holder", "reference", "state", "position", "reservation_id", "lines", "priority", "offer_ttl", "metadata", "create_time", "expire_time", "offer_time", "end_time", "pass_reason", "reason", "revision")
    class State(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        STATE_UNSPECIFIED: _ClassVar[WaitlistEntry.State]
        STATE_WAITING: _ClassVar[WaitlistEntry.State]
        STATE_OFFERED: _ClassVar[WaitlistEntry.State]
        STATE_TAKEN: _ClassVar[WaitlistEntry.State]
        STATE_LAPSED: _ClassVar[WaitlistEntry.State]
        STATE_LEFT: _ClassVar[WaitlistEntry.State]
    STATE_UNSPECIFIED: WaitlistEntry.State
    STATE_WAITING: WaitlistEntry.State
    STATE_OFFERED: WaitlistEntry.State
    STATE_TAKEN: WaitlistEntry.State
    STATE_LAPSED: WaitlistEntry.State
    STATE_LEFT: WaitlistEntry.State
    class PassReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        PASS_REASON_UNSPECIFIED: _ClassVar[WaitlistEntry.PassReason]
        PASS_REASON_LIMIT: _ClassVar[WaitlistEntry.PassReason]
        PASS_REASON_UNSERVABLE: _ClassVar[WaitlistEntry.PassReason]
    PASS_REASON_UNSPECIFIED: WaitlistEntry.PassReason
    PASS_REASON_LIMIT: WaitlistEntry.PassReason
    PASS_REASON_UNSERVABLE: WaitlistEntry.PassReason
    class MetadataEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    ENTRY_ID_FIELD_NUMBER: _ClassVar[int]
    CLIENT_FIELD_NUMBER: _ClassVar[int]
    HOLDER_FIELD_NUMBER: _ClassVar[int]
    REFERENCE_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    RESERVATION_ID_FIELD_NUMBER: _ClassVar[int]
    LINES_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    OFFER_TTL_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    EXPIRE_TIME_FIELD_NUMBER: _ClassVar[int]
    OFFER_TIME_FIELD_NUMBER: _ClassVar[int]
    END_TIME_FIELD_NUMBER: _ClassVar[int]
    PASS_REASON_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    entry_id: str
    client: str
    holder: str
    reference: str
    state: WaitlistEntry.State
    position: int
    reservation_id: str
    lines: _containers.RepeatedCompositeFieldContainer[_item_pb2.ItemQuantity]
    priority: int
    offer_ttl: _duration_pb2.Duration
    metadata: _containers.ScalarMap[str, str]
    create_time: _timestamp_pb2.Timestamp
    expire_time: _timestamp_pb2.Timestamp
    offer_time: _timestamp_pb2.Timestamp
    end_time: _timestamp_pb2.Timestamp
    pass_reason: WaitlistEntry.PassReason
    reason: str
    revision: int
    def __init__(self, entry_id: _Optional[str] = ..., client: _Optional[str] = ..., holder: _Optional[str] = ..., reference: _Optional[str] = ..., state: _Optional[_Union[WaitlistEntry.State, str]] = ..., position: _Optional[int] = ..., reservation_id: _Optional[str] = ..., lines: _Optional[_Iterable[_Union[_item_pb2.ItemQuantity, _Mapping]]] = ..., priority: _Optional[int] = ..., offer_ttl: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., metadata: _Optional[_Mapping[str, str]] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., expire_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., offer_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., end_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., pass_reason: _Optional[_Union[WaitlistEntry.PassReason, str]] = ..., reason: _Optional[str] = ..., revision: _Optional[int] = ...) -> None: ...
