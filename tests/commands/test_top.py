"""`holdsvc top`: driven as a person drives it, against a real service."""

import asyncio
import re
from collections.abc import Callable

import pytest
from textual.widgets import DataTable, Static

from holdsvc.commands.board import HISTORY_S, RATE_OVER_S, Rates, Stock
from holdsvc.commands.dashboard import Dashboard
from holdsvc.commands.endpoint import Endpoint
from inventoryhold.v1 import event_pb2, item_pb2
from tests.support import polling
from tests.support.harness import Harness, StartService
from tests.support.partners import new_secret

WAIT_S = 20.0
SIZE = (140, 40)


def rows(app: Dashboard, table: str) -> list[str]:
    """The rows of a table, cells joined by blanks."""
    widget = app.query_one(f"#{table}", DataTable)
    return [" ".join(str(cell) for cell in widget.get_row_at(index)) for index in range(widget.row_count)]


def text(app: Dashboard, widget: str) -> str:
    return str(app.query_one(f"#{widget}", Static).render())


async def until(shown: Callable[[], bool], app: Dashboard) -> None:
    """Returns when it is shown; the screen is drawn four times a second."""
    try:
        await polling.until(shown, timeout_s=WAIT_S, pause_s=0.05)
    except TimeoutError:
        seen = [text(app, each) for each in ("facts", "rates", "stock-title", "holds-title")]
        raise AssertionError(f"{seen} {rows(app, 'stock')} {rows(app, 'holds')}") from None


async def test_stock_holds_rates_and_lag_are_shown_as_they_change(service: Harness) -> None:
    await service.create_item("tour", 10)
    await service.create_item("tour", 8, pool="web")
    await service.create_item("[red]cup", 4)
    app = Dashboard(Endpoint(service.address))
    async with app.run_test(size=SIZE) as pilot:
        await until(lambda: len(rows(app, "stock")) == 3, app)
        assert rows(app, "stock")[0].startswith("[red]cup 4 0 0 4 ")
        # The stream of events tells what happens from its opening on, which only an event shows.
        async with asyncio.timeout(WAIT_S):
            while "lag -" in text(app, "facts"):
                await service.reserve({"tour": 1}, holder="ann", reference="order-1")
                await asyncio.sleep(0.3)
        await until(lambda: any("1 tour order-1 ann dev" in row for row in rows(app, "holds")), app)
        await until(lambda: not rows(app, "stock")[1].startswith("tour 10 0 "), app)
        assert "▒" in rows(app, "stock")[1]
        await until(lambda: re.search(r"reserved (?!0\.0)\d", text(app, "rates")) is not None, app)
        assert re.search(r"live +remaining \d+ +held [1-9]\d* +confirmed 0 +lag \d+\.\d\d s", text(app, "facts"))
        assert rows(app, "stock")[0].startswith("[red]cup ")
        await pilot.press("s")
        await until(lambda: rows(app, "stock")[0].startswith("tour "), app)
        await pilot.press("q")
    assert app.return_code == 0


async def test_a_service_that_goes_away_is_told_and_followed_again_when_it_is_back(
    service: Harness, start_service: StartService
) -> None:
    await service.create_item("tour", 10)
    await service.create_item("gone", 1)
    app = Dashboard(Endpoint(service.address))
    async with app.run_test(size=SIZE):
        await until(lambda: len(rows(app, "stock")) == 2 and "live" in text(app, "facts"), app)
        await service.stop()
        await until(lambda: "away: " in text(app, "facts"), app)
        service.sql("UPDATE holdsvc.item SET delete_time = now(), capacity = 0, remaining = 0 WHERE sku = 'gone'")
        again = await start_service(listen=service.address)
        await until(lambda: "live" in text(app, "facts"), app)
        await again.reserve({"tour": 2})
        await until(lambda: [row[:11] for row in rows(app, "stock")] == ["tour 8 2 0 "], app)


async def test_a_key_without_a_scope_sees_the_rest_and_why(start_service: StartService) -> None:
    keyed = await start_service(auth="api-key")
    app = Dashboard(Endpoint(keyed.address, await new_secret(keyed, "shop", scopes=("inventory.read",))))
    async with app.run_test(size=SIZE):
        await until(lambda: text(app, "stock-title") == "Stock: 0 items", app)
        await until(lambda: "events.read" in text(app, "rates"), app)


@pytest.fixture
def clock() -> list[float]:
    """The present time, to be changed."""
    return [1000.5]


def test_a_rate_is_that_of_the_last_whole_seconds(clock: list[float]) -> None:
    rates = Rates(lambda: clock[0])
    for _ in range(RATE_OVER_S * 2):
        rates.add(event_pb2.EVENT_TYPE_RESERVED)
    assert rates.per_second() == {}
    clock[0] += 1
    assert rates.per_second() == {event_pb2.EVENT_TYPE_RESERVED: 2.0}
    clock[0] += RATE_OVER_S
    assert rates.per_second() == {}
    assert rates.history()[HISTORY_S - 1 - RATE_OVER_S] == RATE_OVER_S * 2
    clock[0] += HISTORY_S
    assert sum(rates.history()) == 0


def test_a_new_snapshot_leaves_nothing_of_the_old_stream() -> None:
    stock = Stock()
    stock.take([item_pb2.Item(sku="a", remaining=1), item_pb2.Item(sku="b", remaining=2)], [])
    stock.changed()
    stock.begin()
    stock.take([item_pb2.Item(sku="b", remaining=3)], [])
    assert [item.sku for item in stock.first(9, by_remaining=False)] == ["b"]
    assert stock.changed() == {("a", ""), ("b", "")}
    assert stock.totals() == (3, 0, 0)
