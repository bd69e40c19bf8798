import datetime

from buf.validate import validate_pb2 as _validate_pb2
from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import field_mask_pb2 as _field_mask_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.rpc import status_pb2 as _status_pb2
from inventoryhold.v1 import item_pb2 as _item_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class CreateItemRequest(_message.Message):
    __slots__ = ("item",)
    ITEM_FIELD_NUMBER: _ClassVar[int]
    item: _item_pb2.Item
    def __init__(self, item: _Optional[_Union[_item_pb2.Item, _Mapping]] = ...) -> None: ...

class CreateItemResponse(_message.Message):
    __slots__ = ("item",)
    ITEM_FIELD_NUMBER: _ClassVar[int]
    item: _item_pb2.Item
    def __init__(self, item: _Optional[_Union[_item_pb2.Item, _Mapping]] = ...) -> None: ...

class BatchCreateItemsRequest(_message.Message):
    __slots__ = ("items",)
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedCompositeFieldContainer[_item_pb2.Item]
    def __init__(self, items: _Optional[_Iterable[_Union[_item_pb2.Item, _Mapping]]] = ...) -> None: ...

class BatchCreateItemsResponse(_message.Message):
    __slots__ = ("items",)
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedCompositeFieldContainer[_item_pb2.Item]
    def __init__(self, items: _Optional[_Iterable[_Union[_item_pb2.Item, _Mapping]]] = ...) -> None: ...

class GetItemRequest(_message.Message):
    __slots__ = ("sku", "pool")
    SKU_FIELD_NUMBER: _ClassVar[int]
    POOL_FIELD_NUMBER: _ClassVar[int]
    sku: str
    pool: str
    def __init__(self, sku: _Optional[str] = ..., pool: _Optional[str] = ...) -> None: ...

class GetItemResponse(_message.Message):
    __slots__ = ("item",)
    ITEM_FIELD_NUMBER: _ClassVar[int]
    item: _item_pb2.Item
    def __init__(self, item: _Optional[_Union[_item_pb2.Item, _Mapping]] = ...) -> None: ...

class ListItemsRequest(_message.Message):
    __slots__ = ("page_size", "page_token", "sku_prefix", "pool")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    SKU_PREFIX_FIELD_NUMBER: _ClassVar[int]
    POOL_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    sku_prefix: str
    pool: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., sku_prefix: _Optional[str] = ..., pool: _Optional[str] = ...) -> None: ...

