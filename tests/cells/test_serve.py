"""`holdsvc serve` on cells: what a start does to new databases, and what the page of metrics tells of each."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import grpc
import psycopg
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from pydantic import SecretStr

from holdsvc.cell_file import CellAddress
from holdsvc.ledger.schema_files import ConnectionRefused
from holdsvc.process import preparation
from holdsvc.process.preparation import Preparation
from inventoryhold.v1 import inventory_service_pb2 as inventory
from inventoryhold.v1 import inventory_service_pb2_grpc as inventory_grpc
from inventoryhold.v1 import item_pb2
from tests.support.databases import created
from tests.support.polling import wait_until
from tests.support.program import serving

NOWHERE = CellAddress("nowhere", SecretStr("host=127.0.0.1 port=1 dbname=none connect_timeout=1"))


@pytest.fixture
def empty(server_dsn: str) -> Iterator[list[CellAddress]]:
    """Two databases without a schema."""
    with created(server_dsn) as north, created(server_dsn) as south:
        yield [CellAddress("north", SecretStr(north)), CellAddress("south", SecretStr(south))]


def _name(address: CellAddress) -> str | None:
    with psycopg.connect(address.owner) as connection:
        [[name]] = connection.execute("SELECT name FROM holdsvc.cell")
        return str(name)


async def test_a_start_makes_cells_of_empty_databases_and_serves_them(empty: list[CellAddress], tmp_path: Path) -> None:
    file = tmp_path / "cells.toml"
    file.write_text("".join(f'[{each.name}]\ndsn = "{each.owner}"\n' for each in empty))
    with serving(workers=2, cells=str(file), census_interval="200ms") as service:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{service.port}") as channel:
            stub = inventory_grpc.InventoryServiceStub(channel)
            # With AUTH=off the tenant `default` is in the first cell.
            await stub.CreateItem(inventory.CreateItemRequest(item=item_pb2.Item(sku="seat", capacity=3)))
            health = health_pb2_grpc.HealthStub(channel)
            for name in ("", "cell/north", "cell/south"):
                answer = await health.Check(health_pb2.HealthCheckRequest(service=name))
                assert answer.status == health_pb2.HealthCheckResponse.SERVING, name
        assert [_name(each) for each in empty] == ["north", "south"]

        def told(name: str, **labels: str) -> float | None:
            return service.series().get((name, frozenset(labels.items())))

        def is_counted() -> bool:
            up = [told("holdsvc_database_up", cell=each.name) for each in empty]
            return up == [1.0, 1.0] and told("holdsvc_items", cell="north", tenant="default") == 1.0

        await asyncio.to_thread(wait_until, is_counted, timeout_s=30)


def test_a_cell_that_is_away_keeps_no_other_from_its_start(
    empty: list[CellAddress], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preparation, "AWAIT_ALL_S", 0.1)
    stopping = False
    Preparation([empty[0], NOWHERE], lambda: stopping, open_to_all=False).run()
    assert _name(empty[0]) == "north"
    stopping = True


def test_a_start_without_any_cell_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preparation, "AWAIT_ANY_S", 0.1)
    stopping = False
    with pytest.raises(ConnectionRefused):
        Preparation([NOWHERE], lambda: stopping, open_to_all=False).run()
    stopping = True
