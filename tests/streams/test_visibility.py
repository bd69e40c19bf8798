"""Who sees what in the streams: scopes, pools, other clients' reservations, other tenants."""

import grpc

from inventoryhold.v1 import event_pb2, item_pb2
from inventoryhold.v1 import event_service_pb2 as pb
from inventoryhold.v1 import inventory_service_pb2 as inventory
from inventoryhold.v1 import reservation_service_pb2 as reservations
from tests.streams.readers import FAST, Consumer, Watch
from tests.support.harness import Harness, StartService, refused
from tests.support.partners import Partner, new_partner


async def served(start_service: StartService) -> tuple[Harness, Partner]:
    service = await start_service(auth="api-key")
    return service, await new_partner(service, "owner")


async def create(partner: Partner, sku: str, pool: str = "") -> None:
    item = item_pb2.Item(sku=sku, pool=pool, capacity=10)
    await partner.inventory.CreateItem(inventory.CreateItemRequest(item=item))


async def reserve(partner: Partner, *pools: str) -> str:
    lines = [item_pb2.ItemQuantity(sku="a", pool=pool, quantity=1) for pool in pools]
    answer = await partner.reservations.Reserve(reservations.ReserveRequest(lines=lines))
    return str(answer.reservation.reservation_id)


async def opened(partner: Partner) -> Consumer:
    consumer = Consumer(partner.events.StreamEvents(pb.StreamEventsRequest(from_oldest=True)))
    await consumer.read()
    return consumer


async def marks(consumer: Consumer) -> list[str]:
    """What the consumer is told up to the item `end`: reservations and items by their names."""
    while not consumer.events or consumer.events[-1].item.sku != "end":
        await consumer.read()
    return [event.reservation.reservation_id or f"{event.item.sku}@{event.item.pool}" for event in consumer.events[:-1]]


async def test_another_clients_reservations_need_read_all(start_service: StartService) -> None:
    service, owner = await served(start_service)
    plain = await new_partner(service, "plain", scopes=["reserve", "events.read"])
    reader = await new_partner(service, "reader", scopes=["events.read", "reservations.read_all"])
    await create(owner, "a")
    theirs, own = await reserve(owner, ""), await reserve(plain, "")
    consumers = [await opened(partner) for partner in (plain, reader)]
    await create(owner, "end")
    assert [await marks(consumer) for consumer in consumers] == [["a@", own], ["a@", theirs, own]]


async def test_a_key_of_some_pools_hears_of_those_only(start_service: StartService) -> None:
    service, owner = await served(start_service)
    web = await new_partner(service, "web", pools="web")
    await create(owner, "a", "web")
    await create(owner, "a", "shop")
    both, one = await reserve(owner, "web", "shop"), await reserve(owner, "web")
    consumer = await opened(web)
    watch = Watch(web.inventory.WatchInventory(inventory.WatchInventoryRequest(min_interval=FAST)))
    await watch.snapshot()
    await create(owner, "end", "web")
    told = await marks(consumer)
    assert one in told
    assert both not in told
    assert "a@shop" not in told
    await watch.until("end", pool="web")
    assert set(watch.items) == {("a", "web"), ("end", "web")}
    hidden = inventory.WatchInventoryRequest(items=[item_pb2.ItemKey(sku="a", pool="shop")])
    assert (await refused(web.inventory.WatchInventory(hidden).read())).reason == "ITEM_NOT_FOUND"


async def test_another_tenant_hears_nothing_and_its_tokens_are_its_own(start_service: StartService) -> None:
    service, owner = await served(start_service)
    other = await new_partner(service, "owner", tenant="other")
    consumer, foreign = await opened(owner), await opened(other)
    watch = Watch(other.inventory.WatchInventory(inventory.WatchInventoryRequest(min_interval=FAST)))
    await watch.snapshot()
    await create(owner, "a")
    await create(other, "b")
    await create(other, "end")
    assert await marks(foreign) == ["b@"]
    await watch.until("end")
    assert set(watch.items) == {("b", ""), ("end", "")}
    await create(owner, "end")
    assert await marks(consumer) == ["a@"]
    request = pb.StreamEventsRequest(resume_token=consumer.token)
    assert (await refused(other.events.StreamEvents(request).read())).reason == "RESUME_TOKEN_FOREIGN"


async def test_streams_need_their_scopes(start_service: StartService) -> None:
    service, _ = await served(start_service)
    partner = await new_partner(service, "cart", scopes=["reserve"])
    for call, scope in (
        (partner.events.StreamEvents(pb.StreamEventsRequest()), "events.read"),
        (partner.inventory.WatchInventory(inventory.WatchInventoryRequest()), "inventory.read"),
    ):
        refusal = await refused(call.read())
        assert refusal.code is grpc.StatusCode.PERMISSION_DENIED
        assert refusal.metadata["required_scope"] == scope


async def test_no_event_has_a_customer(start_service: StartService) -> None:
    _, owner = await served(start_service)
    await create(owner, "a")
    target = await reserve(owner, "")
    customer = reservations.CustomerInput(name="Ann", email="ann@example.com")
    await owner.reservations.Confirm(reservations.ConfirmRequest(reservation_id=target, customer=customer))
    consumer = await opened(owner)
    await consumer.take(3)
    assert consumer.events[-1].type == event_pb2.EVENT_TYPE_CONFIRMED
    assert b"ann@example.com" not in b"".join(event.SerializeToString() for event in consumer.events)
