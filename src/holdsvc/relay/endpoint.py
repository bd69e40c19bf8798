"""The endpoint of a webhook: an HTTP client that signs, checks where it connects to, and is bounded in time and memory.

`endpoints` imports it with the first webhook: a process without one needs no HTTP client.

The signature is that of Standard Webhooks (https://www.standardwebhooks.com).
"""

import asyncio
import hmac
import socket
import ssl
import time
from base64 import b64encode
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cache
from hashlib import sha256
from importlib.metadata import version
from typing import TYPE_CHECKING

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from holdsvc.ledger.webhooks import Attempt
from holdsvc.relay.cloud_event import CONTENT_TYPE

if TYPE_CHECKING:
    from holdsvc.relay.endpoints import Endpoints

NAME_TRUST_S = 30
"""How long the addresses of a name are remembered."""

ANSWER_BYTES_MAX = 4096
ANSWER_BODY_S = 1.0
"""What is read of an answer's body, so that the connection can be used again; nothing of it is kept."""

CONNECTIONS_MAX = 8
"""Of one endpoint."""

_USER_AGENT = f"holdsvc/{version('holdsvc')}"


class _Refused(OSError):
    """The address is none that a webhook may reach."""


@cache
def trusted() -> ssl.SSLContext:
    """What this process trusts, for all its cells: to read the authorities of a machine takes 25 ms."""
    return ssl.create_default_context()


class _Resolver(AbstractResolver):
    def __init__(self, shared: "Endpoints", tenant: str) -> None:
        self._shared = shared
        self._tenant = tenant

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        return [
            ResolveResult(
                hostname=host,
                host=found.host,
                port=port,
                family=found.family,
                proto=found.protocol,
                flags=socket.AI_NUMERICHOST,
            )
            for found in await self._shared.look_up(self._tenant, host, port, family)
        ]

    async def close(self) -> None:
        pass


class Endpoint:
    """Sends to one URL, over connections of its own. Close it."""

    def __init__(self, shared: "Endpoints", tenant: str, url: str, secret: bytes) -> None:
        self._url = URL(url, encoded=True)
        self._secret = secret
        self._shared = shared
        self._refused = False
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                resolver=_Resolver(shared, tenant),
                ttl_dns_cache=NAME_TRUST_S,
                limit=CONNECTIONS_MAX,
                ssl=trusted(),
                socket_factory=self._socket,
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None),
            headers={"User-Agent": _USER_AGENT, "Content-Type": CONTENT_TYPE, "Accept-Encoding": "identity"},
            auto_decompress=False,
            trust_env=False,
        )

    def _socket(self, info: aiohttp.AddrInfoType) -> socket.socket:
        """The socket for an address that is about to be connected to."""
        family, kind, protocol, _, address = info
        if not self._shared.addresses.allows(str(address[0]), plain=self._url.scheme == "http"):
            self._refused = True
            raise _Refused("not an address that a webhook may reach")
        return socket.socket(family, kind, protocol)

    async def send(self, message_id: str, body: bytes) -> Attempt:
        """Sends one message and tells what came of it; raises nothing for what the endpoint does."""
        began = time.monotonic()
        self._refused = False
        status, retry_after_s, error = 0, 0.0, ""
        try:
            async with (
                asyncio.timeout(self._shared.timeout_s),
                self._session.post(
                    self._url,
                    data=body,
                    headers=signature(self._secret, message_id, int(time.time()), body),
                    allow_redirects=False,
                ) as answer,
            ):
                status = answer.status
                error = _error_of(status)
                retry_after_s = _seconds(answer.headers.get("Retry-After", "")) if error else 0.0
                # Only so that the connection can be used again: the status says it all.
                with suppress(TimeoutError, aiohttp.ClientError):
                    async with asyncio.timeout(ANSWER_BODY_S):
                        await answer.content.read(ANSWER_BYTES_MAX)
        except TimeoutError:
            error = "TIMEOUT"
        except (aiohttp.ClientConnectorDNSError, UnicodeError):
            error = "NAME"
        except (aiohttp.ClientSSLError, ssl.SSLError):
            error = "TLS"
        except (aiohttp.ClientError, OSError):
            error = "ADDRESS_REFUSED" if self._refused else "CONNECTION"
        return Attempt(error, status, time.monotonic() - began, retry_after_s)

    async def close(self) -> None:
        """Closes its connections."""
        await self._session.close()


def signature(secret: bytes, message_id: str, timestamp_s: int, body: bytes) -> dict[str, str]:
    """The headers of a signed message."""
    signed = f"{message_id}.{timestamp_s}.".encode() + body
    digest = hmac.digest(secret, signed, sha256)
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp_s),
        "webhook-signature": f"v1,{b64encode(digest).decode()}",
    }


def _error_of(status: int) -> str:
    if 200 <= status < 300:
        return ""
    return "REDIRECT" if 300 <= status < 400 else "STATUS"


def _seconds(retry_after: str) -> float:
    """What a Retry-After header asks for; 0: nothing that is understood."""
    if retry_after.isascii() and retry_after.isdigit():
        return float(retry_after[:9])
    try:
        return max(0.0, (parsedate_to_datetime(retry_after) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError, OverflowError):
        return 0.0
