"""Lists and counts of reservations, by filters."""

from collections.abc import Sequence
from typing import NamedTuple, TypedDict

from holdsvc.ledger import arrays
from holdsvc.ledger.binding import bind, bind_out
from holdsvc.ledger.database import Connection
from holdsvc.ledger.reservations import ReservationAnswer, reservation_of
from holdsvc.model import Reservation


class _Total(NamedTuple):
    total: int


_FILTER = ("tenant", "client", "states", "sku", "pool", "holder", "reference", "order_id", "pools")
_LIST = bind("list_reservations", ReservationAnswer, *_FILTER, "before", "limit")
_COUNT = bind_out("count_reservations", _Total, *_FILTER)


class Filter:
    """Which reservations a list shows; None leaves a filter out."""

    __slots__ = ("client", "holder", "order_id", "pool", "pools", "reference", "sku", "states")

    def __init__(
        self,
        *,
        client: str | None,
        states: Sequence[int] | None,
        sku: str | None,
        pool: str | None,
        holder: str | None,
        reference: str | None,
        order_id: str | None,
        pools: Sequence[str] | None,
    ) -> None:
        self.client = client
        self.states = states
        self.sku = sku
        self.pool = pool
        self.holder = holder
        self.reference = reference
        self.order_id = order_id
        self.pools = pools

    def arguments(self) -> "_FilterColumns":
        """By the arguments of the SQL functions."""
        return {
            "client": self.client,
            "states": None if self.states is None else arrays.plain(self.states),
            "sku": self.sku,
            "pool": self.pool,
            "holder": self.holder,
            "reference": self.reference,
            "order_id": self.order_id,
            "pools": None if self.pools is None else arrays.texts(self.pools),
        }


class _FilterColumns(TypedDict):
    client: str | None
    states: str | None
    sku: str | None
    pool: str | None
    holder: str | None
    reference: str | None
    order_id: str | None
    pools: str | None


async def list_page(
    connection: Connection, tenant: str, wanted: Filter, before: str | None, limit: int
) -> list[Reservation]:
    """One page, newest first, after the reservation `before`."""
    rows = await _LIST.fetch(connection, tenant=tenant, **wanted.arguments(), before=before, limit=limit)
    return [reservation_of(row) for row in rows]


async def count(connection: Connection, tenant: str, wanted: Filter) -> int:
    """How many match; reads them all."""
    return (await _COUNT.one(connection, tenant=tenant, **wanted.arguments())).total
