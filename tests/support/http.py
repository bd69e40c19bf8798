"""HTTP clients of a test: the standard library's, in a thread, and a bare connection."""

import asyncio
import base64
import http.client
import json
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from google.rpc import error_details_pb2

from tests.support.harness import Harness

RESERVE = "/inventoryhold.v1.ReservationService/Reserve"
GET_ITEM = "/inventoryhold.v1.InventoryService/GetItem"
WATCH = "/inventoryhold.v1.InventoryService/WatchInventory"

JSON = {"content-type": "application/json"}
PROTO = {"content-type": "application/proto"}

TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Reply:
    """An answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)

    @property
    def reason(self) -> str:
        """The reason of a refusal, from the binary form of its ErrorInfo; empty without one."""
        for detail in self.json.get("details", ()):
            if detail["type"] == "google.rpc.ErrorInfo":
                value = detail["value"]
                info = error_details_pb2.ErrorInfo.FromString(base64.b64decode(value + "=" * (-len(value) % 4)))
                assert info.domain == "holdsvc"
                return str(info.reason)
        return ""


def send(
    address: str,
    path: str,
    body: bytes | None = None,
    headers: Mapping[str, str] = {},
    method: str = "",
) -> Reply:
    """Makes one request on a connection of its own: a POST where there is a body."""
    connection = http.client.HTTPConnection(address, timeout=TIMEOUT_S)
    try:
        connection.request(method or ("GET" if body is None else "POST"), path, body, dict(headers))
        answer = connection.getresponse()
        found = {name.lower(): value for name, value in answer.getheaders()}
        return Reply(answer.status, found, answer.read())
    finally:
        connection.close()


async def request(
    service: Harness,
    path: str,
    body: bytes | Mapping[str, Any] | None = None,
    headers: Mapping[str, str] = {},
    method: str = "",
) -> Reply:
    """The same to a service of this process; a mapping is sent as JSON."""
    if isinstance(body, Mapping):
        body, headers = json.dumps(body).encode(), {**JSON, **headers}
    return await asyncio.to_thread(send, service.http_address, path, body, headers, method)


class Wire:
    """A bare connection: sends bytes, and reads what comes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def open(cls, service: Harness) -> "Wire":
        """Connects."""
        host, _, port = service.http_address.partition(":")
        return cls(*await asyncio.open_connection(host, int(port)))

    def send(self, data: bytes) -> None:
        """Sends bytes."""
        self.writer.write(data)

    async def reply(self) -> Reply:
        """Reads one answer with a length; raises IncompleteReadError at the end of the connection."""
        async with asyncio.timeout(TIMEOUT_S):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
            status, *lines = head.split("\r\n")
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines if line)}
            body = await self.reader.readexactly(int(headers.get("content-length", "0")))
        return Reply(int(status.split(" ")[1]), headers, body)

    async def rest(self) -> bytes:
        """What comes until the end of the connection, which may be a reset."""
        found = b""
        async with asyncio.timeout(TIMEOUT_S):
            try:
                while data := await self.reader.read(65536):
                    found += data
            except ConnectionError:
                pass
        return found

    async def close(self) -> None:
        """Closes."""
        self.writer.close()
        with suppress(ConnectionError):
            await self.writer.wait_closed()


Connect = Callable[[Harness], Awaitable[Wire]]
"""The fixture `connect`: opens a bare connection, which ends with the test."""


def post(path: str, body: bytes, *lines: str, host: str = "localhost") -> bytes:
    """A request as it is on the wire."""
    head = (f"POST {path} HTTP/1.1", f"host: {host}", "content-type: application/json", f"content-length: {len(body)}")
    return "\r\n".join((*head, *lines, "", "")).encode() + body
