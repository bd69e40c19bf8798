"""Limits: what they refuse, and what gives room back."""

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import grpc
import pytest_asyncio

from holdsvc.ledger import removal
from inventoryhold.v1 import admin_service_pb2 as admin
from inventoryhold.v1 import inventory_service_pb2 as inventory
from inventoryhold.v1 import limit_service_pb2 as limits
from inventoryhold.v1 import reservation_service_pb2 as pb
from tests.support.harness import Harness, StartService, refused
from tests.support.limits import set_limit, used
from tests.support.partners import new_partner

HELD_AND_CONFIRMED = {"counts": "COUNTS_HELD_AND_CONFIRMED"}


@pytest_asyncio.fixture(loop_scope="module")
async def shop(service: Harness) -> AsyncIterator[Harness]:
    """Items whose sku begins with tour-, and one that does not."""
    for sku in ("tour-a", "tour-b", "bed"):
        await service.create_item(sku, 100)
    yield service
    await service.verify()


def line(sku: str, quantity: int, pool: str = "") -> dict[str, Any]:
    return {"sku": sku, "pool": pool, "quantity": quantity}


async def modify(service: Harness, reservation_id: str, **fields: Any) -> Any:
    request = pb.ModifyRequest(reservation_id=reservation_id, update_mask={"paths": [*fields]}, **fields)
    return (await service.reservations.Modify(request)).reservation


async def test_a_limit_of_holders_adds_up_all_items_that_match_and_says_what_is_used(shop: Harness) -> None:
    await set_limit(shop, "four", 4, sku_prefix="tour-")
    first = await shop.reserve({"tour-a": 2}, holder="ann", ttl=timedelta(minutes=5))
    await shop.reserve({"tour-b": 1, "bed": 50}, holder="ann")
    refusal = await refused(shop.reserve({"tour-a": 1, "tour-b": 1}, holder="ann"))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "LIMIT_EXCEEDED")
    detail = refusal.details["LimitExceeded"]
    assert (detail.limit_id, detail.max, detail.used, detail.requested) == ("four", 4, 3, 2)
    assert detail.reset_time == first.expire_time
    words = {name: refusal.metadata[name] for name in ("limit_id", "max", "used", "requested")}
    assert words == {"limit_id": "four", "max": "4", "used": "3", "requested": "2"}
    assert refusal.metadata["reset_time"].startswith(first.expire_time.ToJsonString()[:19])
    # More than the limit ever allows has no time.
    refusal = await refused(shop.reserve({"tour-a": 5}, holder="ann"))
    assert not refusal.details["LimitExceeded"].HasField("reset_time")
    await shop.reserve({"tour-b": 1}, holder="ann")
    await shop.reserve({"tour-a": 4}, holder="bob")
    assert [await used(shop, "four", holder) for holder in ("ann", "bob", "eve")] == [4, 4, 0]


async def test_a_limit_of_one_pool_counts_nothing_of_others(service: Harness) -> None:
    for pool in ("", "web"):
        await service.create_item("tour", 100, pool=pool)
    await set_limit(service, "web", 1, pool="web")
    await set_limit(service, "default", 2, pool="")
    await service.reserve([("tour", "web", 1), ("tour", "", 2)], holder="ann")
    for pool, limit_id in (("web", "web"), ("", "default")):
        refusal = await refused(service.reserve([("tour", pool, 1)], holder="ann"))
        assert refusal.metadata["limit_id"] == limit_id


async def test_a_hold_is_judged_by_every_limit_that_matches(shop: Harness) -> None:
    await set_limit(shop, "a-few", 3, sku_prefix="tour-")
    await set_limit(shop, "b-many", 5)
    await shop.reserve({"tour-a": 3}, holder="ann")
    assert (await refused(shop.reserve({"tour-b": 1}, holder="ann"))).metadata["limit_id"] == "a-few"
    await shop.reserve({"bed": 2}, holder="ann")
    assert (await refused(shop.reserve({"bed": 1}, holder="ann"))).metadata["limit_id"] == "b-many"
    assert [await used(shop, limit_id, "ann") for limit_id in ("a-few", "b-many")] == [3, 5]


