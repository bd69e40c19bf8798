"""Lists: pages, tokens bound to their filters, every filter, newest first."""

from datetime import timedelta
from itertools import combinations
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from holdsvc.api import pages
from holdsvc.ledger import items, reservation_lists
from inventoryhold.v1 import admin_service_pb2 as admin
from inventoryhold.v1 import inventory_service_pb2 as inventory
from inventoryhold.v1 import item_pb2, reservation_pb2
from inventoryhold.v1 import reservation_service_pb2 as pb
from tests.support.harness import Harness, Refusal, StartService, refused
from tests.support.partners import new_caller

Reservation = reservation_pb2.Reservation


async def _list(service: Harness, **fields: Any) -> pb.ListReservationsResponse:
    return await service.reservations.ListReservations(pb.ListReservationsRequest(**fields))


async def _ids(service: Harness, **fields: Any) -> list[str]:
    return [reservation.reservation_id for reservation in (await _list(service, **fields)).reservations]


def _bad_fields(refusal: Refusal) -> list[str]:
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
    return [violation.field for violation in refusal.details["BadRequest"].field_violations]


async def test_pages_come_newest_first_and_hold_everything_once(service: Harness) -> None:
    await service.create_item("bed", 100)
    made = [(await service.reserve({"bed": 1})).reservation_id for _ in range(7)]
    seen: list[str] = []
    token, pages = "", 0
    while pages == 0 or token:
        # A page's size may change on the way.
        answer = await _list(service, page_size=3 if pages else 2, page_token=token)
        seen += [reservation.reservation_id for reservation in answer.reservations]
        token = answer.next_page_token
        pages += 1
    assert seen == made[::-1]
    assert pages == 3


async def test_a_full_last_page_has_no_token(service: Harness) -> None:
    await service.create_item("bed", 100)
    for _ in range(4):
        await service.reserve({"bed": 1})
    first = await _list(service, page_size=2)
    last = await _list(service, page_size=2, page_token=first.next_page_token)
    assert first.next_page_token
    assert (len(last.reservations), last.next_page_token) == (2, "")
    assert (await _list(service, page_size=4)).next_page_token == ""


async def test_what_is_made_meanwhile_shifts_no_page(service: Harness) -> None:
    await service.create_item("bed", 100)
    made = [(await service.reserve({"bed": 1})).reservation_id for _ in range(4)]
    first = await _list(service, page_size=2)
    await service.reserve({"bed": 1})
    assert await _ids(service, page_size=2, page_token=first.next_page_token) == [made[1], made[0]]


async def test_page_size_0_reads_as_50_above_1000_as_1000_and_negative_is_refused(service: Harness) -> None:
    await service.create_item("bed", 2000)
    entry = pb.ReserveRequest(lines=[{"sku": "bed", "quantity": 1}])
    for count in (1000, 1):
        await service.reservations.BatchReserve(pb.BatchReserveRequest(requests=[entry] * count))
    for size, shown in ((0, 50), (51, 51), (1000, 1000), (1001, 1000), (2**31 - 1, 1000)):
        answer = await _list(service, page_size=size)
        assert (len(answer.reservations), bool(answer.next_page_token)) == (shown, True)
    for size in (-1, -(2**31)):
        assert _bad_fields(await refused(_list(service, page_size=size))) == ["page_size"]
    answer = await _list(service, include_total=True, page_size=1)
    assert (len(answer.reservations), answer.total_count) == (1, 1001)


