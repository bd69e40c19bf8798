"""The console in a real browser: what operators see and do."""

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Locator, Page, Route, async_playwright, expect

from inventoryhold.v1 import inventory_service_pb2 as inventory
from inventoryhold.v1 import item_pb2, reservation_pb2
from inventoryhold.v1 import reservation_service_pb2 as pb
from tests.support.harness import Harness, StartService, refused, services
from tests.support.partners import new_secret

CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (Debian: apt-get install chromium)"),
    # One browser for all: it lives on the loop that started it, so the services are on that one too.
    pytest.mark.asyncio(loop_scope="module"),
]

_FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
    # A third of a window's processor time was a process for the next page.
    "--disable-features=SpareRendererForSitePerProcess",
)
SCREENSHOTS = os.environ.get("TEST_SCREENSHOTS")
"""The folder of the pictures in the documents; set, they are made anew."""

EVIL = "<img src=x onerror=document.title='owned'>"

Open = Callable[..., Awaitable[Page]]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def _chromium() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        found = await playwright.chromium.launch(executable_path=CHROMIUM, args=list(_FLAGS))
        yield found
        await found.close()


@pytest_asyncio.fixture(loop_scope="module")
async def browser(_chromium: Browser) -> AsyncIterator[Browser]:
    """A browser whose windows are closed after the test."""
    yield _chromium
    for context in _chromium.contexts:
        await context.close()


@pytest_asyncio.fixture(loop_scope="module")
async def start_service(ledger_dsn: str) -> AsyncIterator[StartService]:
    async with services(ledger_dsn) as start:
        yield start


@pytest_asyncio.fixture(loop_scope="module")
async def service(start_service: StartService) -> Harness:
    return await start_service(http_listen="127.0.0.1:0")


@pytest_asyncio.fixture(loop_scope="module")
async def guarded(start_service: StartService) -> Harness:
    return await start_service(http_listen="127.0.0.1:0", auth="api-key")


@pytest_asyncio.fixture(loop_scope="module")
async def window(browser: Browser) -> AsyncIterator[Open]:
    """Opens a window of its own on a page of the console; what a page's code complains of fails the test."""
    complaints: list[str] = []

    async def open_(service: Harness, page: str = "", **context: Any) -> Page:
        made = await (await browser.new_context(**context)).new_page()
        made.on("pageerror", lambda error: complaints.append(str(error)))
        await made.goto(f"http://{service.http_address}/{page}")
        return made

    yield open_
    assert complaints == []


def row(page: Page, sku: str) -> Locator:
    return page.locator(".row").filter(has=page.get_by_text(sku, exact=True))


async def confirm(service: Harness, held: reservation_pb2.Reservation, **fields: Any) -> None:
    await service.reservations.Confirm(pb.ConfirmRequest(reservation_id=held.reservation_id, **fields))


async def test_a_sale_in_one_window_is_seen_live_in_another(service: Harness, window: Open) -> None:
    await service.create_item("seat", 5)
    held = await service.reserve({"seat": 2})
    stock = await window(service)
    await expect(row(stock, "seat")).to_contain_text("3 of 5")
    await expect(stock.locator("#connection")).to_have_text("live")
    sale = await window(service, f"#reservation/{held.reservation_id}")
    await sale.get_by_role("button", name="Confirm").click()
    await sale.get_by_role("dialog").get_by_role("button", name="Confirm").click()
    await expect(sale.locator("h1 .state")).to_have_text("confirmed")
    await expect(stock.locator(".totals")).to_contain_text("confirmed2")
    assert (await service.item("seat")).confirmed == 2
    await service.reserve({"seat": 3})
    await expect(row(stock, "seat")).to_contain_text("sold out")