async def test_a_limit_of_holders_needs_a_holder(shop: Harness) -> None:
    without = await shop.reserve({"tour-a": 3})
    await set_limit(shop, "four", 4, sku_prefix="tour-")
    refusal = await refused(shop.reserve({"tour-a": 1}))
    assert (refusal.reason, refusal.metadata) == ("INVALID_FIELD", {"fields": "holder"})
    await shop.reserve({"bed": 1})
    # A hold of before may shrink and be sold; to grow it needs a holder.
    refusal = await refused(modify(shop, without.reservation_id, lines=[line("tour-a", 4)]))
    assert (refusal.reason, refusal.metadata) == ("INVALID_FIELD", {"fields": "holder"})
    await modify(shop, without.reservation_id, lines=[line("tour-a", 2)])
    await modify(shop, without.reservation_id, lines=[line("tour-a", 4)], holder="ann")
    assert await used(shop, "four", "ann") == 4
    refusal = await refused(modify(shop, without.reservation_id, holder=""))
    assert refusal.metadata == {"fields": "holder"}
    refusal = await refused(shop.limits.GetLimitUsage(limits.GetLimitUsageRequest(limit_id="four")))
    assert refusal.metadata == {"fields": "holder"}


async def test_a_limit_of_clients_counts_what_a_client_holds_whoever_the_holders_are(
    start_service: StartService,
) -> None:
    service = await start_service(auth="api-key")
    root = await new_partner(service, "root", scopes=["limits.write", "inventory.write", "reservations.read_all"])
    one = await new_partner(service, "one", scopes=["reserve", "confirm"])
    other = await new_partner(service, "other", scopes=["reserve"])
    await root.inventory.CreateItem(inventory.CreateItemRequest(item={"sku": "tour", "capacity": 100}))
    await set_limit(service, "ten", 10, per="PER_CLIENT", metadata=root.metadata)
    wanted = [{"lines": [line("tour", 3)], "holder": holder} for holder in ("", "ann", "bob", "eve")]
    answer = await one.reservations.BatchReserve(pb.BatchReserveRequest(requests=wanted))
    held = [result.reservation for result in answer.results if result.HasField("reservation")]
    assert [result.WhichOneof("result") for result in answer.results] == ["reservation"] * 3 + ["error"]
    await other.reservations.Reserve(pb.ReserveRequest(lines=[line("tour", 10)]))

    async def usage(client: str = "", partner: Any = root) -> Any:
        return (await _usage(service, partner, "ten", client)).used

    assert [await usage("one"), await usage("other"), await usage(partner=one)] == [9, 10, 9]
    refusal = await refused(_usage(service, one, "ten", "other"))
    assert refusal.metadata == {"required_scope": "reservations.read_all"}
    # What is sold counts no more, nor what is given back.
    await one.reservations.Confirm(pb.ConfirmRequest(reservation_id=held[0].reservation_id))
    await one.reservations.Cancel(pb.CancelRequest(reservation_id=held[1].reservation_id, lines=[line("tour", 2)]))
    assert await usage("one") == 4
    await one.reservations.Reserve(pb.ReserveRequest(lines=[line("tour", 6)]))
    assert (
        await refused(one.reservations.Reserve(pb.ReserveRequest(lines=[line("tour", 1)])))
    ).reason == "LIMIT_EXCEEDED"
    assert service.sql("SELECT count(*) FROM holdsvc.limit_subject WHERE client = 'one' AND holder = ''") == [(1,)]


async def _usage(service: Harness, partner: Any, limit_id: str, client: str) -> limits.LimitUsage:
    request = limits.GetLimitUsageRequest(limit_id=limit_id, client=client)
    return (await service.limits.GetLimitUsage(request, metadata=partner.metadata)).usage


async def test_cancel_partial_cancel_and_expiry_give_room_back_at_once(shop: Harness) -> None:
    await set_limit(shop, "four", 4)
    await set_limit(shop, "client", 4, per="PER_CLIENT")
    whole = await shop.reserve({"tour-a": 2}, holder="ann")
    part = await shop.reserve({"tour-a": 2}, holder="ann", ttl=timedelta(seconds=30))
    await shop.reservations.Cancel(pb.CancelRequest(reservation_id=whole.reservation_id))
    await shop.reservations.Cancel(pb.CancelRequest(reservation_id=part.reservation_id, lines=[line("tour-a", 1)]))
    assert (await used(shop, "four", "ann"), await used(shop, "client")) == (1, 1)
    await shop.reserve({"tour-a": 3}, holder="ann", ttl=timedelta(hours=1))
    assert (await refused(shop.reserve({"tour-a": 1}, holder="ann"))).reason == "LIMIT_EXCEEDED"
    # Not swept: it counts no more all the same.
    shop.clock.advance(timedelta(seconds=30))
    assert (await used(shop, "four", "ann"), await used(shop, "client")) == (3, 3)
    await shop.reserve({"tour-a": 1}, holder="ann")
    assert (await refused(shop.reserve({"tour-a": 1}, holder="ann"))).reason == "LIMIT_EXCEEDED"
    assert (await shop.sweep()).expired_count == 1
    assert (await used(shop, "four", "ann"), await used(shop, "client")) == (4, 4)


