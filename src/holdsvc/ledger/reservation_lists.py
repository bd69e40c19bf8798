"""Lists and counts of reservations, by filters."""

from collections.abc import Sequence
from typing import NamedTuple, TypedDict
from uuid import UUID

from holdsvc.ledger import arrays, reservations
from holdsvc.ledger.binding import bind_out
from holdsvc.ledger.database import Connection
from holdsvc.model import Part, Reservation

LOOKED_MAX = 10_000
"""Reservations of a state that one statement of a list looks at."""


class _Found(NamedTuple):
    ids: list[UUID]
    looked_to: UUID | None


class _Total(NamedTuple):
    total: int


_FILTER = ("tenant", "client", "states", "sku", "pool", "holder", "reference", "order_id", "pools")
_FIND = bind_out("find_reservations", _Found, *_FILTER, "before", "limit", "looked_max")
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
) -> Part[Reservation]:
    """A part of the list, newest first, after the reservation `before`."""
    found = await _FIND.one(
        connection, tenant=tenant, **wanted.arguments(), before=before, limit=limit, looked_max=LOOKED_MAX
    )
    read = await reservations.get(connection, tenant, [str(id_) for id_ in found.ids]) if found.ids else []
    # Retention may have removed some of them meanwhile.
    looked_to = found.ids[-1] if len(found.ids) == limit else found.looked_to
    return Part([one for one in read if one is not None], None if looked_to is None else [str(looked_to)])


async def count(connection: Connection, tenant: str, wanted: Filter) -> int:
    """How many match; reads them all."""
    return (await _COUNT.one(connection, tenant=tenant, **wanted.arguments())).total
