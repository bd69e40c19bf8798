"""Clients with a key that take more than their share, each in a process of its own."""

import asyncio
import subprocess
import sys
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager, suppress
from typing import NoReturn

import grpc.aio

from inventoryhold.v1 import (
    admin_service_pb2,
    admin_service_pb2_grpc,
    event_service_pb2,
    event_service_pb2_grpc,
    inventory_service_pb2,
    inventory_service_pb2_grpc,
    item_pb2,
    reservation_pb2,
    reservation_service_pb2,
    reservation_service_pb2_grpc,
)
from tests.faults import beside


class Hog:
    """A connection with a key, and how many calls or streams at once."""

    def __init__(self, address: str, key: str, count: int) -> None:
        self.channel = channel = grpc.aio.insecure_channel(address)
        self.key = (("x-api-key", key),)
        self.count = count
        self.reservations = reservation_service_pb2_grpc.ReservationServiceStub(channel)
        self.inventory = inventory_service_pb2_grpc.InventoryServiceStub(channel)
        self.admin = admin_service_pb2_grpc.AdminServiceStub(channel)
        self.events = event_service_pb2_grpc.EventServiceStub(channel)

    async def again_and_again(self, step: Callable[[], Awaitable[object]]) -> NoReturn:
        async def one() -> NoReturn:
            while True:
                with suppress(grpc.RpcError):
                    await step()
                # A refused call costs its caller nothing: without a pause it would only measure this process.
                await asyncio.sleep(0.01)

        await asyncio.gather(*(one() for _ in range(self.count)))
        raise AssertionError


async def abandoned_reads(hog: Hog) -> None:
    """Long lists whose callers give up early."""
    request = reservation_service_pb2.ListReservationsRequest(
        page_size=1000, states=[reservation_pb2.Reservation.STATE_EXPIRED]
    )

    async def read() -> None:
        await hog.reservations.ListReservations(request, metadata=hog.key, timeout=0.2)

    await hog.again_and_again(read)


async def reads_given_up_at_once(hog: Hog) -> None:
    """The same, given up so early that each statement has just begun."""
    request = reservation_service_pb2.ListReservationsRequest(
        page_size=1000, states=[reservation_pb2.Reservation.STATE_EXPIRED]
    )

    async def read() -> None:
        await hog.reservations.ListReservations(request, metadata=hog.key, timeout=0.02)

    await hog.again_and_again(read)


async def watches_given_up(hog: Hog) -> None:
    """Watches that end soon after they were opened."""
    request = inventory_service_pb2.WatchInventoryRequest(sku_prefix="none")

    async def watch() -> None:
        async for _ in hog.inventory.WatchInventory(request, metadata=hog.key, timeout=0.2):
            pass

    await hog.again_and_again(watch)


async def reports(hog: Hog) -> None:
    """Whole recounts of a tenant's ledger, given up after a second."""
    request = admin_service_pb2.VerifyLedgerRequest()

    async def verify() -> None:
        await hog.admin.VerifyLedger(request, metadata=hog.key, timeout=1)

    await hog.again_and_again(verify)


async def snapshots(hog: Hog) -> None:
    """Watches of all items there are, opened again after their snapshots."""
    request = inventory_service_pb2.WatchInventoryRequest()

    async def watch() -> None:
        answers = hog.inventory.WatchInventory(request, metadata=hog.key, timeout=5)
        async for answer in answers:
            if answer.snapshot_complete:
                answers.cancel()
                return

    await hog.again_and_again(watch)


async def changes_of_one_item(hog: Hog) -> None:
    """Calls without a lane, all of which want the lock of one row."""
    numbers = iter(range(10**9))

    async def update() -> None:
        item = item_pb2.Item(sku="busy", display_name=str(next(numbers)))
        request = inventory_service_pb2.UpdateItemRequest(item=item)
        request.update_mask.paths.append("display_name")
        await hog.inventory.UpdateItem(request, metadata=hog.key, timeout=5)

    await hog.again_and_again(update)


async def history(hog: Hog) -> None:
    """All that has ever happened, for a key that may see none of it."""
    request = event_service_pb2.StreamEventsRequest(from_oldest=True)

    async def read() -> None:
        async for _ in hog.events.StreamEvents(request, metadata=hog.key, timeout=5):
            pass

    await hog.again_and_again(read)


async def unseen_watches(hog: Hog) -> None:
    """Watches of items that do not exist."""
    numbers = iter(range(10**9))

    async def watch() -> None:
        request = inventory_service_pb2.WatchInventoryRequest(sku_prefix=f"none-{next(numbers)}")
        async for _ in hog.inventory.WatchInventory(request, metadata=hog.key):
            pass

    await hog.again_and_again(watch)


HOGS: Mapping[str, Callable[[Hog], Awaitable[None]]] = {
    hog.__name__: hog
    for hog in (
        abandoned_reads,
        reads_given_up_at_once,
        watches_given_up,
        reports,
        snapshots,
        changes_of_one_item,
        history,
        unseen_watches,
    )
}


def hogging(name: str, address: str, key: str, count: int) -> AbstractContextManager[subprocess.Popen[bytes]]:
    """Runs one while the block runs, which begins when it is at work."""
    return beside.running("tests.faults.hogs", name, address, key, count)


async def main() -> None:
    name, address, key, count = sys.argv[1:]
    hog = Hog(address, key, int(count))
    await hog.channel.channel_ready()
    beside.tell_at_work()
    await HOGS[name](hog)


if __name__ == "__main__":
    asyncio.run(main())
