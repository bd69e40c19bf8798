"""The HTTP server of a process: one listening socket, bounded connections, a drain that resets none."""

import asyncio
import math
import socket
from contextlib import suppress
from email.utils import formatdate
from functools import partial

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
ACCEPTS_MAX = 64
"""Connections that are accepted before other work gets its turn."""

SEND_BUFFER_BYTES = 128 * 1024
"""What the kernel keeps, about twice, of answers that a peer does not take. By itself it lets that grow to 4 MB for
each, and what all connections of a machine may keep is bounded for all of its programs together."""

HANDSHAKE_MAX_S = 10.0
STOP_TICK_S = 0.02


class HttpServer:
    """Serves the services over HTTP/1.1. Construct it on the loop that will serve."""

    def __init__(self, settings: Settings, services: Services) -> None:
        self._listen = settings.http_listen
        self._certificates = services.certificates
        self._routes = Routes(settings, services)
        self.body_bytes_max = settings.max_message_bytes
        self.age_max_s = settings.connection_age.total_seconds() or math.inf
        self.stream_max_s = self.age_max_s + settings.connection_age_grace.total_seconds()
        self.draining = False
        self.date = formatdate(usegmt=True)
        self.port = 0
        self._listening: socket.socket | None = None
        self._server: asyncio.Server | None = None
        self._connections: set[Connection] = set()
        self._idle: dict[Connection, None] = {}
        self._handshakes: dict[asyncio.Task[None], None] = {}
        self._accepting: asyncio.Task[None] | None = None
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
                # Accepted sockets have it from the one that listens.
                listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
                listening.bind(address)
                self.port = listening.getsockname()[1]
                if self._certificates is None:
                    loop = asyncio.get_running_loop()
                    self._server = await loop.create_server(lambda: Connection(self), sock=listening, backlog=BACKLOG)
                else:
                    # Accepted here, so that a handshake counts as a connection and sees the newest certificates.
                    listening.setblocking(False)
                    listening.listen(BACKLOG)
                    self._accepting = asyncio.create_task(
                        tasks.forever("http_accept", partial(self._accept, listening))
                    )
                    self._accepting.add_done_callback(lambda _: listening.close())
                self._listening = listening
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
        if self._listening is not None and not self.draining:
            self._accept_rest(self._listening)
        self.draining = True
        if self._server is not None:
            self._server.close()
        if self._accepting is not None:
            self._accepting.cancel()
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
        if self.draining:
            connection.hurry()
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
        # What makes room is taken out at once: its end is told only later, and the next one must find another.
        if self._idle:
            longest = next(iter(self._idle))
            self.lost(longest)
            longest.abort()
        elif self._handshakes:
            oldest = next(iter(self._handshakes))
            del self._handshakes[oldest]
            oldest.cancel()

    async def _look(self) -> float:
        self.date = formatdate(usegmt=True)
        for connection in list(self._connections):
            connection.look()
        return LOOK_S

    async def _accept(self, listening: socket.socket) -> float:
        loop = asyncio.get_running_loop()
        for _ in range(ACCEPTS_MAX):
            accepted, _ = await loop.sock_accept(listening)
            self._begin(accepted)
        return 0.0

    def _accept_rest(self, listening: socket.socket) -> None:
        """Takes the connections that the kernel has made already: the end of the listening socket would reset them."""
        with suppress(OSError):
            for _ in range(BACKLOG):
                accepted, _ = listening.accept()
                accepted.setblocking(False)
                self._begin(accepted)

    def _begin(self, accepted: socket.socket) -> None:
        self._make_room()
        task = asyncio.create_task(self._handshake(accepted))
        self._handshakes[task] = None
        task.add_done_callback(partial(self._end_handshake, accepted))

    def _end_handshake(self, accepted: socket.socket, task: asyncio.Task[None]) -> None:
        self._handshakes.pop(task, None)
        if task.cancelled():
            # It may have been cancelled before its first step.
            accepted.close()

    async def _handshake(self, accepted: socket.socket) -> None:
        try:
            context = self._certificates.context() if self._certificates is not None else None
        except BaseException:
            accepted.close()
            raise
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: Connection(self),
                accepted,
                ssl=context,
                ssl_handshake_timeout=HANDSHAKE_MAX_S if context else None,
                ssl_shutdown_timeout=LINGER_S if context else None,
            )
        except (OSError, EOFError) as error:
            # A peer that speaks no TLS, shows no certificate that is trusted, or says nothing.
            log.debug("http.handshake_failed", error=type(error).__name__)
