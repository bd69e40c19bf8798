"""An endpoint of webhooks: a real HTTP server that remembers what it was sent and answers as a test wants."""

import asyncio
import json
import ssl
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, Self

from aiohttp import web

from holdsvc.engine import tasks
from tests.support.polling import until


class Message(NamedTuple):
    """One request."""

    headers: dict[str, str]
    body: bytes

    @property
    def event(self) -> dict[str, Any]:
        """The CloudEvent."""
        found: dict[str, Any] = json.loads(self.body)
        return found


Answer = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


def answering(status: int, **headers: str) -> Answer:
    """Answers with a status."""

    async def answer(_request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(status=status, headers={name.replace("_", "-"): value for name, value in headers.items()})

    return answer


async def never(_request: web.BaseRequest) -> web.StreamResponse:
    """Never answers."""
    await asyncio.get_running_loop().create_future()
    raise AssertionError


class Receiver:
    """Listens on a free port of 127.0.0.1, or of another address, until the end of the block."""

    def __init__(
        self, answer: Answer | None = None, *, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None
    ) -> None:
        self.answer = answer or answering(204)
        self.messages: list[Message] = []
        self._host = host
        self._tls = tls
        self.port = 0
        self._closed = asyncio.Event()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"{'https' if self._tls else 'http'}://{self._host}:{self.port}/hooks"

    async def __aenter__(self) -> Self:
        self._runner = web.ServerRunner(web.Server(self._handle), handle_signals=False, shutdown_timeout=0.0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, self._host, self.port, ssl_context=self._tls)
        await site.start()
        self.port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._closed.set()
        await self._runner.cleanup()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        self.messages.append(Message(dict(request.headers), await request.read()))
        answering = asyncio.ensure_future(self.answer(request))
        closing = asyncio.ensure_future(self._closed.wait())
        try:
            await asyncio.wait({answering, closing}, return_when=asyncio.FIRST_COMPLETED)
            return await answering if answering.done() else web.Response(status=503)
        finally:
            await tasks.end([answering, closing])

    @property
    def events(self) -> list[dict[str, Any]]:
        """The CloudEvents so far."""
        return [message.event for message in self.messages]

    @property
    def types(self) -> list[str]:
        """Their types, without the package."""
        return [event["type"].rpartition(".")[2] for event in self.events]

    async def wait_for(self, count: int) -> list[Message]:
        """The messages, once there are so many."""
        await until(lambda: len(self.messages) >= count)
        return self.messages
