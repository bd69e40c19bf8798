"""The cost of a batch grows with its content: doubled, it costs at most three times as much.

Each case runs one batch with n and with 2n of one dimension (entries, lines, what is stored already) and compares the
cheapest of some runs.
"""

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import psycopg
import pytest

from holdsvc.change_requests import Cancel, Confirm, Fulfil, Modify, Refund, Reserve
from holdsvc.ledger import changes, holds, items, limits, reservation_lists, reservations
from holdsvc.ledger.database import Connection
from holdsvc.ledger.limits import Counts, LimitTerms, Per
from holdsvc.model import Again, Done, ItemKey, Line, Outcome, Reservation
from tests.support.harness import SET_NAME
from tests.support.holds import CALLER, new_id, reserves, stock
from tests.support.processor import backend_of, processor_s

GROWTH_MAX = 3.0
RUNS, RUNS_MAX = 2, 9
ONE_SECOND = 1.0

Run = Callable[[int], Awaitable[float]]
"""Prepares and runs a batch of a size; returns its processor time in seconds."""


def items_of(count: int) -> list[str]:
    return [f"item-{number:03}" for number in range(count)]


def holds_of(
    entries: int, lines: int, *, holder: str = "", reference: str = "", duplicate_window_us: int | None = None
) -> list[Reserve]:
    made = reserves([items_of(1)[0]] * entries)
    skus = items_of(lines)
    return [
        replace(
            one,
            lines=[line._replace(sku=sku, quantity=4) for sku in skus for line in one.lines[:1]],
            holder=holder,
            reference=reference,
            duplicate_window_us=duplicate_window_us,
        )
        for one in made
    ]


async def reserved(connection: Connection, wanted: Sequence[Reserve]) -> list[Reservation]:
    made: list[Reservation] = []
    for start in range(0, len(wanted), 500):
        outcomes = await holds.reserve(connection, "default", wanted[start : start + 500])
        made += [outcome.value for outcome in outcomes if isinstance(outcome, Done)]
    assert len(made) == len(wanted)
    return made


async def timed(connection: Connection, call: Awaitable[object]) -> float:
    """The processor time, here and in the database: what other processes do meanwhile is not in it."""
    backend = await backend_of(connection)
    start = time.process_time() + processor_s(backend)
    await call
    return time.process_time() + processor_s(backend) - start


async def check_growth(run: Run, size: int) -> None:
    """The cheapest runs count: a busy machine makes some of them dearer, in processor time too."""
    small = large = float("inf")
    for number in range(1, RUNS_MAX + 1):
        small, large = min(small, await run(size)), min(large, await run(2 * size))
        if number >= RUNS and large < max(GROWTH_MAX * small, 0.05):
            break
    assert large < max(GROWTH_MAX * small, 0.05), f"{size}: {small:.3f} s, {2 * size}: {large:.3f} s"
    assert large < ONE_SECOND * 4, f"{2 * size}: {large:.3f} s"


def lines_of(skus: Sequence[str], quantity: int) -> list[Line]:
    return [Line(sku, "", quantity) for sku in skus]


@pytest.mark.parametrize("lines", [1, 10])
async def test_reserves_of_one_holder_with_a_duplicate_window_cost_in_proportion(
    connection: Connection, lines: int
) -> None:
    await items.create(connection, CALLER, stock(items_of(lines)))
    number = 0

    async def run(entries: int) -> float:
        nonlocal number
        number += 1
        wanted = holds_of(entries, lines, holder=f"holder-{number}", duplicate_window_us=3_600_000_000)
        return await timed(connection, holds.reserve(connection, "default", wanted))

    await check_growth(run, 250)


async def test_a_duplicate_window_costs_no_more_for_a_holder_who_has_many_holds(connection: Connection) -> None:
    [held, other] = skus = items_of(2)
    await items.create(connection, CALLER, stock(skus))

    async def run(stored: int) -> float:
        holder = f"holder-{new_id()}"
        await reserved(connection, holds_of(stored, 1, holder=holder))
        times = []
        for sku in (held, other) * RUNS:
            [wanted] = holds_of(1, 1, holder=holder, duplicate_window_us=3_600_000_000)
            wanted.lines[0] = wanted.lines[0]._replace(sku=sku)
            times.append(await timed(connection, holds.reserve(connection, "default", [wanted])))
        return min(times)

    few, many = await run(1000), await run(8000)
    assert many < max(2 * few, 0.02), f"few: {few:.4f} s, many: {many:.4f} s"