async def test_a_reservation_is_found_by_what_a_caller_knows_of_it(service: Harness, window: Open) -> None:
    for sku in ("bed", "seat"):
        await service.create_item(sku, 5)
    wanted = await service.reserve({"bed": 1}, reference="cart-7", holder="Ann")
    await confirm(service, wanted, order_id="order-7")
    await service.reserve({"seat": 1}, reference="cart-8", holder="Bob")
    page = await window(service, "#holds?state=")
    await expect(page.locator("tbody tr")).to_have_count(2)
    known = {"reference": "cart-7", "holder": "Ann", "orderId": "order-7", "sku": "bed"}
    for kind, text in known.items():
        await page.get_by_label("Search by").select_option(kind)
        await page.get_by_label("Search for").fill(text)
        await page.get_by_role("button", name="Search").click()
        await expect(page.locator("tbody tr")).to_have_count(1)
        await expect(page.locator("tbody")).to_contain_text("cart-7")
        await page.get_by_label("Search for").fill("")
        await page.get_by_role("button", name="Search").click()
        await expect(page.locator("tbody tr")).to_have_count(2)
    await page.get_by_label("Search by").select_option("reservationId")
    await page.get_by_label("Search for").fill(wanted.reservation_id)
    await page.get_by_role("button", name="Search").click()
    await expect(page.locator(".facts")).to_contain_text("order-7")
    await expect(page.locator("main")).to_contain_text("reserved")


async def test_a_hold_is_cancelled_after_a_question_and_not_when_one_thinks_better_of_it(
    service: Harness, window: Open
) -> None:
    await service.create_item("seat", 5)
    held = await service.reserve({"seat": 2})
    page = await window(service, f"#reservation/{held.reservation_id}")
    cancel = page.get_by_role("button", name="Cancel", exact=True)
    await cancel.click()
    await page.get_by_role("button", name="Back").click()
    await expect(page.locator("h1 .state")).to_have_text("held")
    await cancel.click()
    await page.get_by_label("Reason").fill("asked by phone")
    await page.get_by_role("button", name="Cancel the hold").click()
    await expect(page.locator("h1 .state")).to_have_text("cancelled")
    await expect(page.locator("main")).to_contain_text("asked by phone")
    assert (await service.get(held.reservation_id)).state == reservation_pb2.Reservation.STATE_CANCELLED


async def test_the_sale_of_an_item_is_stopped_and_opened_by_keyboard(service: Harness, window: Open) -> None:
    for sku in ("a", "b"):
        await service.create_item(sku, 5)
    page = await window(service)
    await row(page, "a").focus()
    await page.keyboard.press("ArrowDown")
    await page.keyboard.press("Enter")
    await page.get_by_role("button", name="Stop the sale").press("Enter")
    await page.get_by_role("dialog").last.get_by_role("button", name="Stop the sale").press("Enter")
    await expect(row(page, "b")).to_contain_text("closed")
    assert (await refused(service.reserve({"b": 1}))).reason == "SALE_CLOSED"
    await service.reserve({"a": 1})
    await row(page, "b").press("Enter")
    await page.get_by_role("button", name="Open the sale").press("Enter")
    await page.get_by_role("dialog").last.get_by_role("button", name="Open the sale").press("Enter")
    await expect(row(page, "b")).to_contain_text("available")


async def test_the_key_is_asked_for_kept_in_the_tab_and_bounds_what_is_offered(guarded: Harness, window: Open) -> None:
    owner = await new_secret(guarded, "shop", scopes=["all"])
    reader = await new_secret(guarded, "watcher", scopes=["inventory.read", "reservations.read_all"])
    keyed = (("x-api-key", owner),)
    await guarded.inventory.CreateItem(
        inventory.CreateItemRequest(item=item_pb2.Item(sku="seat", capacity=5)), metadata=keyed
    )
    page = await window(guarded)
    await page.get_by_label("Key", exact=True).fill("holdsvc_…")
    await page.get_by_role("button", name="Use it").click()
    await expect(page.get_by_role("dialog")).to_be_visible()
    await page.get_by_label("Key", exact=True).fill("holdsvc_wrong_wrong")
    await page.get_by_role("button", name="Use it").click()
    await page.get_by_label("Key", exact=True).fill(reader)
    await page.get_by_role("button", name="Use it").click()
    await row(page, "seat").click()
    await expect(page.get_by_role("dialog")).to_contain_text("lacks the scope inventory.write")
    await expect(page.get_by_role("button", name="Stop the sale")).to_have_count(0)
    await page.reload()
    await expect(row(page, "seat")).to_be_visible()
    # Another tab does not have it.
    other = await page.context.new_page()
    await other.goto(f"http://{guarded.http_address}/")
    await expect(other.get_by_label("Key", exact=True)).to_be_visible()


