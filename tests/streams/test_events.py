"""StreamEvents: every committed change in order, from now, from the oldest or after a token, nothing skipped."""

import asyncio
from base64 import urlsafe_b64decode, urlsafe_b64encode
from datetime import timedelta
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from inventoryhold.v1 import event_pb2, item_pb2, reservation_pb2
from inventoryhold.v1 import event_service_pb2 as pb
from inventoryhold.v1 import inventory_service_pb2 as inventory
from inventoryhold.v1 import reservation_service_pb2 as reservations
from tests.streams.readers import consuming, open_adjustment, watching
from tests.support.harness import Harness, Refusal, StartService, refusal_of, refused

State = reservation_pb2.Reservation.State


async def refusal(service: Harness, **request: object) -> Refusal:
    return await refused(service.events.StreamEvents(pb.StreamEventsRequest(**request)).read())  # type: ignore[arg-type]


def names(events: list[event_pb2.Event]) -> list[str]:
    return [event_pb2.EventType.Name(event.type).removeprefix("EVENT_TYPE_") for event in events]


async def test_every_kind_of_change_is_told_with_its_subject_as_it_then_was(service: Harness) -> None:
    async with consuming(service) as consumer:
        await service.create_item("a", 10, display_name="A")
        held = await service.reserve({"a": 3}, holder="ann", reference="r1", metadata={"k": "v"}, request_id="q1")
        target: dict[str, Any] = {"reservation_id": held.reservation_id}
        await service.reservations.Extend(reservations.ExtendRequest(**target, ttl=Duration(seconds=7200)))
        customer = reservations.CustomerInput(name="Ann", email="ann@example.com")
        await service.reservations.Confirm(
            reservations.ConfirmRequest(
                **target, order_id="o1", customer=customer, lines=[item_pb2.ItemQuantity(sku="a", quantity=2)]
            )
        )
        refund = item_pb2.ItemQuantity(sku="a", quantity=1)
        await service.reservations.Refund(reservations.RefundRequest(**target, lines=[refund], reason="torn"))
        await service.reservations.Refund(reservations.RefundRequest(**target, write_off=True))
        other = await service.reserve({"a": 1})
        await service.reservations.Cancel(reservations.CancelRequest(reservation_id=other.reservation_id, reason="no"))
        await service.reserve({"a": 4}, ttl=Duration(seconds=30))
        service.clock.advance(timedelta(minutes=1))
        await service.sweep()
        await service.inventory.AdjustCapacity(inventory.AdjustCapacityRequest(sku="a", delta=-2))
        await service.inventory.TransferCapacity(inventory.TransferCapacityRequest(sku="a", to_pool="web", quantity=2))
        await service.inventory.DeleteItem(inventory.DeleteItemRequest(sku="a", pool="web"))
        events = await consumer.take(14)
    assert names(events) == [
        "ITEM_CREATED",
        "RESERVED",
        "EXTENDED",
        "CONFIRMED",
        "REFUNDED",
        "REFUNDED",
        "RESERVED",
        "CANCELLED",
        "RESERVED",
        "EXPIRED",
        "CAPACITY_ADJUSTED",
        "CAPACITY_TRANSFERRED",
        "CAPACITY_TRANSFERRED",
        "ITEM_DELETED",
    ]
    assert [event.reservation.state for event in events[1:10]] == [
        State.STATE_HELD,
        State.STATE_HELD,
        State.STATE_CONFIRMED,
        State.STATE_CONFIRMED,
        State.STATE_REFUNDED,
        State.STATE_HELD,
        State.STATE_CANCELLED,
        State.STATE_HELD,
        State.STATE_EXPIRED,
    ]
    created, reserved, extended, confirmed, first_refund, second_refund = events[:6]
    assert (created.item.sku, created.item.capacity, created.item.display_name) == ("a", 10, "A")
    assert reserved.reservation == held
    assert (reserved.client, reserved.request_id) == ("dev", "q1")
    assert extended.reservation.expire_time.seconds > held.expire_time.seconds
    assert not reserved.reservation.HasField("customer")
    assert not confirmed.reservation.HasField("customer")
    assert confirmed.reservation.order_id == "o1"
    assert [(line.quantity, line.confirmed_quantity) for line in confirmed.reservation.lines] == [(3, 2)]
    assert [line.refunded_quantity for line in first_refund.reservation.lines] == [1]
    assert first_refund.reason == "torn"
    assert [line.quantity for line in second_refund.written_off_lines] == [1]
    assert events[10].lines == [item_pb2.ItemQuantity(sku="a", quantity=-2)]
    assert all(event.occur_time.seconds for event in events)


