"""Which scope each rpc needs. A method that is not listed cannot be served: the server refuses to start.

Any one of a method's scopes will do; a refusal names the first. Reading reservations is open to `reservations.read_all`
alone, for those who watch over sales and shall not sell.
"""

from collections.abc import Mapping

SCOPES: Mapping[str, tuple[str, ...]] = {
    "/inventoryhold.v1.ReservationService/Reserve": ("reserve",),
    "/inventoryhold.v1.ReservationService/BatchReserve": ("reserve",),
    "/inventoryhold.v1.ReservationService/Confirm": ("confirm",),
    "/inventoryhold.v1.ReservationService/Cancel": ("reserve",),
    "/inventoryhold.v1.ReservationService/Refund": ("refund",),
    "/inventoryhold.v1.ReservationService/Extend": ("reserve",),
    "/inventoryhold.v1.ReservationService/GetReservation": ("reserve", "reservations.read_all"),
    "/inventoryhold.v1.ReservationService/ListReservations": ("reserve", "reservations.read_all"),
    "/inventoryhold.v1.ReservationService/ListReservationEvents": ("reserve", "reservations.read_all"),
    "/inventoryhold.v1.ReservationService/Cleanup": ("cleanup",),
    "/inventoryhold.v1.InventoryService/CreateItem": ("inventory.write",),
    "/inventoryhold.v1.InventoryService/BatchCreateItems": ("inventory.write",),
    "/inventoryhold.v1.InventoryService/GetItem": ("inventory.read",),
    "/inventoryhold.v1.InventoryService/ListItems": ("inventory.read",),
    "/inventoryhold.v1.InventoryService/UpdateItem": ("inventory.write",),
    "/inventoryhold.v1.InventoryService/AdjustCapacity": ("inventory.write",),
    "/inventoryhold.v1.InventoryService/TransferCapacity": ("inventory.write",),
    "/inventoryhold.v1.InventoryService/DeleteItem": ("inventory.write",),
    "/inventoryhold.v1.InventoryService/CheckAvailability": ("inventory.read",),
    "/inventoryhold.v1.InventoryService/WatchInventory": ("inventory.read",),
    "/inventoryhold.v1.EventService/StreamEvents": ("events.read",),
    "/inventoryhold.v1.AdminService/CreateApiKey": ("admin",),
    "/inventoryhold.v1.AdminService/ListApiKeys": ("admin",),
    "/inventoryhold.v1.AdminService/RevokeApiKey": ("admin",),
    "/inventoryhold.v1.AdminService/VerifyLedger": ("admin",),
}

ALL_SCOPES = (
    "reserve",
    "confirm",
    "refund",
    "reservations.read_all",
    "reservations.write_all",
    "inventory.read",
    "inventory.write",
    "events.read",
    "cleanup",
    "admin",
)
