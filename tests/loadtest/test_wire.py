"""The load generator's own HTTP/2 client, against a real gRPC server."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable

import grpc
import grpc.aio
import pytest

from benchmark.load import prefixed
from benchmark.wire import Connection

PATH = "/test.Echo/Echo"
METADATA = {"authorization": "Bearer " + "k" * 200}


@pytest.fixture
async def connect() -> AsyncIterator[Callable[[], Connection]]:
    """Connections to a server that refuses a message that says so, and counts bytes otherwise."""

    async def echo(request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        if dict(context.invocation_metadata() or ()).get("authorization") != METADATA["authorization"]:
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "no")
        if request == b"refuse":
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "as you wish")
        return request

    handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(echo)
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Echo", {"Echo": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    opened: list[Connection] = []

    def connect() -> Connection:
        opened.append(Connection("127.0.0.1", port, PATH, METADATA))
        return opened[-1]

    yield connect
    for connection in opened:
        connection.close()
    await server.stop(0)


async def _statuses(connection: Connection, messages: list[bytes]) -> list[int]:
    for number, message in enumerate(messages):
        connection.call(float(number), prefixed(message))
    found: dict[float, int] = {}
    deadline = time.monotonic() + 60
    while len(found) < len(messages):
        assert time.monotonic() < deadline, found
        connection.flush()
        # The server is on this loop.
        await asyncio.sleep(0.001)
        found.update(connection.receive())
    return [found[number] for number in sorted(found)]


async def test_calls_in_flight_together_each_end_with_their_own_status(connect: Callable[[], Connection]) -> None:
    assert await _statuses(connect(), [b"one", b"refuse", b"three", b"refuse"] * 50) == [0, 9, 0, 9] * 50


async def test_headers_named_by_number_reach_the_server_on_every_later_call(connect: Callable[[], Connection]) -> None:
    connection = connect()
    assert [await _statuses(connection, [b"x"]) for _ in range(3)] == [[0], [0], [0]]


async def test_large_messages_wait_for_the_window_of_the_server(connect: Callable[[], Connection]) -> None:
    assert await _statuses(connect(), [b"x" * 60_000] * 40) == [0] * 40