async def test_a_lost_connection_is_said_and_the_stock_goes_on_when_it_is_back(
    start_service: StartService, window: Open
) -> None:
    first = await start_service(http_listen="127.0.0.1:0")
    await first.create_item("seat", 5)
    await first.create_item("gone", 5)
    page = await window(first)
    await expect(row(page, "seat")).to_contain_text("5 of 5")
    await first.inventory.DeleteItem(inventory.DeleteItemRequest(sku="gone"))
    await first.stop()
    await expect(page.locator("#connection")).to_contain_text("connection lost")
    second = await start_service(http_listen=first.http_address)
    await second.reserve({"seat": 2})
    await expect(row(page, "seat")).to_contain_text("3 of 5", timeout=15_000)
    await expect(page.locator("#connection")).to_have_text("live")
    await expect(row(page, "gone")).to_have_count(0)


async def test_a_key_that_is_given_while_the_service_is_away_opens_one_stream(
    guarded: Harness, browser: Browser
) -> None:
    reader = await new_secret(guarded, "watcher", scopes=["inventory.read"])
    page = await (await browser.new_context()).new_page()
    streams: list[str] = []
    page.on("request", lambda request: streams.append(request.url) if "/watch" in request.url else None)
    asked = asyncio.Queue[Route]()
    await page.route("**/GetCaller", asked.put)
    await page.clock.install()
    await page.goto(f"http://{guarded.http_address}/")
    await (await asked.get()).abort()
    await expect(page.locator("#connection")).to_contain_text("connection lost")
    await page.get_by_role("button", name="Key").click()
    await page.get_by_label("Key", exact=True).fill(reader)
    await page.get_by_role("button", name="Use it").click()
    first = await asked.get()
    # The attempt that was to come without a key.
    await page.clock.run_for(2500)
    await first.continue_()
    while not asked.empty():
        await asked.get_nowait().continue_()
    await expect(page.locator("#connection")).to_have_text("live")
    assert len(streams) == 1


async def test_who_waits_is_listed_and_can_be_taken_off(service: Harness, window: Open) -> None:
    await service.create_item("seat", 1, waitlist_policy=item_pb2.Item.WAITLIST_POLICY_FIRST_FITTING)
    held = await service.reserve({"seat": 1})
    for holder in ("Ann", "Bob"):
        await service.join({"seat": 1}, holder=holder)
    page = await window(service, "#waitlist?sku=seat")
    await expect(page.locator("tbody tr")).to_have_count(2)
    await page.locator("tr", has_text="Ann").get_by_role("button", name="Take off").click()
    await page.get_by_role("dialog").get_by_role("button", name="Take off").click()
    await expect(page.locator("tbody tr")).to_have_count(1)
    await service.reservations.Cancel(pb.CancelRequest(reservation_id=held.reservation_id))
    await page.get_by_label("State").select_option("OFFERED")
    await page.get_by_role("button", name="Search").click()
    await page.locator("tr", has_text="Bob").get_by_role("link").click()
    await expect(page.locator("h1 .state")).to_have_text("held")


async def test_an_address_that_was_typed_wrongly_is_answered(service: Harness, window: Open) -> None:
    page = await window(service, "#reservation/%")
    await expect(page.get_by_role("status").last).to_contain_text("reservation_id")