async def test_confirmed_units_count_until_they_are_refunded(shop: Harness) -> None:
    await set_limit(shop, "four", 4, **HELD_AND_CONFIRMED)
    sold = await shop.reserve({"tour-a": 4}, holder="ann")
    await shop.reservations.Confirm(pb.ConfirmRequest(reservation_id=sold.reservation_id, lines=[line("tour-a", 3)]))
    assert await used(shop, "four", "ann") == 3
    await shop.reservations.Fulfil(pb.FulfilRequest(reservation_id=sold.reservation_id, lines=[line("tour-a", 1)]))
    assert await used(shop, "four", "ann") == 3
    assert (await refused(shop.reserve({"tour-a": 2}, holder="ann"))).reason == "LIMIT_EXCEEDED"
    await shop.reservations.Refund(pb.RefundRequest(reservation_id=sold.reservation_id, lines=[line("tour-a", 1)]))
    assert await used(shop, "four", "ann") == 2
    await shop.reserve({"tour-a": 2}, holder="ann")
    await shop.reservations.Refund(pb.RefundRequest(reservation_id=sold.reservation_id))
    assert await used(shop, "four", "ann") == 2


async def test_with_counts_held_what_is_confirmed_counts_no_more(shop: Harness) -> None:
    await set_limit(shop, "four", 4)
    sold = await shop.reserve({"tour-a": 4}, holder="ann")
    await shop.reservations.Confirm(pb.ConfirmRequest(reservation_id=sold.reservation_id))
    assert await used(shop, "four", "ann") == 0
    await shop.reserve({"tour-a": 4}, holder="ann")


async def test_confirmed_units_leave_a_window_on_the_databases_clock(shop: Harness) -> None:
    await set_limit(shop, "four", 4, window=timedelta(hours=1), **HELD_AND_CONFIRMED)
    sold = await shop.reserve({"tour-a": 4}, holder="ann")
    confirmed = await shop.reservations.Confirm(pb.ConfirmRequest(reservation_id=sold.reservation_id))
    end = confirmed.reservation.confirm_time.ToDatetime() + timedelta(hours=1)
    shop.clock.advance(timedelta(hours=1) - timedelta(seconds=30))
    refusal = await refused(shop.reserve({"tour-a": 1}, holder="ann"))
    assert refusal.details["LimitExceeded"].reset_time.ToDatetime() == end
    # At the very microsecond they are out.
    shop.sql("CREATE OR REPLACE FUNCTION holdsvc.wall_clock() RETURNS timestamptz LANGUAGE sql"
             f" AS $$ SELECT '{end}Z'::timestamptz - interval '1 microsecond' $$")  # fmt: skip
    try:
        assert (await refused(shop.reserve({"tour-a": 1}, holder="ann"))).reason == "LIMIT_EXCEEDED"
        shop.sql("CREATE OR REPLACE FUNCTION holdsvc.wall_clock() RETURNS timestamptz LANGUAGE sql"
                 f" AS $$ SELECT '{end}Z'::timestamptz $$")  # fmt: skip
        await shop.reserve({"tour-a": 4}, holder="ann")
    finally:
        shop.sql("CREATE OR REPLACE FUNCTION holdsvc.wall_clock() RETURNS timestamptz LANGUAGE sql VOLATILE"
                 " AS $$ SELECT clock_timestamp() + (SELECT ahead FROM public.test_clock) $$")  # fmt: skip
    # A longer window brings them in again: 4 confirmed and 4 held.
    await set_limit(shop, "four", 4, window=timedelta(hours=2), **HELD_AND_CONFIRMED)
    assert await used(shop, "four", "ann") == 8


