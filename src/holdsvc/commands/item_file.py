"""Files of items, as `holdsvc items import` reads them."""

from datetime import UTC, datetime

from holdsvc.commands.csv_file import Layout, whole_number
from holdsvc.commands.options import check_rules
from holdsvc.model import Item, SaleState
from inventoryhold.v1 import item_pb2

REQUIRED = ("sku", "capacity")
COLUMNS = (*REQUIRED, "pool", "display_name", "oversell_limit", "sale_state", "buffer")
NUMBERS = ("capacity", "oversell_limit", "buffer")

LAYOUT = Layout(REQUIRED, COLUMNS[len(REQUIRED) :])

_NEVER = datetime(1970, 1, 1, tzinfo=UTC)


def item_of(cells: dict[str, str]) -> Item:
    """The item of a row; raises ValueError with every rule of the contract that it breaks."""
    capacity, oversell_limit, buffer = (_number(name, cells.get(name, "0")) for name in NUMBERS)
    sku, pool, display_name = cells["sku"], cells.get("pool", ""), cells.get("display_name", "")
    sale_state = _sale_state(cells.get("sale_state", ""))
    check_rules(
        item_pb2.Item(
            sku=sku,
            pool=pool,
            display_name=display_name,
            capacity=capacity,
            oversell_limit=oversell_limit,
            buffer=buffer,
        )
    )
    return Item(
        sku,
        pool,
        display_name,
        capacity,
        0,
        0,
        0,
        oversell_limit,
        0,
        None,
        _NEVER,
        sale_state=sale_state,
        buffer=buffer,
    )


def _sale_state(text: str) -> SaleState:
    try:
        return SaleState[text or "OPEN"]
    except KeyError:
        raise ValueError(f"sale_state: must be {' or '.join(SaleState.__members__)}, not {text[:40]!r}") from None


def _number(name: str, text: str) -> int:
    return whole_number(name, text if name in REQUIRED else text or "0")
