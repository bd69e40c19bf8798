"""The Connect protocol: unary calls as plain POST and GET, streams as enveloped messages.

Requests may be gzip; answers are never compressed, which a client has to accept.
"""

import asyncio
import base64
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from typing import Any

import grpc
from google.protobuf.message import Message
from google.rpc import status_pb2

from holdsvc.api import json_text
from holdsvc.api.calls import Endpoint
from holdsvc.errors import HoldError
from holdsvc.http.context import Context, Failed, deadline_exceeded, failed, of_refusal
from holdsvc.http.envelopes import END_STREAM, HEAD_BYTES, envelope, from_base64, inflate, is_gzip, unwrap
from holdsvc.http.exchange import Exchange, Header

JSON_ADVICE = ": send a larger one as application/proto"

UNARY_TYPES: Mapping[str, bool] = {"application/json": True, "application/proto": False}
STREAM_TYPES: Mapping[str, bool] = {"application/connect+json": True, "application/connect+proto": False}
"""Content types, and whether they are JSON."""

TIMEOUT_DIGITS_MAX = 10

HTTP_STATUS: Mapping[str, int] = {
    "CANCELLED": 499,
    "UNKNOWN": 500,
    "INVALID_ARGUMENT": 400,
    "DEADLINE_EXCEEDED": 504,
    "NOT_FOUND": 404,
    "ALREADY_EXISTS": 409,
    "PERMISSION_DENIED": 403,
    "RESOURCE_EXHAUSTED": 429,
    "FAILED_PRECONDITION": 400,
    "ABORTED": 409,
    "OUT_OF_RANGE": 400,
    "UNIMPLEMENTED": 501,
    "INTERNAL": 500,
    "UNAVAILABLE": 503,
    "DATA_LOSS": 500,
    "UNAUTHENTICATED": 401,
}

NO_STORE: Header = ("cache-control", "no-store")
UNBUFFERED: Header = ("x-accel-buffering", "no")
"""Asks a proxy of nginx's kind to pass each message on at once."""
JSON_TYPE: Header = ("content-type", "application/json")
PROTO_TYPE: Header = ("content-type", "application/proto")


def content_type(exchange: Exchange) -> str:
    """The request's content type without parameters: what is sent here is UTF-8 in any case."""
    return exchange.header("content-type").partition(";")[0].strip().lower()


def timeout_s(exchange: Exchange) -> float | None:
    """The caller's deadline, in seconds from now."""
    text = exchange.header("connect-timeout-ms")
    if not text:
        return None
    if not (text.isascii() and text.isdigit()) or len(text) > TIMEOUT_DIGITS_MAX:
        raise failed(grpc.StatusCode.INVALID_ARGUMENT, "connect-timeout-ms is not a number of milliseconds")
    return int(text) / 1000


def check_version(version: str) -> None:
    """Refuses another version of the protocol than 1; naming none is fine."""
    if version not in ("", "1"):
        raise failed(grpc.StatusCode.INVALID_ARGUMENT, "connect-protocol-version is not 1")


async def within(deadline: float | None, call: Awaitable[bytes]) -> bytes:
    """Awaits a call until its caller's deadline, if it has one."""
    if deadline is None:
        return await call
    try:
        async with asyncio.timeout_at(deadline):
            return await call
    except TimeoutError:
        raise deadline_exceeded() from None