async def test_modify_is_judged_by_what_it_adds_and_a_new_holder_by_all_units(shop: Harness) -> None:
    await set_limit(shop, "four", 4, sku_prefix="tour-")
    await set_limit(shop, "client", 9, per="PER_CLIENT")
    held = await shop.reserve({"tour-a": 3}, holder="ann")
    other = await shop.reserve({"tour-a": 3}, holder="bob")
    await modify(shop, held.reservation_id, lines=[line("tour-a", 4)])
    refusal = await refused(modify(shop, held.reservation_id, lines=[line("tour-b", 2)]))
    detail = refusal.details["LimitExceeded"]
    assert (detail.limit_id, detail.used, detail.requested) == ("four", 4, 2)
    # What moves between items of the limit is no growth, and what is not of the limit is free.
    await modify(shop, held.reservation_id, lines=[line("tour-a", 2), line("tour-b", 2), line("bed", 1)])
    refusal = await refused(modify(shop, held.reservation_id, holder="bob"))
    detail = refusal.details["LimitExceeded"]
    assert (detail.limit_id, detail.used, detail.requested) == ("four", 3, 4)
    await modify(shop, held.reservation_id, lines=[line("tour-b", 0), line("tour-a", 1)], holder="bob")
    assert [await used(shop, "four", holder) for holder in ("ann", "bob")] == [0, 4]
    assert await used(shop, "client") == 5
    await shop.reservations.Cancel(pb.CancelRequest(reservation_id=other.reservation_id))
    assert [await used(shop, "four", "bob"), await used(shop, "client")] == [1, 2]
    refusal = await refused(modify(shop, held.reservation_id, lines=[line("bed", 9)]))
    assert refusal.metadata["limit_id"] == "client"


async def test_a_smaller_hold_is_possible_also_above_a_lowered_limit(shop: Harness) -> None:
    held = await shop.reserve({"tour-a": 6}, holder="ann")
    await set_limit(shop, "four", 4)
    usage = (await shop.limits.GetLimitUsage(limits.GetLimitUsageRequest(limit_id="four", holder="ann"))).usage
    assert (usage.used, usage.available, usage.held, usage.confirmed) == (6, 0, 6, 0)
    assert usage.reset_time == held.expire_time
    await modify(shop, held.reservation_id, lines=[line("tour-a", 5)])
    await shop.reservations.Confirm(pb.ConfirmRequest(reservation_id=held.reservation_id))


async def test_a_rescue_is_judged_as_a_new_hold_and_counts_what_it_confirms(shop: Harness) -> None:
    await set_limit(shop, "four", 4, **HELD_AND_CONFIRMED)
    await set_limit(shop, "client", 4, per="PER_CLIENT")
    late = await shop.reserve({"tour-a": 3}, holder="ann", ttl=timedelta(seconds=30))
    shop.clock.advance(timedelta(seconds=30))
    second = await shop.reserve({"tour-b": 2}, holder="ann")
    rescue = pb.ConfirmRequest(reservation_id=late.reservation_id, rescue=True)
    detail = (await refused(shop.reservations.Confirm(rescue))).details["LimitExceeded"]
    assert (detail.limit_id, detail.used, detail.requested) == ("client", 2, 3)
    await shop.reservations.Confirm(pb.ConfirmRequest(reservation_id=second.reservation_id))
    detail = (await refused(shop.reservations.Confirm(rescue))).details["LimitExceeded"]
    assert (detail.limit_id, detail.used, detail.requested) == ("four", 2, 3)
    await shop.reservations.Refund(pb.RefundRequest(reservation_id=second.reservation_id, lines=[line("tour-b", 1)]))
    assert (await shop.reservations.Confirm(rescue)).rescued
    assert (await used(shop, "four", "ann"), await used(shop, "client")) == (4, 0)


async def test_limits_come_before_capacity_and_behind_items_duplicates_and_closed_sales(shop: Harness) -> None:
    await set_limit(shop, "four", 4)
    await shop.create_item("closed", 10, sale_state="SALE_STATE_CLOSED")
    await shop.reserve({"tour-a": 4}, holder="ann")
    too_many = await refused(shop.reserve({"tour-a": 500}, holder="ann"))
    missing = await refused(shop.reserve({"none": 1}, holder="ann"))
    closed = await refused(shop.reserve({"closed": 1}, holder="ann"))
    twice = await refused(shop.reserve({"tour-a": 1}, holder="ann", duplicate_window=timedelta(minutes=1)))
    assert [each.reason for each in (too_many, missing, closed, twice)] == [
        "LIMIT_EXCEEDED", "ITEM_NOT_FOUND", "SALE_CLOSED", "DUPLICATE_RESERVATION",
    ]  # fmt: skip
    assert not too_many.details.get("CapacityShortfall")


