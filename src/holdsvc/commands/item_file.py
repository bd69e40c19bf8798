"""Files of items, as `holdsvc items import` reads them."""

from dataclasses import replace

from holdsvc.api import convert
from holdsvc.commands.csv_file import Layout, time_cell, whole_number
from holdsvc.commands.options import check_rules
from holdsvc.model import Item, SaleState
from inventoryhold.v1 import item_pb2

REQUIRED = ("sku", "capacity")
OPTIONAL = ("pool", "display_name", "oversell_limit", "sale_state", "buffer", "low_at", "return_pool", "return_time")
NUMBERS = ("capacity", "oversell_limit", "buffer")

LAYOUT = Layout(REQUIRED, OPTIONAL)


def item_of(cells: dict[str, str]) -> Item:
    """The item of a row; raises ValueError with every rule of the contract that it breaks."""
    capacity, oversell_limit, buffer = (_number(name, cells.get(name, "0")) for name in NUMBERS)
    wanted = item_pb2.Item(
        sku=cells["sku"],
        pool=cells.get("pool", ""),
        display_name=cells.get("display_name", ""),
        capacity=capacity,
        oversell_limit=oversell_limit,
        buffer=buffer,
        low_at=_number("low_at", cells["low_at"]) if cells.get("low_at") else None,
        return_pool=cells.get("return_pool") or None,
        return_time=time_cell("return_time", cells["return_time"]) if cells.get("return_time") else None,
    )
    check_rules(wanted)
    if wanted.HasField("return_time") and wanted.return_pool == wanted.pool:
        raise ValueError("return_pool: must be another pool than the item's")
    return replace(convert.wanted_item(wanted), sale_state=_sale_state(cells.get("sale_state", "")))


def _sale_state(text: str) -> SaleState:
    try:
        return SaleState[text or "OPEN"]
    except KeyError:
        raise ValueError(f"sale_state: must be {' or '.join(SaleState.__members__)}, not {text[:40]!r}") from None


def _number(name: str, text: str) -> int:
    return whole_number(name, text if name in REQUIRED else text or "0")
