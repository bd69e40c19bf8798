"""The gRPC servers of a process: the four services, health and reflection on one address."""

import asyncio
from typing import Any

import grpc.aio
from google.protobuf.descriptor import ServiceDescriptor
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer
from grpc_health.v1.health import SERVICE_NAME as HEALTH
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc
from grpc_reflection.v1alpha._async import ReflectionServicer

from holdsvc.api.admin import AdminServicer
from holdsvc.api.auth.identity import authenticator, everybody
from holdsvc.api.auth.keyring import Keyring
from holdsvc.api.calls import CallObserver, Calls
from holdsvc.api.events import EventServicer
from holdsvc.api.inventory import InventoryServicer
from holdsvc.api.reservations import ReservationServicer
from holdsvc.api.tls import certificates_of
from holdsvc.engine.engine import Engine
from holdsvc.engine.limits import ClientLimits
from holdsvc.settings import PREFIX, Settings, join_address, split_address
from holdsvc.streams.hub import Streams
from inventoryhold.v1 import (
    admin_service_pb2,
    event_service_pb2,
    inventory_service_pb2,
    reservation_service_pb2,
)

ACCEPTORS = 16
"""gRPC servers of a process, on one port: the kernel deals the connections out to them.

grpc.aio asks for the next call when it has taken up the one before, by way of another thread: of 100 calls in flight 70
waited for that while the loop was idle for 8 % of the time. Each server asks for itself. With 10 connections: a third
more calls at 100 in flight, a sixth at 10, and a megabyte of memory.
"""

PENDING_MAX = 100_000
PENDING_MAX_S = 300

LIVENESS = "liveness"
"""The health service's name for "the process works", whatever the database does."""

SERVICES: tuple[ServiceDescriptor, ...] = tuple(
    file.DESCRIPTOR.services_by_name[name]
    for file, name in (
        (reservation_service_pb2, "ReservationService"),
        (inventory_service_pb2, "InventoryService"),
        (event_service_pb2, "EventService"),
        (admin_service_pb2, "AdminService"),
    )
)

_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Server:
    """Serves the engine. Construct it on the loop that will serve."""

    def __init__(self, settings: Settings, engine: Engine, streams: Streams, observer: CallObserver) -> None:
        self._settings = settings
        self._health = HealthServicer()
        self._servers = [grpc.aio.server(options=_options(settings)) for _ in range(ACCEPTORS)]
        self._certificates = certificates_of(settings)
        self.port = 0
        authenticate = everybody() if settings.auth == "off" else authenticator(Keyring(engine))
        limits = ClientLimits(settings.client_calls_per_second, settings.client_streams_max)
        calls = Calls(authenticate, limits, observer, settings.default_deadline.total_seconds())
        servicers: dict[str, Any] = {
            "ReservationService": ReservationServicer(settings, engine),
            "InventoryService": InventoryServicer(engine, streams),
            "EventService": EventServicer(streams),
            "AdminService": AdminServicer(engine),
        }
        handlers = tuple(calls.handlers(service, servicers[service.name]) for service in SERVICES)
        reflecting = ReflectionServicer([service.full_name for service in SERVICES] + [HEALTH, reflection.SERVICE_NAME])
        for server in self._servers:
            server.add_generic_rpc_handlers(handlers)
            health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
            if settings.reflection:
                reflection_pb2_grpc.add_ServerReflectionServicer_to_server(reflecting, server)

    async def start(self) -> None:
        """Binds the address and serves; raises OSError when somebody else has it."""
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
        await self._health.set(LIVENESS, _SERVING)
        await self.set_serving(False)
        for server in self._servers:
            await server.start()

    def reload_certificates(self) -> None:
        """Takes up certificate files that have changed now, not at the next handshake."""
        if self._certificates is not None:
            self._certificates.reload()

    async def set_serving(self, serving: bool) -> None:
        """Tells the health service whether calls can be answered."""
        for name in ("", *(service.full_name for service in SERVICES)):
            await self._health.set(name, _SERVING if serving else _NOT_SERVING)

    async def announce_stop(self) -> None:
        """Turns health to NOT_SERVING for good."""
        await self._health.enter_graceful_shutdown()

    async def stop(self, grace_s: float) -> None:
        """Takes no new calls, waits for those in flight, at most `grace_s`."""
        await asyncio.gather(*(server.stop(grace_s) for server in self._servers))
        # stop() does not wait for the finally blocks of handlers that it aborted (grpc#37239).
        await asyncio.sleep(0)


def _options(settings: Settings) -> list[tuple[str, int]]:
    return [
        ("grpc.so_reuseport", 1),
        ("grpc.max_receive_message_length", settings.max_message_bytes),
        ("grpc.max_send_message_length", 64 * 1024 * 1024),
        ("grpc.max_metadata_size", 16 * 1024),
        ("grpc.max_concurrent_streams", 10_000),
        # Calls that have arrived and that the loop has not yet taken up. Beyond 1,000 gRPC would answer some, beyond
        # 3,000 or after 30 s all of them with CANCELLED, which says nothing to a caller: whom to refuse is the
        # engine's to decide, and each call's deadline ends it anyway.
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