class Connect:
    """Answers calls. `message_bytes_max` is the size of the largest message in binary form."""

    def __init__(self, message_bytes_max: int) -> None:
        self._message_bytes_max = message_bytes_max

    def body_max(self, *, is_json: bool) -> tuple[int, str]:
        """The size of the largest request, and what to do with a larger one."""
        if is_json:
            return min(json_text.REQUEST_BYTES_MAX, self._message_bytes_max), JSON_ADVICE
        return self._message_bytes_max, ""

    async def unary(self, endpoint: Endpoint, exchange: Exchange, *, is_json: bool) -> None:
        """Answers a call by POST."""
        size_max, advice = self.body_max(is_json=is_json)
        try:
            check_version(exchange.header("connect-protocol-version"))
            gzip = is_gzip(exchange.header("content-encoding"))

            async def read() -> bytes:
                body = await exchange.read(size_max, advice)
                return inflate(body, size_max, advice) if gzip else body

            context = Context(exchange.headers, timeout_s(exchange), read)
            answer = await within(context.deadline, endpoint.run(None, context, json=is_json))
        except Failed as failure:
            answer_failure(exchange, failure)
        else:
            exchange.answer(200, (JSON_TYPE if is_json else PROTO_TYPE, NO_STORE), answer)

    async def get(self, endpoint: Endpoint, exchange: Exchange) -> None:
        """Answers a call by GET: the message is in the query."""
        try:
            query = {name: values[-1] for name, values in exchange.parameters().items()}
            is_json = query.get("encoding", "json") == "json"
            if query.get("encoding", "json") not in ("json", "proto"):
                raise failed(grpc.StatusCode.INVALID_ARGUMENT, "encoding is neither json nor proto")
            check_version(query.get("connect", "").removeprefix("v"))
            gzip = is_gzip(query.get("compression", ""))
            size_max, advice = self.body_max(is_json=is_json)

            async def read() -> bytes:
                message = _message_of(query, is_json=is_json)
                return inflate(message, size_max, advice) if gzip else message

            context = Context(exchange.headers, timeout_s(exchange), read)
            answer = await within(context.deadline, endpoint.run(None, context, json=is_json))
        except HoldError as error:
            answer_failure(exchange, of_refusal(error))
        except Failed as failure:
            answer_failure(exchange, failure)
        else:
            exchange.answer(200, (JSON_TYPE if is_json else PROTO_TYPE, NO_STORE), answer)

    async def stream(self, endpoint: Endpoint, exchange: Exchange, *, is_json: bool) -> None:
        """Answers a call that streams; its end, good or bad, is the last message."""
        size_max, advice = self.body_max(is_json=is_json)
        end: dict[str, Any] = {}
        kind = "application/connect+json" if is_json else "application/connect+proto"
        exchange.start(200, (("content-type", kind), NO_STORE, UNBUFFERED))
        try:
            check_version(exchange.header("connect-protocol-version"))
            gzip = is_gzip(exchange.header("connect-content-encoding"))

            async def read() -> bytes:
                body = await exchange.read(size_max + HEAD_BYTES, advice)
                return unwrap(body, size_max, advice, gzip=gzip)

            await run_stream(endpoint, exchange, timeout_s(exchange), read, is_json=is_json, frame=envelope)
        except Failed as failure:
            end["error"] = error_json(failure.status)
        exchange.end(envelope(json_text.compact(end), END_STREAM))


async def run_stream(
    endpoint: Endpoint,
    exchange: Exchange,
    timeout: float | None,  # noqa: ASYNC109 - it is the caller's own, and ends the call with a status
    read: Callable[[], Awaitable[bytes]],
    *,
    is_json: bool,
    frame: Callable[[bytes], bytes],
) -> None:
    """Sends each message of a stream in a frame; raises Failed for what the stream ends with."""
    context = Context(exchange.headers, timeout, read)
    # A stream keeps its connection, and so its worker: like connections, it has an end.
    latest = asyncio.get_running_loop().time() + exchange.stream_max_s
    try:
        async with asyncio.timeout_at(min(latest, latest if context.deadline is None else context.deadline)):
            async with aclosing(endpoint.run(None, context, json=is_json)) as messages:
                async for message in messages:
                    await exchange.send(frame(message))
    except TimeoutError:
        if context.time_remaining() == 0:
            raise deadline_exceeded() from None
        raise failed(grpc.StatusCode.UNAVAILABLE, "the stream has reached its age: open it again") from None


def _message_of(query: Mapping[str, str], *, is_json: bool) -> bytes:
    text = query.get("message", "{}" if is_json else "")
    if query.get("base64") == "1":
        return from_base64(text)
    return text.encode() if is_json else text.encode("latin-1", "replace")


def error_json(status: status_pb2.Status) -> dict[str, Any]:
    """A status as Connect writes errors: each detail by its type and its bytes, and readable beside them."""
    found: dict[str, Any] = {"code": _name(status.code), "message": status.message}
    details = [
        {
            "type": detail.type_url.rpartition("/")[2],
            "value": base64.b64encode(detail.value).decode().rstrip("="),
            "debug": _readable(detail),
        }
        for detail in status.details
    ]
    if details:
        found["details"] = details
    return found


def _readable(detail: Message) -> dict[str, Any]:
    readable = json_text.dict_of(detail)
    readable.pop("@type", None)
    return readable


_NAMES = {code.value[0]: code.name.lower().replace("cancelled", "canceled") for code in grpc.StatusCode}


def _name(code: int) -> str:
    return _NAMES[code]


def answer_failure(exchange: Exchange, failure: Failed, http_status: int | None = None) -> None:
    """Answers with an error; nothing of the answer has been sent yet."""
    body = json_text.compact(error_json(failure.status))
    headers = [JSON_TYPE, NO_STORE, *failure.retry_header]
    if failure.code == "UNAUTHENTICATED":
        headers.append(("www-authenticate", "Bearer"))
    exchange.answer(http_status or HTTP_STATUS[failure.code], headers, body)
