"""The channel to the service: its options, when it is opened, left and closed."""

import asyncio
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakSet

import grpc
import grpc.aio

from holdsvc.client.errors import CallError

TIMEOUT_S = 30.0
"""Deadline of a call without one of its own, as in `retry_policy.json`."""

MESSAGE_BYTES_MAX = 64 * 1024 * 1024
"""The largest answer that is read. gRPC's own default of 4 MiB is less than the service may send."""

KEEPALIVE_S = 30
"""How often an unused connection is probed. The service closes connections that are probed much more often."""

LEAVE_SPACING_S = 0.5
"""How old a connection must be to be left: while a server drains, a new one may meet the same server again."""

PROBE_S = 0.1
"""The longest that a call whose deadline has passed takes to find out that there is no connection."""

_PROBE = "/grpc.health.v1.Health/Check"

_CLOSED = "this client is closed"

_all: "WeakSet[_Connections]" = WeakSet()
_inherited: list[Any] = []
"""Connections of a forked child's parent: kept, because closing one would end the parent's."""


@dataclass(frozen=True)
class Tls:
    """TLS to the service, PEM bytes.

    Without `root_certificates` gRPC's own authorities are trusted; a client's certificate needs both `private_key` and
    `certificate_chain`.
    """

    root_certificates: bytes | None = None
    private_key: bytes | None = None
    certificate_chain: bytes | None = None

    def credentials(self) -> grpc.ChannelCredentials:
        """As gRPC takes them."""
        return grpc.ssl_channel_credentials(self.root_certificates, self.private_key, self.certificate_chain)


_SERVICE_CONFIG = '{"loadBalancingConfig": [{"round_robin": {}}], "methodConfig": [{"name": [{}], "waitForReady": %s}]}'
"""The retries are the client's own, because gRPC's see only a code; gRPC keeps to the transparent ones of calls that
never left this process."""


def channel_options(more: Mapping[str, Any] | None, *, waits: bool = True) -> list[tuple[str, Any]]:
    """Options of a channel: calls alternate between its target's addresses, and a dead connection is noticed.

    Calls wait for a connection, unless there is another channel that they can use.
    """
    options = {
        "grpc.service_config": _SERVICE_CONFIG % ("true" if waits else "false"),
        "grpc.max_receive_message_length": MESSAGE_BYTES_MAX,
        "grpc.keepalive_time_ms": KEEPALIVE_S * 1000,
        "grpc.keepalive_timeout_ms": 10_000,
        "grpc.initial_reconnect_backoff_ms": 100,
        "grpc.min_reconnect_backoff_ms": 100,
        "grpc.max_reconnect_backoff_ms": 2_000,
        # Channels with equal options share their connections; a channel that replaces another must have its own.
        "grpc.use_local_subchannel_pool": 1,
        **(more or {}),
    }
    return list(options.items())


class Connection:
    """A channel and the methods called on it. It ends when the last call that uses it lets go of it."""

    def __init__(self, channel: Any, target: str, place: int, *, replaceable: bool) -> None:
        self.channel = channel
        self.target = target
        self.place = place
        self.replaceable = replaceable
        self._opened_s = time.monotonic()
        self._methods: dict[str, Any] = {}

    def method(self, path: str, **stub: Any) -> Any:
        """The callable of a unary method; `stub` has the serializers of its messages."""
        method = self._methods.get(path)
        if method is None:
            method = self._methods[path] = self.channel.unary_unary(path, **stub)
        return method

    @property
    def probe(self) -> Any:
        """A cheap method that fails at once, with the cause, where there is no connection."""
        return self.method(_PROBE)

    @property
    def is_settled(self) -> bool:
        """Whether it is old enough to be left."""
        return time.monotonic() - self._opened_s >= LEAVE_SPACING_S


class _Connections:
    """A connection to each target: opened by a call, left when its server stops, opened again by the next call."""

    def __init__(
        self,
        targets: Sequence[str],
        tls: Tls | None,
        options: Mapping[str, Any] | None,
        channel: Any,
        on_reset: Callable[[], None],
    ) -> None:
        if len(targets) != 1 and (channel is not None or not targets):
            raise ValueError("a client needs one address, or several without a channel")
        self.targets = targets
        self._on_reset = on_reset
        self._tls = tls
        self._options = channel_options(options, waits=len(targets) == 1)
        self._given = channel
        self._current: dict[int, Connection] = {}
        self._lock = threading.Lock()
        self.closed = False
        _all.add(self)

    def _channel(self, target: str) -> Any:
        raise NotImplementedError

    def current(self, place: int = 0) -> Connection:
        """The connection for a new call. Raises CallError when the client is closed."""
        connection = self._current.get(place)
        return connection if connection is not None else self._opened(place)

    def _opened(self, place: int) -> Connection:
        with self._lock:
            if self.closed:
                raise CallError(grpc.StatusCode.CANCELLED, _CLOSED)
            if place not in self._current:
                target, given = self.targets[place], self._given is not None
                channel = self._given if given else self._channel(target)
                self._current[place] = Connection(channel, target, place, replaceable=not given)
            return self._current[place]

    def leave(self, connection: Connection) -> None:
        """Lets new calls use a new connection: the server of this one is stopping."""
        with self._lock:
            is_current = self._current.get(connection.place) is connection
            if is_current and connection.replaceable and connection.is_settled:
                del self._current[connection.place]

    def _taken(self) -> list[Any]:
        """The channels to close; from now on there are none."""
        with self._lock:
            self.closed = True
            channels = [connection.channel for connection in self._current.values()]
            self._current = {}
            return channels or ([] if self._given is None else [self._given])

    def abandon(self) -> None:
        """Forgets the parent's connections in a forked child, which must neither use them nor close them."""
        self._lock = threading.Lock()
        _inherited.append(self._current)
        self._current = {}
        self._on_reset()


class Connections(_Connections):
    """Connections of the blocking client."""

    def _channel(self, target: str) -> grpc.Channel:
        if self._tls:
            return grpc.secure_channel(target, self._tls.credentials(), self._options)
        return grpc.insecure_channel(target, self._options)

    def close(self) -> None:
        """Ends the connections and the calls on them."""
        for channel in self._taken():
            channel.close()


class AsyncConnections(_Connections):
    """Connections of the client for asyncio; each belongs to the event loop on which it was opened."""

    _loop: asyncio.AbstractEventLoop | None = None

    def _channel(self, target: str) -> grpc.aio.Channel:
        if self._tls:
            return grpc.aio.secure_channel(target, self._tls.credentials(), self._options)
        return grpc.aio.insecure_channel(target, self._options)

    def current(self, place: int = 0) -> Connection:
        """The connection for a new call. Raises RuntimeError where another running loop uses the client."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._bind(loop)
        return super().current(place)

    def _bind(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._loop is not None:
            if self._loop.is_running():
                raise RuntimeError(
                    "this AsyncClient is in use on another event loop that is still running: make one for each loop"
                )
            self._current = {}
            self._on_reset()
        self._loop = loop

    async def close(self) -> None:
        """Ends the connections and the calls on them."""
        for channel in self._taken():
            await channel.close()


def _after_fork() -> None:
    for connections in list(_all):
        connections.abandon()


os.register_at_fork(after_in_child=_after_fork)


def call_metadata(api_key: str | None, metadata: Any) -> tuple[tuple[str, str | bytes], ...] | None:
    """The caller's metadata with the API key."""
    given = tuple((key, value) for key, value in metadata) if metadata is not None else ()
    return (*given, ("x-api-key", api_key)) if api_key else given or None
