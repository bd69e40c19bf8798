"""The facts of each rpc, in one table: who may call it, where it runs, and whether a call may be repeated.

Servers, the reference in docs/ and the client's retry policy are made from it. An rpc without a row is not served: the
server refuses to start.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from holdsvc.api.bounds import rules_of
from inventoryhold.v1 import admin_service_pb2

PACKAGE = "inventoryhold.v1"

_SCOPE_RULE = rules_of(admin_service_pb2.CreateApiKeyRequest.DESCRIPTOR.fields_by_name["scopes"]).repeated.items.string

ALL_SCOPES: tuple[str, ...] = tuple(getattr(_SCOPE_RULE, "in"))
"""Every scope, from the proto's own list."""


class Effect(Enum):
    """What a call does, and whether a client may repeat one that may have run already."""

    READ = "reads"
    CHANGE_BY_REQUEST_ID = "changes; safe to repeat with a request_id"
    CHANGE_ONCE = "changes; repeating it changes nothing more"
    CHANGE = "changes; not safe to repeat"
    STREAM = "streams; opened again by the caller"

    @property
    def repeatable(self) -> bool:
        """Whether clients that send a request_id with each change may repeat the call."""
        return self in (Effect.READ, Effect.CHANGE_BY_REQUEST_ID, Effect.CHANGE_ONCE)


@dataclass(frozen=True, slots=True)
class Rpc:
    """One row of the table."""

    service: str
    name: str
    effect: Effect
    scopes: tuple[str, ...]
    """Any one of them is enough; a refusal names the first."""
    lane: str = ""
    """The engine's lane, which is also the label of its metrics; empty: it runs by itself."""
    entries: str = ""
    """The list of the request whose entries are judged and answered one by one."""

    @property
    def method(self) -> str:
        """The path of its calls."""
        return f"/{PACKAGE}.{self.service}/{self.name}"


# Reading reservations is open to `reservations.read_all` alone, for callers that watch sales and must not sell.
_READERS = ("reserve", "reservations.read_all")