async def test_page_size_rules_hold_for_every_list(service: Harness) -> None:
    await service.create_item("bed", 10)
    held = await service.reserve({"bed": 1})
    for call in (
        service.inventory.ListItems(inventory.ListItemsRequest(page_size=-1)),
        service.admin.ListApiKeys(admin.ListApiKeysRequest(page_size=-1)),
        service.reservations.ListReservationEvents(
            pb.ListReservationEventsRequest(reservation_id=held.reservation_id, page_size=-1)
        ),
    ):
        assert _bad_fields(await refused(call)) == ["page_size"]
    items = [item_pb2.Item(sku=f"seat-{number:04}") for number in range(1000)]
    await service.inventory.BatchCreateItems(inventory.BatchCreateItemsRequest(items=items))
    for size, shown in ((0, 50), (5000, 1000)):
        answer = await service.inventory.ListItems(inventory.ListItemsRequest(page_size=size))
        assert (len(answer.items), bool(answer.next_page_token)) == (shown, True)


FILTERS: dict[str, Any] = {
    "states": [Reservation.STATE_CONFIRMED],
    "sku": "bed",
    "pool": "vip",
    "holder": "guest",
    "reference": "cart",
    "order_id": "A-1",
    "client": "dev",
}


async def _population(service: Harness) -> list[Reservation]:
    """Reservations that match none, some or all of FILTERS."""
    await service.create_item("bed", 100)
    await service.create_item("bed", 100, pool="vip")
    await service.create_item("tour", 100, pool="vip")
    made = []
    bed, vip_bed, vip_tour = ("bed", "", 1), ("bed", "vip", 1), ("tour", "vip", 1)
    for lines in ([bed], [vip_bed], [vip_tour], [bed, vip_tour]):
        for holder, reference in (("", ""), ("guest", ""), ("", "cart"), ("guest", "cart"), ("guest", "other")):
            held = await service.reserve(lines, holder=holder, reference=reference)
            made.append(held.reservation_id)
    for number, reservation_id in enumerate(made):
        if number % 2:
            order_id = "A-1" if number == 8 + 1 else ""
            await service.reservations.Confirm(pb.ConfirmRequest(reservation_id=reservation_id, order_id=order_id))
    other = made[8]
    await service.reservations.Confirm(pb.ConfirmRequest(reservation_id=other, order_id="A-2"))
    return [await service.get(reservation_id) for reservation_id in reversed(made)]


def _matches(reservation: Reservation, wanted: dict[str, Any]) -> bool:
    lines = reservation.lines
    if "sku" in wanted or "pool" in wanted:
        sku, pool = wanted.get("sku"), wanted.get("pool")
        if not any((sku is None or line.sku == sku) and (pool is None or line.pool == pool) for line in lines):
            return False
    if "states" in wanted and reservation.state not in wanted["states"]:
        return False
    fields = ("holder", "reference", "order_id", "client")
    return all(getattr(reservation, name) == wanted[name] for name in fields if name in wanted)


async def test_every_filter_alone_and_combined_shows_exactly_what_matches_all_of_them(service: Harness) -> None:
    everything = await _population(service)
    assert [r.reservation_id for r in everything] == await _ids(service)
    combined = 0
    for size in range(1, len(FILTERS) + 1):
        for names in combinations(FILTERS, size):
            wanted = {name: FILTERS[name] for name in names}
            expected = [r.reservation_id for r in everything if _matches(r, wanted)]
            answer = await _list(service, **wanted, include_total=True)
            assert [r.reservation_id for r in answer.reservations] == expected, wanted
            assert answer.total_count == len(expected), wanted
            combined += bool(expected)
            if len(expected) > 1:
                page = await _list(service, **wanted, page_size=1)
                rest = await _ids(service, **wanted, page_token=page.next_page_token)
                assert [page.reservations[0].reservation_id, *rest] == expected, wanted
    assert combined > 50


