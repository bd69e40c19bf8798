"""Reserve, Confirm, Cancel, Extend: what they take, give and answer."""

import asyncio
from datetime import timedelta
from typing import Any
from uuid import UUID

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from inventoryhold.v1 import reservation_pb2
from inventoryhold.v1 import reservation_service_pb2 as pb
from tests.support.harness import Harness, StartService, refusal_of, refused

Reservation = reservation_pb2.Reservation


def _counters(item: object) -> tuple[int, int, int, int]:
    return (item.capacity, item.remaining, item.held, item.confirmed)  # type: ignore[attr-defined]


async def test_reserve_takes_all_lines_and_answers_what_get_answers(service: Harness) -> None:
    await service.create_item("bed", 10)
    await service.create_item("tour", 4, pool="agent")
    held = await service.reserve(
        [("tour", "agent", 3), ("bed", "", 2)],
        holder="guest-7",
        reference="cart-1",
        ttl=Duration(seconds=90),
        metadata={"channel": "wëb", "note": 'a "quoted" \\ back\nslash'},
    )
    assert UUID(held.reservation_id).version == 7
    assert held.state == Reservation.STATE_HELD
    assert [(line.sku, line.pool, line.quantity) for line in held.lines] == [("tour", "agent", 3), ("bed", "", 2)]
    assert all(line.confirmed_quantity == line.refunded_quantity == 0 for line in held.lines)
    assert (held.client, held.holder, held.reference, held.revision) == ("dev", "guest-7", "cart-1", 1)
    assert held.metadata == {"channel": "wëb", "note": 'a "quoted" \\ back\nslash'}
    assert held.expire_time.ToDatetime() - held.create_time.ToDatetime() == timedelta(seconds=90)
    for unset in ("confirm_time", "cancel_time", "refund_time", "customer"):
        assert not held.HasField(unset)
    assert held == await service.get(held.reservation_id)
    assert _counters(await service.item("bed")) == (10, 8, 2, 0)
    assert _counters(await service.item("tour", "agent")) == (4, 1, 3, 0)


async def test_repeated_items_are_added_up_before_the_check(service: Harness) -> None:
    await service.create_item("seat", 3)
    refusal = await refused(service.reserve([("seat", "", 2), ("seat", "", 2)]))
    assert refusal.reason == "CAPACITY_EXCEEDED"
    [line] = refusal.details["CapacityShortfall"].lines
    assert (line.requested, line.available, line.shortfall) == (4, 3, 1)
    held = await service.reserve([("seat", "", 2), ("seat", "", 1)])
    assert [(line.sku, line.quantity) for line in held.lines] == [("seat", 3)]


async def test_one_sku_in_two_pools_is_two_items(service: Harness) -> None:
    await service.create_item("seat", 1)
    await service.create_item("seat", 1, pool="vip")
    held = await service.reserve([("seat", "", 1), ("seat", "vip", 1)])
    assert [line.pool for line in held.lines] == ["", "vip"]


async def test_a_refused_reserve_takes_nothing_of_any_line(service: Harness) -> None:
    await service.create_item("bed", 5)
    await service.create_item("seat", 1)
    assert (await refused(service.reserve({"bed": 2, "seat": 2}))).reason == "CAPACITY_EXCEEDED"
    refusal = await refused(service.reserve({"bed": 2, "nowhere": 1}))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.NOT_FOUND, "ITEM_NOT_FOUND")
    assert refusal.metadata == {"sku": "nowhere", "pool": ""}
    assert _counters(await service.item("bed")) == (5, 5, 0, 0)
    assert (await service.item("bed")).revision == 1


async def test_a_hundred_items_fit_into_one_reservation(service: Harness) -> None:
    for number in range(100):
        await service.create_item(f"seat-{number:03}", 1)
    held = await service.reserve({f"seat-{number:03}": 1 for number in reversed(range(100))})
    assert [line.sku for line in held.lines] == [f"seat-{number:03}" for number in reversed(range(100))]
    await service.verify()


async def test_units_may_be_taken_down_to_the_oversell_limit_and_no_further(service: Harness) -> None:
    await service.create_item("seat", 2, oversell_limit=3)
    refusal = await refused(service.reserve({"seat": 6}))
    assert refusal.details["CapacityShortfall"].lines[0].available == 5
    await service.reserve({"seat": 5})
    assert _counters(await service.item("seat")) == (2, -3, 5, 0)
    refusal = await refused(service.reserve({"seat": 1}))
    assert refusal.details["CapacityShortfall"].lines[0].available == 0
    await service.verify()


