"""What requests of several services have in common."""

from collections.abc import Iterable, Sequence
from hashlib import blake2b

from google.protobuf.message import Message
from inventoryhold.v1 import item_pb2

from holdsvc import errors
from holdsvc.model import Caller, Line


def fingerprint(request: Message) -> bytes:
    """A hash of what the request says, by which a reused request_id is told from a repeated call."""
    return blake2b(request.SerializeToString(deterministic=True), digest_size=16).digest()


def merged_lines(lines: Iterable[item_pb2.ItemQuantity]) -> list[Line]:
    """The lines with those of one item added up, in the order in which the items first appear."""
    units: dict[tuple[str, str], int] = {}
    for line in lines:
        key = (line.sku, line.pool)
        units[key] = units.get(key, 0) + line.quantity
    return [Line(sku, pool, quantity) for (sku, pool), quantity in units.items()]


def check_pool(caller: Caller, sku: str, pool: str) -> None:
    """Raises ITEM_NOT_FOUND for a pool that the caller's key may not see."""
    if not caller.sees_pool(pool):
        raise errors.item_not_found(sku, pool)


def check_pools(caller: Caller, lines: Sequence[Line]) -> None:
    """Raises ITEM_NOT_FOUND for the first line in a pool that the caller's key may not see."""
    if caller.pools:
        for line in lines:
            check_pool(caller, line.sku, line.pool)