async def test_a_batch_whose_holders_have_many_lines_is_answered_in_parts(connection: Connection) -> None:
    await items.create(connection, CALLER, stock([*items_of(100), "other"]))
    wanted = []
    for number in range(25):
        await reserved(connection, holds_of(9, 100, holder=f"holder-{number}"))
        [one] = holds_of(1, 1, holder=f"holder-{number}", duplicate_window_us=3_600_000_000)
        wanted.append(replace(one, lines=[one.lines[0]._replace(sku="other")]))
    [new] = holds_of(1, 1, holder="newcomer", duplicate_window_us=3_600_000_000)
    wanted.append(new)
    parts = 0
    while wanted:
        outcomes = await holds.reserve(connection, "default", wanted)
        assert any(isinstance(outcome, Done) for outcome in outcomes)
        again = [one for one, outcome in zip(wanted, outcomes, strict=True) if isinstance(outcome, Again)]
        assert len(again) + sum(isinstance(outcome, Done) for outcome in outcomes) == len(wanted)
        wanted, parts = again, parts + 1
    assert parts == 2


async def test_a_change_by_a_reference_that_many_holds_have_costs_no_more_than_by_one_that_few_have(
    connection: Connection,
) -> None:
    await items.create(connection, CALLER, stock(items_of(1)))

    async def run(stored: int) -> float:
        reference = f"cart-{new_id()}"
        await reserved(connection, holds_of(stored, 1, reference=reference))
        wanted = [Cancel(CALLER, "", b"", None, reference, "") for _ in range(50)]
        return await timed(connection, changes.cancel(connection, "default", wanted))

    few = min([await run(200) for _ in range(RUNS)])
    many = min([await run(8000) for _ in range(RUNS)])
    assert many < max(2 * few, 0.1), f"few: {few:.3f} s, many: {many:.3f} s"


async def test_a_read_by_a_reference_that_many_holds_have_costs_no_more_than_by_one_that_few_have(
    connection: Connection,
) -> None:
    await items.create(connection, CALLER, stock(items_of(1)))

    backend = await backend_of(connection)

    async def seconds(stored: int) -> float:
        reference = f"cart-{new_id()}"
        await reserved(connection, holds_of(stored, 1, reference=reference))
        times = []
        for _ in range(20):
            start = processor_s(backend)
            assert len(await reservations.find_reference(connection, CALLER, reference)) == 2
            times.append(processor_s(backend) - start)
        return min(times)

    few, many = await seconds(200), await seconds(4000)
    assert many < 3 * few, f"few: {few:.4f} s, many: {many:.4f} s"


async def test_a_batch_that_grows_into_lapsed_units_reads_them_once_at_most(connection: Connection) -> None:
    [full, other] = skus = items_of(2)
    await items.create(connection, CALLER, stock(skus))
    await reserved(connection, [replace(one, ttl_us=1) for one in holds_of(6000, 1)])
    [item] = await items.get(connection, "default", [ItemKey(full, "")])
    assert item is not None
    assert isinstance(await items.update(connection, CALLER, replace(item, capacity=item.held), {"capacity"}, 0), Done)
    wanted = [replace(one, lines=[one.lines[0]._replace(sku=other)]) for one in holds_of(100, 1)]
    own = [one.reservation_id for one in await reserved(connection, wanted)]

    async def run(entries: int, units: int) -> float:
        lines = lines_of([full], units)
        grown = [Modify(CALLER, "", b"", id_, None, 0, lines, None, None, None) for id_ in own[:entries]]
        return await timed(connection, changes.modify(connection, "default", grown))

    for units in (1, 10**9):
        one, many = [min([await run(entries, units) for _ in range(RUNS)]) for entries in (1, 100)]
        assert many < 10 * one + 0.02, f"{units}: {one:.4f} s, {many:.4f} s"


def wanted_by(**filters: object) -> reservation_lists.Filter:
    names = ("client", "states", "sku", "pool", "holder", "reference", "order_id", "pools")
    return reservation_lists.Filter(**{**dict.fromkeys(names), **filters})  # type: ignore[arg-type]


LISTS = {
    "item and holder": wanted_by(sku="item-000", holder="nobody"),
    "item and client": wanted_by(sku="item-000", client="nobody"),
    "item and state": wanted_by(sku="item-000", states=[2]),
    "holder and item": wanted_by(sku="item-001", holder="many"),
    "holder and pool": wanted_by(holder="many", client="dev", pool="vip"),
    "reference and holder": wanted_by(reference="cart", holder="nobody"),
    "client and state": wanted_by(client="dev", states=[5]),
    "pools of the key": wanted_by(pools=["vip"]),
    "pool": wanted_by(pool="vip"),
}


