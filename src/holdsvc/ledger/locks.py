"""What keeps a batch waiting: the items, or reservations, of its requests that another transaction has locked now."""

from collections.abc import Callable, Collection, Sequence
from typing import Generic, NamedTuple, Protocol, TypeVar

from holdsvc.change_requests import Adjust, Join, Modify, Request, Reserve, SetStock, Targeted, Transfer
from holdsvc.ledger import arrays
from holdsvc.ledger.binding import bind_out
from holdsvc.ledger.database import Connection
from holdsvc.model import ItemKey

RESERVATION = ItemKey("", "")
"""Stands for a reservation that is locked itself: no item has an empty sku."""


class _LockedItem(NamedTuple):
    locked_sku: str
    locked_pool: str


class _LockedTarget(NamedTuple):
    ix: int
    locked_sku: str
    locked_pool: str


_ITEMS = bind_out("find_locked_items", _LockedItem, "tenant", "sku", "pool")
_TARGETS = bind_out("find_locked_targets", _LockedTarget, "tenant", "client", "target", "reference")

R = TypeVar("R", bound=Request)
R_contra = TypeVar("R_contra", bound=Request, contravariant=True)
T = TypeVar("T", bound=Targeted)


class Locks(Protocol[R_contra]):
    """Finds the requests of a batch that a lock keeps waiting."""

    async def find(self, connection: Connection, tenant: str, requests: Sequence[R_contra]) -> dict[int, ItemKey]:
        """A locked item of each request that has one, by the request's index."""

    def among(self, requests: Sequence[R_contra], locked: Collection[ItemKey]) -> dict[int, ItemKey] | None:
        """The same where these items are known to be locked; None: only the database knows the requests' items."""


class ItemLocks(Generic[R]):
    """Locks of requests that name their items."""

    def __init__(self, items_of: Callable[[R], Collection[ItemKey]]) -> None:
        self._items_of = items_of

    async def find(self, connection: Connection, tenant: str, requests: Sequence[R]) -> dict[int, ItemKey]:
        """See `Locks`."""
        keys = list(dict.fromkeys(key for request in requests for key in self._items_of(request)))
        rows = await _ITEMS.fetch(
            connection,
            tenant=tenant,
            sku=arrays.texts([key.sku for key in keys]),
            pool=arrays.texts([key.pool for key in keys]),
        )
        return self.among(requests, {ItemKey(*row) for row in rows})

    def among(self, requests: Sequence[R], locked: Collection[ItemKey]) -> dict[int, ItemKey]:
        """See `Locks`."""
        return {
            index: key for index, request in enumerate(requests) for key in self._items_of(request) if key in locked
        }


class TargetLocks(Generic[T]):
    """Locks of requests that name a reservation; `RESERVATION` where it is locked itself."""

    async def find(self, connection: Connection, tenant: str, requests: Sequence[T]) -> dict[int, ItemKey]:
        """See `Locks`."""
        rows = await _TARGETS.fetch(
            connection,
            tenant=tenant,
            client=arrays.texts([request.caller.client for request in requests]),
            target=arrays.plain([request.reservation_id for request in requests]),
            reference=arrays.texts([request.reference for request in requests]),
        )
        return {row.ix - 1: ItemKey(row.locked_sku, row.locked_pool) for row in rows}

    def among(self, requests: Sequence[T], locked: Collection[ItemKey]) -> None:
        """See `Locks`."""


class ModifyLocks:
    """Locks of Modify, which names a reservation and items that it need not have yet."""

    def __init__(self) -> None:
        self._targets = TargetLocks[Modify]()
        self._items = ItemLocks[Modify](lambda request: [ItemKey(line.sku, line.pool) for line in request.lines or ()])

    async def find(self, connection: Connection, tenant: str, requests: Sequence[Modify]) -> dict[int, ItemKey]:
        """See `Locks`."""
        items = await self._items.find(connection, tenant, requests)
        return items | await self._targets.find(connection, tenant, requests)

    def among(self, requests: Sequence[Modify], locked: Collection[ItemKey]) -> None:
        """See `Locks`."""


RESERVES = ItemLocks[Reserve](lambda request: [ItemKey(line.sku, line.pool) for line in request.lines])
JOINS = ItemLocks[Join](lambda request: [ItemKey(line.sku, line.pool) for line in request.lines])
ADJUSTS = ItemLocks[Adjust](lambda request: [ItemKey(request.sku, request.pool)])
SET_STOCKS = ItemLocks[SetStock](lambda request: [ItemKey(request.sku, request.pool)])
TRANSFERS = ItemLocks[Transfer](
    lambda request: [ItemKey(request.sku, request.from_pool), ItemKey(request.sku, request.to_pool)]
)
