"""Waitlists under load: the order of offers is exact, no unit is idle or sold twice, and nobody overtakes."""

import asyncio
import random
from collections import Counter
from collections.abc import Iterable
from datetime import timedelta

import pytest

from holdsvc.change_requests import Cancel
from holdsvc.ledger import changes
from inventoryhold.v1 import inventory_service_pb2 as ipb
from inventoryhold.v1 import item_pb2, reservation_pb2, waitlist_pb2
from inventoryhold.v1 import reservation_service_pb2 as rpb
from inventoryhold.v1 import waitlist_service_pb2 as pb
from tests.support import sessions
from tests.support.harness import Harness, outcome
from tests.support.holds import CALLER
from tests.support.polling import until

Entry = waitlist_pb2.WaitlistEntry
FIRST_FITTING = item_pb2.Item.WAITLIST_POLICY_FIRST_FITTING
STRICT = item_pb2.Item.WAITLIST_POLICY_STRICT
WAITERS = 1000
UNITS = 100


async def _waiters(service: Harness, wants: Iterable[int]) -> None:
    """One entry for each quantity, in this order, all with hours to take an offer."""
    requests = [
        pb.JoinWaitlistRequest(lines=[{"sku": "seat", "quantity": n}], holder=f"h{ix}", offer_ttl=timedelta(hours=5))
        for ix, n in enumerate(wants)
    ]
    # One after another where the order matters: the first of a hundred at a time.
    for start in range(0, len(requests), 100):
        await asyncio.gather(*map(service.waitlist.JoinWaitlist, requests[start : start + 100]))


def _queue(service: Harness) -> list[tuple[int, int, int]]:
    """State, quantity and place of offer of every entry, in the order of the queue; 0: no offer yet."""
    rows = service.sql(
        "SELECT e.state, l.quantity, coalesce((SELECT v.event_id FROM event v WHERE v.type = 18"
        " AND v.reservation_id = e.reservation_id), 0)"
        " FROM waitlist_entry e JOIN waitlist_line l ON l.entry_id = e.entry_id ORDER BY e.rank, e.sequence"
    )
    return [(state, quantity, offered) for state, quantity, offered in rows]


def _offered_in_order(queue: list[tuple[int, int, int]]) -> bool:
    """Whether those who were offered are the first of the queue, in its order."""
    offers = [offered for state, _, offered in queue if state != Entry.STATE_WAITING]
    first = [state != Entry.STATE_WAITING for state, _, _ in queue]
    return offers == sorted(offers) and first == sorted(first, reverse=True)


async def _cancel(service: Harness, hold: reservation_pb2.Reservation) -> None:
    await service.reservations.Cancel(rpb.CancelRequest(reservation_id=hold.reservation_id))


@pytest.mark.parametrize("policy", [FIRST_FITTING, STRICT])
async def test_units_freed_one_by_one_and_in_bursts_go_to_the_first_of_a_thousand_and_no_reserve_overtakes(
    service: Harness, policy: item_pb2.Item.WaitlistPolicy
) -> None:
    await service.create_item("seat", UNITS, waitlist_policy=policy)
    holds = await asyncio.gather(*(service.reserve({"seat": 1}) for _ in range(UNITS)))
    await _waiters(service, [1] * WAITERS)
    ended = asyncio.Event()

    async def snatch() -> Counter[str]:
        found: Counter[str] = Counter()
        while not ended.is_set():
            found[await outcome(service.reserve({"seat": 1}))] += 1
        return found

    snatching = [asyncio.create_task(snatch()) for _ in range(3)]
    for hold in holds[:20]:
        await _cancel(service, hold)
    for start in range(20, UNITS, 40):
        await asyncio.gather(*(_cancel(service, hold) for hold in holds[start : start + 40]))
    ended.set()
    for found in await asyncio.gather(*snatching):
        assert set(found) == {"CAPACITY_EXCEEDED"}
    queue = _queue(service)
    assert Counter(state for state, _, _ in queue) == {Entry.STATE_OFFERED: UNITS, Entry.STATE_WAITING: WAITERS - UNITS}
    assert _offered_in_order(queue)
    assert (await service.item("seat")).remaining == 0
    await service.verify()


async def test_a_sweep_of_ten_thousand_lapsed_holds_serves_the_whole_queue_in_order(service: Harness) -> None:
    await service.create_item("seat", 10_000, waitlist_policy=FIRST_FITTING)
    line = {"sku": "seat", "quantity": 1}
    for _ in range(10):
        entries = [rpb.ReserveRequest(lines=[line], ttl=timedelta(seconds=60))] * 1000
        await service.reservations.BatchReserve(rpb.BatchReserveRequest(requests=entries))
    await _waiters(service, [1] * 300)
    service.clock.advance(timedelta(seconds=61))
    for _ in range(10):
        await service.sweep()
    queue = _queue(service)
    assert {state for state, _, _ in queue} == {Entry.STATE_OFFERED}
    assert _offered_in_order(queue)
    assert (await service.item("seat")).remaining == 9_700
    await service.verify()


