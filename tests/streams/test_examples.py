"""The examples of a watcher and an event consumer, as people run them."""

import asyncio
import json
import sys
from asyncio.subprocess import PIPE
from pathlib import Path

from inventoryhold.v1 import reservation_service_pb2 as pb
from tests.support.harness import Harness, StartService

EXAMPLES = Path(__file__).parents[2] / "examples"


async def start(name: str, *arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(sys.executable, EXAMPLES / name, *arguments, stdout=PIPE)


async def output(process: asyncio.subprocess.Process) -> str:
    async with asyncio.timeout(60):
        out, _ = await process.communicate()
    assert process.returncode == 0
    return out.decode()


async def buy(service: Harness, sku: str, quantity: int) -> None:
    held = await service.reserve({sku: quantity})
    await service.reservations.Confirm(pb.ConfirmRequest(reservation_id=held.reservation_id))


async def test_the_watcher_shows_the_stock_until_it_is_sold_out(service: Harness) -> None:
    await service.create_item("mug", 3)
    watcher = await start("watch_inventory.py", "--address", service.address, "--sku", "mug", "--until-sold-out")
    assert watcher.stdout is not None
    async with asyncio.timeout(60):
        assert await watcher.stdout.readline() == b"mug: 3 remain, 0 held, 0 sold\n"
    await buy(service, "mug", 3)
    assert "mug: 0 remain" in await output(watcher)


async def test_the_consumer_counts_each_sale_once_over_a_restart_of_itself_and_the_service(
    start_service: StartService, tmp_path: Path
) -> None:
    one = await start_service()
    await one.create_item("mug", 10)
    arguments = ("--state", str(tmp_path / "state.json"), "--until-sold")
    await buy(one, "mug", 1)
    consumer = await start("consume_events.py", "--address", one.address, *arguments, "1")
    assert json.loads(await output(consumer)) == {"mug": 1}
    await buy(one, "mug", 2)
    await one.service.stop()
    other = await start_service()
    consumer = await start("consume_events.py", "--address", other.address, *arguments, "7")
    await buy(other, "mug", 4)
    assert json.loads(await output(consumer)) == {"mug": 7}
