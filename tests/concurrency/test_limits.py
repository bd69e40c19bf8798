"""Limits are exact whatever happens at the same time."""

import asyncio
import random
from collections import Counter
from datetime import timedelta
from typing import Any

import pytest

from holdsvc.engine import lane
from holdsvc.ledger.limits import FIRST_SUBJECT, Subject, purge_subjects
from inventoryhold.v1 import limit_service_pb2 as limits
from inventoryhold.v1 import reservation_service_pb2 as pb
from tests.concurrency.test_in_between import call, claim_request_id
from tests.support import sessions
from tests.support.harness import Harness, StartService, outcome
from tests.support.limits import set_limit, used
from tests.support.polling import until


async def two_services(start_service: StartService, skus: int = 10, **settings: Any) -> list[Harness]:
    services = [await start_service(**settings) for _ in range(2)]
    for number in range(skus):
        await services[0].create_item(f"tour-{number}", 10_000)
    return services


async def reserve_all(services: list[Harness], wanted: list[tuple[str, int]], **fields: Any) -> Counter[str]:
    """Reserves for each (holder, units) at once, on the items in turn; counts units taken and refusals by reason."""
    answers = await asyncio.gather(
        *(
            outcome(services[n % len(services)].reserve({f"tour-{n % 10}": units}, holder=holder, **fields))
            for n, (holder, units) in enumerate(wanted)
        )
    )
    found: Counter[str] = Counter()
    for (holder, units), answer in zip(wanted, answers, strict=True):
        if isinstance(answer, str):
            found[answer] += 1
        else:
            found[holder] += units
    return found


async def test_100_concurrent_reserves_of_one_holder_take_exactly_the_limit(start_service: StartService) -> None:
    services = await two_services(start_service)
    await set_limit(services[0], "four", 4, sku_prefix="tour-")
    assert await reserve_all(services, [("ann", 1)] * 100) == {"ann": 4, "LIMIT_EXCEEDED": 96}
    assert await used(services[0], "four", "ann") == 4
    await services[0].verify()


async def test_holders_and_their_client_fill_their_limits_and_never_more(start_service: StartService) -> None:
    services = await two_services(start_service)
    await set_limit(services[0], "each", 4)
    await set_limit(services[0], "all", 30, per="PER_CLIENT")
    random.seed(1)
    wanted = [(f"holder-{n % 20}", random.randint(1, 3)) for n in range(200)]
    found = await reserve_all(services, wanted)
    refused = found.pop("LIMIT_EXCEEDED")
    assert refused > 0
    assert max(found.values()) <= 4
    # A request for one unit that was refused would find no room.
    assert sum(found.values()) == 30
    assert await used(services[0], "all") == 30
    await services[0].verify()


async def test_a_limit_that_is_changed_under_load_is_never_passed(start_service: StartService) -> None:
    services = await two_services(start_service)
    await set_limit(services[0], "each", 4)
    taken = asyncio.create_task(reserve_all(services, [("ann", 1)] * 100))
    for most in (6, 2, 8, 5):
        await set_limit(services[1], "each", most)
    found = await taken
    assert 2 <= found["ann"] <= 8
    await reserve_all(services, [("ann", 1)] * 20)
    # From the last answer on its value is what counts.
    assert await used(services[0], "each", "ann") == max(5, found["ann"])
    await services[0].verify()