async def test_ttl_defaults_to_the_setting_and_has_bounds(start_service: StartService) -> None:
    service = await start_service(default_ttl="20m", min_ttl="10s", max_ttl="1h")
    await service.create_item("seat", 9)
    held = await service.reserve({"seat": 1})
    assert held.expire_time.ToDatetime() - held.create_time.ToDatetime() == timedelta(minutes=20)
    for good in (10, 3600):
        await service.reserve({"seat": 1}, ttl=Duration(seconds=good))
    for bad in (
        Duration(seconds=9, nanos=999_999_999),
        Duration(seconds=3600, nanos=1000),
        Duration(),
        Duration(seconds=-30),
        Duration(seconds=2**63 - 1),
    ):
        for call in (
            service.reserve({"seat": 1}, ttl=bad),
            service.reservations.Extend(pb.ExtendRequest(reservation_id=held.reservation_id, ttl=bad)),
        ):
            refusal = await refused(call)
            assert (refusal.reason, refusal.metadata["fields"]) == ("INVALID_FIELD", "ttl")


async def test_confirm_sells_everything_and_writes_the_order_with_its_customer(service: Harness) -> None:
    await service.create_item("bed", 10)
    held = await service.reserve({"bed": 4})
    answer = await service.reservations.Confirm(
        pb.ConfirmRequest(
            reservation_id=held.reservation_id,
            order_id="A-1",
            customer={"name": "Zoë O'Neil", "email": "zoe@example.com"},
        )
    )
    sold = answer.reservation
    assert not answer.replayed
    assert (sold.state, sold.order_id, sold.revision) == (Reservation.STATE_CONFIRMED, "A-1", 2)
    assert (sold.customer.name, sold.customer.email) == ("Zoë O'Neil", "zoe@example.com")
    assert sold.confirm_time.ToDatetime() >= sold.create_time.ToDatetime()
    assert sold.expire_time == held.expire_time
    assert sold.lines[0].confirmed_quantity == 4
    assert sold == await service.get(held.reservation_id)
    assert _counters(await service.item("bed")) == (10, 6, 0, 4)
    assert service.sql("SELECT order_id, reservation_id::text, customer_name FROM holdsvc.sales_order") == [
        ("A-1", held.reservation_id, "Zoë O'Neil")
    ]


async def test_a_confirmed_reservation_never_expires(service: Harness) -> None:
    await service.create_item("bed", 1)
    held = await service.reserve({"bed": 1}, ttl=Duration(seconds=10))
    await service.reservations.Confirm(pb.ConfirmRequest(reservation_id=held.reservation_id))
    service.clock.advance(timedelta(hours=1))
    assert (await service.sweep()).expired_count == 0
    assert (await service.get(held.reservation_id)).state == Reservation.STATE_CONFIRMED


async def test_order_ids_are_minted_when_empty_and_differ(service: Harness) -> None:
    await service.create_item("bed", 10)
    minted = set()
    for _ in range(3):
        held = await service.reserve({"bed": 1})
        answer = await service.reservations.Confirm(pb.ConfirmRequest(reservation_id=held.reservation_id))
        minted.add(answer.reservation.order_id)
    assert len(minted) == 3
    assert "" not in minted


async def test_an_order_id_belongs_to_one_reservation_also_after_its_refund(service: Harness) -> None:
    await service.create_item("bed", 10)
    first, second = await service.reserve({"bed": 1}), await service.reserve({"bed": 1})
    await service.reservations.Confirm(pb.ConfirmRequest(reservation_id=first.reservation_id, order_id="A-1"))
    await service.reservations.Refund(pb.RefundRequest(reservation_id=first.reservation_id))
    refusal = await refused(
        service.reservations.Confirm(pb.ConfirmRequest(reservation_id=second.reservation_id, order_id="A-1"))
    )
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.ALREADY_EXISTS, "ORDER_ID_IN_USE")
    assert refusal.metadata == {"order_id": "A-1", "reservation_id": first.reservation_id}
    assert (await service.get(second.reservation_id)).state == Reservation.STATE_HELD
    assert _counters(await service.item("bed")) == (10, 9, 1, 0)