async def test_a_read_costs_no_more_beside_many_lapsed_holds_that_match_in_part(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reservation_lists, "LOOKED_MAX", 100)
    await items.create(connection, CALLER, stock(items_of(2)))
    [kept] = await reserved(connection, holds_of(1, 1))

    async def costs(stored: int) -> dict[str, float]:
        lapsed = [replace(one, ttl_us=1) for one in holds_of(stored, 1, holder="many", reference="cart")]
        await reserved(connection, lapsed)
        reads: dict[str, Callable[[], Awaitable[Any]]] = {
            "get": lambda: reservations.get(connection, "default", [kept.reservation_id] * 10)
        }
        for name, wanted in LISTS.items():
            reads[name] = partial(reservation_lists.list_page, connection, "default", wanted, None, 50)
        return {name: min([await timed(connection, read()) for _ in range(5)]) for name, read in reads.items()}

    few, many = await costs(500), await costs(6000)
    dear = {name: (few[name], many[name]) for name in few if many[name] > max(2.5 * few[name], 0.002)}
    assert not dear, dear


CHANGES = ["modify", "cancel", "confirm", "fulfil", "refund"]


async def prepare(
    connection: Connection, rpc: str, entries: int, lines: int
) -> Awaitable[Sequence[Outcome[Reservation]]]:
    """A batch of changes that name every line."""
    skus = items_of(lines)
    ids = [one.reservation_id for one in await reserved(connection, holds_of(entries, lines))]
    if rpc in ("fulfil", "refund"):
        for start in range(0, len(ids), 500):
            sales = [confirm(id_, []) for id_ in ids[start : start + 500]]
            await changes.confirm(connection, "default", sales, rescue_window_us=0)
    if rpc == "modify":
        modifies = [Modify(CALLER, "", b"", id_, None, 0, lines_of(skus, 5), None, None, None) for id_ in ids]
        return changes.modify(connection, "default", modifies)
    if rpc == "cancel":
        cancels = [Cancel(CALLER, "", b"", id_, None, "", lines_of(skus, 1)) for id_ in ids]
        return changes.cancel(connection, "default", cancels)
    if rpc == "confirm":
        sales = [confirm(id_, lines_of(skus, 3)) for id_ in ids]
        return changes.confirm(connection, "default", sales, rescue_window_us=0)
    if rpc == "fulfil":
        fulfils = [Fulfil(CALLER, "", b"", id_, None, lines_of(skus, 1), "", None) for id_ in ids]
        return changes.fulfil(connection, "default", fulfils)
    refunds = [Refund(CALLER, "", b"", id_, None, lines_of(skus, 1), write_off=False, reason="") for id_ in ids]
    return changes.refund(connection, "default", refunds)


def confirm(reservation_id: str, lines: list[Line]) -> Confirm:
    return Confirm(CALLER, "", b"", reservation_id, None, new_id(), True, "", "", lines)


@pytest.mark.parametrize("rpc", CHANGES)
async def test_a_batch_of_changes_costs_in_proportion_to_its_entries(connection: Connection, rpc: str) -> None:
    await items.create(connection, CALLER, stock(items_of(5)))

    async def run(entries: int) -> float:
        return await timed(connection, await prepare(connection, rpc, entries, 5))

    await check_growth(run, 150)


@pytest.mark.parametrize("rpc", CHANGES)
async def test_a_batch_of_changes_costs_in_proportion_to_its_lines(connection: Connection, rpc: str) -> None:
    await items.create(connection, CALLER, stock(items_of(40)))

    async def run(lines: int) -> float:
        return await timed(connection, await prepare(connection, rpc, 60, lines))

    await check_growth(run, 20)


async def test_lines_with_the_same_limits_cost_little_more_than_one_of_them(
    connection: Connection, ledger_dsn: str
) -> None:
    for number in range(50):
        terms = LimitTerms(f"limit-{number}", "item", None, Per.HOLDER, Counts.HELD, 10**6, None)
        await limits.set_limit(connection, "default", terms)
    lock = (
        "SELECT FROM lock_limits('default', array_fill('a'::text, ARRAY[50]), array_fill('h'::text, ARRAY[50]),"
        " %s::integer[], %s::text[], array_fill(''::text, ARRAY[%s]), array_fill(1::bigint, ARRAY[%s]),"
        " array_fill(1::bigint, ARRAY[%s]))"
    )
    with psycopg.connect(ledger_dsn, autocommit=True, options=f"-c search_path={SET_NAME},holdsvc") as owner:

        def seconds(lines: int) -> float:
            requests = [request for request in range(1, 51) for _ in range(lines)]
            count = len(requests)
            start = processor_s(owner.info.backend_pid)
            owner.execute(lock, (requests, items_of(lines) * 50, count, count, count))
            return processor_s(owner.info.backend_pid) - start

        few, many = (min(seconds(lines) for _ in range(RUNS)) for lines in (10, 100))
    assert many < 5 * few, f"10 lines: {few:.3f} s, 100 lines: {many:.3f} s"
