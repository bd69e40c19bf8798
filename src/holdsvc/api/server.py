"""The gRPC servers of a process: its services, health and reflection on one address."""

import asyncio
from datetime import timedelta

import grpc.aio

from holdsvc.addresses import join_address, split_address
from holdsvc.api import health, reflection
from holdsvc.api.bodies import Bodies
from holdsvc.api.calls import grpc_handlers
from holdsvc.api.reflection import Reflection
from holdsvc.api.services import KEYLESS_BYTES_MAX, LIVENESS, SERVICES, Services
from holdsvc.settings import PREFIX, Settings

ACCEPTORS = 16
"""gRPC servers of a process, on one port: the kernel distributes connections over them, and each asks for its next call
by itself (docs/decisions/0008-one-process-per-worker.md)."""

STREAMS_MAX = 1_500
"""Calls and streams of one connection that are open; gRPC's clients hold back the next ones."""

PENDING_MAX = 2_000
"""Calls of one server that have arrived and that the loop has not yet taken up. Each costs 12 kB."""

PENDING_MAX_S = 300

CONNECTIONS_MAX = 4096
"""Connections of a process. One that is idle costs a worker 20 kB."""

HANDSHAKE_MAX_S = 10
"""The longest until a connection has said what HTTP/2 begins with, TLS included."""

AGE_UNLIMITED_MS = 2**31 - 1
"""gRPC's word for no limit."""

MILLISECOND = timedelta(milliseconds=1)

IDLE_MAX_S = 600
"""How long a connection may have no call; clients open another one when they need it."""

CANCEL_MAX_S = 0.5
"""How long after its grace a stop waits for the calls that it has cancelled."""


class Server:
    """Serves the services. Construct it on the loop that will serve."""

    def __init__(self, settings: Settings, services: Services) -> None:
        self._settings = settings
        self._services = services
        self._servers = [grpc.aio.server(options=_options(settings)) for _ in range(ACCEPTORS)]
        self.port = 0
        handlers = [grpc_handlers(service, endpoints) for service, endpoints in services.endpoints.items()]
        handlers.append(services.health.handlers())
        if settings.reflection:
            names = [service.full_name for service in SERVICES]
            bodies = Bodies(reflection.STREAMS_MAX, size_max=KEYLESS_BYTES_MAX)
            handlers += Reflection([*names, health.SERVICE], bodies).handlers()
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
                if self._services.certificates is None:
                    self.port = server.add_insecure_port(address)
                else:
                    self.port = server.add_secure_port(address, self._services.certificates.credentials())
        except RuntimeError as error:
            raise OSError(
                f"cannot listen on {listen}: it is in use, or no address of this machine; set {PREFIX}LISTEN"
            ) from error
        self._services.health.set(LIVENESS, serving=True)
        for server in self._servers:
            await server.start()

    async def stop(self, grace_s: float) -> None:
        """Takes no new calls, waits for those in flight, at most `grace_s`."""
        self._services.health.close()
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
        # A caller keeps one connection, and with it one worker. Without an age new workers and replicas get no calls.
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