async def test_room_that_a_client_gives_back_while_it_takes_is_counted_once(start_service: StartService) -> None:
    services = await two_services(start_service)
    await set_limit(services[0], "all", 20, per="PER_CLIENT")

    async def go_on(service: Harness, number: int) -> int:
        taken = 0
        for _ in range(5):
            answer = await outcome(service.reserve({f"tour-{number % 10}": 2}))
            if not isinstance(answer, str):
                taken += 1
                assert 0 < await used(service, "all") <= 20
                if taken % 2:
                    await service.reservations.Confirm(pb.ConfirmRequest(reservation_id=answer.reservation_id))
                else:
                    await service.reservations.Cancel(pb.CancelRequest(reservation_id=answer.reservation_id))
        return taken

    taken = await asyncio.gather(*(go_on(services[n % 2], n) for n in range(40)))
    assert sum(taken) > 20
    assert await used(services[0], "all") == 0
    await services[0].reserve({"tour-0": 20})
    # The taker has added all changes up, but its own.
    assert services[0].sql("SELECT count(*), sum(units) FROM holdsvc.limit_change") == [(1, 20)]
    await services[0].verify()


@pytest.mark.parametrize("rpc", ["Confirm", "Extend"])
async def test_a_hold_that_goes_on_in_the_last_moment_is_not_over_for_who_takes_units(
    start_service: StartService, monkeypatch: pytest.MonkeyPatch, rpc: str
) -> None:
    monkeypatch.setattr(lane, "BATCH_LOCK_WAIT_S", 10.0)
    one, other = await two_services(start_service)
    await set_limit(one, "four", 4, counts="COUNTS_HELD_AND_CONFIRMED")
    await set_limit(one, "client", 4, per="PER_CLIENT")
    held = await one.reserve({"tour-0": 4}, holder="ann", ttl=timedelta(seconds=30))
    with sessions.transaction(one.owner_dsn) as lock:
        claim_request_id(lock, "last-moment")
        request = getattr(pb, f"{rpc}Request")(reservation_id=held.reservation_id, request_id="last-moment")
        going_on = call(getattr(one.reservations, rpc)(request))
        await sessions.until_blocked(one.owner_dsn)
        one.clock.advance(timedelta(seconds=31))
        taking = call(other.reserve({"tour-1": 1}, holder="ann"))
        await sessions.until_blocked(one.owner_dsn, 2)
    assert not isinstance(await going_on, str)
    assert await taking == "LIMIT_EXCEEDED"
    await one.verify()


async def test_holds_of_before_and_of_transactions_that_do_not_know_the_limit_count(
    start_service: StartService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lane, "BATCH_LOCK_WAIT_S", 10.0)
    one, other = await two_services(start_service)
    sold = await one.reserve({"tour-0": 1, "tour-1": 1}, holder="ann")
    await one.reservations.Confirm(pb.ConfirmRequest(reservation_id=sold.reservation_id))
    await one.reserve({"tour-2": 1}, holder="ann")
    with sessions.transaction(one.owner_dsn) as lock:
        # A Reserve that has judged without the limit, and is not committed.
        claim_request_id(lock, "before")
        before = call(one.reserve({"tour-3": 1}, holder="ann", request_id="before"))
        await sessions.until_blocked(one.owner_dsn)
        made = await set_limit(other, "five", 5, sku_prefix="tour-", counts="COUNTS_HELD_AND_CONFIRMED")
        assert made.state == limits.Limit.STATE_BUILDING
        # One that knows it counts from now on, and is not refused.
        await other.reserve({"tour-4": 2}, holder="ann")
        assert await used(other, "five", "ann") == 2
        given_up = await other.reserve({"tour-6": 1}, holder="ben")
        nobody = pb.ModifyRequest(reservation_id=given_up.reservation_id, holder="", update_mask={"paths": ["holder"]})
        await other.reservations.Modify(nobody)
        assert await used(other, "five", "ben") == 0
    assert not isinstance(await before, str)

    async def active() -> bool:
        again = await set_limit(other, "five", 5, sku_prefix="tour-", counts="COUNTS_HELD_AND_CONFIRMED")
        return again.state == limits.Limit.STATE_ACTIVE

    await until(active)
    assert await used(one, "five", "ann") == 6
    assert await outcome(one.reserve({"tour-5": 1}, holder="ann")) == "LIMIT_EXCEEDED"
    await one.verify()