async def test_a_stream_goes_on_after_its_token_in_any_service(start_service: StartService) -> None:
    one, other = await start_service(), await start_service()
    await one.create_item("a", 1000)
    async with consuming(one) as consumer:
        first = await one.reserve({"a": 1})
        await consumer.take(1)
        token = consumer.token
    missed = [await one.reserve({"a": 1}) for _ in range(3)]
    async with consuming(other, resume_token=token) as consumer:
        last = await other.reserve({"a": 1})
        events = await consumer.take(4)
        assert [event.reservation.reservation_id for event in events] == [r.reservation_id for r in [*missed, last]]
    async with consuming(other, from_oldest=True) as consumer:
        events = await consumer.take(6)
        assert names(events) == ["ITEM_CREATED"] + ["RESERVED"] * 5
        assert events[1].reservation == first


async def test_from_now_leaves_out_what_was_before(service: Harness) -> None:
    await service.create_item("a", 10)
    async with consuming(service) as consumer:
        await service.reserve({"a": 1})
        assert names(await consumer.take(1)) == ["RESERVED"]


async def test_a_token_before_any_event_is_told_at_once_and_works(service: Harness) -> None:
    async with consuming(service) as consumer:
        token = consumer.token
    await service.create_item("a", 1)
    async with consuming(service, resume_token=token) as consumer:
        assert names(await consumer.take(1)) == ["ITEM_CREATED"]


async def test_types_that_were_not_asked_for_are_left_out(service: Harness) -> None:
    await service.create_item("a", 10)
    wanted = [event_pb2.EVENT_TYPE_CANCELLED]
    async with consuming(service, types=wanted) as live, consuming(service, types=wanted, from_oldest=True) as old:
        for number in range(3):
            held = await service.reserve({"a": 1})
            await service.reservations.Cancel(
                reservations.CancelRequest(reservation_id=held.reservation_id, reason=str(number))
            )
        for consumer in (live, old):
            events = await consumer.take(3)
            assert [event.reason for event in events] == ["0", "1", "2"]
            assert names(events) == ["CANCELLED"] * 3


async def test_an_open_transaction_holds_events_back_and_none_is_lost(service: Harness) -> None:
    await service.create_item("late", 5)
    await service.create_item("early", 5)
    async with consuming(service) as consumer, open_adjustment(service.owner_dsn, "late", 1) as transaction:
        for _ in range(3):
            await service.reserve({"early": 1})
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await consumer.call.read()
        await transaction.commit()
    # A read that was cancelled ends its call: a second stream tells the order.
    async with consuming(service, resume_token=consumer.token) as consumer:
        assert names(await consumer.take(4)) == ["CAPACITY_ADJUSTED"] + ["RESERVED"] * 3


async def test_many_events_before_a_stream_are_read_in_pieces_and_join_the_live_ones(service: Harness) -> None:
    await service.create_item("a", 10_000)
    request = reservations.BatchReserveRequest(
        requests=[reservations.ReserveRequest(lines=[item_pb2.ItemQuantity(sku="a", quantity=1)])] * 1000
    )
    await service.reservations.BatchReserve(request)
    async with consuming(service, from_oldest=True) as consumer, consuming(service) as live:
        await consumer.take(300)
        await service.reservations.BatchReserve(request)
        events = await consumer.take(2001)
        assert len({event.reservation.reservation_id for event in events[1:]}) == 2000
        assert [event.event_id for event in await live.take(1000)] == [event.event_id for event in events[1001:]]


async def test_a_quiet_stream_says_that_it_lives(start_service: StartService) -> None:
    service = await start_service(heartbeat_interval="50ms")
    async with consuming(service) as consumer:
        assert (await consumer.read()).heartbeat