async def test_first_fitting_passes_nobody_who_would_have_fitted_at_that_moment(service: Harness) -> None:
    chance = random.Random(7)
    await service.create_item("seat", 40, waitlist_policy=FIRST_FITTING)
    holds = [await service.reserve({"seat": n}) for n in (1, 2, 3, 4) * 4]
    wants = [chance.choice((1, 2, 3, 5, 8, 9)) for _ in range(100)]
    # Joins wait for each other: the model needs to know the order.
    for ix, n in enumerate(wants):
        await service.join({"seat": n}, f"h{ix}")
    waiting = dict(enumerate(wants))
    free = 0
    for hold in chance.sample(holds, len(holds)):
        free += hold.lines[0].quantity
        await _cancel(service, hold)
        for ix, n in list(waiting.items()):
            if n <= free:
                free -= n
                del waiting[ix]
        queue = _queue(service)
        assert [ix for ix, (state, _, _) in enumerate(queue) if state == Entry.STATE_WAITING] == list(waiting)
        assert (await service.item("seat")).remaining == free
    await service.verify()


async def test_entries_with_crossing_items_never_deadlock_and_every_unit_finds_somebody(service: Harness) -> None:
    for sku in ("a", "b"):
        await service.create_item(sku, 20, waitlist_policy=FIRST_FITTING)
    holds = [await service.reserve({sku: 1}) for sku in ("a", "b") * 20]
    lines = [("a", "", 1), ("b", "", 1)]
    for ix in range(40):
        await service.join(lines if ix % 2 else lines[::-1], f"h{ix}")
    await asyncio.gather(*(_cancel(service, hold) for hold in random.Random(3).sample(holds, len(holds))))
    await service.cell.engine.waitlists.sweep()
    states = [state for (state,) in service.sql("SELECT state FROM waitlist_entry ORDER BY rank, sequence")]
    assert states == [Entry.STATE_OFFERED] * 20 + [Entry.STATE_WAITING] * 20
    for sku in ("a", "b"):
        assert (await service.item(sku)).remaining == 0
    await service.verify()


async def test_leave_and_expiry_against_offers_and_joins_against_the_last_unit_lose_nothing(service: Harness) -> None:
    await service.create_item("seat", 10, waitlist_policy=FIRST_FITTING)
    chance = random.Random(11)

    async def customer(name: str) -> None:
        for _ in range(4):
            entry = await service.join({"seat": chance.choice((1, 2))}, name)
            await asyncio.sleep(0)
            await service.waitlist.LeaveWaitlist(pb.LeaveWaitlistRequest(entry_id=entry.entry_id))

    async def passer_by() -> None:
        for _ in range(4):
            hold = await outcome(service.reserve({"seat": 2}))
            if isinstance(hold, reservation_pb2.Reservation):
                await _cancel(service, hold)

    await asyncio.gather(*(customer(f"h{ix}") for ix in range(15)), *(passer_by() for _ in range(10)))
    item = await service.item("seat")
    assert (item.remaining, item.held, item.waiting) == (10, 0, 0)
    assert service.sql("SELECT count(*) FROM waitlist_entry WHERE state NOT IN (4, 5)") == [(0,)]
    await service.verify()


async def test_who_is_killed_between_freeing_and_serving_lets_nobody_overtake_and_the_sweep_serves(
    service: Harness,
) -> None:
    for sku in ("seat", "bunk"):
        await service.create_item(sku, 1, waitlist_policy=FIRST_FITTING)
        hold = await service.reserve({sku: 1})
        await service.join({sku: 1}, "ann")
        cancel = Cancel(CALLER, "", b"", hold.reservation_id, None, reason="")
        # The transaction that frees, and nothing after it.
        async with service.cell.database.connection() as connection:
            await changes.cancel(connection, "default", [cancel])
        line = item_pb2.ItemQuantity(sku=sku, quantity=1)
        answer = await service.inventory.CheckAvailability(ipb.CheckAvailabilityRequest(lines=[line]))
        assert answer.lines[0].available == 0
    # A Reserve serves who comes before it, and is refused.
    assert await outcome(service.reserve({"seat": 1})) == "CAPACITY_EXCEEDED"
    assert service.sql("SELECT state FROM waitlist_line WHERE sku = 'seat'") == [(Entry.STATE_OFFERED,)]
    await service.cell.engine.waitlists.sweep()
    assert service.sql("SELECT state FROM waitlist_line WHERE sku = 'bunk'") == [(Entry.STATE_OFFERED,)]
    await service.verify()


async def test_a_locked_item_keeps_a_cancel_of_another_no_longer_than_a_quarter_of_a_second(service: Harness) -> None:
    for sku in ("a", "b"):
        await service.create_item(sku, 1, waitlist_policy=FIRST_FITTING)
    holds = [await service.reserve({sku: 1}) for sku in ("a", "b")]
    entry = await service.join({"a": 1, "b": 1}, "ann")
    await _cancel(service, holds[0])
    with sessions.transaction(service.owner_dsn) as blocker:
        blocker.execute("SELECT 1 FROM holdsvc.item WHERE sku = 'a' FOR UPDATE")
        began = asyncio.get_running_loop().time()
        await _cancel(service, holds[1])
        assert asyncio.get_running_loop().time() - began < 2
        assert (await service.entry(entry.entry_id)).state == Entry.STATE_WAITING
        # Those who wait for other items are served meanwhile.
        await service.create_item("c", 1, waitlist_policy=FIRST_FITTING)
        other = await service.reserve({"c": 1})
        free = await service.join({"c": 1}, "ben")
        await _cancel(service, other)
        assert (await service.entry(free.entry_id)).state == Entry.STATE_OFFERED
    await until(lambda: _is_offered(service, entry))
    await service.verify()


async def _is_offered(service: Harness, entry: Entry) -> bool:
    await service.cell.engine.waitlists.sweep()
    return (await service.entry(entry.entry_id)).state == Entry.STATE_OFFERED
