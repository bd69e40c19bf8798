"""The gRPC servers of a process: the services, health and reflection on one address."""

import asyncio
from datetime import timedelta
from typing import Any

import grpc.aio
from google.protobuf.descriptor import ServiceDescriptor

from holdsvc.addresses import join_address, split_address
from holdsvc.api import health, reflection
from holdsvc.api.admin import AdminServicer
from holdsvc.api.auth.identity import authenticator, open_to_all
from holdsvc.api.auth.keyring import Keyring
from holdsvc.api.bodies import Bodies
from holdsvc.api.calls import CallObserver, Calls
from holdsvc.api.events import EventServicer
from holdsvc.api.health import Health
from holdsvc.api.inventory import InventoryServicer
from holdsvc.api.limits import LimitServicer
from holdsvc.api.pages import Pages
from holdsvc.api.reflection import Reflection
from holdsvc.api.reservations import ReservationServicer
from holdsvc.api.tls import certificates_of
from holdsvc.api.webhooks import Sender, WebhookServicer
from holdsvc.engine.engine import Engine
from holdsvc.engine.limits import ClientLimits
from holdsvc.settings import PREFIX, Settings
from holdsvc.streams.hub import Streams
from inventoryhold.v1 import (
    admin_service_pb2,
    event_service_pb2,
    inventory_service_pb2,
    limit_service_pb2,
    reservation_service_pb2,
    webhook_service_pb2,
)

ACCEPTORS = 16
"""gRPC servers of a process, on one port: the kernel distributes connections over them, and each asks for its next call
by itself (docs/decisions/0008-one-process-per-worker.md)."""

STREAMS_MAX = 1_500
"""Calls and streams of one connection that are open; gRPC's clients hold back the next ones."""

PENDING_MAX = 2_000
"""Calls of one server that have arrived and that the loop has not yet taken up. Each costs 12 kB."""

PENDING_MAX_S = 300

LIVENESS = "liveness"
"""The health service's name for "the process works", whatever the database does."""

SERVICES: tuple[ServiceDescriptor, ...] = tuple(
    file.DESCRIPTOR.services_by_name[name]
    for file, name in (
        (reservation_service_pb2, "ReservationService"),
        (inventory_service_pb2, "InventoryService"),
        (limit_service_pb2, "LimitService"),
        (event_service_pb2, "EventService"),
        (webhook_service_pb2, "WebhookService"),
        (admin_service_pb2, "AdminService"),
    )
)

CONNECTIONS_MAX = 4096
"""Connections of a process. One that is idle costs a worker 20 kB."""

HANDSHAKE_MAX_S = 10
"""The longest until a connection has said what HTTP/2 begins with, TLS included."""

AGE_UNLIMITED_MS = 2**31 - 1
"""gRPC's word for no limit."""

MILLISECOND = timedelta(milliseconds=1)

IDLE_MAX_S = 600
"""How long a connection may have no call; clients open another one when they need it."""

BODIES_MAX = 64
CLIENT_BODIES_MAX = 32
"""Requests of callers with a key that are read at once, of all and of one client; each takes up to MAX_MESSAGE_BYTES
while it is on its way."""

BODY_PATIENCE_S = 2.0
"""How long a request may be on its way while others wait to be read."""

OPEN_BODIES_MAX = 256
"""Requests that are read at once with AUTH=off, where all callers are on this machine: none is given up for others."""

HEALTH_BODIES_MAX = 12
HEALTH_BODY_PATIENCE_S = 0.1
"""The same for health, which needs no key. Its requests are small, so an honest one arrives with its headers."""

CANCEL_MAX_S = 0.5
"""How long after its grace a stop waits for the calls that it has cancelled."""

KEYLESS_BYTES_MAX = 4096
"""Size of the largest request of health and reflection."""


