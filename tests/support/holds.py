"""Arguments of the ledger's functions: items and reserve requests, for tests below the wire."""

from collections.abc import Iterable
from hashlib import sha256

from holdsvc.change_requests import Reserve
from holdsvc.engine.identifiers import Uuid7
from holdsvc.model import Caller, Item, ReservationLine

CALLER = Caller("default", "dev", "", frozenset())

new_id = Uuid7()


def stock(skus: Iterable[str]) -> list[Item]:
    """Items with more units than a test takes."""
    return [Item(sku, "", "", 10**9, 0, 0, 0, 0, 0, None, None) for sku in skus]  # type: ignore[arg-type]


def reserves(skus: Iterable[str], *, ttl_us: int = 3_600_000_000) -> list[Reserve]:
    """A request for one unit of each item, with its own request id."""
    return [_reserve(sku, new_id(), ttl_us) for sku in skus]


def _reserve(sku: str, id_: str, ttl_us: int) -> Reserve:
    return Reserve(
        caller=CALLER,
        request_id=f"reserve {id_}",
        fingerprint=sha256(id_.encode()).digest(),
        reservation_id=id_,
        lines=[ReservationLine(sku, "", 1)],
        holder="",
        reference="",
        ttl_us=ttl_us,
        metadata={},
        duplicate_window_us=None,
    )