async def test_names_are_text_wherever_they_are_shown(service: Harness, window: Open) -> None:
    await service.create_item(EVIL, 5, display_name=EVIL)
    held = await service.reserve({EVIL: 1}, holder=EVIL, reference=EVIL, metadata={EVIL: EVIL})
    page = await window(service)
    await row(page, EVIL).first.click()
    await expect(page.get_by_role("dialog")).to_contain_text(EVIL)
    await page.keyboard.press("Escape")
    for address, place in (("#holds", "tbody"), (f"#reservation/{held.reservation_id}", ".facts")):
        await page.evaluate("hash => { location.hash = hash }", address)
        await expect(page.locator(place)).to_contain_text(EVIL)
        assert await page.locator("img").count() == 0
    assert await page.title() == "holdsvc"


async def test_of_ten_thousand_items_only_those_in_view_are_drawn(service: Harness, window: Open) -> None:
    for start in range(0, 10_000, 1000):
        items = [item_pb2.Item(sku=f"seat-{number:05}", capacity=5) for number in range(start, start + 1000)]
        await service.inventory.BatchCreateItems(inventory.BatchCreateItemsRequest(items=items))
    page = await window(service)
    await expect(page.locator(".totals")).to_contain_text("items10,000")
    assert 0 < await page.locator(".row").count() < 60
    await page.locator(".rows").evaluate("rows => rows.scrollTo(0, rows.scrollHeight)")
    await expect(row(page, "seat-09999")).to_be_visible()
    await service.reserve({"seat-09999": 5})
    await expect(row(page, "seat-09999")).to_contain_text("sold out")
    await page.get_by_label("Filter").fill("00042")
    await expect(page.locator(".row")).to_have_count(1)


async def test_rows_that_are_drawn_after_their_page_was_left_raise_nothing(service: Harness, window: Open) -> None:
    await service.create_item("bed", 5)
    page = await window(service)
    await expect(row(page, "bed")).to_be_visible()
    rows = await page.locator(".rows").element_handle()
    assert rows is not None
    await page.evaluate("location.hash = '#holds'")
    await expect(page.locator("tbody")).to_be_attached()
    await rows.evaluate("rows => rows.dispatchEvent(new Event('scroll'))")


@pytest.mark.parametrize(
    ("name", "context"),
    [
        ("console-light", {"color_scheme": "light", "viewport": {"width": 1200, "height": 760}}),
        ("console-dark", {"color_scheme": "dark", "viewport": {"width": 1200, "height": 760}}),
        ("console-phone", {"color_scheme": "light", "viewport": {"width": 390, "height": 760}}),
    ],
)
async def test_nothing_lies_outside_of_the_window(
    service: Harness, window: Open, tmp_path: Path, name: str, context: Any
) -> None:
    tours = [
        ("adult", 120, 60, 30),
        ("child", 40, 10, 20),
        ("family", 40, 30, 10),
        ("guide", 6, 1, 2),
        ("student", 40, 25, 5),
    ]
    skus = [f"tour-2026-08-01-{tour}" for tour, *_ in tours]
    for sku, (_, capacity, sold, _) in zip(skus, tours, strict=True):
        await service.create_item(sku, capacity, display_name="Harbour tour", low_at=5)
        await confirm(service, await service.reserve({sku: sold}))
    page = await window(service, **context)
    await expect(page.locator(".row")).to_have_count(len(tours))
    for sku, (*_, held) in zip(skus, tours, strict=True):
        await service.reserve({sku: held})
    await expect(row(page, skus[2])).to_contain_text("sold out")
    await expect(row(page, skus[3])).to_contain_text("low")
    await expect(page.locator(".totals")).to_contain_text("taken in a minute67")
    assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    picture = Path(SCREENSHOTS or tmp_path) / f"{name}.png"
    await page.screenshot(path=picture)
    assert picture.stat().st_size > 10_000