async def test_a_batch_is_judged_by_running_totals_and_replays_count_once(shop: Harness) -> None:
    await set_limit(shop, "four", 4, sku_prefix="tour-")
    entries = [
        {"lines": [line("tour-a", units), line("bed", 1)], "holder": holder, "request_id": f"{number}"}
        for number, (holder, units) in enumerate([("ann", 3), ("bob", 4), ("ann", 2), ("ann", 1), ("ann", 1)])
    ]
    expected = ["reservation", "reservation", "error", "reservation", "error"]
    for _ in range(2):
        answer = await shop.reservations.BatchReserve(pb.BatchReserveRequest(requests=entries))
        assert [result.WhichOneof("result") for result in answer.results] == expected
    assert [await used(shop, "four", holder) for holder in ("ann", "bob")] == [4, 4]


async def test_an_extended_hold_counts_longer(shop: Harness) -> None:
    await set_limit(shop, "four", 4)
    held = await shop.reserve({"tour-a": 4}, holder="ann", ttl=timedelta(seconds=30))
    await shop.reservations.Extend(pb.ExtendRequest(reservation_id=held.reservation_id, ttl=timedelta(minutes=10)))
    shop.clock.advance(timedelta(seconds=31))
    assert (await refused(shop.reserve({"tour-a": 1}, holder="ann"))).reason == "LIMIT_EXCEEDED"


async def test_verify_ledger_finds_what_is_counted_wrongly_for_a_limit(shop: Harness) -> None:
    await set_limit(shop, "four", 4, sku_prefix="tour-", **HELD_AND_CONFIRMED)
    await set_limit(shop, "client", 40, per="PER_CLIENT")
    held = await shop.reserve({"tour-a": 2, "bed": 1}, holder="ann")
    sold = await shop.reserve({"tour-b": 1}, holder="ann")
    await shop.reservations.Confirm(pb.ConfirmRequest(reservation_id=sold.reservation_id))
    await shop.verify()

    async def drifts(spoil: str, repair: str, *parameters: Any) -> set[tuple[str, str, str, int, int]]:
        shop.sql(spoil, parameters)
        report = await shop.admin.VerifyLedger(admin.VerifyLedgerRequest())
        shop.sql(repair, parameters)
        assert report.ok == (not report.drifts)
        return {(drift.limit_id, drift.sku, drift.counter, drift.stored, drift.recomputed) for drift in report.drifts}

    mine = "UPDATE holdsvc.limit_use SET units = units + {} WHERE holder = 'ann' AND reservation_id = %s"
    found = await drifts(mine.format(1), mine.format(-1), held.reservation_id)
    assert found == {("four", "tour-a", "limit_units", 3, 2)}
    away = "UPDATE holdsvc.limit_use SET holder = '{}' WHERE holder = '{}' AND confirm_time IS NOT NULL"
    assert await drifts(away.format("bob", "ann"), away.format("ann", "bob")) == {
        ("four", "tour-b", "limit_units", 1, 1)
    }
    used = "UPDATE holdsvc.limit_subject SET used = used + {} WHERE holder = ''"
    assert await drifts(used.format(7), used.format(-7)) == {("client", "", "limit_used", 10, 3)}


async def test_a_quarantined_hold_counts_no_more_and_retention_leaves_what_counts(service: Harness) -> None:
    for sku in ("sound", "broken"):
        await service.create_item(sku, 10)
    await set_limit(service, "four", 4, window=timedelta(days=4), **HELD_AND_CONFIRMED)
    await set_limit(service, "client", 6, per="PER_CLIENT")
    await service.reserve({"broken": 4}, holder="ann", ttl=timedelta(seconds=30))
    service.sql("UPDATE holdsvc.item SET held = 0, remaining = 10 WHERE sku = 'broken'")
    service.clock.advance(timedelta(seconds=31))
    assert (await service.sweep()).quarantined_count == 1
    assert (await used(service, "four", "ann"), await used(service, "client")) == (0, 0)
    gone = await service.reserve({"sound": 4}, holder="ann")
    await service.reservations.Confirm(pb.ConfirmRequest(reservation_id=gone.reservation_id))
    await service.reservations.Fulfil(pb.FulfilRequest(reservation_id=gone.reservation_id))
    for days, counted, removed in ((3, 4, 0), (2, 0, 1)):
        service.clock.advance(timedelta(days=days))
        assert await used(service, "four", "ann") == counted
        async with service.cell.database.connection() as connection:
            assert (await removal.remove(connection, timedelta(days=2))).removed_count == removed
    assert service.sql("SELECT count(*) FROM holdsvc.limit_use WHERE confirm_time IS NOT NULL") == [(0,)]
