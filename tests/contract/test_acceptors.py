"""Calls are taken up side by side: the address has several servers, and each serves everything."""

from pathlib import Path
from typing import Any

import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from holdsvc.api.server import ACCEPTORS
from inventoryhold.v1 import inventory_service_pb2, inventory_service_pb2_grpc
from tests.support.harness import Harness, StartService

LISTEN = "0A"
"""As Linux writes the state of a socket that listens."""


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="the sockets are told by Linux")
async def test_a_process_has_as_many_listeners_as_servers(service: Harness) -> None:
    tables = [table for table in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")) if table.exists()]
    sockets = [line.split() for table in tables for line in table.read_text().splitlines()[1:]]
    port = f":{service.service.port:04X}"
    assert sum(fields[1].endswith(port) and fields[3] == LISTEN for fields in sockets) == ACCEPTORS


async def test_whichever_server_a_connection_comes_to_serves_calls_and_health_until_the_stop(
    start_service: StartService,
) -> None:
    service = await start_service(drain_grace="1s")
    channels: list[Any] = [service.new_channel() for _ in range(4 * ACCEPTORS)]
    try:
        watches = []
        for channel in channels:
            stub: Any = inventory_service_pb2_grpc.InventoryServiceStub(channel)
            await stub.ListItems(inventory_service_pb2.ListItemsRequest())
            health: Any = health_pb2_grpc.HealthStub(channel)
            watch = health.Watch(health_pb2.HealthCheckRequest(service=""))
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
            watches.append(watch)
        await service.service.stop()
        for watch in watches:
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
    finally:
        for channel in channels:
            await channel.close()
