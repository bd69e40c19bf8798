"""What a terminal shows of items whose sale is steered, and of their events."""

from io import StringIO

from rich.console import Console

from holdsvc.commands import tables
from inventoryhold.v1 import event_pb2, item_pb2

Level = event_pb2.LevelChange.StockLevel


def test_a_change_of_level_is_shown_with_the_item_and_both_levels() -> None:
    event = event_pb2.Event(
        type=event_pb2.EVENT_TYPE_LEVEL_CHANGED,
        item=item_pb2.Item(sku="bed", pool="web"),
        level_change=event_pb2.LevelChange(to=Level.STOCK_LEVEL_LOW),
    )
    setattr(event.level_change, "from", Level.STOCK_LEVEL_AVAILABLE)
    assert " ".join(tables.event(event).plain.split()) == "LEVEL_CHANGED bed@web AVAILABLE → LOW"


def test_an_item_whose_sale_is_closed_says_so_in_its_row() -> None:
    shown = [
        item_pb2.Item(sku="bed", capacity=4, remaining=4, sale_state=item_pb2.Item.SALE_STATE_OPEN),
        item_pb2.Item(sku="tour", capacity=4, remaining=4, sale_state=item_pb2.Item.SALE_STATE_CLOSED),
    ]
    sink = StringIO()
    Console(file=sink, width=100).print(tables.items(shown))
    rows = {line.split()[0]: line for line in sink.getvalue().splitlines() if line.strip()}
    assert "closed" in rows["tour"]
    assert "closed" not in rows["bed"]
