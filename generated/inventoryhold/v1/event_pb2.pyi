import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from inventoryhold.v1 import item_pb2 as _item_pb2
from inventoryhold.v1 import reservation_pb2 as _reservation_pb2
from inventoryhold.v1 import waitlist_pb2 as _waitlist_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class EventType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    EVENT_TYPE_UNSPECIFIED: _ClassVar[EventType]
    EVENT_TYPE_RESERVED: _ClassVar[EventType]
    EVENT_TYPE_CONFIRMED: _ClassVar[EventType]
    EVENT_TYPE_CANCELLED: _ClassVar[EventType]
    EVENT_TYPE_EXPIRED: _ClassVar[EventType]
    EVENT_TYPE_REFUNDED: _ClassVar[EventType]
    EVENT_TYPE_EXTENDED: _ClassVar[EventType]
    EVENT_TYPE_ITEM_CREATED: _ClassVar[EventType]
    EVENT_TYPE_ITEM_UPDATED: _ClassVar[EventType]
    EVENT_TYPE_ITEM_DELETED: _ClassVar[EventType]
    EVENT_TYPE_CAPACITY_ADJUSTED: _ClassVar[EventType]
    EVENT_TYPE_CAPACITY_TRANSFERRED: _ClassVar[EventType]
    EVENT_TYPE_MODIFIED: _ClassVar[EventType]
    EVENT_TYPE_FULFILLED: _ClassVar[EventType]
    EVENT_TYPE_RESCUED: _ClassVar[EventType]
    EVENT_TYPE_STOCK_SET: _ClassVar[EventType]
    EVENT_TYPE_LEVEL_CHANGED: _ClassVar[EventType]
    EVENT_TYPE_WAITLIST_JOINED: _ClassVar[EventType]
    EVENT_TYPE_WAITLIST_OFFERED: _ClassVar[EventType]
    EVENT_TYPE_WAITLIST_TAKEN: _ClassVar[EventType]
    EVENT_TYPE_WAITLIST_LAPSED: _ClassVar[EventType]
    EVENT_TYPE_WAITLIST_LEFT: _ClassVar[EventType]
EVENT_TYPE_UNSPECIFIED: EventType
EVENT_TYPE_RESERVED: EventType
EVENT_TYPE_CONFIRMED: EventType
EVENT_TYPE_CANCELLED: EventType
EVENT_TYPE_EXPIRED: EventType
EVENT_TYPE_REFUNDED: EventType
EVENT_TYPE_EXTENDED: EventType
EVENT_TYPE_ITEM_CREATED: EventType
EVENT_TYPE_ITEM_UPDATED: EventType
EVENT_TYPE_ITEM_DELETED: EventType
EVENT_TYPE_CAPACITY_ADJUSTED: EventType
EVENT_TYPE_CAPACITY_TRANSFERRED: EventType
EVENT_TYPE_MODIFIED: EventType
EVENT_TYPE_FULFILLED: EventType
EVENT_TYPE_RESCUED: EventType
EVENT_TYPE_STOCK_SET: EventType
EVENT_TYPE_LEVEL_CHANGED: EventType
EVENT_TYPE_WAITLIST_JOINED: EventType
EVENT_TYPE_WAITLIST_OFFERED: EventType
EVENT_TYPE_WAITLIST_TAKEN: EventType
EVENT_TYPE_WAITLIST_LAPSED: EventType
EVENT_TYPE_WAITLIST_LEFT: EventType

class Event(_message.Message):
    __slots__ = ("event_id", "type", "reservation", "item", "waitlist_entry", "lines", "client", "key_id", "request_id", "reason", "occur_time", "written_off_lines", "returned_lines", "level_change")
    EVENT_ID_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    RESERVATION_FIELD_NUMBER: _ClassVar[int]
    ITEM_FIELD_NUMBER: _ClassVar[int]
    WAITLIST_ENTRY_FIELD_NUMBER: _ClassVar[int]
    LINES_FIELD_NUMBER: _ClassVar[int]
    CLIENT_FIELD_NUMBER: _ClassVar[int]
    KEY_ID_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    OCCUR_TIME_FIELD_NUMBER: _ClassVar[int]
    WRITTEN_OFF_LINES_FIELD_NUMBER: _ClassVar[int]
    RETURNED_LINES_FIELD_NUMBER: _ClassVar[int]
    LEVEL_CHANGE_FIELD_NUMBER: _ClassVar[int]
    event_id: int
    type: EventType
    reservation: _reservation_pb2.Reservation
    item: _item_pb2.Item
    waitlist_entry: _waitlist_pb2.WaitlistEntry
    lines: _containers.RepeatedCompositeFieldContainer[_item_pb2.ItemQuantity]
    client: str
    key_id: str
    request_id: str
    reason: str
    occur_time: _timestamp_pb2.Timestamp
    written_off_lines: _containers.RepeatedCompositeFieldContainer[_item_pb2.ItemQuantity]
    returned_lines: _containers.RepeatedCompositeFieldContainer[_item_pb2.ItemQuantity]
    level_change: LevelChange
    def __init__(self, event_id: _Optional[int] = ..., type: _Optional[_Union[EventType, str]] = ..., reservation: _Optional[_Union[_reservation_pb2.Reservation, _Mapping]] = ..., item: _Optional[_Union[_item_pb2.Item, _Mapping]] = ..., waitlist_entry: _Optional[_Union[_waitlist_pb2.WaitlistEntry, _Mapping]] = ..., lines: _Optional[_Iterable[_Union[_item_pb2.ItemQuantity, _Mapping]]] = ..., client: _Optional[str] = ..., key_id: _Optional[str] = ..., request_id: _Optional[str] = ..., reason: _Optional[str] = ..., occur_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., written_off_lines: _Optional[_Iterable[_Union[_item_pb2.ItemQuantity, _Mapping]]] = ..., returned_lines: _Optional[_Iterable[_Union[_item_pb2.ItemQuantity, _Mapping]]] = ..., level_change: _Optional[_Union[LevelChange, _Mapping]] = ...) -> None: ...

class LevelChange(_message.Message):
    __slots__ = ("to",)
    class StockLevel(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        STOCK_LEVEL_UNSPECIFIED: _ClassVar[LevelChange.StockLevel]
        STOCK_LEVEL_AVAILABLE: _ClassVar[LevelChange.StockLevel]
        STOCK_LEVEL_LOW: _ClassVar[LevelChange.StockLevel]
        STOCK_LEVEL_OUT: _ClassVar[LevelChange.StockLevel]
    STOCK_LEVEL_UNSPECIFIED: LevelChange.StockLevel
    STOCK_LEVEL_AVAILABLE: LevelChange.StockLevel
    STOCK_LEVEL_LOW: LevelChange.StockLevel
    STOCK_LEVEL_OUT: LevelChange.StockLevel
    FROM_FIELD_NUMBER: _ClassVar[int]
    TO_FIELD_NUMBER: _ClassVar[int]
    to: LevelChange.StockLevel
    def __init__(self, to: _Optional[_Union[LevelChange.StockLevel, str]] = ..., **kwargs) -> None: ...
