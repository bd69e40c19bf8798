"""The census: what units and holds the metrics page shows, and in how many series."""

from collections import Counter
from datetime import timedelta

import psycopg
import pytest
from google.protobuf.duration_pb2 import Duration

from holdsvc.cell_file import only
from holdsvc.ledger import stock
from holdsvc.ledger.stock import Holds, Stock, TopItem
from holdsvc.settings import Settings
from holdsvc.telemetry import families
from holdsvc.telemetry.census import Census, CensusPage, Count
from inventoryhold.v1 import inventory_service_pb2, item_pb2
from inventoryhold.v1 import reservation_service_pb2 as pb
from tests.support.harness import Harness
from tests.support.limits import set_limit


def _census(**settings: str) -> Census:
    return Census(Settings.load(census_interval="15s", **settings), only("")[0])


async def _count(service: Harness, **settings: str) -> Count:
    async with service.cell.database.connection() as connection:
        return await _census(**settings).count(connection)


def _series(count: Count) -> dict[tuple[str, ...], float]:
    census = _census()
    census.last = count
    return {
        (sample.name, *[value for name, value in sample.labels.items() if name != "cell"]): sample.value
        for made in CensusPage([census]).collect()
        for sample in made.samples
    }


async def test_the_census_shows_where_the_units_are(service: Harness) -> None:
    await service.create_item("hot", 10)
    await service.create_item("cold", 5)
    await service.reserve({"hot": 3})
    held = await service.reserve({"hot": 2})
    await service.reservations.Confirm(pb.ConfirmRequest(reservation_id=held.reservation_id))
    series = _series(await _count(service))
    assert series["holdsvc_units", "default", "held"] == 3
    assert series["holdsvc_units", "default", "confirmed"] == 2
    assert series["holdsvc_units", "default", "remaining"] == 10
    assert series["holdsvc_items", "default"] == 2
    assert series["holdsvc_active_holds", "default"] == 1
    assert series["holdsvc_top_item_units", "default", "hot", "", "held"] == 3
    assert ("holdsvc_top_item_units", "default", "cold", "", "held") not in series


async def test_the_census_counts_items_that_are_closed_low_and_out(service: Harness) -> None:
    closed = item_pb2.Item.SALE_STATE_CLOSED
    for sku, capacity, fields in (
        ("closed", 9, {"sale_state": closed}),
        ("low", 2, {"low_at": 2}),
        ("out", 0, {"low_at": 2, "sale_state": closed}),
        ("kept", 2, {"low_at": 1, "buffer": 2}),
        ("much", 9, {"low_at": 2}),
        ("not followed", 0, {}),
        ("gone", 1, {"low_at": 9}),
    ):
        await service.create_item(sku, capacity, **fields)
    await service.inventory.DeleteItem(inventory_service_pb2.DeleteItemRequest(sku="gone"))
    series = _series(await _count(service))
    assert series["holdsvc_closed_items", "default"] == 2
    assert series["holdsvc_item_levels", "default", "low"] == 1
    assert series["holdsvc_item_levels", "default", "out"] == 2


async def test_the_census_counts_limits_by_state(service: Harness) -> None:
    await set_limit(service, "each", 4)
    await set_limit(service, "all", 9, per="PER_CLIENT")
    service.sql("UPDATE holdsvc.hold_limit SET state = 1 WHERE limit_id = 'all'")
    series = _series(await _count(service))
    assert (series["holdsvc_limits", "active"], series["holdsvc_limits", "building"]) == (1, 1)


async def test_a_lapsed_hold_that_no_sweep_has_returned_shows_with_its_age(service: Harness) -> None:
    await service.create_item("seat", 2)
    await service.reserve({"seat": 1}, ttl=Duration(seconds=30))
    await service.reserve({"seat": 1}, ttl=Duration(seconds=3600))
    service.clock.advance(timedelta(minutes=10))
    series = _series(await _count(service))
    assert series["holdsvc_lapsed_holds",] == 1
    assert series["holdsvc_active_holds", "default"] == 1
    assert 570 <= series["holdsvc_oldest_lapsed_hold_age_seconds",] < 600
    await service.sweep()
    assert _series(await _count(service))["holdsvc_oldest_lapsed_hold_age_seconds",] == 0


async def test_counting_in_parts_gives_the_same_as_counting_at_once(service: Harness) -> None:
    for number in range(7):
        await service.create_item(f"sku-{number}", 10)
        await service.reserve({f"sku-{number}": number + 1}, ttl=Duration(seconds=60))
    async with service.cell.database.connection() as connection:
        whole = await stock.totals(connection, "default", 3)
        parts = await stock.totals(connection, "default", 3, part_items=2)
        all_holds = await stock.holds(connection)
        some_holds = await stock.holds(connection, part_holds=2)
    assert whole == parts
    assert [item.sku for item in whole[1]] == ["sku-6", "sku-5", "sku-4"]
    assert all_holds == some_holds == Holds(Counter(default=7), Counter(default=0))


async def test_a_count_of_no_stock_at_all_is_no_failure(service: Harness) -> None:
    assert _series(await _count(service))["holdsvc_lapsed_holds",] == 0


def test_series_of_tenants_and_items_are_bounded_by_settings() -> None:
    census = _census(census_tenants="2", census_items="1")
    count = Count(
        stocks={f"tenant-{number}": Stock(1, number, 0, 5) for number in range(5)},
        top=[TopItem(1, 0, 5, "sku", "", "tenant-1")],
        holds=Holds(Counter({f"tenant-{number}": number for number in range(5)})),
    )
    census._fold(count)
    series = _series(count)
    assert {key[1] for key in series if key[0] == "holdsvc_units"} == {"tenant-3", "tenant-4", families.OTHER_TENANTS}
    assert series["holdsvc_units", families.OTHER_TENANTS, "held"] == 0 + 1 + 2
    assert series["holdsvc_active_holds", families.OTHER_TENANTS] == 0 + 1 + 2
    # An item of a tenant without a name of its own has none either.
    assert not [key for key in series if key[0] == "holdsvc_top_item_units"]


@pytest.mark.parametrize("items", [0, 1, 3])
async def test_only_so_many_items_are_shown_by_name(service: Harness, items: int) -> None:
    for number in range(5):
        await service.create_item(f"sku-{number}", 10)
        await service.reserve({f"sku-{number}": 1})
    series = _series(await _count(service, census_items=str(items)))
    assert len({key[2] for key in series if key[0] == "holdsvc_top_item_units"}) == items


def test_without_a_database_there_are_no_figures_rather_than_old_ones() -> None:
    north, south = _census(), _census()
    north.cell, south.cell = "north", "south"
    page = CensusPage([north, south])
    assert list(page.collect()) == []
    north.last = south.last = Count()
    assert _cells(page) == {"north", "south"}
    north.last = None
    assert _cells(page) == {"south"}
    south.last = None
    assert list(page.collect()) == []


def _cells(page: CensusPage) -> set[str]:
    return {sample.labels["cell"] for made in page.collect() for sample in made.samples}


async def test_an_open_transaction_shows_as_the_fence_and_as_the_oldest_snapshot(service: Harness) -> None:
    with psycopg.connect(service.owner_dsn) as writer, psycopg.connect(service.owner_dsn) as reader:
        writer.execute("SELECT pg_current_xact_id()")
        reader.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        reader.execute("SELECT 1")
        count = await _count(service)
        series = _series(count)
        assert series["holdsvc_fence_age_seconds",] > 0
        assert series["holdsvc_oldest_snapshot_age_seconds",] > 0
