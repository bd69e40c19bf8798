"""Fifty callers of two services on one reservation: one wins, the others learn why not."""

import asyncio
import random
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message

from inventoryhold.v1 import reservation_pb2
from inventoryhold.v1 import reservation_service_pb2 as pb
from tests.support.harness import Harness, StartService, outcome, refused

State = reservation_pb2.Reservation

CALLERS = 50
ROUNDS = 6

Change = Callable[[Harness, int], Awaitable[Any]]


async def race(services: list[Harness], *changes: Change) -> list[list[Any]]:
    """Runs CALLERS calls at once, each kind of change its share, on both services; returns what came of each kind."""
    calls = [(number % len(changes), services[number // len(changes) % 2], number) for number in range(CALLERS)]
    random.shuffle(calls)
    answers = await asyncio.gather(*(outcome(changes[kind](service, number)) for kind, service, number in calls))
    return [
        [answer for (of, _, _), answer in zip(calls, answers, strict=True) if of == kind]
        for kind in range(len(changes))
    ]


def reasons(answers: list[Any]) -> Counter[str]:
    return Counter(answer if isinstance(answer, str) else "OK" for answer in answers)


async def two(start_service: StartService, capacity: int = 10) -> list[Harness]:
    services = [await start_service() for _ in range(2)]
    await services[0].create_item("seat", capacity)
    return services


def send(rpc: str, request: Message) -> Change:
    return lambda service, _: getattr(service.reservations, rpc)(request)


def reserve(lines: dict[str, int], request_id: str) -> Change:
    return lambda service, _: service.reserve(lines, request_id=request_id)


def confirm(reservation_id: str) -> Change:
    return lambda service, number: service.reservations.Confirm(
        pb.ConfirmRequest(reservation_id=reservation_id, order_id=f"{reservation_id}/{number}")
    )


def cancel(reservation_id: str) -> Change:
    return lambda service, _: service.reservations.Cancel(pb.CancelRequest(reservation_id=reservation_id))


async def test_cancel_against_confirm_one_wins(start_service: StartService) -> None:
    services = await two(start_service)
    for _ in range(ROUNDS):
        held = await services[0].reserve({"seat": 2})
        confirms, cancels = await race(services, confirm(held.reservation_id), cancel(held.reservation_id))
        state = (await services[0].get(held.reservation_id)).state
        won, lost = (confirms, cancels) if state == State.STATE_CONFIRMED else (cancels, confirms)
        reason = "RESERVATION_ALREADY_CONFIRMED" if state == State.STATE_CONFIRMED else "RESERVATION_ALREADY_CANCELLED"
        assert reasons(won) == {"OK": 1, reason: len(won) - 1}
        assert reasons(lost) == {reason: len(lost)}
        item = await services[0].item("seat")
        assert item.held == 0
        if state == State.STATE_CONFIRMED:
            await services[0].reservations.Refund(pb.RefundRequest(reservation_id=held.reservation_id))
    await services[0].verify()


async def test_refund_against_refund_gives_back_once(start_service: StartService) -> None:
    services = await two(start_service)
    for _ in range(ROUNDS):
        held = await services[0].reserve({"seat": 3})
        await services[0].reservations.Confirm(pb.ConfirmRequest(reservation_id=held.reservation_id))
        request = pb.RefundRequest(reservation_id=held.reservation_id)
        [refunds] = await race(services, send("Refund", request))
        assert reasons(refunds) == {"OK": 1, "ALREADY_REFUNDED": CALLERS - 1}
        assert (await services[0].item("seat")).remaining == 10
    await services[0].verify()


async def test_partial_refunds_never_give_back_more_than_was_sold(start_service: StartService) -> None:
    services = await two(start_service)
    held = await services[0].reserve({"seat": 10})
    await services[0].reservations.Confirm(pb.ConfirmRequest(reservation_id=held.reservation_id))
    request = pb.RefundRequest(reservation_id=held.reservation_id, lines=[{"sku": "seat", "quantity": 3}])
    [refunds] = await race(services, send("Refund", request))
    assert reasons(refunds) == {"OK": 3, "QUANTITY_EXCEEDED": CALLERS - 3}
    item = await services[0].item("seat")
    assert (item.remaining, item.confirmed) == (9, 1)
    await services[0].verify()


async def test_confirm_against_sweep_sells_or_expires_and_never_both(start_service: StartService) -> None:
    services = await two(start_service)
    seen = set()
    for turn in range(ROUNDS):
        held = await services[0].reserve({"seat": 1}, ttl=Duration(seconds=30))

        async def lapse_and_sweep(turn: int = turn) -> None:
            if turn % 2:
                await services[1].item("seat")  # a round trip of head start for the confirms
            await asyncio.to_thread(services[0].clock.advance, timedelta(seconds=30))
            await asyncio.gather(*(service.sweep() for service in services * 3))

        [confirms], _ = await asyncio.gather(race(services, confirm(held.reservation_id)), lapse_and_sweep())
        await services[0].sweep()
        state = (await services[0].get(held.reservation_id)).state
        seen.add(state)
        item = await services[0].item("seat")
        if state == State.STATE_CONFIRMED:
            assert reasons(confirms) == {"OK": 1, "RESERVATION_ALREADY_CONFIRMED": CALLERS - 1}
            assert (item.remaining, item.confirmed) == (9, 1)
            await services[0].reservations.Refund(pb.RefundRequest(reservation_id=held.reservation_id))
        else:
            assert state == State.STATE_EXPIRED
            assert reasons(confirms) == {"RESERVATION_EXPIRED": CALLERS}
            assert (item.remaining, item.held) == (10, 0)
    assert seen <= {State.STATE_CONFIRMED, State.STATE_EXPIRED}
    await services[0].verify()


async def test_extend_against_sweep_lives_on_or_expires_and_never_both(start_service: StartService) -> None:
    services = await two(start_service)
    for turn in range(ROUNDS):
        held = await services[0].reserve({"seat": 1}, ttl=Duration(seconds=30))
        request = pb.ExtendRequest(reservation_id=held.reservation_id, ttl=Duration(seconds=600))

        async def lapse_and_sweep(turn: int = turn) -> None:
            if turn % 2:
                await services[1].item("seat")
            await asyncio.to_thread(services[0].clock.advance, timedelta(seconds=30))
            await asyncio.gather(*(service.sweep() for service in services * 3))

        extending = race(services, send("Extend", request))
        [extends], _ = await asyncio.gather(extending, lapse_and_sweep())
        await services[0].sweep()
        state = (await services[0].get(held.reservation_id)).state
        held_units = (await services[0].item("seat")).held
        if state == State.STATE_HELD:
            assert reasons(extends) == {"OK": CALLERS}
            assert held_units == 1
            await services[0].reservations.Cancel(pb.CancelRequest(reservation_id=held.reservation_id))
        else:
            assert state == State.STATE_EXPIRED
            assert reasons(extends) == {"RESERVATION_EXPIRED": CALLERS}
            assert held_units == 0
    await services[0].verify()


async def test_the_same_request_id_fifty_times_at_once_makes_one_reservation_and_equal_answers(
    start_service: StartService,
) -> None:
    services = await two(start_service)
    for callers in ([services[0]], services):
        request = pb.ReserveRequest(request_id=str(uuid.uuid4()), lines=[{"sku": "seat", "quantity": 2}])
        answers = await asyncio.gather(
            *(callers[number % len(callers)].reservations.Reserve(request) for number in range(CALLERS))
        )
        assert all(answer.reservation == answers[0].reservation for answer in answers)
        assert Counter(answer.replayed for answer in answers) == {False: 1, True: CALLERS - 1}
    assert (await services[0].item("seat")).held == 4
    assert services[0].sql("SELECT count(*) FROM holdsvc.reservation") == [(2,)]
    await services[0].verify()


async def test_the_same_confirm_fifty_times_at_once_sells_once(start_service: StartService) -> None:
    services = await two(start_service)
    held = await services[0].reserve({"seat": 2})
    request = pb.ConfirmRequest(request_id=str(uuid.uuid4()), reservation_id=held.reservation_id)
    answers = await asyncio.gather(*(services[number % 2].reservations.Confirm(request) for number in range(CALLERS)))
    assert all(answer.reservation == answers[0].reservation for answer in answers)
    assert Counter(answer.replayed for answer in answers) == {False: 1, True: CALLERS - 1}
    assert (await services[0].item("seat")).confirmed == 2
    await services[0].verify()


async def test_one_request_id_with_two_contents_on_two_services_is_taken_by_one_of_them(
    start_service: StartService,
) -> None:
    services = await two(start_service, capacity=1000)
    for _ in range(ROUNDS):
        request_id = str(uuid.uuid4())
        ones, twos = await race(
            services,
            reserve({"seat": 1}, request_id),
            reserve({"seat": 2}, request_id),
        )
        assert {*reasons(ones), *reasons(twos)} == {"OK", "REQUEST_ID_REUSED"}
        winners = ones if reasons(ones)["OK"] else twos
        assert reasons(winners) == {"OK": len(winners)}
        assert len({answer.reservation_id for answer in winners}) == 1
    await services[0].verify()


async def test_one_order_id_raced_on_two_services_goes_to_one_reservation(start_service: StartService) -> None:
    services = await two(start_service, capacity=CALLERS)
    held = [await services[0].reserve({"seat": 1}) for _ in range(CALLERS)]
    requests = [
        pb.ConfirmRequest(reservation_id=one.reservation_id, order_id="order-1", request_id=f"confirm-{number}")
        for number, one in enumerate(held)
    ]
    [confirms] = await race(services, lambda service, number: service.reservations.Confirm(requests[number]))
    assert reasons(confirms) == {"OK": 1, "ORDER_ID_IN_USE": CALLERS - 1}
    [winner] = [answer.reservation for answer in confirms if not isinstance(answer, str)]
    loser = next(one for one in held if one.reservation_id != winner.reservation_id)
    again = requests[held.index(loser)]
    refusal = await refused(services[1].reservations.Confirm(again))
    assert (refusal.reason, refusal.metadata["reservation_id"]) == ("ORDER_ID_IN_USE", winner.reservation_id)
    # The refusal was not remembered under its request_id: another order may have it.
    again.order_id = "order-2"
    assert (await services[1].reservations.Confirm(again)).reservation.order_id == "order-2"
    item = await services[0].item("seat")
    assert (item.confirmed, item.held) == (2, CALLERS - 2)
    await services[0].verify()
