"""What a key may give, see and touch: never more than it may itself, and not for longer."""

from datetime import timedelta
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from inventoryhold.v1 import admin_service_pb2 as admin
from inventoryhold.v1 import inventory_service_pb2 as inventory
from inventoryhold.v1 import item_pb2
from inventoryhold.v1 import reservation_service_pb2 as pb
from tests.support.harness import Harness, StartService, refused
from tests.support.partners import Partner, new_partner

MANY_YEARS = Timestamp(seconds=4_000_000_000)


@pytest.fixture
async def guarded(start_service: StartService) -> Harness:
    return await start_service(auth="api-key")


async def _child(service: Harness, maker: Partner, **fields: Any) -> tuple[admin.ApiKey, Partner]:
    request = admin.CreateApiKeyRequest(**{"client": "child", "scopes": ["admin"], **fields})
    made = await maker.admin.CreateApiKey(request)
    return made.api_key, Partner(service.channel, made.secret)


async def _listed(partner: Partner) -> list[str]:
    answer = await partner.admin.ListApiKeys(admin.ListApiKeysRequest())
    return [key.key_id for key in answer.api_keys]


async def _revoked(service: Harness) -> set[str]:
    return {key_id for (key_id,) in service.sql("SELECT key_id FROM holdsvc.api_key WHERE revoke_time IS NOT NULL")}


async def test_no_key_outlives_the_one_that_made_it_however_many_generations_lie_between(guarded: Harness) -> None:
    boss = await new_partner(guarded, "boss", lifetime=timedelta(seconds=60))
    maker, ends = boss, set()
    for expire_time in (None, MANY_YEARS, None):
        key, maker = await _child(guarded, maker, expire_time=expire_time)
        ends.add(key.expire_time.ToNanoseconds())
    [[end]] = guarded.sql("SELECT extract(epoch FROM expire_time) FROM holdsvc.api_key WHERE client = 'boss'")
    assert ends == {int(end * 1_000_000) * 1000}
    sooner = Timestamp(seconds=int(end) - 30)
    key, _ = await _child(guarded, boss, expire_time=sooner)
    assert key.expire_time == sooner


async def test_the_keys_of_a_limited_key_end_with_it_and_those_of_an_unlimited_one_do_not(guarded: Harness) -> None:
    for limits, falls in (({"lifetime": timedelta(hours=1)}, True), ({"pools": "web"}, True), ({}, False)):
        maker = await new_partner(guarded, "maker", **limits)
        child_key, child = await _child(guarded, maker)
        grandchild_key, _ = await _child(guarded, child)
        boss = await new_partner(guarded, "boss")
        await boss.admin.RevokeApiKey(admin.RevokeApiKeyRequest(key_id=maker.key_id))
        fallen = await _revoked(guarded) & {child_key.key_id, grandchild_key.key_id}
        assert fallen == ({child_key.key_id, grandchild_key.key_id} if falls else set()), limits


async def test_who_made_a_key_is_stored_and_shown(guarded: Harness) -> None:
    boss = await new_partner(guarded, "boss")
    key, _ = await _child(guarded, boss)
    assert key.creator_key_id == boss.key_id
    listed = (await boss.admin.ListApiKeys(admin.ListApiKeysRequest())).api_keys
    assert [(each.client, each.creator_key_id) for each in listed] == [("child", boss.key_id), ("boss", "")]
    revoked = await boss.admin.RevokeApiKey(admin.RevokeApiKeyRequest(key_id=key.key_id))
    assert revoked.api_key.creator_key_id == boss.key_id


async def test_a_key_limited_to_pools_sees_and_revokes_keys_within_them_only(guarded: Harness) -> None:
    boss = await new_partner(guarded, "boss")
    shop = await new_partner(guarded, "shop", pools="web,app")
    inside = await new_partner(guarded, "inside", pools="web")
    outside = [
        await new_partner(guarded, "wider", pools="web,tour"),
        await new_partner(guarded, "other", pools="tour"),
        boss,
    ]
    assert set(await _listed(shop)) == {shop.key_id, inside.key_id}
    assert len(await _listed(boss)) == 5
    for partner in outside:
        refusal = await refused(shop.admin.RevokeApiKey(admin.RevokeApiKeyRequest(key_id=partner.key_id)))
        assert (refusal.reason, refusal.metadata) == ("API_KEY_NOT_FOUND", {"key_id": partner.key_id})
    await shop.admin.RevokeApiKey(admin.RevokeApiKeyRequest(key_id=inside.key_id))
    assert await _revoked(guarded) == {inside.key_id}


async def test_an_order_in_use_is_named_to_those_who_may_see_its_reservation(guarded: Harness) -> None:
    boss = await new_partner(guarded, "boss")
    await _stock(boss, ("bed", ""), ("bed", "web"))
    owner = await new_partner(guarded, "owner")
    shop = await new_partner(guarded, "owner", pools="web")
    other = await new_partner(guarded, "other", scopes=["reserve", "confirm"])
    sold = (await owner.reservations.Reserve(_reserve("bed", ""))).reservation
    await owner.reservations.Confirm(pb.ConfirmRequest(reservation_id=sold.reservation_id, order_id="A-1"))
    for partner, pool, sees in ((owner, "", True), (boss, "", True), (other, "", False), (shop, "web", False)):
        held = (await partner.reservations.Reserve(_reserve("bed", pool))).reservation
        request = pb.ConfirmRequest(reservation_id=held.reservation_id, order_id="A-1")
        refusal = await refused(partner.reservations.Confirm(request))
        assert refusal.reason == "ORDER_ID_IN_USE"
        expected = {"order_id": "A-1"} | ({"reservation_id": sold.reservation_id} if sees else {})
        assert refusal.metadata == expected
        assert (sold.reservation_id in refusal.message) == sees


async def test_a_duplicate_is_named_to_those_who_may_see_it(guarded: Harness) -> None:
    boss = await new_partner(guarded, "boss")
    await _stock(boss, ("bed", "web"), ("bed", "tour"))
    owner = await new_partner(guarded, "owner")
    shop = await new_partner(guarded, "owner", pools="web")
    both = pb.ReserveRequest(
        holder="guest", lines=[{"sku": "bed", "pool": pool, "quantity": 1} for pool in ("web", "tour")]
    )
    first = (await owner.reservations.Reserve(both)).reservation
    request = _reserve("bed", "web", holder="guest", duplicate_window={"seconds": 60})
    for partner, sees in ((owner, True), (shop, False)):
        refusal = await refused(partner.reservations.Reserve(request))
        assert refusal.reason == "DUPLICATE_RESERVATION"
        assert refusal.metadata == ({"reservation_id": first.reservation_id} if sees else {})
        assert (first.reservation_id in refusal.message) == sees
    answer = await shop.reservations.BatchReserve(pb.BatchReserveRequest(requests=[request]))
    assert first.reservation_id not in str(answer)


def _reserve(sku: str, pool: str, **fields: Any) -> pb.ReserveRequest:
    return pb.ReserveRequest(lines=[{"sku": sku, "pool": pool, "quantity": 1}], **fields)


async def _stock(partner: Partner, *items: tuple[str, str]) -> None:
    for sku, pool in items:
        request = inventory.CreateItemRequest(item=item_pb2.Item(sku=sku, pool=pool, capacity=9))
        await partner.inventory.CreateItem(request)
