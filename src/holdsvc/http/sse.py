"""Server-sent events: the streams as a browser's EventSource and `curl -N` read them."""

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from holdsvc import errors
from holdsvc.api import json_text
from holdsvc.api.calls import Endpoint
from holdsvc.errors import HoldError
from holdsvc.http.connect import NO_STORE, UNBUFFERED, answer_failure, error_json, run_stream
from holdsvc.http.context import Failed
from holdsvc.http.exchange import Exchange

TYPE = "text/event-stream"

RETRY_MS = 2000
"""When an EventSource connects again after the end of its stream."""

_TYPE_PREFIX = "EVENT_TYPE_"


async def watch(endpoint: Endpoint, exchange: Exchange) -> None:
    """WatchInventory: `sku` (several times), `pool`, `sku_prefix`, `min_interval`."""

    def request(query: Mapping[str, list[str]]) -> dict[str, Any]:
        if "pool" in query and "sku" not in query:
            raise HoldError(errors.invalid_field("pool", "is the pool of the skus named, and none is", "MISSING_SKU"))
        pool = _one(query, "pool")
        wanted: dict[str, Any] = {}
        if "sku" in query:
            wanted["items"] = [{"sku": sku, "pool": pool} for sku in query["sku"]]
        for name in ("sku_prefix", "min_interval"):
            if name in query:
                wanted[name] = _one(query, name)
        return wanted

    await _stream(endpoint, exchange, ("sku", "pool", "sku_prefix", "min_interval"), request)


async def events(endpoint: Endpoint, exchange: Exchange) -> None:
    """StreamEvents: `types` (several times), `from_oldest`, `resume_token` or the header Last-Event-ID."""

    def request(query: Mapping[str, list[str]]) -> dict[str, Any]:
        wanted: dict[str, Any] = {
            "types": [name if name.startswith(_TYPE_PREFIX) else _TYPE_PREFIX + name for name in query.get("types", ())]
        }
        token = exchange.header("last-event-id") or _one(query, "resume_token")
        if token:
            wanted["resumeToken"] = token
        elif _one(query, "from_oldest") in ("1", "true"):
            wanted["fromOldest"] = True
        return wanted

    await _stream(endpoint, exchange, ("types", "from_oldest", "resume_token"), request)


async def _stream(
    endpoint: Endpoint,
    exchange: Exchange,
    known: Iterable[str],
    request: Callable[[Mapping[str, list[str]]], dict[str, Any]],
) -> None:
    async def read() -> bytes:
        query = exchange.parameters()
        for name in query.keys() - set(known):
            raise HoldError(errors.invalid_field(name, "is no parameter of this stream", "UNKNOWN_FIELD"))
        return json_text.compact(request(query))

    def frame(message: bytes) -> bytes:
        # The headers wait for the first message: a refusal before it is an HTTP status, which ends an EventSource.
        first = b""
        if not exchange.started:
            exchange.start(200, (("content-type", TYPE), NO_STORE, UNBUFFERED))
            first = b"retry: %d\n\n" % RETRY_MS
        return first + _event(message)

    try:
        await run_stream(endpoint, exchange, None, read, is_json=True, frame=frame)
    except Failed as failure:
        if not exchange.started:
            answer_failure(exchange, failure)
        else:
            exchange.end(b"event: end\ndata: " + json_text.compact(error_json(failure.status)) + b"\n\n")


def _event(message: bytes) -> bytes:
    """One message. A heartbeat has no data, so that no listener hears of it; its id counts all the same."""
    value = json.loads(message)
    token = value.get("resumeToken", "")
    id_ = f"id: {token}\n".encode() if token else b""
    if value.get("heartbeat"):
        return b": heartbeat\n" + id_ + b"\n"
    return id_ + b"data: " + message + b"\n\n"


def _one(query: Mapping[str, list[str]], name: str) -> str:
    return query[name][-1] if name in query else ""
