"""More calls in one instant than a loop takes up in one: each is answered, by the service and not by gRPC."""

import asyncio
from collections import Counter

from inventoryhold.v1 import item_pb2
from inventoryhold.v1 import reservation_service_pb2 as pb
from inventoryhold.v1.reservation_service_pb2_grpc import ReservationServiceStub
from tests.support.harness import StartService, outcome

CALLS = 4000
CHANNELS = 8


async def test_every_call_of_a_burst_gets_an_answer_of_the_service(start_service: StartService) -> None:
    service = await start_service(queue_max=2 * CALLS, queue_wait_max="10m", default_deadline="10m")
    await service.create_item("seat", CALLS)
    channels = [service.new_channel() for _ in range(CHANNELS)]
    stubs = [ReservationServiceStub(channel) for channel in channels]
    await asyncio.gather(*(channel.channel_ready() for channel in channels))
    request = pb.ReserveRequest(lines=[item_pb2.ItemQuantity(sku="seat", quantity=1)])
    calls = [outcome(stubs[number % CHANNELS].Reserve(request)) for number in range(CALLS)]
    answers = Counter(answer if isinstance(answer, str) else "OK" for answer in await asyncio.gather(*calls))
    assert answers == {"OK": CALLS}
    assert (await service.item("seat")).held == CALLS
    await asyncio.gather(*(channel.close() for channel in channels))