class ListItemsResponse(_message.Message):
    __slots__ = ("items", "next_page_token")
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedCompositeFieldContainer[_item_pb2.Item]
    next_page_token: str
    def __init__(self, items: _Optional[_Iterable[_Union[_item_pb2.Item, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class UpdateItemRequest(_message.Message):
    __slots__ = ("item", "update_mask", "revision")
    ITEM_FIELD_NUMBER: _ClassVar[int]
    UPDATE_MASK_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    item: _item_pb2.Item
    update_mask: _field_mask_pb2.FieldMask
    revision: int
    def __init__(self, item: _Optional[_Union[_item_pb2.Item, _Mapping]] = ..., update_mask: _Optional[_Union[_field_mask_pb2.FieldMask, _Mapping]] = ..., revision: _Optional[int] = ...) -> None: ...

class UpdateItemResponse(_message.Message):
    __slots__ = ("item",)
    ITEM_FIELD_NUMBER: _ClassVar[int]
    item: _item_pb2.Item
    def __init__(self, item: _Optional[_Union[_item_pb2.Item, _Mapping]] = ...) -> None: ...

class AdjustCapacityRequest(_message.Message):
    __slots__ = ("sku", "pool", "delta", "request_id", "reason", "effective_time")
    SKU_FIELD_NUMBER: _ClassVar[int]
    POOL_FIELD_NUMBER: _ClassVar[int]
    DELTA_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    EFFECTIVE_TIME_FIELD_NUMBER: _ClassVar[int]
    sku: str
    pool: str
    delta: int
    request_id: str
    reason: str
    effective_time: _timestamp_pb2.Timestamp
    def __init__(self, sku: _Optional[str] = ..., pool: _Optional[str] = ..., delta: _Optional[int] = ..., request_id: _Optional[str] = ..., reason: _Optional[str] = ..., effective_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class AdjustCapacityResponse(_message.Message):
    __slots__ = ("item", "replayed")
    ITEM_FIELD_NUMBER: _ClassVar[int]
    REPLAYED_FIELD_NUMBER: _ClassVar[int]
    item: _item_pb2.Item
    replayed: bool
    def __init__(self, item: _Optional[_Union[_item_pb2.Item, _Mapping]] = ..., replayed: _Optional[bool] = ...) -> None: ...

class BatchSetStockRequest(_message.Message):
    __slots__ = ("counts",)
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    counts: _containers.RepeatedCompositeFieldContainer[StockCount]
    def __init__(self, counts: _Optional[_Iterable[_Union[StockCount, _Mapping]]] = ...) -> None: ...

class StockCount(_message.Message):
    __slots__ = ("sku", "pool", "on_hand", "count_time", "revision")
    SKU_FIELD_NUMBER: _ClassVar[int]
    POOL_FIELD_NUMBER: _ClassVar[int]
    ON_HAND_FIELD_NUMBER: _ClassVar[int]
    COUNT_TIME_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    sku: str
    pool: str
    on_hand: int
    count_time: _timestamp_pb2.Timestamp
    revision: int
    def __init__(self, sku: _Optional[str] = ..., pool: _Optional[str] = ..., on_hand: _Optional[int] = ..., count_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., revision: _Optional[int] = ...) -> None: ...

class BatchSetStockResponse(_message.Message):
    __slots__ = ("results",)
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[SetStockResult]
    def __init__(self, results: _Optional[_Iterable[_Union[SetStockResult, _Mapping]]] = ...) -> None: ...

class SetStockResult(_message.Message):
    __slots__ = ("item", "error", "superseded", "abridged")
    ITEM_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    SUPERSEDED_FIELD_NUMBER: _ClassVar[int]
    ABRIDGED_FIELD_NUMBER: _ClassVar[int]
    item: _item_pb2.Item
    error: _status_pb2.Status
    superseded: bool
    abridged: bool
    def __init__(self, item: _Optional[_Union[_item_pb2.Item, _Mapping]] = ..., error: _Optional[_Union[_status_pb2.Status, _Mapping]] = ..., superseded: _Optional[bool] = ..., abridged: _Optional[bool] = ...) -> None: ...

class TransferCapacityRequest(_message.Message):
    __slots__ = ("sku", "from_pool", "to_pool", "quantity", "request_id", "reason")
    SKU_FIELD_NUMBER: _ClassVar[int]
    FROM_POOL_FIELD_NUMBER: _ClassVar[int]
    TO_POOL_FIELD_NUMBER: _ClassVar[int]
    QUANTITY_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    sku: str
    from_pool: str
    to_pool: str
    quantity: int
    request_id: str
    reason: str
    def __init__(self, sku: _Optional[str] = ..., from_pool: _Optional[str] = ..., to_pool: _Optional[str] = ..., quantity: _Optional[int] = ..., request_id: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class TransferCapacityResponse(_message.Message):
    __slots__ = ("from_item", "to_item", "replayed")
    FROM_ITEM_FIELD_NUMBER: _ClassVar[int]
    TO_ITEM_FIELD_NUMBER: _ClassVar[int]
    REPLAYED_FIELD_NUMBER: _ClassVar[int]
    from_item: _item_pb2.Item
    to_item: _item_pb2.Item
    replayed: bool
    def __init__(self, from_item: _Optional[_Union[_item_pb2.Item, _Mapping]] = ..., to_item: _Optional[_Union[_item_pb2.Item, _Mapping]] = ..., replayed: _Optional[bool] = ...) -> None: ...

class DeleteItemRequest(_message.Message):
    __slots__ = ("sku", "pool")
    SKU_FIELD_NUMBER: _ClassVar[int]
    POOL_FIELD_NUMBER: _ClassVar[int]
    sku: str
    pool: str
    def __init__(self, sku: _Optional[str] = ..., pool: _Optional[str] = ...) -> None: ...

class DeleteItemResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class CheckAvailabilityRequest(_message.Message):
    __slots__ = ("lines",)
    LINES_FIELD_NUMBER: _ClassVar[int]
    lines: _containers.RepeatedCompositeFieldContainer[_item_pb2.ItemQuantity]
    def __init__(self, lines: _Optional[_Iterable[_Union[_item_pb2.ItemQuantity, _Mapping]]] = ...) -> None: ...

class CheckAvailabilityResponse(_message.Message):
    __slots__ = ("available", "lines")
    AVAILABLE_FIELD_NUMBER: _ClassVar[int]
    LINES_FIELD_NUMBER: _ClassVar[int]
    available: bool
    lines: _containers.RepeatedCompositeFieldContainer[AvailabilityLine]
    def __init__(self, available: _Optional[bool] = ..., lines: _Optional[_Iterable[_Union[AvailabilityLine, _Mapping]]] = ...) -> None: ...

class AvailabilityLine(_message.Message):
    __slots__ = ("sku", "pool", "requested", "available", "shortfall")
    SKU_FIELD_NUMBER: _ClassVar[int]
    POOL_FIELD_NUMBER: _ClassVar[int]
    REQUESTED_FIELD_NUMBER: _ClassVar[int]
    AVAILABLE_FIELD_NUMBER: _ClassVar[int]
    SHORTFALL_FIELD_NUMBER: _ClassVar[int]
    sku: str
    pool: str
    requested: int
    available: int
    shortfall: int
    def __init__(self, sku: _Optional[str] = ..., pool: _Optional[str] = ..., requested: _Optional[int] = ..., available: _Optional[int] = ..., shortfall: _Optional[int] = ...) -> None: ...

class ExplainAvailabilityRequest(_message.Message):
    __slots__ = ("sku", "pool")
    SKU_FIELD_NUMBER: _ClassVar[int]
    POOL_FIELD_NUMBER: _ClassVar[int]
    sku: str
    pool: str
    def __init__(self, sku: _Optional[str] = ..., pool: _Optional[str] = ...) -> None: ...

class ExplainAvailabilityResponse(_message.Message):
    __slots__ = ("available", "remaining", "oversell", "buffer", "lapsed", "sale_state", "held", "held_later", "own_holds", "waiters", "read_time")
    AVAILABLE_FIELD_NUMBER: _ClassVar[int]
    REMAINING_FIELD_NUMBER: _ClassVar[int]
    OVERSELL_FIELD_NUMBER: _ClassVar[int]
    BUFFER_FIELD_NUMBER: _ClassVar[int]
    LAPSED_FIELD_NUMBER: _ClassVar[int]
    SALE_STATE_FIELD_NUMBER: _ClassVar[int]
    HELD_FIELD_NUMBER: _ClassVar[int]
    HELD_LATER_FIELD_NUMBER: _ClassVar[int]
    OWN_HOLDS_FIELD_NUMBER: _ClassVar[int]
    WAITERS_FIELD_NUMBER: _ClassVar[int]
    READ_TIME_FIELD_NUMBER: _ClassVar[int]
    available: int
    remaining: int
    oversell: int
    buffer: int
    lapsed: int
    sale_state: _item_pb2.Item.SaleState
    held: _containers.RepeatedCompositeFieldContainer[HeldStep]
    held_later: int
    own_holds: _containers.RepeatedCompositeFieldContainer[OwnHold]
    waiters: int
    read_time: _timestamp_pb2.Timestamp
    def __init__(self, available: _Optional[int] = ..., remaining: _Optional[int] = ..., oversell: _Optional[int] = ..., buffer: _Optional[int] = ..., lapsed: _Optional[int] = ..., sale_state: _Optional[_Union[_item_pb2.Item.SaleState, str]] = ..., held: _Optional[_Iterable[_Union[HeldStep, _Mapping]]] = ..., held_later: _Optional[int] = ..., own_holds: _Optional[_Iterable[_Union[OwnHold, _Mapping]]] = ..., waiters: _Optional[int] = ..., read_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class HeldStep(_message.Message):
    __slots__ = ("time", "quantity")
    TIME_FIELD_NUMBER: _ClassVar[int]
    QUANTITY_FIELD_NUMBER: _ClassVar[int]
    time: _timestamp_pb2.Timestamp
    quantity: int
    def __init__(self, time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., quantity: _Optional[int] = ...) -> None: ...

class OwnHold(_message.Message):
    __slots__ = ("reservation_id", "reference", "quantity", "expire_time")
    RESERVATION_ID_FIELD_NUMBER: _ClassVar[int]
    REFERENCE_FIELD_NUMBER: _ClassVar[int]
    QUANTITY_FIELD_NUMBER: _ClassVar[int]
    EXPIRE_TIME_FIELD_NUMBER: _ClassVar[int]
    reservation_id: str
    reference: str
    quantity: int
    expire_time: _timestamp_pb2.Timestamp
    def __init__(self, reservation_id: _Optional[str] = ..., reference: _Optional[str] = ..., quantity: _Optional[int] = ..., expire_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class WatchInventoryRequest(_message.Message):
    __slots__ = ("items", "sku_prefix", "min_interval")
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    SKU_PREFIX_FIELD_NUMBER: _ClassVar[int]
    MIN_INTERVAL_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedCompositeFieldContainer[_item_pb2.ItemKey]
    sku_prefix: str
    min_interval: _duration_pb2.Duration
    def __init__(self, items: _Optional[_Iterable[_Union[_item_pb2.ItemKey, _Mapping]]] = ..., sku_prefix: _Optional[str] = ..., min_interval: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class WatchInventoryResponse(_message.Message):
    __slots__ = ("items", "deleted_items", "snapshot_complete", "heartbeat", "read_time")
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    DELETED_ITEMS_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_COMPLETE_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_FIELD_NUMBER: _ClassVar[int]
    READ_TIME_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedCompositeFieldContainer[_item_pb2.Item]
    deleted_items: _containers.RepeatedCompositeFieldContainer[_item_pb2.ItemKey]
    snapshot_complete: bool
    heartbeat: bool
    read_time: _timestamp_pb2.Timestamp
    def __init__(self, items: _Optional[_Iterable[_Union[_item_pb2.Item, _Mapping]]] = ..., deleted_items: _Optional[_Iterable[_Union[_item_pb2.ItemKey, _Mapping]]] = ..., snapshot_complete: _Optional[bool] = ..., heartbeat: _Optional[bool] = ..., read_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...
