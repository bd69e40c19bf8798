"""The services of a process: each rpc as an endpoint, and health. Every server of the process answers with them."""

from collections.abc import Mapping
from typing import Any

from google.protobuf.descriptor import ServiceDescriptor

from holdsvc.api.admin import AdminServicer
from holdsvc.api.auth.identity import authenticator, open_to_all
from holdsvc.api.auth.keyring import Keyring
from holdsvc.api.bodies import Bodies
from holdsvc.api.calls import CallObserver, Calls, Endpoint
from holdsvc.api.cells import Cells
from holdsvc.api.events import EventServicer
from holdsvc.api.health import Health
from holdsvc.api.inventory import InventoryServicer
from holdsvc.api.limits import LimitServicer
from holdsvc.api.pages import Pages
from holdsvc.api.reservations import ReservationServicer
from holdsvc.api.tls import certificates_of
from holdsvc.api.waitlist import WaitlistServicer
from holdsvc.api.webhooks import WebhookServicer
from holdsvc.engine.fairness import PoolShare
from holdsvc.engine.limits import AtOnce, ClientLimits, Entrances
from holdsvc.settings import Settings
from inventoryhold.v1 import (
    admin_service_pb2,
    event_service_pb2,
    inventory_service_pb2,
    limit_service_pb2,
    reservation_service_pb2,
    waitlist_service_pb2,
    webhook_service_pb2,
)

LIVENESS = "liveness"
"""The health service's name for "the process works", whatever the database does."""

CELL = "cell/"
"""The health service's name for a cell begins so."""

SERVICES: tuple[ServiceDescriptor, ...] = tuple(
    file.DESCRIPTOR.services_by_name[name]
    for file, name in (
        (reservation_service_pb2, "ReservationService"),
        (inventory_service_pb2, "InventoryService"),
        (limit_service_pb2, "LimitService"),
        (waitlist_service_pb2, "WaitlistService"),
        (event_service_pb2, "EventService"),
        (webhook_service_pb2, "WebhookService"),
        (admin_service_pb2, "AdminService"),
    )
)

BODIES_MAX = 64
CLIENT_BODIES_MAX = 32
"""Requests of callers with a key that are read at once, of all and of one client; each takes up to MAX_MESSAGE_BYTES
while it is on its way."""

BODY_PATIENCE_S = 2.0
"""How long a request may be on its way while others wait to be read."""

CALLS_AT_ONCE_MIN = 40
"""Calls without a lane of one client that are read and run at once: this many, or twice the connections for reads if
that is more. They are more than the bodies that are read at once, so that slow bodies are given up for others."""

CALLS_WAITING_MAX = 1000
"""Calls without a lane that wait for that, of one client."""

STREAMS_OPENING_MAX = 40
STREAMS_WAITING_MAX = 5000
"""The same for streams that have not told anything yet: after a restart a client opens all of its streams at once."""

OPEN_BODIES_MAX = 256
"""Requests that are read at once with AUTH=off, where all callers are on this machine: none is given up for others."""

HEALTH_BODIES_MAX = 12
HEALTH_BODY_PATIENCE_S = 0.1
"""The same for health, which needs no key. Its requests are small, so an honest one arrives with its headers."""

KEYLESS_BYTES_MAX = 4096
"""Size of the largest request of health and reflection."""


class Services:
    """Construct it on the loop that will serve."""

    def __init__(self, settings: Settings, cells: Cells, observer: CallObserver) -> None:
        self.certificates = certificates_of(settings)
        authenticate = open_to_all() if settings.auth == "off" else authenticator(Keyring(cells))
        limits = ClientLimits(settings.client_calls_per_second, settings.client_streams_max)
        if settings.auth == "off":
            bodies = Bodies(OPEN_BODIES_MAX)
        else:
            bodies = Bodies(BODIES_MAX, client_max=CLIENT_BODIES_MAX, patience_s=BODY_PATIENCE_S)
        at_once = AtOnce(max(CALLS_AT_ONCE_MIN, 2 * PoolShare.of(settings.pool_size).reads), CALLS_WAITING_MAX)
        default_s = settings.default_deadline.total_seconds()
        entrances = Entrances(at_once, AtOnce(STREAMS_OPENING_MAX, STREAMS_WAITING_MAX))
        calls = Calls(authenticate, cells, limits, bodies, entrances, observer, default_s)
        pages = Pages(calls.turns)
        servicers: dict[str, Any] = {
            "ReservationService": ReservationServicer(settings, calls.turns, pages),
            "InventoryService": InventoryServicer(calls.turns, pages),
            "LimitService": LimitServicer(pages),
            "WaitlistService": WaitlistServicer(settings, pages),
            "EventService": EventServicer(),
            "WebhookService": WebhookServicer(settings, pages),
            "AdminService": AdminServicer(pages),
        }
        self.endpoints: dict[ServiceDescriptor, list[Endpoint]] = {
            service: calls.endpoints(service, servicers[service.name]) for service in SERVICES
        }
        # Counted apart, so that calls without a key are never in the way of the others.
        about_health = Bodies(HEALTH_BODIES_MAX, patience_s=HEALTH_BODY_PATIENCE_S, size_max=KEYLESS_BYTES_MAX)
        of_cells = [CELL + cell.name for cell in cells.all if cell.name]
        self.health = Health(["", LIVENESS, *(service.full_name for service in SERVICES), *of_cells], about_health)

    def set_serving(self, alive: Mapping[str, bool]) -> None:
        """Tells the health service which cells answer, by name; while any does, calls can be answered."""
        for name in ("", *(service.full_name for service in SERVICES)):
            self.health.set(name, serving=any(alive.values()))
        for name, serving in alive.items():
            if name:
                self.health.set(CELL + name, serving=serving)

    def reload_certificates(self) -> None:
        """Takes up certificate files that have changed now, not at the next handshake."""
        if self.certificates is not None:
            self.certificates.reload()