async def test_pages_that_look_at_few_reservations_show_the_same_in_more_pages(
    service: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    everything = await _population(service)
    monkeypatch.setattr(reservation_lists, "LOOKED_MAX", 2)
    monkeypatch.setattr(pages, "READS_CUT_MAX", 2)
    empty = 0
    for names in [(), *((name,) for name in FILTERS), *combinations(FILTERS, 2)]:
        wanted = {name: FILTERS[name] for name in names}
        seen: list[str] = []
        token, first = "", True
        while first or token:
            answer = await _list(service, **wanted, page_size=3, page_token=token)
            seen += [reservation.reservation_id for reservation in answer.reservations]
            token, first = answer.next_page_token, False
            empty += bool(token and not answer.reservations)
        assert seen == [r.reservation_id for r in everything if _matches(r, wanted)], wanted
    assert empty


async def test_the_default_pool_as_a_filter_is_not_the_absence_of_one(service: Harness) -> None:
    await service.create_item("bed", 5)
    await service.create_item("bed", 5, pool="vip")
    default = (await service.reserve({"bed": 1})).reservation_id
    vip = (await service.reserve([("bed", "vip", 1)])).reservation_id
    assert await _ids(service, pool="") == [default]
    assert await _ids(service, pool="vip", sku="bed") == [vip]
    assert await _ids(service, sku="bed") == [vip, default]
    assert await _ids(service, pool="", sku="tour") == []


async def test_states_are_those_of_now_with_lapsed_holds_expired(service: Harness) -> None:
    await service.create_item("bed", 50)
    by_state: dict[int, list[str]] = {}

    async def made(state: int, **fields: Any) -> Any:
        held = await service.reserve({"bed": 1}, **fields)
        by_state.setdefault(state, []).insert(0, held.reservation_id)
        return {"reservation_id": held.reservation_id}

    rpc = service.reservations
    await made(Reservation.STATE_EXPIRED, ttl=Duration(seconds=5))
    service.clock.advance(timedelta(seconds=6))
    await service.sweep()
    await made(Reservation.STATE_EXPIRED, ttl=Duration(seconds=10))
    await made(Reservation.STATE_HELD, ttl=Duration(seconds=600))
    await rpc.Confirm(pb.ConfirmRequest(**await made(Reservation.STATE_CONFIRMED)))
    await rpc.Cancel(pb.CancelRequest(**await made(Reservation.STATE_CANCELLED)))
    refunded = await made(Reservation.STATE_REFUNDED)
    await rpc.Confirm(pb.ConfirmRequest(**refunded))
    await rpc.Refund(pb.RefundRequest(**refunded))
    service.clock.advance(timedelta(seconds=11))
    for state, ids in by_state.items():
        answer = await _list(service, states=[state], include_total=True)
        assert [r.reservation_id for r in answer.reservations] == ids
        assert {r.state for r in answer.reservations} == {state}
        assert answer.total_count == len(ids)
    two = [Reservation.STATE_EXPIRED, Reservation.STATE_HELD]
    assert len(await _ids(service, states=two)) == 3
    assert await _ids(service, states=[*two, *two], sku="bed") == await _ids(service, states=two)


async def test_a_token_is_bound_to_its_filters_and_its_call(service: Harness) -> None:
    await service.create_item("bed", 50)
    for _ in range(3):
        held = await service.reserve({"bed": 1}, holder="guest")
        await service.reservations.Extend(pb.ExtendRequest(reservation_id=held.reservation_id))
    filters = {"holder": "guest"}
    token = (await _list(service, page_size=1, **filters)).next_page_token
    assert len(await _ids(service, page_token=token, include_total=True, **filters)) == 2
    changed: list[dict[str, Any]] = [{}, {"holder": "guest2"}, {**filters, "pool": ""}, {**filters, "sku": "bed"}]
    changed += [{**filters, "states": [Reservation.STATE_HELD]}, {**filters, "client": "dev"}]
    for other in changed:
        assert _bad_fields(await refused(_list(service, page_token=token, **other))) == ["page_token"]
    one = (await _list(service)).reservations[0]
    events = pb.ListReservationEventsRequest(reservation_id=one.reservation_id, page_token=token)
    assert _bad_fields(await refused(service.reservations.ListReservationEvents(events))) == ["page_token"]
    items = inventory.ListItemsRequest(page_token=token)
    assert _bad_fields(await refused(service.inventory.ListItems(items))) == ["page_token"]


async def test_a_made_up_token_is_refused_by_every_list(service: Harness) -> None:
    await service.create_item("bed", 5)
    held = await service.reserve({"bed": 1})
    target: dict[str, Any] = {"reservation_id": held.reservation_id}
    for token in ("x", "AAAA", "!!!!", "ü", "a" * 1024, "=", "bnVsbA", "-" * 40):
        for call in (
            _list(service, page_token=token),
            service.inventory.ListItems(inventory.ListItemsRequest(page_token=token)),
            service.admin.ListApiKeys(admin.ListApiKeysRequest(page_token=token)),
            service.reservations.ListReservationEvents(pb.ListReservationEventsRequest(**target, page_token=token)),
        ):
            assert _bad_fields(await refused(call)) == ["page_token"]


async def test_other_clients_show_only_to_who_may_read_all(start_service: StartService) -> None:
    service = await start_service(auth="api-key")
    service.sql("SELECT create_items('default', 'x', '', '{bed}', '{\"\"}', '{\"\"}', '{50}', '{0}')")
    shop, agency = new_caller(service, "shop"), new_caller(service, "agency")
    modest = new_caller(service, "shop", scopes=["reserve"])
    reserve = pb.ReserveRequest(lines=[item_pb2.ItemQuantity(sku="bed", quantity=1)])
    made: dict[str, list[str]] = {"shop": [], "agency": []}
    for client, metadata in (("shop", shop), ("agency", agency), ("shop", shop), ("agency", agency)):
        answer = await service.reservations.Reserve(reserve, metadata=metadata)
        made[client].insert(0, answer.reservation.reservation_id)

    async def ids(metadata: Any, **fields: Any) -> tuple[list[str], int]:
        request = pb.ListReservationsRequest(include_total=True, **fields)
        answer = await service.reservations.ListReservations(request, metadata=metadata)
        return [r.reservation_id for r in answer.reservations], answer.total_count

    everything = sorted(made["shop"] + made["agency"], reverse=True)
    assert await ids(shop) == (everything, 4)
    assert await ids(shop, client="agency") == (made["agency"], 2)
    assert await ids(modest) == (made["shop"], 2)
    assert await ids(modest, client="shop") == (made["shop"], 2)
    assert await ids(modest, client="agency") == ([], 0)
    assert await ids(shop, client="nobody") == ([], 0)


async def test_items_are_listed_by_sku_and_pool_with_prefix_and_pool_filters(
    service: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [
        ("a", ""),
        ("a", "vip"),
        ("a%", ""),
        ("a_b", ""),
        ("ab", ""),
        ("ab", "vip"),
        ("b", "vip"),
        ("Ä", ""),
        ("Z", ""),
    ]
    for sku, pool in names:
        await service.create_item(sku, 1, pool=pool)
    in_order = sorted(names, key=lambda name: (name[0].encode(), name[1].encode()))

    async def listed(**fields: Any) -> list[tuple[str, str]]:
        found: list[tuple[str, str]] = []
        token = ""
        while True:
            request = inventory.ListItemsRequest(page_size=2, page_token=token, **fields)
            answer = await service.inventory.ListItems(request)
            found += [(item.sku, item.pool) for item in answer.items]
            token = answer.next_page_token
            if not token:
                return found

    for looked_max in (items.LOOKED_MAX, 1, 2):
        monkeypatch.setattr(items, "LOOKED_MAX", looked_max)
        assert await listed() == in_order
        for prefix in ("a", "a%", "a_", "ab", "Ä", "zz"):
            assert await listed(sku_prefix=prefix) == [name for name in in_order if name[0].startswith(prefix)]
        assert await listed(pool="vip") == [name for name in in_order if name[1] == "vip"]
        assert await listed(pool="", sku_prefix="a") == [("a", ""), ("a%", ""), ("a_b", ""), ("ab", "")]
