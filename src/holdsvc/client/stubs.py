"""The generated stubs under the names that both clients use.

The classes of the asyncio stubs exist for type checkers only: at run time one class serves both.
"""

from typing import TYPE_CHECKING

from inventoryhold.v1.admin_service_pb2_grpc import AdminServiceStub as AdminStub
from inventoryhold.v1.event_service_pb2_grpc import EventServiceStub as EventStub
from inventoryhold.v1.inventory_service_pb2_grpc import InventoryServiceStub as InventoryStub
from inventoryhold.v1.limit_service_pb2_grpc import LimitServiceStub as LimitStub
from inventoryhold.v1.reservation_service_pb2_grpc import ReservationServiceStub as ReservationStub
from inventoryhold.v1.waitlist_service_pb2_grpc import WaitlistServiceStub as WaitlistStub

if TYPE_CHECKING:
    from inventoryhold.v1.admin_service_pb2_grpc import AdminServiceAsyncStub as AsyncAdminStub
    from inventoryhold.v1.event_service_pb2_grpc import EventServiceAsyncStub as AsyncEventStub
    from inventoryhold.v1.inventory_service_pb2_grpc import InventoryServiceAsyncStub as AsyncInventoryStub
    from inventoryhold.v1.limit_service_pb2_grpc import LimitServiceAsyncStub as AsyncLimitStub
    from inventoryhold.v1.reservation_service_pb2_grpc import ReservationServiceAsyncStub as AsyncReservationStub
    from inventoryhold.v1.waitlist_service_pb2_grpc import WaitlistServiceAsyncStub as AsyncWaitlistStub
else:
    AsyncAdminStub = AdminStub
    AsyncEventStub = EventStub
    AsyncInventoryStub = InventoryStub
    AsyncLimitStub = LimitStub
    AsyncReservationStub = ReservationStub
    AsyncWaitlistStub = WaitlistStub

__all__ = [
    "AdminStub",
    "AsyncAdminStub",
    "AsyncEventStub",
    "AsyncInventoryStub",
    "AsyncLimitStub",
    "AsyncReservationStub",
    "AsyncWaitlistStub",
    "EventStub",
    "InventoryStub",
    "LimitStub",
    "ReservationStub",
    "WaitlistStub",
]