async def test_a_token_that_was_tampered_with_or_is_of_another_tenant_or_database_is_refused(
    service: Harness,
) -> None:
    async with consuming(service) as consumer:
        token = consumer.token
    raw = bytearray(urlsafe_b64decode(token + "=" * (-len(token) % 4)))
    raw[-2] ^= 1
    for bad in (urlsafe_b64encode(raw).decode(), token[:-4], "x", "§"):
        answer = await refusal(service, resume_token=bad)
        assert (answer.code, answer.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "RESUME_TOKEN_FOREIGN")
    service.sql("UPDATE holdsvc.feed_state SET restore_mark = restore_mark + 1")
    assert (await refusal(service, resume_token=token)).reason == "RESUME_TOKEN_FOREIGN"


async def test_a_token_beyond_the_end_is_of_a_database_that_was_put_back(service: Harness) -> None:
    await service.create_item("a", 10)
    async with consuming(service, from_oldest=True) as consumer:
        await consumer.take(1)
        token = consumer.token
    service.sql("ALTER SEQUENCE holdsvc.event_id RESTART")
    assert (await refusal(service, resume_token=token)).reason == "RESUME_TOKEN_FOREIGN"


async def test_from_oldest_and_a_token_exclude_each_other(service: Harness) -> None:
    assert (await refusal(service, resume_token="x", from_oldest=True)).reason == "INVALID_FIELD"