async def test_a_limit_over_many_reservations_is_built_under_load_and_is_exact(
    start_service: StartService, monkeypatch: pytest.MonkeyPatch
) -> None:
    services = await two_services(start_service)
    entry = [{"lines": [{"sku": f"tour-{n % 10}", "quantity": 1}], "holder": f"holder-{n % 7}"} for n in range(700)]
    await services[0].reservations.BatchReserve(pb.BatchReserveRequest(requests=entry))
    monkeypatch.setattr("holdsvc.ledger.limits.BUILD_MAX", 37)
    going_on = asyncio.create_task(reserve_all(services, [(f"holder-{n % 7}", 1) for n in range(140)]))
    await set_limit(services[1], "each", 10**6)
    await set_limit(services[0], "all", 10**6, per="PER_CLIENT")
    await going_on
    assert [await used(services[0], "each", f"holder-{n}") for n in range(7)] == [120] * 7
    assert await used(services[0], "all") == 840
    await services[0].verify()


async def test_what_counted_for_a_deleted_limit_is_removed_by_the_background(start_service: StartService) -> None:
    service = await start_service(sweeping=True)
    await service.create_item("tour", 100)
    await set_limit(service, "each", 4)
    await set_limit(service, "client", 50, per="PER_CLIENT")
    held = [await service.reserve({"tour": 2}, holder=holder) for holder in ("ann", "bob")]
    await service.limits.DeleteLimit(limits.DeleteLimitRequest(limit_id="each"))
    await service.reserve({"tour": 40}, holder="ann")
    await service.limits.DeleteLimit(limits.DeleteLimitRequest(limit_id="client"))
    await service.reserve({"tour": 20})
    tables = ("hold_limit", "limit_subject", "limit_use", "limit_change")
    count = "SELECT " + " + ".join(f"(SELECT count(*) FROM holdsvc.{table})" for table in tables)
    await until(lambda: service.sql(count) == [(0,)])
    # A limit of the same name begins anew, with the holds that there are.
    await set_limit(service, "each", 4)
    assert await used(service, "each", "ann") == 42
    await service.reservations.Cancel(pb.CancelRequest(reservation_id=held[0].reservation_id))
    assert await used(service, "each", "ann") == 40
    await service.verify()


async def test_holders_without_units_are_forgotten_and_one_who_takes_units_meanwhile_is_not(
    start_service: StartService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lane, "BATCH_LOCK_WAIT_S", 10.0)
    [service, _] = await two_services(start_service)
    await set_limit(service, "each", 4)
    await set_limit(service, "client", 100, per="PER_CLIENT")
    held = [await service.reserve({"tour-0": 1}, holder=f"holder-{n}") for n in range(7)]
    for reservation in held[1:]:
        await service.reservations.Cancel(pb.CancelRequest(reservation_id=reservation.reservation_id))

    async def purge(after: Subject = FIRST_SUBJECT) -> int:
        purged = 0
        async with service.cell.database.connection() as connection:
            while True:
                count, after = await purge_subjects(connection, after, max_count=3)
                purged += count
                if after == FIRST_SUBJECT:
                    return purged

    assert await purge() == 0
    service.clock.advance(timedelta(hours=2))
    with sessions.transaction(service.owner_dsn) as lock:
        claim_request_id(lock, "meanwhile")
        taking = call(service.reserve({"tour-1": 4}, holder="holder-3", request_id="meanwhile"))
        await sessions.until_blocked(service.owner_dsn)
        assert await purge() == 5
    assert not isinstance(await taking, str)
    left = service.sql("SELECT holder FROM holdsvc.limit_subject ORDER BY holder")
    assert left == [("",), ("holder-0",), ("holder-3",)]
    assert await outcome(service.reserve({"tour-1": 1}, holder="holder-3")) == "LIMIT_EXCEEDED"
    assert not isinstance(await outcome(service.reserve({"tour-1": 4}, holder="holder-5")), str)
    await service.verify()