class Server:
    """Serves the engine. Construct it on the loop that will serve."""

    def __init__(
        self, settings: Settings, engine: Engine, streams: Streams, sender: Sender, observer: CallObserver
    ) -> None:
        self._settings = settings
        self._servers = [grpc.aio.server(options=_options(settings)) for _ in range(ACCEPTORS)]
        self._certificates = certificates_of(settings)
        self.port = 0
        authenticate = open_to_all() if settings.auth == "off" else authenticator(Keyring(engine))
        limits = ClientLimits(settings.client_calls_per_second, settings.client_streams_max)
        if settings.auth == "off":
            bodies = Bodies(OPEN_BODIES_MAX)
        else:
            bodies = Bodies(BODIES_MAX, client_max=CLIENT_BODIES_MAX, patience_s=BODY_PATIENCE_S)
        calls = Calls(authenticate, limits, bodies, observer, settings.default_deadline.total_seconds())
        pages = Pages(engine, calls.turns)
        servicers: dict[str, Any] = {
            "ReservationService": ReservationServicer(settings, engine, calls.turns, pages),
            "InventoryService": InventoryServicer(engine, streams, calls.turns, pages),
            "LimitService": LimitServicer(engine, pages),
            "EventService": EventServicer(streams),
            "WebhookService": WebhookServicer(settings, engine, streams.events, pages, sender),
            "AdminService": AdminServicer(engine, pages),
        }
        # Counted apart, so that calls without a key are never in the way of the others.
        about_health = Bodies(HEALTH_BODIES_MAX, patience_s=HEALTH_BODY_PATIENCE_S, size_max=KEYLESS_BYTES_MAX)
        names = [service.full_name for service in SERVICES]
        self._health = Health(["", LIVENESS, *names], about_health)
        handlers = [calls.handlers(service, servicers[service.name]) for service in SERVICES]
        handlers.append(self._health.handlers())
        if settings.reflection:
            handlers += Reflection(
                [*names, health.SERVICE], Bodies(reflection.STREAMS_MAX, size_max=KEYLESS_BYTES_MAX)
            ).handlers()
        for server in self._servers:
            server.add_generic_rpc_handlers(handlers)

    async def start(self) -> None:
        """Binds the address and serves; raises OSError when it is taken."""
        listen = self._settings.listen
        host, self.port = split_address(listen)
        try:
            for server in self._servers:
                # Port 0 is a free one: the first server's is that of all.
                address = join_address(host, self.port)
                if self._certificates is None:
                    self.port = server.add_insecure_port(address)
                else:
                    self.port = server.add_secure_port(address, self._certificates.credentials())
        except RuntimeError as error:
            raise OSError(
                f"cannot listen on {listen}: it is in use, or no address of this machine; set {PREFIX}LISTEN"
            ) from error
        self._health.set(LIVENESS, serving=True)
        for server in self._servers:
            await server.start()

    def reload_certificates(self) -> None:
        """Takes up certificate files that have changed now, not at the next handshake."""
        if self._certificates is not None:
            self._certificates.reload()

    def set_serving(self, serving: bool) -> None:
        """Tells the health service whether calls can be answered."""
        for name in ("", *(service.full_name for service in SERVICES)):
            self._health.set(name, serving=serving)

    def announce_stop(self) -> None:
        """Turns health to NOT_SERVING for good."""
        self._health.stop()

    async def stop(self, grace_s: float) -> None:
        """Takes no new calls, waits for those in flight, at most `grace_s`."""
        self._health.close()
        stopping = [asyncio.create_task(server.stop(grace_s)) for server in self._servers]
        # A connection that does not read keeps gRPC from ending its server, also when its calls have been cancelled.
        await asyncio.wait(stopping, timeout=grace_s + CANCEL_MAX_S)
        # stop() does not wait for the finally blocks of handlers that it aborted (grpc#37239).
        await asyncio.sleep(0)


def _options(settings: Settings) -> list[tuple[str, int]]:
    age = settings.connection_age
    return [
        ("grpc.so_reuseport", 1),
        ("grpc.max_receive_message_length", settings.max_message_bytes),
        ("grpc.max_send_message_length", 64 * 1024 * 1024),
        ("grpc.max_metadata_size", 16 * 1024),
        ("grpc.max_concurrent_streams", STREAMS_MAX),
        # Without it a stream has room for 64 KiB until its message is read, and then for that message. With it every
        # stream has room for 4 MiB from the start.
        ("grpc.http2.bdp_probe", 0),
        ("grpc.max_allowed_incoming_connections", CONNECTIONS_MAX // ACCEPTORS),
        ("grpc.server_handshake_timeout_ms", HANDSHAKE_MAX_S * 1000),
        ("grpc.max_connection_idle_ms", IDLE_MAX_S * 1000),
        # A caller keeps its connection, and so its worker, for ever otherwise: new workers and replicas would idle.
        ("grpc.max_connection_age_ms", age // MILLISECOND if age else AGE_UNLIMITED_MS),
        ("grpc.max_connection_age_grace_ms", settings.connection_age_grace // MILLISECOND),
        # By default gRPC answers some calls beyond 1,000, and all after 30 s, with CANCELLED, which says nothing to a
        # caller: the engine decides what is refused, and each call's deadline ends it anyway.
        ("grpc.server.max_pending_requests", PENDING_MAX),
        ("grpc.server.max_pending_requests_hard_limit", PENDING_MAX),
        ("grpc.server_max_unrequested_time_in_server", PENDING_MAX_S),
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.keepalive_permit_without_calls", 1),
        # Callers may ping every 10 s; gRPC's own default would cut them off at less than 5 minutes.
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        ("grpc.http2.max_ping_strikes", 5),
    ]
