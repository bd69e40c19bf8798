"""Items and units as people type and read them: `tour=2`, and `tour@web=2` of another pool than the default one."""

from collections.abc import Iterable

from holdsvc.commands import CommandError
from inventoryhold.v1 import item_pb2

UNITS_DEFAULT = 1


def name(sku: str, pool: str) -> str:
    """An item as commands take it."""
    return f"{sku}@{pool}" if pool else sku


def lines_of(given: Iterable[str] | None, pool: str | None) -> list[item_pb2.ItemQuantity]:
    """Lines as messages. Raises CommandError for one that names no item or no number of units."""
    lines = []
    for line in given or ():
        sku, equals, units = line.rpartition("=")
        if not equals:
            sku, units = line, str(UNITS_DEFAULT)
        if not (units.isascii() and units.isdigit()):
            raise CommandError(f"LINE: {line!r} has no number of units behind the last =: write it as in tour=2")
        # More digits than the contract takes would not fit into the message.
        quantity = min(int(units[:20]), 2**63 - 1)
        at = ""
        if pool is None and "@" in sku:
            sku, _, at = sku.rpartition("@")
        if not sku:
            raise CommandError(f"LINE: {line!r} names no item: write it as in tour=2 or tour@web=2")
        lines.append(item_pb2.ItemQuantity(sku=sku, pool=at if pool is None else pool, quantity=quantity))
    return lines
