from buf.validate import validate_pb2 as _validate_pb2
from inventoryhold.v1 import event_pb2 as _event_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class StreamEventsRequest(_message.Message):
    __slots__ = ("resume_token", "from_oldest", "types")
    RESUME_TOKEN_FIELD_NUMBER: _ClassVar[int]
    FROM_OLDEST_FIELD_NUMBER: _ClassVar[int]
    TYPES_FIELD_NUMBER: _ClassVar[int]
    resume_token: str
    from_oldest: bool
    types: _containers.RepeatedScalarFieldContainer[_event_pb2.EventType]
    def __init__(self, resume_token: _Optional[str] = ..., from_oldest: _Optional[bool] = ..., types: _Optional[_Iterable[_Union[_event_pb2.EventType, str]]] = ...) -> None: ...

class StreamEventsResponse(_message.Message):
    __slots__ = ("events", "resume_token", "heartbeat")
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    RESUME_TOKEN_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_FIELD_NUMBER: _ClassVar[int]
    events: _containers.RepeatedCompositeFieldContainer[_event_pb2.Event]
    resume_token: str
    heartbeat: bool
    def __init__(self, events: _Optional[_Iterable[_Union[_event_pb2.Event, _Mapping]]] = ..., resume_token: _Optional[str] = ..., heartbeat: _Optional[bool] = ...) -> None: ...