async def test_one_of_many_that_want_an_order_id_at_once_gets_it_and_the_others_learn_whose_it_is(
    service: Harness,
) -> None:
    await service.create_item("bed", 50)
    held = [await service.reserve({"bed": 1}) for _ in range(20)]

    async def confirm(number: int) -> str:
        # The first runs alone; the others wait meanwhile and make one batch.
        order_id = "A-1" if number else "first"
        request = pb.ConfirmRequest(
            reservation_id=held[number].reservation_id, order_id=order_id, request_id=f"r-{number}"
        )
        try:
            return (await service.reservations.Confirm(request)).reservation.reservation_id
        except grpc.RpcError as error:
            refusal = refusal_of(error)
            assert refusal.reason == "ORDER_ID_IN_USE"
            return f"refused for {refusal.metadata['reservation_id']}"

    _, *answers = await asyncio.gather(*map(confirm, range(20)))
    [winner] = [answer for answer in answers if not answer.startswith("refused")]
    assert sorted(answers) == sorted([winner, *[f"refused for {winner}"] * 18])
    item = await service.item("bed")
    assert (item.held, item.confirmed) == (18, 2)
    # A refusal is not remembered: the same request_id may come with an order id of its own.
    loser = next(number for number in range(1, 20) if held[number].reservation_id != winner)
    again = pb.ConfirmRequest(reservation_id=held[loser].reservation_id, order_id="A-2", request_id=f"r-{loser}")
    assert not (await service.reservations.Confirm(again)).replayed
    await service.verify()


async def test_cancel_gives_the_units_back_and_keeps_the_reason(service: Harness) -> None:
    await service.create_item("bed", 10)
    held = await service.reserve({"bed": 4})
    answer = await service.reservations.Cancel(
        pb.CancelRequest(reservation_id=held.reservation_id, reason="changed their mind")
    )
    assert answer.reservation.state == Reservation.STATE_CANCELLED
    assert answer.reservation.reason == "changed their mind"
    assert answer.reservation.HasField("cancel_time")
    assert _counters(await service.item("bed")) == (10, 10, 0, 0)
    await service.verify()


async def test_extend_sets_now_plus_ttl_and_never_an_earlier_time(service: Harness) -> None:
    await service.create_item("bed", 1)
    held = await service.reserve({"bed": 1}, ttl=Duration(seconds=600))

    async def extend(seconds: int) -> Reservation:
        request = pb.ExtendRequest(reservation_id=held.reservation_id, ttl=Duration(seconds=seconds))
        return (await service.reservations.Extend(request)).reservation

    assert (await extend(60)).expire_time == held.expire_time
    service.clock.advance(timedelta(minutes=5))
    longer = await extend(600)
    gained = longer.expire_time.ToDatetime() - held.expire_time.ToDatetime()
    assert timedelta(minutes=5) <= gained < timedelta(minutes=5, seconds=30)
    # It lives on past the time at which it would have ended, and the item's lapsed units do not count it.
    service.clock.advance(timedelta(minutes=6))
    assert (await service.get(held.reservation_id)).state == Reservation.STATE_HELD
    assert (await service.sweep()).expired_count == 0
    assert (await refused(service.reserve({"bed": 1}))).reason == "CAPACITY_EXCEEDED"


async def test_extend_is_capped_at_the_longest_lifetime(start_service: StartService) -> None:
    service = await start_service(default_ttl="1m", max_ttl="10m", max_lifetime="15m")
    await service.create_item("bed", 1)
    held = await service.reserve({"bed": 1}, ttl=Duration(seconds=600))
    service.clock.advance(timedelta(minutes=9))
    for _ in range(2):
        answer = await service.reservations.Extend(
            pb.ExtendRequest(reservation_id=held.reservation_id, ttl=Duration(seconds=600))
        )
        lifetime = answer.reservation.expire_time.ToDatetime() - held.create_time.ToDatetime()
        assert lifetime == timedelta(minutes=15)
    service.clock.advance(timedelta(minutes=7))
    assert (await service.get(held.reservation_id)).state == Reservation.STATE_EXPIRED


@pytest.mark.parametrize(
    "reservation_id",
    [
        "00000000-0000-0000-0000-000000000000",
        "FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF",
        "8f14e45f-ceea-467f-a0e6-2b1b4f6a1c11",
    ],
)
async def test_any_uuid_is_a_well_formed_id_of_a_reservation_that_may_not_exist(
    service: Harness, reservation_id: str
) -> None:
    target: dict[str, Any] = {"reservation_id": reservation_id}
    rpc = service.reservations
    for call in (
        rpc.GetReservation(pb.GetReservationRequest(**target)),
        rpc.Confirm(pb.ConfirmRequest(**target)),
        rpc.Cancel(pb.CancelRequest(**target)),
        rpc.Refund(pb.RefundRequest(**target)),
        rpc.Extend(pb.ExtendRequest(**target)),
        rpc.ListReservationEvents(pb.ListReservationEventsRequest(**target)),
    ):
        refusal = await refused(call)
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.NOT_FOUND, "RESERVATION_NOT_FOUND")
        assert refusal.metadata == {"reservation_id": reservation_id}


async def test_an_id_in_capital_letters_names_the_same_reservation(service: Harness) -> None:
    await service.create_item("bed", 1)
    held = await service.reserve({"bed": 1})
    assert await service.get(held.reservation_id.upper()) == held
