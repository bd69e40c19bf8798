"""gRPC-Web: gRPC's own messages in a body, the status as a last frame, since browsers see no trailers."""

import base64
from collections.abc import Mapping
from urllib.parse import quote

import grpc

from holdsvc.api.calls import Endpoint
from holdsvc.http.connect import NO_STORE, UNBUFFERED, run_stream, within
from holdsvc.http.context import DETAILS, PUSHBACK, Context, Failed, failed
from holdsvc.http.envelopes import HEAD_BYTES, TRAILERS, envelope, from_base64, is_gzip, unwrap
from holdsvc.http.exchange import Exchange

TYPES: Mapping[str, bool] = {
    "application/grpc-web": False,
    "application/grpc-web+proto": False,
    "application/grpc-web-text": True,
    "application/grpc-web-text+proto": True,
}
"""Content types, and whether they are base64."""

_SAFE = " !#$&'()*+,-./:;<=>?@"
_UNITS_S = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}


class GrpcWeb:
    """Answers calls, unary and streaming."""

    def __init__(self, message_bytes_max: int) -> None:
        self._message_bytes_max = message_bytes_max

    async def call(self, endpoint: Endpoint, exchange: Exchange, kind: str) -> None:
        """Answers a call; `kind` is its content type."""
        text = TYPES[kind]

        def frame(message: bytes, flags: int = 0) -> bytes:
            framed = envelope(message, flags)
            return base64.b64encode(framed) if text else framed

        headers = (("content-type", kind), NO_STORE)
        try:
            gzip = is_gzip(exchange.header("grpc-encoding"))
            timeout_s = _timeout_s(exchange.header("grpc-timeout"))

            async def read() -> bytes:
                size_max = self._message_bytes_max + HEAD_BYTES
                body = await exchange.read(size_max * 4 // 3 + 4 if text else size_max)
                return unwrap(from_base64(body) if text else body, self._message_bytes_max, "", gzip=gzip)

            if endpoint.descriptor.server_streaming:
                exchange.start(200, (*headers, UNBUFFERED))
                await run_stream(endpoint, exchange, timeout_s, read, is_json=False, frame=frame)
                last = b""
            else:
                context = Context(exchange.headers, timeout_s, read)
                last = frame(await within(context.deadline, endpoint.run(None, context)))
            last += frame(_trailers(None), TRAILERS)
        except Failed as failure:
            last = frame(_trailers(failure), TRAILERS)
        if exchange.started:
            exchange.end(last)
        else:
            exchange.answer(200, headers, last)


def _timeout_s(text: str) -> float | None:
    if not text:
        return None
    digits, unit = text[:-1], text[-1]
    if not (digits.isascii() and digits.isdigit()) or len(digits) > 8 or unit not in _UNITS_S:
        raise failed(grpc.StatusCode.INVALID_ARGUMENT, "grpc-timeout is not a timeout")
    return int(digits) * _UNITS_S[unit]


def _trailers(end: Failed | None) -> bytes:
    if end is None:
        return b"grpc-status: 0\r\n"
    lines = {
        "grpc-status": str(end.status.code),
        "grpc-message": quote(end.status.message, safe=_SAFE),
    }
    if end.status.details:
        lines[DETAILS] = base64.b64encode(end.status.SerializeToString()).decode().rstrip("=")
    if end.retry_after_s is not None:
        lines[PUSHBACK] = str(int(end.retry_after_s * 1000))
    return "".join(f"{name}: {value}\r\n" for name, value in lines.items()).encode()