async def test_a_draining_service_ends_the_stream_and_another_goes_on_without_a_gap(
    start_service: StartService,
) -> None:
    one, other = await start_service(), await start_service()
    await one.create_item("a", 10)
    async with consuming(one) as consumer:
        await one.reserve({"a": 1})
        await consumer.take(1)
        stopping = asyncio.create_task(one.service.stop())
        answer = await refused(consumer.call.read())
        assert (answer.code, answer.reason) == (grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN")
        await stopping
    reserved = await other.reserve({"a": 1})
    async with consuming(other, resume_token=consumer.token) as consumer:
        assert (await consumer.take(1))[0].reservation == reserved


async def test_a_service_that_starts_while_a_transaction_is_open_serves_its_streams(
    start_service: StartService,
) -> None:
    one = await start_service()
    await one.create_item("a", 5)
    await one.create_item("slow", 5)
    async with open_adjustment(one.owner_dsn, "slow", 1) as transaction:
        other = await start_service()
        async with watching(other) as watch, consuming(other, from_oldest=True) as consumer:
            await other.reserve({"a": 1})
            await watch.until("a", remaining=4)
            await transaction.commit()
            await watch.until("slow", capacity=6)
            assert names(await consumer.take(4)) == ["ITEM_CREATED", "ITEM_CREATED", "CAPACITY_ADJUSTED", "RESERVED"]


async def test_a_stream_that_was_opened_before_the_feed_had_an_end_is_told_when_it_has(
    start_service: StartService,
) -> None:
    one = await start_service()
    await one.create_item("slow", 5)
    async with open_adjustment(one.owner_dsn, "slow", 1) as transaction:
        other = await start_service()
        async with consuming(other, from_oldest=True) as consumer:
            await transaction.commit()
            assert names(await consumer.take(2)) == ["ITEM_CREATED", "CAPACITY_ADJUSTED"]


async def test_an_event_of_an_unknown_type_and_state_passes_through_as_numbers(service: Harness) -> None:
    await service.create_item("a", 10)
    async with consuming(service) as live:
        held = await service.reserve({"a": 1})
        service.sql("ALTER TABLE holdsvc.reservation DROP CONSTRAINT reservation_state_check")
        service.sql("UPDATE holdsvc.reservation SET state = 77")
        service.sql(
            "INSERT INTO holdsvc.event (occur_day, tenant, type, client, key_id, occur_time, revision,"
            " line_sku, line_pool, line_quantity, reservation_id, from_state, state, expire_time)"
            " SELECT occur_day, tenant, 88, client, key_id, occur_time, 2,"
            " line_sku, line_pool, line_quantity, reservation_id, 1, 77, expire_time"
            " FROM holdsvc.event WHERE reservation_id IS NOT NULL"
        )
        await service.create_item("b", 1)
        events = await live.take(3)
    async with consuming(service, from_oldest=True) as old:
        assert (await old.take(4))[1:] == events
    reserved, unknown, created = events
    assert reserved.reservation.reservation_id == unknown.reservation.reservation_id == held.reservation_id
    assert (int(unknown.type), int(unknown.reservation.state)) == (88, 77)
    assert created.item.sku == "b"
    listed = await service.reservations.ListReservationEvents(
        reservations.ListReservationEventsRequest(reservation_id=held.reservation_id)
    )
    assert [int(event.type) for event in listed.events] == [event_pb2.EVENT_TYPE_RESERVED, 88]


async def test_a_stream_from_now_begins_behind_a_long_transaction_and_loses_nothing(service: Harness) -> None:
    await service.create_item("slow", 5)
    await service.create_item("a", 5)
    async with open_adjustment(service.owner_dsn, "slow", 1) as transaction:
        first = await service.reserve({"a": 1})
        async with consuming(service) as consumer:  # which reads the first message
            second = await service.reserve({"a": 1})
            await transaction.commit()
            while not consumer.events or consumer.events[-1].reservation != second:
                await consumer.read()
    # It began at the fence: what was committed beyond it is told as well.
    assert names(consumer.events[-3:]) == ["CAPACITY_ADJUSTED", "RESERVED", "RESERVED"]
    assert consumer.events[-2].reservation == first


async def test_a_stream_that_has_no_place_to_begin_yet_lives_and_is_told_of_a_stop(start_service: StartService) -> None:
    one = await start_service()
    await one.create_item("slow", 5)
    async with open_adjustment(one.owner_dsn, "slow", 1):
        other = await start_service(heartbeat_interval="50ms")
        call: Any = other.events.StreamEvents(pb.StreamEventsRequest())
        async with asyncio.timeout(20):
            for _ in range(3):
                message = await call.read()
                assert message.heartbeat
                assert not message.resume_token
            stopping = asyncio.create_task(other.service.stop())
            while True:
                try:
                    await call.read()
                except grpc.RpcError as error:
                    assert refusal_of(error).reason == "SHUTTING_DOWN"
                    break
            await stopping


@pytest.mark.parametrize("from_oldest", [True, False])
async def test_no_message_is_larger_than_a_client_takes(service: Harness, from_oldest: bool) -> None:
    skus = [f"{number:03}" + "\U00010400" * 120 for number in range(100)]
    batch = [item_pb2.Item(sku=sku, pool="\U00010401" * 60, capacity=10_000) for sku in skus]
    await service.inventory.BatchCreateItems(inventory.BatchCreateItemsRequest(items=batch))
    lines = [(sku, "\U00010401" * 60, 1) for sku in skus]
    metadata = {f"{number:02}" + "\U00010402" * 60: "\U00010403" * 500 for number in range(32)}
    async with consuming(service) as live:
        for _ in range(25):
            await service.reserve(lines, metadata=metadata)
        async with consuming(service, from_oldest=from_oldest) as old:
            if from_oldest:
                events = await old.take(125)
                assert await live.take(25) == events[100:]
        assert len(await live.take(25)) == 25
    assert sum(event.ByteSize() for event in live.events) > 4 * 1024 * 1024


async def test_a_stream_opened_after_a_restore_is_told_nothing_of_the_discarded_history(service: Harness) -> None:
    await service.create_item("a", 10)
    async with consuming(service) as before:
        for _ in range(3):
            await service.reserve({"a": 1})
        await before.take(3)
        # The database is put back to before the reservations, beside the running service, and the operator says so.
        service.sql("DELETE FROM holdsvc.event WHERE type = 1")
        service.sql("ALTER SEQUENCE holdsvc.event_id RESTART WITH 2")
        service.sql("UPDATE holdsvc.feed_state SET restore_mark = restore_mark + 1")
        async with consuming(service, from_oldest=True) as after:
            await service.create_item("b", 10)
            events = await after.take(2)
            assert [event.item.sku for event in events] == ["a", "b"]
        assert (await refused(before.call.read())).reason == "DATABASE_UNAVAILABLE"
    assert (await refusal(service, resume_token=before.token)).reason == "RESUME_TOKEN_FOREIGN"
