import datetime

from buf.validate import validate_pb2 as _validate_pb2
from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import field_mask_pb2 as _field_mask_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.rpc import status_pb2 as _status_pb2
from inventoryhold.v1 import event_pb2 as _event_pb2
from inventoryhold.v1 import item_pb2 as _item_pb2
from inventoryhold.v1 import reservation_pb2 as _reservation_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ReserveRequest(_message.Message):
    __slots__ = ("request_id", "lines", "holder", "reference", "ttl", "metadata", "duplicate_window")
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
    TTL_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    DUPLICATE_WINDOW_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    lines: _containers.RepeatedCompositeFieldContainer[_item_pb2.ItemQuantity]
    holder: str
    reference: str
    ttl: _duration_pb2.Duration
    metadata: _containers.ScalarMap[str, str]
    duplicate_window: _duration_pb2.Duration
    def __init__(self, request_id: _Optional[str] = ..., lines: _Optional[_Iterable[_Union[_item_pb2.ItemQuantity, _Mapping]]] = ..., holder: _Optional[str] = ..., reference: _Optional[str] = ..., ttl: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., metadata: _Optional[_Mapping[str, str]] = ..., duplicate_window: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class ReserveResponse(_message.Message):
    __slots__ = ("reservation", "replayed")
    RESERVATION_FIELD_NUMBER: _ClassVar[int]
    REPLAYED_FIELD_NUMBER: _ClassVar[int]
    reservation: _reservation_pb2.Reservation
    replayed: bool
    def __init__(self, reservation: _Optional[_Union[_reservation_pb2.Reservation, _Mapping]] = ..., replayed: _Optional[bool] = ...) -> None: ...

class BatchReserveRequest(_message.Message):
    __slots__ = ("requests",)
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    requests: _containers.RepeatedCompositeFieldContainer[ReserveRequest]
    def __init__(self, requests: _Optional[_Iterable[_Union[ReserveRequest, _Mapping]]] = ...) -> None: ...

class BatchReserveResponse(_message.Message):
    __slots__ = ("results",)
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[BatchReserveResult]
    def __init__(self, results: _Optional[_Iterable[_Union[BatchReserveResult, _Mapping]]] = ...) -> None: ...

class BatchReserveResult(_message.Message):
    __slots__ = ("reservation", "error", "replayed", "abridged")
    RESERVATION_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    REPLAYED_FIELD_NUMBER: _ClassVar[int]
    ABRIDGED_FIELD_NUMBER: _ClassVar[int]
    reservation: _reservation_pb2.Reservation
    error: _status_pb2.Status
    replayed: bool
    abridged: bool
    def __init__(self, reservation: _Optional[_Union[_reservation_pb2.Reservation, _Mapping]] = ..., error: _Optional[_Union[_status_pb2.Status, _Mapping]] = ..., replayed: _Optional[bool] = ..., abridged: _Optional[bool] = ...) -> None: ...

class ModifyRequest(_message.Message):
    __slots__ = ("reservation_id", "reference", "request_id", "revision", "lines", "holder", "new_reference", "metadata", "update_mask")
    class MetadataEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    RESERVATION_ID_FIELD_NUMBER: _ClassVar[int]
    REFERENCE_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    LINES_FIELD_NUMBER: _ClassVar[int]
    HOLDER_FIELD_NUMBER: _ClassVar[int]
    NEW_REFERENCE_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    UPDATE_MASK_FIELD_NUMBER: _ClassVar[int]
    reservation_id: str
    reference: str
    request_id: str
    revision: int
    lines: _containers.RepeatedCompositeFieldContainer[LineChange]
    holder: str
    new_reference: str
    metadata: _containers.ScalarMap[str, str]
    update_mask: _field_mask_pb2.FieldMask
    def __init__(self, reservation_id: _Optional[str] = ..., reference: _Optional[str] = ..., request_id: _Optional[str] = ..., revision: _Optional[int] = ..., lines: _Optional[_Iterable[_Union[LineChange, _Mapping]]] = ..., holder: _Optional[str] = ..., new_reference: _Optional[str] = ..., metadata: _Optional[_Mapping[str, str]] = ..., update_mask: _Optional[_Union[_field_mask_pb2.FieldMask, _Mapping]] = ...) -> None: ...

class LineChange(_message.Message):
    __slots__ = ("sku", "pool", "quantity")
    SKU_FIELD_NUMBER: _ClassVar[int]
    POOL_FIELD_NUMBER: _ClassVar[int]
    QUANTITY_FIELD_NUMBER: _ClassVar[int]
    sku: str
    pool: str
    quantity: int
    def __init__(self, sku: _Optional[str] = ..., pool: _Optional[str] = ..., quantity: _Optional[int] = ...) -> None: ...

class ModifyResponse(_message.Message):
    __slots__ = ("reservation", "replayed")
    RESERVATION_FIELD_NUMBER: _ClassVar[int]
    REPLAYED_FIELD_NUMBER: _ClassVar[int]
    reservation: _reservation_pb2.Reservation
    replayed: bool
    def __init__(self, reservation: _Optional[_Union[_reservation_pb2.Reservation, _Mapping]] = ..., replayed: _Optional[bool] = ...) -> None: ...

class ConfirmRequest(_message.Message):
    __slots__ = ("reservation_id", "reference", "request_id", "order_id", "customer", "lines", "rescue")
    RESERVATION_ID_FIELD_NUMBER: _ClassVar[int]
    REFERENCE_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ORDER_ID_FIELD_NUMBER: _ClassVar[int]
    CUSTOMER_FIELD_NUMBER: _ClassVar[int]
    LINES_FIELD_NUMBER: _ClassVar[int]
    RESCUE_FIELD_NUMBER: _ClassVar[int]
    reservation_id: str
    reference: str
    request_id: str
    order_id: str
    customer: CustomerInput
    lines: _containers.RepeatedCompositeFieldContainer[_item_pb2.ItemQuantity]
    rescue: bool
    def __init__(self, reservation_id: _Optional[str] = ..., reference: _Optional[str] = ..., request_id: _Optional[str] = ..., order_id: _Optional[str] = ..., customer: _Optional[_Union[CustomerInput, _Mapping]] = ..., lines: _Optional[_Iterable[_Union[_item_pb2.ItemQuantity, _Mapping]]] = ..., rescue: _Optional[bool] = ...) -> None: ...

class CustomerInput(_message.Message):
    __slots__ = ("name", "email")
    NAME_FIELD_NUMBER: _ClassVar[int]
    EMAIL_FIELD_NUMBER: _ClassVar[int]
    name: str
    email: str
    def __init__(self, name: _Optional[str] = ..., email: _Optional[str] = ...) -> None: ...

class ConfirmResponse(_message.Message):
    __slots__ = ("reservation", "replayed", "rescued")
    RESERVATION_FIELD_NUMBER: _ClassVar[int]
    REPLAYED_FIELD_NUMBER: _ClassVar[int]
    RESCUED_FIELD_NUMBER: _ClassVar[int]
    reservation: _reservation_pb2.Reservation
    replayed: bool
    rescued: bool
    def __init__(self, reservation: _Optional[_Union[_reservation_pb2.Reservation, _Mapping]] = ..., replayed: _Optional[bool] = ..., rescued: _Optional[bool] = ...) -> None: ...

class CancelRequest(_message.Message):
    __slots__ = ("reservation_id", "reference", "request_id", "reason", "lines")
    RESERVATION_ID_FIELD_NUMBER: _ClassVar[int]
    REFERENCE_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    LINES_FIELD_NUMBER: _ClassVar[int]
    reservation_id: str
    reference: str
    request_id: str
    reason: str
    lines: _containers.RepeatedCompositeFieldContainer[_item_pb2.ItemQuantity]
    def __init__(self, reservation_id: _Optional[str] = ..., reference: _Optional[str] = ..., request_id: _Optional[str] = ..., reason: _Optional[str] = ..., lines: _Optional[_Iterable[_Union[_item_pb2.ItemQuantity, _Mapping]]] = ...) -> None: ...

class CancelResponse(_message.Message):
    __slots__ = ("reservation", "replayed")
    RESERVATION_FIELD_NUMBER: _ClassVar[int]
    REPLAYED_FIELD_NUMBER: _ClassVar[int]
    reservation: _reservation_pb2.Reservation
    replayed: bool
    def __init__(self, reservation: _Optional[_Union[_reservation_pb2.Reservation, _Mapping]] = ..., replayed: _Optional[bool] = ...) -> None: ...

class RefundRequest(_message.Message):
    __slots__ = ("reservation_id", "reference", "request_id", "lines", "write_off", "reason", "units", "effective_time")
    class Units(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        UNITS_UNSPECIFIED: _ClassVar[RefundRequest.Units]
        UNITS_ANY: _ClassVar[RefundRequest.Units]
        UNITS_UNFULFILLED: _ClassVar[RefundRequest.Units]
        UNITS_FULFILLED: _ClassVar[RefundRequest.Units]
    UNITS_UNSPECIFIED: RefundRequest.Units
    UNITS_ANY: RefundRequest.Units
    UNITS_UNFULFILLED: RefundRequest.Units
    UNITS_FULFILLED: RefundRequest.Units
    RESERVATION_ID_FIELD_NUMBER: _ClassVar[int]
    REFERENCE_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    LINES_FIELD_NUMBER: _ClassVar[int]
    WRITE_OFF_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    UNITS_FIELD_NUMBER: _ClassVar[int]
    EFFECTIVE_TIME_FIELD_NUMBER: _ClassVar[int]
    reservation_id: str
    reference: str
    request_id: str
    lines: _containers.RepeatedCompositeFieldContainer[_item_pb2.ItemQuantity]
    write_off: bool
    reason: str
    units: RefundRequest.Units
    effective_time: _timestamp_pb2.Timestamp
    def __init__(self, reservation_id: _Optional[str] = ..., reference: _Optional[str] = ..., request_id: _Optional[str] = ..., lines: _Optional[_Iterable[_Union[_item_pb2.ItemQuantity, _Mapping]]] = ..., write_off: _Optional[bool] = ..., reason: _Optional[str] = ..., units: _Optional[_Union[RefundRequest.Units, str]] = ..., effective_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class RefundResponse(_message.Message):
    __slots__ = ("reservation", "replayed")
    RESERVATION_FIELD_NUMBER: _ClassVar[int]
    REPLAYED_FIELD_NUMBER: _ClassVar[int]
    reservation: _reservation_pb2.Reservation
    replayed: bool
    def __init__(self, reservation: _Optional[_Union[_reservation_pb2.Reservation, _Mapping]] = ..., replayed: _Optional[bool] = ...) -> None: ...

class FulfilRequest(_message.Message):
    __slots__ = ("reservation_id", "reference", "request_id", "lines", "reason", "effective_time")
    RESERVATION_ID_FIELD_NUMBER: _ClassVar[int]
    REFERENCE_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    LINES_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    EFFECTIVE_TIME_FIELD_NUMBER: _ClassVar[int]
    reservation_id: str
    reference: str
    request_id: str
    lines: _containers.RepeatedCompositeFieldContainer[_item_pb2.ItemQuantity]
    reason: str
    effective_time: _timestamp_pb2.Timestamp
    def __init__(self, reservation_id: _Optional[str] = ..., reference: _Optional[str] = ..., request_id: _Optional[str] = ..., lines: _Optional[_Iterable[_Union[_item_pb2.ItemQuantity, _Mapping]]] = ..., reason: _Optional[str] = ..., effective_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class FulfilResponse(_message.Message):
    __slots__ = ("reservation", "replayed")
    RESERVATION_FIELD_NUMBER: _ClassVar[int]
    REPLAYED_FIELD_NUMBER: _ClassVar[int]
    reservation: _reservation_pb2.Reservation
    replayed: bool
    def __init__(self, reservation: _Optional[_Union[_reservation_pb2.Reservation, _Mapping]] = ..., replayed: _Optional[bool] = ...) -> None: ...

class ExtendRequest(_message.Message):
    __slots__ = ("reservation_id", "reference", "request_id", "ttl")
    RESERVATION_ID_FIELD_NUMBER: _ClassVar[int]
    REFERENCE_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    TTL_FIELD_NUMBER: _ClassVar[int]
    reservation_id: str
    reference: str
    request_id: str
    ttl: _duration_pb2.Duration
    def __init__(self, reservation_id: _Optional[str] = ..., reference: _Optional[str] = ..., request_id: _Optional[str] = ..., ttl: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class ExtendResponse(_message.Message):
    __slots__ = ("reservation", "replayed")
    RESERVATION_FIELD_NUMBER: _ClassVar[int]
    REPLAYED_FIELD_NUMBER: _ClassVar[int]
    reservation: _reservation_pb2.Reservation
    replayed: bool
    def __init__(self, reservation: _Optional[_Union[_reservation_pb2.Reservation, _Mapping]] = ..., replayed: _Optional[bool] = ...) -> None: ...

class BatchModifyRequest(_message.Message):
    __slots__ = ("requests",)
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    requests: _containers.RepeatedCompositeFieldContainer[ModifyRequest]
    def __init__(self, requests: _Optional[_Iterable[_Union[ModifyRequest, _Mapping]]] = ...) -> None: ...

class BatchModifyResponse(_message.Message):
    __slots__ = ("results",)
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[ChangeResult]
    def __init__(self, results: _Optional[_Iterable[_Union[ChangeResult, _Mapping]]] = ...) -> None: ...

class BatchConfirmRequest(_message.Message):
    __slots__ = ("requests",)
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    requests: _containers.RepeatedCompositeFieldContainer[ConfirmRequest]
    def __init__(self, requests: _Optional[_Iterable[_Union[ConfirmRequest, _Mapping]]] = ...) -> None: ...

class BatchConfirmResponse(_message.Message):
    __slots__ = ("results",)
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[ChangeResult]
    def __init__(self, results: _Optional[_Iterable[_Union[ChangeResult, _Mapping]]] = ...) -> None: ...

class BatchCancelRequest(_message.Message):
    __slots__ = ("requests",)
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    requests: _containers.RepeatedCompositeFieldContainer[CancelRequest]
    def __init__(self, requests: _Optional[_Iterable[_Union[CancelRequest, _Mapping]]] = ...) -> None: ...

class BatchCancelResponse(_message.Message):
    __slots__ = ("results",)
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[ChangeResult]
    def __init__(self, results: _Optional[_Iterable[_Union[ChangeResult, _Mapping]]] = ...) -> None: ...

class BatchRefundRequest(_message.Message):
    __slots__ = ("requests",)
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    requests: _containers.RepeatedCompositeFieldContainer[RefundRequest]
    def __init__(self, requests: _Optional[_Iterable[_Union[RefundRequest, _Mapping]]] = ...) -> None: ...

class BatchRefundResponse(_message.Message):
    __slots__ = ("results",)
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[ChangeResult]
    def __init__(self, results: _Optional[_Iterable[_Union[ChangeResult, _Mapping]]] = ...) -> None: ...

class BatchFulfilRequest(_message.Message):
    __slots__ = ("requests",)
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    requests: _containers.RepeatedCompositeFieldContainer[FulfilRequest]
    def __init__(self, requests: _Optional[_Iterable[_Union[FulfilRequest, _Mapping]]] = ...) -> None: ...

class BatchFulfilResponse(_message.Message):
    __slots__ = ("results",)
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[ChangeResult]
    def __init__(self, results: _Optional[_Iterable[_Union[ChangeResult, _Mapping]]] = ...) -> None: ...

class BatchExtendRequest(_message.Message):
    __slots__ = ("requests",)
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    requests: _containers.RepeatedCompositeFieldContainer[ExtendRequest]
    def __init__(self, requests: _Optional[_Iterable[_Union[ExtendRequest, _Mapping]]] = ...) -> None: ...

class BatchExtendResponse(_message.Message):
    __slots__ = ("results",)
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[ChangeResult]
    def __init__(self, results: _Optional[_Iterable[_Union[ChangeResult, _Mapping]]] = ...) -> None: ...

class ChangeResult(_message.Message):
    __slots__ = ("reservation", "error", "replayed", "abridged", "rescued")
    RESERVATION_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    REPLAYED_FIELD_NUMBER: _ClassVar[int]
    ABRIDGED_FIELD_NUMBER: _ClassVar[int]
    RESCUED_FIELD_NUMBER: _ClassVar[int]
    reservation: _reservation_pb2.Reservation
    error: _status_pb2.Status
    replayed: bool
    abridged: bool
    rescued: bool
    def __init__(self, reservation: _Optional[_Union[_reservation_pb2.Reservation, _Mapping]] = ..., error: _Optional[_Union[_status_pb2.Status, _Mapping]] = ..., replayed: _Optional[bool] = ..., abridged: _Optional[bool] = ..., rescued: _Optional[bool] = ...) -> None: ...

class GetReservationRequest(_message.Message):
    __slots__ = ("reservation_id", "reference")
    RESERVATION_ID_FIELD_NUMBER: _ClassVar[int]
    REFERENCE_FIELD_NUMBER: _ClassVar[int]
    reservation_id: str
    reference: str
    def __init__(self, reservation_id: _Optional[str] = ..., reference: _Optional[str] = ...) -> None: ...

class GetReservationResponse(_message.Message):
    __slots__ = ("reservation",)
    RESERVATION_FIELD_NUMBER: _ClassVar[int]
    reservation: _reservation_pb2.Reservation
    def __init__(self, reservation: _Optional[_Union[_reservation_pb2.Reservation, _Mapping]] = ...) -> None: ...

class ListReservationsRequest(_message.Message):
    __slots__ = ("page_size", "page_token", "states", "sku", "pool", "holder", "reference", "order_id", "client", "include_total")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    STATES_FIELD_NUMBER: _ClassVar[int]
    SKU_FIELD_NUMBER: _ClassVar[int]
    POOL_FIELD_NUMBER: _ClassVar[int]
    HOLDER_FIELD_NUMBER: _ClassVar[int]
    REFERENCE_FIELD_NUMBER: _ClassVar[int]
    ORDER_ID_FIELD_NUMBER: _ClassVar[int]
    CLIENT_FIELD_NUMBER: _ClassVar[int]
    INCLUDE_TOTAL_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    states: _containers.RepeatedScalarFieldContainer[_reservation_pb2.Reservation.State]
    sku: str
    pool: str
    holder: str
    reference: str
    order_id: str
    client: str
    include_total: bool
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., states: _Optional[_Iterable[_Union[_reservation_pb2.Reservation.State, str]]] = ..., sku: _Optional[str] = ..., pool: _Optional[str] = ..., holder: _Optional[str] = ..., reference: _Optional[str] = ..., order_id: _Optional[str] = ..., client: _Optional[str] = ..., include_total: _Optional[bool] = ...) -> None: ...

class ListReservationsResponse(_message.Message):
    __slots__ = ("reservations", "next_page_token", "total_count")
    RESERVATIONS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    TOTAL_COUNT_FIELD_NUMBER: _ClassVar[int]
    reservations: _containers.RepeatedCompositeFieldContainer[_reservation_pb2.Reservation]
    next_page_token: str
    total_count: int
    def __init__(self, reservations: _Optional[_Iterable[_Union[_reservation_pb2.Reservation, _Mapping]]] = ..., next_page_token: _Optional[str] = ..., total_count: _Optional[int] = ...) -> None: ...

class ListReservationEventsRequest(_message.Message):
    __slots__ = ("reservation_id", "page_size", "page_token")
    RESERVATION_ID_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    reservation_id: str
    page_size: int
    page_token: str
    def __init__(self, reservation_id: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListReservationEventsResponse(_message.Message):
    __slots__ = ("events", "next_page_token")
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    events: _containers.RepeatedCompositeFieldContainer[_event_pb2.Event]
    next_page_token: str
    def __init__(self, events: _Optional[_Iterable[_Union[_event_pb2.Event, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class CleanupRequest(_message.Message):
    __slots__ = ("max_count",)
    MAX_COUNT_FIELD_NUMBER: _ClassVar[int]
    max_count: int
    def __init__(self, max_count: _Optional[int] = ...) -> None: ...

class CleanupResponse(_message.Message):
    __slots__ = ("expired_count", "released_quantity", "more")
    EXPIRED_COUNT_FIELD_NUMBER: _ClassVar[int]
    RELEASED_QUANTITY_FIELD_NUMBER: _ClassVar[int]
    MORE_FIELD_NUMBER: _ClassVar[int]
    expired_count: int
    released_quantity: int
    more: bool
    def __init__(self, expired_count: _Optional[int] = ..., released_quantity: _Optional[int] = ..., more: _Optional[bool] = ...) -> None: ...
