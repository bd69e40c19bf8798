"""The metrics page: it answers its own paths only, and nothing that a caller does to it is unbounded."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress

import pytest
from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from holdsvc.engine import tasks
from holdsvc.telemetry import page as page_module
from holdsvc.telemetry.page import MetricsPage

GET = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
async def port(registry: CollectorRegistry) -> AsyncIterator[int]:
    Gauge("answer", "The answer.", registry=registry).set(42)
    page = MetricsPage("127.0.0.1:0", registry)
    serving = asyncio.create_task(page.serve())
    yield page.port
    await tasks.end([serving])


async def ask(port: int, request: bytes) -> bytes:
    """The whole answer; empty when the connection is closed without one."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request)
        async with asyncio.timeout(30):
            return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.transport.abort()


@pytest.mark.parametrize("path", [b"/metrics", b"/", b"/metrics?name[]=answer"])
async def test_its_own_paths_are_the_page(port: int, path: bytes) -> None:
    head, _, body = (await ask(port, GET.replace(b"/metrics", path))).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    assert b"text/plain" in head
    assert b"answer 42.0" in body


async def test_a_head_request_gets_the_head_alone(port: int) -> None:
    head, _, body = (await ask(port, GET.replace(b"GET", b"HEAD"))).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    assert b"Content-Length: 0" not in head
    assert body == b""


@pytest.mark.parametrize("path", [b"/metrics/", b"/favicon.ico", b"/debug", b"//metrics", b"/../metrics", b"*"])
async def test_any_other_path_is_not_found(port: int, path: bytes) -> None:
    assert (await ask(port, GET.replace(b"/metrics", path))).startswith(b"HTTP/1.1 404 ")


@pytest.mark.parametrize("method", [b"POST", b"PUT", b"DELETE", b"OPTIONS"])
async def test_it_is_only_read(port: int, method: bytes) -> None:
    assert (await ask(port, GET.replace(b"GET", method))).startswith(b"HTTP/1.1 405 ")


@pytest.mark.parametrize("request_", [b"hello\r\n\r\n", b"\r\n\r\n", b"GET /metrics\r\n\r\n", b"\x16\x03\x01\r\n\r\n"])
async def test_what_is_no_request_is_a_bad_one(port: int, request_: bytes) -> None:
    assert (await ask(port, request_)).startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize("size", [20_000, 1_000_000])
async def test_a_head_that_is_too_large_is_refused_while_it_arrives(port: int, size: int) -> None:
    answer = await ask(port, b"GET /metrics HTTP/1.1\r\nX: " + b"a" * size)
    assert answer.startswith(b"HTTP/1.1 431 ") or answer == b""


async def test_a_request_that_never_ends_is_cut_off(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_module, "REQUEST_MAX_S", 0.1)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /metrics HTTP/1.1\r\n")
    with suppress(ConnectionError):
        async with asyncio.timeout(30):
            assert await reader.read() == b""
    writer.transport.abort()


async def test_connections_beyond_the_limit_close_the_oldest_and_the_page_is_served(port: int) -> None:
    idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(3 * page_module.CONNECTIONS_MAX)]
    try:
        assert b"answer 42.0" in await ask(port, GET)
        async with asyncio.timeout(30):
            for reader, _ in idle[: 2 * page_module.CONNECTIONS_MAX]:
                with suppress(ConnectionError):
                    assert await reader.read() == b""
    finally:
        for _, writer in idle:
            writer.transport.abort()


async def test_requests_at_once_share_a_page(registry: CollectorRegistry, port: int) -> None:
    made = Made()
    registry.register(made)
    at_first = made.count
    answers = await asyncio.gather(*(ask(port, GET) for _ in range(40)))
    assert all(b"answer 42.0" in answer for answer in answers)
    assert made.count - at_first < 10


class Made(Collector):
    """Counts the pages that are made."""

    count = 0

    def collect(self) -> Iterator[Metric]:
        """Nothing."""
        self.count += 1
        return iter(())