_RESERVATIONS = (
    Rpc("ReservationService", "Reserve", Effect.CHANGE_BY_REQUEST_ID, ("reserve",), "reserve"),
    Rpc("ReservationService", "BatchReserve", Effect.CHANGE_BY_REQUEST_ID, ("reserve",), "reserve", "requests"),
    Rpc("ReservationService", "Confirm", Effect.CHANGE_BY_REQUEST_ID, ("confirm",), "confirm"),
    Rpc("ReservationService", "Cancel", Effect.CHANGE_BY_REQUEST_ID, ("reserve",), "cancel"),
    Rpc("ReservationService", "Refund", Effect.CHANGE_BY_REQUEST_ID, ("refund",), "refund"),
    Rpc("ReservationService", "Extend", Effect.CHANGE_BY_REQUEST_ID, ("reserve",), "extend"),
    Rpc("ReservationService", "Fulfil", Effect.CHANGE_BY_REQUEST_ID, ("fulfil",), "fulfil"),
    Rpc("ReservationService", "Modify", Effect.CHANGE_BY_REQUEST_ID, ("reserve",), "modify"),
    Rpc("ReservationService", "BatchConfirm", Effect.CHANGE_BY_REQUEST_ID, ("confirm",), "confirm", "requests"),
    Rpc("ReservationService", "BatchCancel", Effect.CHANGE_BY_REQUEST_ID, ("reserve",), "cancel", "requests"),
    Rpc("ReservationService", "BatchRefund", Effect.CHANGE_BY_REQUEST_ID, ("refund",), "refund", "requests"),
    Rpc("ReservationService", "BatchExtend", Effect.CHANGE_BY_REQUEST_ID, ("reserve",), "extend", "requests"),
    Rpc("ReservationService", "BatchFulfil", Effect.CHANGE_BY_REQUEST_ID, ("fulfil",), "fulfil", "requests"),
    Rpc("ReservationService", "BatchModify", Effect.CHANGE_BY_REQUEST_ID, ("reserve",), "modify", "requests"),
    Rpc("ReservationService", "GetReservation", Effect.READ, _READERS),
    Rpc("ReservationService", "ListReservations", Effect.READ, _READERS),
    Rpc("ReservationService", "ListReservationEvents", Effect.READ, _READERS),
    Rpc("ReservationService", "Cleanup", Effect.CHANGE_ONCE, ("cleanup",)),
)
_INVENTORY = (
    Rpc("InventoryService", "CreateItem", Effect.CHANGE, ("inventory.write",)),
    Rpc("InventoryService", "BatchCreateItems", Effect.CHANGE, ("inventory.write",)),
    Rpc("InventoryService", "GetItem", Effect.READ, ("inventory.read",)),
    Rpc("InventoryService", "ListItems", Effect.READ, ("inventory.read",)),
    Rpc("InventoryService", "UpdateItem", Effect.CHANGE, ("inventory.write",)),
    Rpc("InventoryService", "AdjustCapacity", Effect.CHANGE_BY_REQUEST_ID, ("inventory.write",), "adjust"),
    Rpc("InventoryService", "BatchSetStock", Effect.CHANGE, ("inventory.write",), "set_stock", "counts"),
    Rpc("InventoryService", "TransferCapacity", Effect.CHANGE_BY_REQUEST_ID, ("inventory.write",), "transfer"),
    Rpc("InventoryService", "DeleteItem", Effect.CHANGE, ("inventory.write",)),
    Rpc("InventoryService", "CheckAvailability", Effect.READ, ("inventory.read",)),
    Rpc("InventoryService", "ExplainAvailability", Effect.READ, ("inventory.read",)),
    Rpc("InventoryService", "WatchInventory", Effect.STREAM, ("inventory.read",)),
)
_LIMITS = (
    Rpc("LimitService", "SetLimit", Effect.CHANGE_ONCE, ("limits.write",)),
    Rpc("LimitService", "ListLimits", Effect.READ, (*_READERS, "limits.write")),
    Rpc("LimitService", "DeleteLimit", Effect.CHANGE, ("limits.write",)),
    Rpc("LimitService", "GetLimitUsage", Effect.READ, (*_READERS, "limits.write")),
)
_EVENTS = (Rpc("EventService", "StreamEvents", Effect.STREAM, ("events.read",)),)
_WEBHOOKS = (
    Rpc("WebhookService", "CreateWebhook", Effect.CHANGE, ("webhooks.manage",)),
    Rpc("WebhookService", "ListWebhooks", Effect.READ, ("webhooks.manage",)),
    Rpc("WebhookService", "DeleteWebhook", Effect.CHANGE, ("webhooks.manage",)),
    Rpc("WebhookService", "TestWebhook", Effect.CHANGE, ("webhooks.manage",)),
)
_WAITLIST_READERS = ("waitlist.join", "waitlist.read", "waitlist.manage")
_WAITLIST = (
    Rpc("WaitlistService", "JoinWaitlist", Effect.CHANGE_BY_REQUEST_ID, ("waitlist.join",), "join"),
    Rpc("WaitlistService", "LeaveWaitlist", Effect.CHANGE_ONCE, ("waitlist.join", "waitlist.manage")),
    Rpc("WaitlistService", "GetWaitlistEntry", Effect.READ, _WAITLIST_READERS),
    Rpc("WaitlistService", "ListWaitlistEntries", Effect.READ, _WAITLIST_READERS),
)
_ADMIN = (
    Rpc("AdminService", "GetCaller", Effect.READ, ALL_SCOPES),
    Rpc("AdminService", "CreateApiKey", Effect.CHANGE, ("admin",)),
    Rpc("AdminService", "ListApiKeys", Effect.READ, ("admin",)),
    Rpc("AdminService", "RevokeApiKey", Effect.CHANGE_ONCE, ("admin",)),
    Rpc("AdminService", "VerifyLedger", Effect.READ, ("admin",)),
)

RPCS: Mapping[str, Rpc] = {
    rpc.method: rpc for rpc in (*_RESERVATIONS, *_INVENTORY, *_LIMITS, *_WAITLIST, *_EVENTS, *_WEBHOOKS, *_ADMIN)
}
"""By the path of its calls."""
