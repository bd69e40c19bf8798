"""The HTTP server of a process: one listening socket, bounded connections, a drain that resets none."""

import asyncio
import socket
import ssl
from email.utils import formatdate

import structlog

from holdsvc.addresses import split_address
from holdsvc.api.services import Services
from holdsvc.engine import tasks
from holdsvc.http.connection import LINGER_S, LOOK_S, Connection
from holdsvc.http.exchange import Exchange
from holdsvc.http.routes import Routes
from holdsvc.settings import PREFIX, Settings

log = structlog.get_logger(__name__)

CONNECTIONS_MAX = 4096
"""Connections of a process. The next one takes the place of the one that has waited longest for a request; it is
closed where all have one under way."""

BACKLOG = 1024
HANDSHAKE_MAX_S = 10.0
STOP_TICK_S = 0.02


class HttpServer:
    """Serves the services over HTTP/1.1. Construct it on the loop that will serve."""

    def __init__(self, settings: Settings, services: Services) -> None:
        self._listen = settings.http_listen
        self._certificates = services.certificates
        self._routes = Routes(settings, services)
        self.body_bytes_max = settings.max_message_bytes
        self.draining = False
        self.date = formatdate(usegmt=True)
        self.port = 0
        self._server: asyncio.Server | None = None
        self._connections: set[Connection] = set()
        self._idle: dict[Connection, None] = {}
        self._handshakes: dict[asyncio.Task[None], asyncio.Transport] = {}
        self._looking: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Binds the address and serves; raises OSError when it is taken."""
        host, port = split_address(self._listen)
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(
                host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
            listening = socket.socket(family, kind, protocol)
            try:
                listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                # Every worker has a socket of its own, and the kernel distributes connections over them.
                listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                listening.bind(address)
                self.port = listening.getsockname()[1]
                factory = Connection if self._certificates is None else _Accepted
                self._server = await asyncio.get_running_loop().create_server(
                    lambda: factory(self), sock=listening, backlog=BACKLOG
                )
            except BaseException:
                listening.close()
                raise
        except OSError as error:
            raise OSError(
                f"cannot listen on {self._listen}: it is in use, or no address of this machine; set {PREFIX}HTTP_LISTEN"
            ) from error
        self._looking = asyncio.create_task(tasks.forever("http_connections", self._look))

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._connections) + len(self._handshakes)

    def drain(self) -> None:
        """Takes no new connections; each open one ends with its next answer, or after a short time without request."""
        self.draining = True
        if self._server is not None:
            self._server.close()
        for connection in self._connections:
            connection.hurry()

    async def stop(self, grace_s: float) -> None:
        """Waits for the connections, at most `grace_s`, and ends those that are left."""
        self.drain()
        loop = asyncio.get_running_loop()
        end = loop.time() + grace_s
        while self._connections and loop.time() < end:
            await asyncio.sleep(STOP_TICK_S)
        for connection in list(self._connections):
            connection.abort()
        await tasks.end([*self._handshakes, *([self._looking] if self._looking else [])])

    # What connections call.

    def opened(self, connection: Connection) -> None:
        """A connection was accepted."""
        self._make_room()
        self._connections.add(connection)
        self._idle[connection] = None
        if self.connections > CONNECTIONS_MAX:
            connection.abort()

    def lost(self, connection: Connection) -> None:
        """It has ended."""
        self._connections.discard(connection)
        self._idle.pop(connection, None)

    def idle(self, connection: Connection, *, idle: bool) -> None:
        """It waits for a request, or no longer."""
        self._idle.pop(connection, None)
        if idle and connection in self._connections:
            self._idle[connection] = None

    async def serve(self, exchange: Exchange) -> None:
        """Answers a request."""
        await self._routes.serve(exchange)

    def _make_room(self) -> None:
        if self.connections < CONNECTIONS_MAX:
            return
        if self._idle:
            longest = next(iter(self._idle))
            del self._idle[longest]
            longest.abort()
        elif self._handshakes:
            next(iter(self._handshakes.values())).abort()

    async def _look(self) -> float:
        self.date = formatdate(usegmt=True)
        for connection in list(self._connections):
            connection.look()
        return LOOK_S

    def shake_hands(self, transport: asyncio.Transport) -> None:
        """Begins TLS on an accepted connection, with the newest certificates; it counts from the start."""
        self._make_room()
        task = asyncio.create_task(self._handshake(transport))
        self._handshakes[task] = transport
        task.add_done_callback(lambda done: self._handshakes.pop(done, None))

    async def _handshake(self, transport: asyncio.Transport) -> None:
        assert self._certificates is not None
        connection = Connection(self)
        try:
            secured = await asyncio.get_running_loop().start_tls(
                transport,
                connection,
                self._certificates.context(),
                server_side=True,
                ssl_handshake_timeout=HANDSHAKE_MAX_S,
                ssl_shutdown_timeout=LINGER_S,
            )
        except (OSError, ssl.SSLError, EOFError) as error:
            log.debug("http.handshake_failed", error=type(error).__name__)
            transport.abort()
            return
        if secured is not None:
            connection.connection_made(secured)


class _Accepted(asyncio.Protocol):
    """A connection before its TLS handshake."""

    def __init__(self, server: HttpServer) -> None:
        self._server = server

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begins the handshake; nothing is read before."""
        transport.pause_reading()
        self._server.shake_hands(transport)
