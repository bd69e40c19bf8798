"""Several addresses: the calls of an item meet at one of them, and go to the next while that is down."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from holdsvc.client import AsyncClient, Client, errors
from holdsvc.client.affinity import DOWN_S, Places, key_of
from inventoryhold.v1 import inventory_service_pb2 as ipb
from inventoryhold.v1 import item_pb2
from inventoryhold.v1 import reservation_service_pb2 as pb
from tests.support.harness import Harness, StartService
from tests.support.polling import until
from tests.support.ports import free_port
from tests.support.replica import Replica
from tests.support.sessions import sql_of

ADDRESSES = ["a:1", "b:1", "c:1"]
SKUS = [f"item-{number}" for number in range(24)]


def request(*skus: str) -> pb.ReserveRequest:
    return pb.ReserveRequest(lines=[item_pb2.ItemQuantity(sku=sku, quantity=1) for sku in skus])


def test_one_more_address_moves_only_its_share_of_the_items() -> None:
    skus = [f"sku-{number}" for number in range(3000)]
    few, more = Places(ADDRESSES), Places(["d:1", *reversed(ADDRESSES)])
    names = ["d:1", *reversed(ADDRESSES)]
    before = {sku: ADDRESSES[few.choose(request(sku)) or 0] for sku in skus}
    after = {sku: names[more.choose(request(sku)) or 0] for sku in skus}
    moved = [sku for sku in skus if before[sku] != after[sku]]
    assert {after[sku] for sku in moved} == {"d:1"}
    for counts, expected in ((Counter(before.values()), 1000), (Counter(after.values()), 750)):
        assert all(0.85 * expected < count < 1.15 * expected for count in counts.values()), counts


def test_a_request_goes_by_its_items_or_else_by_its_reservation() -> None:
    assert key_of(request("b", "a")) == key_of(pb.BatchReserveRequest(requests=[request("a", "c")])) == "a"
    assert key_of(ipb.GetItemRequest(sku="a")) == "a"
    assert key_of(pb.ConfirmRequest(reservation_id="r")) == "r"
    assert key_of(ipb.ListItemsRequest()) == ""


def test_calls_of_no_item_take_turns() -> None:
    places = Places(ADDRESSES)
    assert [places.choose(ipb.ListItemsRequest()) for _ in range(6)] == [0, 1, 2, 0, 1, 2]


def test_an_address_that_is_down_is_passed_over_and_tried_by_one_call_at_a_time() -> None:
    now = [100.0]
    places = Places(ADDRESSES, clock=lambda: now[0])
    first = places.choose(request("a"))
    assert first is not None
    places.failed(first)
    second = places.choose(request("a"))
    assert second not in (first, None)
    now[0] += DOWN_S
    assert [places.choose(request("a")) for _ in range(2)] == [first, second]
    places.answered(first)
    assert places.choose(request("a")) == first
    for place in range(3):
        places.failed(place)
    assert places.choose(request("a")) is None


class Served:
    """A service that notes the items of each Reserve."""

    def __init__(self, service: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
        self.skus: set[str] = set()
        self.address = service.address
        reserve = service.cell.engine.reserve

        async def noted(requests: Any, deadline: Any) -> Any:
            self.skus.update(line.sku for request in requests for line in request.lines)
            return await reserve(requests, deadline)

        monkeypatch.setattr(service.cell.engine, "reserve", noted)


@pytest.mark.parametrize("coalesce", [True, False])
async def test_the_calls_of_an_item_meet_in_one_service(
    start_service: StartService, monkeypatch: pytest.MonkeyPatch, coalesce: bool
) -> None:
    services = [await start_service(), await start_service()]
    served = [Served(service, monkeypatch) for service in services]
    for sku in SKUS:
        await services[0].create_item(sku, 100)
    addresses = [service.address for service in services]

    def work() -> None:
        with Client(addresses, coalesce=coalesce) as client:
            for sku in SKUS:
                client.reserve({sku: 1})

    async with AsyncClient(addresses[::-1], coalesce=coalesce) as client:
        await asyncio.gather(*(client.reserve({sku: 1}) for sku in SKUS * 4), asyncio.to_thread(work))
    one, other = (each.skus for each in served)
    assert one
    assert other
    assert not one & other
    assert one | other == set(SKUS)


@pytest.fixture
async def replicas(tmp_path: Path, database_dsn: str) -> AsyncIterator[list[Replica]]:
    both = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        both.append(Replica(tmp_path / name, dsn=database_dsn))
    await asyncio.gather(*(asyncio.to_thread(replica.start) for replica in both))
    yield both
    for replica in both:
        await asyncio.to_thread(replica.terminate)


async def test_calls_go_to_the_next_address_while_theirs_is_down_and_none_fails(
    replicas: list[Replica], database_dsn: str
) -> None:
    calls = [0]
    stop = asyncio.Event()
    async with AsyncClient([replica.address for replica in replicas]) as client:
        for sku in SKUS:
            await client.inventory.CreateItem(ipb.CreateItemRequest(item=item_pb2.Item(sku=sku, capacity=10**6)))

        async def one(sku: str) -> None:
            while not stop.is_set():
                await client.reserve({sku: 1})
                calls[0] += 1

        async def watch() -> None:
            async for message in client.watch_inventory(ipb.WatchInventoryRequest()):
                snapshots[0] += message.snapshot_complete

        async def progress(count: int) -> None:
            wanted = calls[0] + count
            await until(lambda: calls[0] >= wanted)

        snapshots = [0]
        watching = [asyncio.create_task(watch()) for _ in replicas]
        async with asyncio.TaskGroup() as group:
            for sku in SKUS:
                group.create_task(one(sku))
            await progress(200)
            await asyncio.to_thread(replicas[0].kill)
            await progress(200)
            # A change that may not be repeated finds its way as well.
            for number in range(4):
                item = item_pb2.Item(sku=f"later-{number}", capacity=1)
                await client.inventory.CreateItem(ipb.CreateItemRequest(item=item), timeout=10)
            await asyncio.to_thread(replicas[0].start)
            await progress(200)
            await asyncio.to_thread(replicas[1].terminate)
            await progress(200)
            stop.set()
        await until(lambda: snapshots[0] >= 4)
        for task in watching:
            task.cancel()
        await asyncio.wait(watching)
    [[held]] = sql_of(database_dsn)("SELECT sum(held)::bigint FROM holdsvc.item")
    assert held == calls[0]


async def test_a_call_waits_for_any_of_its_addresses_until_its_deadline(start_service: StartService) -> None:
    ports = [free_port(), free_port()]
    addresses = [f"127.0.0.1:{port}" for port in ports]
    async with AsyncClient(addresses, timeout_s=30) as client:
        with pytest.raises(errors.NoConnection, match=f"{addresses[0]}, {addresses[1]}"):
            await client.inventory.GetItem(ipb.GetItemRequest(sku="seat"), timeout=0.5)
        waiting = [asyncio.create_task(client.reserve({sku: 1})) for sku in SKUS]
        service = await start_service(listen=addresses[1])
        for sku in SKUS:
            await service.create_item(sku, 1)
        outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    # Those that came before their items are refused; all have met the service.
    assert all(isinstance(one, errors.ItemNotFound) or one.lines for one in outcomes), outcomes  # type: ignore[union-attr]


def test_several_addresses_and_a_channel_exclude_each_other() -> None:
    with grpc.insecure_channel("127.0.0.1:1") as channel, pytest.raises(ValueError, match="one address"):
        Client(ADDRESSES, channel=channel)
    with pytest.raises(ValueError, match="one address"):
        Client([])
