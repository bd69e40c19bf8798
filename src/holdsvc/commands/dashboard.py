"""The screen of `holdsvc top`."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import ClassVar

import grpc
from google.protobuf.duration_pb2 import Duration
from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import BindingType
from textual.containers import Horizontal, Vertical
from textual.widgets import DataTable, Footer, Sparkline, Static

from holdsvc.client import AsyncClient, CallError
from holdsvc.commands import tables
from holdsvc.commands.board import HISTORY_S, Rates, Stock
from holdsvc.commands.endpoint import Endpoint
from holdsvc.commands.lines import name
from inventoryhold.v1 import event_pb2, event_service_pb2, inventory_service_pb2, item_pb2, reservation_pb2
from inventoryhold.v1 import reservation_service_pb2 as pb

ROWS_MAX = 200
"""Items that are drawn; of the others their number is told."""

HOLDS_MAX = 50
"""Holds that are drawn, newest first."""

DRAW_S = 0.25
POLL_S = 1.0
CALL_S = 3.0
"""The longest wait for an answer; then the service counts as away."""

REOPEN_S = 0.5

_STOCK_COLUMNS = ("item", "remaining", "held", "confirmed", "capacity", "confirmed █ held ▒ remaining ·")
_HOLD_COLUMNS = ("left", "items", "reference", "holder", "client")
_RATES = (
    event_pb2.EVENT_TYPE_RESERVED,
    event_pb2.EVENT_TYPE_CONFIRMED,
    event_pb2.EVENT_TYPE_CANCELLED,
    event_pb2.EVENT_TYPE_EXPIRED,
    event_pb2.EVENT_TYPE_REFUNDED,
)


class Dashboard(App[None]):
    """Draws what three followers hear: a watch of the stock, the stream of events, and a list of holds each second."""

    TITLE = "holdsvc top"
    ENABLE_COMMAND_PALETTE = False
    CSS = """
    #facts { height: 1; padding: 0 1; background: $panel; }
    #rates { height: 1; padding: 0 1; }
    #history { height: 3; padding: 0 1; }
    #tables { height: 1fr; }
    #left { width: 3fr; }
    #right { width: 2fr; border-left: solid $panel; }
    .title { height: 1; padding: 0 1; text-style: bold; }
    DataTable { height: 1fr; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [("q", "quit", "Quit"), ("s", "sort", "Sort by name or by what is left")]

    def __init__(self, endpoint: Endpoint, prefix: str = "") -> None:
        super().__init__()
        self._endpoint = endpoint
        self._prefix = prefix
        self._stock = Stock()
        self._rates = Rates(time.monotonic)
        self._by_remaining = False
        self._drawn: list[tuple[str, str]] = []
        self._lag_s: float | None = None
        self._held_count: int | None = None
        self._away = ""
        self._refused: dict[str, str] = {}

    def compose(self) -> ComposeResult:
        """The widgets, from top to bottom."""
        yield Static(id="facts", markup=False)
        yield Static(id="rates", markup=False)
        yield Sparkline([0.0] * HISTORY_S, id="history")
        with Horizontal(id="tables"):
            with Vertical(id="left"):
                yield Static("Stock", id="stock-title", classes="title", markup=False)
                yield DataTable(id="stock", cursor_type="row", zebra_stripes=True)
            with Vertical(id="right"):
                yield Static("Holds", id="holds-title", classes="title", markup=False)
                yield DataTable(id="holds", cursor_type="none")
        yield Footer()

    async def on_mount(self) -> None:
        """Begins to follow and to draw."""
        self._table("stock").add_columns(*_STOCK_COLUMNS)
        self._table("holds").add_columns(*_HOLD_COLUMNS)
        self._client = AsyncClient(
            self._endpoint.address,
            api_key=self._endpoint.api_key,
            tls=self._endpoint.tls,
            timeout_s=CALL_S,
            coalesce=False,
        )
        for what, follow in (("stock", self._watch), ("events", self._hear), ("holds", self._list)):
            self.run_worker(self._kept(what, follow), name=what)
        self.set_interval(DRAW_S, self._draw)

    async def on_unmount(self) -> None:
        """Ends the connection."""
        await self._client.close()

    def action_sort(self) -> None:
        """Changes the order of the items."""
        self._by_remaining = not self._by_remaining
        self._drawn = []
        self._draw()

    async def _kept(self, what: str, follow: Callable[[], Awaitable[None]]) -> None:
        """Follows again whenever that ends, until it is refused: for lack of a scope, for example."""
        while True:
            try:
                await follow()
            except CallError as error:
                if error.code in (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED):
                    self._refused[what] = error.message
                    return
                self._away = error.message.rpartition("last error: ")[2]
            await asyncio.sleep(REOPEN_S)

    async def _watch(self) -> None:
        request = inventory_service_pb2.WatchInventoryRequest(
            sku_prefix=self._prefix, min_interval=Duration(nanos=int(DRAW_S * 1e9))
        )
        begun = False
        async for message in self._client.inventory.WatchInventory(request):
            if not begun:
                begun = True
                self._stock.begin()
            self._stock.take(message.items, message.deleted_items)

    async def _hear(self) -> None:
        # A stream that broke begins anew: what is shown are rates, which need no past events.
        async for message in self._client.events.StreamEvents(event_service_pb2.StreamEventsRequest()):
            for event in message.events:
                self._rates.add(event.type)
                self._lag_s = (datetime.now(UTC) - event.occur_time.ToDatetime(tzinfo=UTC)).total_seconds()

    async def _list(self) -> None:
        request = pb.ListReservationsRequest(
            states=[reservation_pb2.Reservation.STATE_HELD], page_size=HOLDS_MAX, include_total=True
        )
        while True:
            answer = await self._client.reservations.ListReservations(request)
            self._away = ""
            self._held_count = answer.total_count
            self._draw_holds(answer.reservations)
            await asyncio.sleep(POLL_S)

    def _draw(self) -> None:
        self._draw_facts()
        self._draw_rates()
        self._draw_stock()

    def _draw_facts(self) -> None:
        remaining, held, confirmed = self._stock.totals()
        lag = "-" if self._lag_s is None else f"{max(self._lag_s, 0.0):.2f} s"
        state = Text(f"away: {self._away}", "bold red") if self._away else Text("live", "bold green")
        facts = f"   remaining {remaining}   held {held}   confirmed {confirmed}   lag {lag}"
        self._static("facts").update(Text.assemble(f"{self._endpoint.address}  ", state, facts))

    def _draw_rates(self) -> None:
        if "events" in self._refused:
            self._static("rates").update(Text(self._refused["events"], "red"))
            return
        rates = self._rates.per_second()
        words = [
            f"{event_pb2.EventType.Name(kind).removeprefix('EVENT_TYPE_').lower()} {rates.get(kind, 0.0):.1f}/s"
            for kind in _RATES
        ]
        self._static("rates").update(Text("   ".join(words)))
        self.query_one("#history", Sparkline).data = self._rates.history()

    def _draw_stock(self) -> None:
        more = len(self._stock) - ROWS_MAX
        title = f"Stock: {len(self._stock)} items"
        if more > 0:
            title += f", {more} of them not shown: narrow with --prefix"
        self._static("stock-title").update(Text(self._refused.get("stock", title)))
        changed = self._stock.changed()
        if not changed and self._drawn:
            return
        table = self._table("stock")
        items = self._stock.first(ROWS_MAX, by_remaining=self._by_remaining)
        keys = [(item.sku, item.pool) for item in items]
        if keys != self._drawn:
            table.clear()
            for item in items:
                table.add_row(*_stock_row(item))
            self._drawn = keys
            return
        for row, item in enumerate(items):
            if keys[row] in changed:
                for column, cell in enumerate(_stock_row(item)):
                    table.update_cell_at((row, column), cell)  # type: ignore[arg-type]

    def _draw_holds(self, holds: Sequence[reservation_pb2.Reservation]) -> None:
        title = "Holds" if self._held_count is None else f"Holds: {self._held_count}"
        self._static("holds-title").update(Text(self._refused.get("holds", title)))
        table = self._table("holds")
        table.clear()
        for hold in holds:
            table.add_row(
                Text(tables.left(hold), justify="right"),
                tables.text(", ".join(f"{line.quantity} {name(line.sku, line.pool)}" for line in hold.lines)),
                tables.text(hold.reference),
                tables.text(hold.holder),
                tables.text(hold.client),
            )

    def _table(self, id_: str) -> DataTable[Text]:
        return self.query_one(f"#{id_}", DataTable)

    def _static(self, id_: str) -> Static:
        return self.query_one(f"#{id_}", Static)


def _stock_row(item: item_pb2.Item) -> tuple[Text, ...]:
    counts = (item.remaining, item.held, item.confirmed, item.capacity)
    return (
        tables.text(name(item.sku, item.pool)),
        *(Text(str(count), justify="right") for count in counts),
        tables.bar(item),
    )
