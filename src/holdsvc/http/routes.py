"""Which request is answered by what: rpcs, streams of events, health, the description, files; and who may ask.

A request is refused by its head alone wherever that is possible: by Host, Origin, path, method and content type here,
by key, scope and size in the call.
"""

from collections.abc import Awaitable, Callable, Mapping
from urllib.parse import urlsplit

import grpc

from holdsvc.addresses import origins_of, split_address
from holdsvc.api.calls import Endpoint
from holdsvc.api.rpcs import RPCS, Effect
from holdsvc.api.services import Services
from holdsvc.http import grpc_web, sse
from holdsvc.http.connect import STREAM_TYPES, UNARY_TYPES, Connect, answer_failure, content_type
from holdsvc.http.context import Failed, failed
from holdsvc.http.exchange import Exchange, Header
from holdsvc.http.files import Files
from holdsvc.http.grpc_web import GrpcWeb
from holdsvc.settings import Settings

WATCH = "/inventoryhold.v1.InventoryService/WatchInventory"
EVENTS = "/inventoryhold.v1.EventService/StreamEvents"

Answer = Callable[[Exchange], Awaitable[None]]

PREFLIGHT_S = 7200

_REQUEST_HEADERS = (
    "authorization, cache-control, connect-protocol-version, connect-timeout-ms, content-type, grpc-timeout,"
    " last-event-id, traceparent, x-api-key, x-grpc-web, x-user-agent"
)
_EXPOSED = "grpc-message, grpc-status, grpc-status-details-bin, retry-after"

_NOSNIFF: Header = ("x-content-type-options", "nosniff")
_TEXT: Header = ("content-type", "text/plain; charset=utf-8")


class Routes:
    """Answers requests. Construct it on the loop that will serve."""

    def __init__(self, settings: Settings, services: Services) -> None:
        self._health = services.health
        self._origins = origins_of(settings.http_origins)
        self._hosts: frozenset[str] | None = None
        if settings.auth == "off":
            self._hosts = frozenset({"localhost", "127.0.0.1", "::1", split_address(settings.http_listen)[0].lower()})
        self._endpoints = {each.path: each for found in services.endpoints.values() for each in found}
        self._connect = Connect(settings.max_message_bytes)
        self._grpc_web = GrpcWeb(settings.max_message_bytes)
        self._files = Files()
        self._pages: Mapping[str, Answer] = {"/livez": self._live, "/readyz": self._ready}
        self._streams: Mapping[str, Answer] = {
            "/watch": lambda exchange: sse.watch(self._endpoints[WATCH], exchange),
            "/events": lambda exchange: sse.events(self._endpoints[EVENTS], exchange),
        }

    async def serve(self, exchange: Exchange) -> None:
        """Answers a request."""
        exchange.extra = (_NOSNIFF,)
        try:
            self._check_host(exchange)
            origin = exchange.header("origin")
            if origin and self._admits(origin, exchange):
                exchange.extra = (*exchange.extra, *_cors(origin))
                if exchange.method == "OPTIONS":
                    exchange.answer(204, _preflight())
                    return
            endpoint = self._endpoints.get(exchange.path)
            if endpoint is not None:
                await self._call(endpoint, exchange)
            else:
                await self._page(exchange)
        except Failed as failure:
            answer_failure(exchange, failure)

    def _check_host(self, exchange: Exchange) -> None:
        """With AUTH=off only names of this machine: a page elsewhere must not reach the service by a name of its own.

        Raises Failed.
        """
        if self._hosts is None:
            return
        try:
            host = urlsplit(f"//{exchange.header('host')}").hostname
        except ValueError:
            host = None
        if host not in self._hosts:
            raise failed(grpc.StatusCode.PERMISSION_DENIED, "with AUTH=off, Host must name this machine: localhost")

    def _admits(self, origin: str, exchange: Exchange) -> bool:
        """Whether a page of this origin may read the answer; with AUTH=off no other may call at all."""
        if origin in self._origins:
            return True
        if self._hosts is not None and origin not in {
            f"{scheme}://{exchange.header('host')}" for scheme in ("http", "https")
        }:
            raise failed(grpc.StatusCode.PERMISSION_DENIED, "with AUTH=off, the page's origin must be in HTTP_ORIGINS")
        return False

    async def _call(self, endpoint: Endpoint, exchange: Exchange) -> None:
        streams = endpoint.descriptor.server_streaming
        reads = RPCS[endpoint.path].effect is Effect.READ
        if exchange.method == "GET" and reads and not streams:
            await self._connect.get(endpoint, exchange)
            return
        if exchange.method != "POST":
            exchange.answer(405, (("allow", "GET, POST" if reads and not streams else "POST"),))
            return
        kind = content_type(exchange)
        is_json = (STREAM_TYPES if streams else UNARY_TYPES).get(kind)
        if is_json is not None:
            answer = self._connect.stream if streams else self._connect.unary
            await answer(endpoint, exchange, is_json=is_json)
        elif kind in grpc_web.TYPES:
            await self._grpc_web.call(endpoint, exchange, kind)
        else:
            known = (*(STREAM_TYPES if streams else UNARY_TYPES), *grpc_web.TYPES)
            exchange.answer(415, (("accept-post", ", ".join(known)),))

    async def _page(self, exchange: Exchange) -> None:
        stream = self._streams.get(exchange.path)
        answer = stream or self._pages.get(exchange.path)
        # Of a stream a HEAD would be told nothing, and would take one.
        allowed = ("GET",) if stream else ("GET", "HEAD")
        if answer is None and exchange.method == "POST":
            failure = failed(grpc.StatusCode.UNIMPLEMENTED, "there is no such rpc: see /openapi.json")
            answer_failure(exchange, failure, http_status=404)
        elif exchange.method not in allowed:
            exchange.answer(405, (("allow", ", ".join(allowed)),))
        elif answer is None:
            self._files.answer(exchange)
        else:
            await answer(exchange)

    async def _live(self, exchange: Exchange) -> None:
        exchange.answer(200, (_TEXT,), b"ok\n")

    async def _ready(self, exchange: Exchange) -> None:
        if self._health.serving:
            exchange.answer(200, (_TEXT,), b"ok\n")
        else:
            exchange.answer(503, (_TEXT,), b"the database does not answer, or the service stops\n")


def _cors(origin: str) -> tuple[Header, ...]:
    return (
        ("access-control-allow-origin", origin),
        ("access-control-expose-headers", _EXPOSED),
        ("vary", "origin"),
    )


def _preflight() -> tuple[Header, ...]:
    return (
        ("access-control-allow-methods", "GET, POST"),
        ("access-control-allow-headers", _REQUEST_HEADERS),
        ("access-control-max-age", str(PREFLIGHT_S)),
    )
