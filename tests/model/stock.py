"""The model of InventoryService: what each call must answer."""

from datetime import UTC, datetime
from typing import Any

from inventoryhold.v1 import inventory_service_pb2 as ipb
from inventoryhold.v1 import item_pb2
from tests.model.books import Books, Client, Item, Key, Refused

CLOSED = item_pb2.Item.SALE_STATE_CLOSED


def time_of(message: Any, field: str) -> datetime | None:
    return getattr(message, field).ToDatetime(tzinfo=UTC) if message.HasField(field) else None


class Stock(Books):
    """The items of one tenant."""

    def create(self, client: Client, wanted: Any) -> None:
        self._refuse_returns_to_themselves(wanted)
        for new in wanted:
            for pool in (new.pool, *([new.return_pool] if new.HasField("return_time") else [])):
                if not client.sees(pool):
                    raise Refused("ITEM_NOT_FOUND", sku=new.sku, pool=pool)
        there = [new for new in wanted if (new.sku, new.pool) in self.items and self.items[new.sku, new.pool].exists]
        if len(there) == 1:
            raise Refused("ITEM_ALREADY_EXISTS", sku=there[0].sku, pool=there[0].pool)
        if there:
            raise Refused("ITEM_ALREADY_EXISTS")
        for new in wanted:
            self._put(
                (new.sku, new.pool),
                Item(
                    new.capacity, new.oversell_limit, new.display_name, closed=new.sale_state == CLOSED,
                    buffer=new.buffer, low_at=new.low_at if new.HasField("low_at") else None,
                    return_pool=new.return_pool if new.HasField("return_pool") else None,
                    return_time=time_of(new, "return_time"),
                ),
            )  # fmt: skip

    def _refuse_returns_to_themselves(self, wanted: Any) -> None:
        if any(new.HasField("return_time") and new.return_pool == new.pool for new in wanted):
            raise Refused("INVALID_FIELD")

    def _put(self, key: Key, item: Item) -> None:
        before = self.items.get(key)
        item.seen_revision = before.seen_revision if before else 0
        self.items[key] = item

    def update(self, client: Client, request: ipb.UpdateItemRequest, revision: int) -> None:
        """`revision` is the item's, as last read."""
        new = request.item
        key = (new.sku, new.pool)
        paths = set(request.update_mask.paths)
        item = self.item(client, key)
        if request.revision and request.revision != revision:
            raise Refused("REVISION_MISMATCH", sku=new.sku, pool=new.pool, revision=revision)
        return_pool = new.return_pool if new.HasField("return_pool") else None
        return_pool = return_pool if "return_pool" in paths else item.return_pool
        return_time = time_of(new, "return_time") if "return_time" in paths else item.return_time
        if return_time is not None and paths & {"return_pool", "return_time"}:
            if (return_pool or "") == new.pool:
                raise Refused("INVALID_FIELD")
            if not client.sees(return_pool or ""):
                raise Refused("ITEM_NOT_FOUND", sku=new.sku, pool=return_pool or "")
        capacity = new.capacity if "capacity" in paths else item.capacity
        oversell_limit = new.oversell_limit if "oversell_limit" in paths else item.oversell_limit
        if capacity - self.held(key) - item.confirmed < -oversell_limit:
            taken = item.capacity + item.oversell_limit - capacity - oversell_limit
            if taken > 0:
                available = max(0, self.remaining(key) + item.oversell_limit)
                raise Refused("CAPACITY_IN_USE", sku=new.sku, pool=new.pool, requested=taken, available=available)
        item.capacity, item.oversell_limit = capacity, oversell_limit
        item.returned = item.returned and return_time == item.return_time
        item.return_pool, item.return_time = return_pool, return_time
        if "display_name" in paths:
            item.display_name = new.display_name
        if "sale_state" in paths:
            item.closed = new.sale_state == CLOSED
        if "buffer" in paths:
            item.buffer = new.buffer
        if "low_at" in paths:
            item.low_at = new.low_at if new.HasField("low_at") else None

    def adjust(self, client: Client, request: ipb.AdjustCapacityRequest) -> bool:
        """Returns whether it is a replay."""
        key = (request.sku, request.pool)
        if not client.sees(request.pool):
            raise Refused("ITEM_NOT_FOUND", sku=request.sku, pool=request.pool)
        if self.replay(client, "AdjustCapacity", request) is not None:
            self.item(client, key)
            return True
        item = self.item(client, key)
        available = max(0, min(item.capacity, self.remaining(key) + item.oversell_limit))
        if available + request.delta < 0:
            raise Refused(
                "CAPACITY_IN_USE", sku=request.sku, pool=request.pool, requested=-request.delta, available=available
            )
        item.capacity += request.delta
        self.claim(client, "AdjustCapacity", request, True)
        return False

    def set_stock(self, client: Client, sku: str, pool: str, on_hand: int) -> None:
        """A count made now: nothing has moved since."""
        key = (sku, pool)
        item = self.item(client, key)
        taken = item.capacity - on_hand
        available = max(0, min(item.capacity, self.remaining(key) + item.oversell_limit))
        if taken > available:
            raise Refused("CAPACITY_IN_USE")
        item.capacity = on_hand

    def transfer(self, client: Client, request: ipb.TransferCapacityRequest) -> bool:
        """Returns whether it is a replay."""
        giving, taking = (request.sku, request.from_pool), (request.sku, request.to_pool)
        for key in (giving, taking):
            if not client.sees(key[1]):
                raise Refused("ITEM_NOT_FOUND", sku=key[0], pool=key[1])
        if self.replay(client, "TransferCapacity", request) is not None:
            self.item(client, giving)
            self.item(client, taking)
            return True
        item = self.item(client, giving)
        free = max(0, self.remaining(giving))
        if free < request.quantity:
            raise Refused("CAPACITY_IN_USE", sku=giving[0], pool=giving[1], requested=request.quantity, available=free)
        self._move(giving, taking, request.quantity, closed=item.closed)
        self.claim(client, "TransferCapacity", request, True)
        return False

    def _move(self, giving: Key, taking: Key, quantity: int, *, closed: bool) -> None:
        self.items[giving].capacity -= quantity
        to = self.items.get(taking)
        if to is None or not to.exists:
            self._put(taking, Item(quantity, 0, self.items[giving].display_name, closed=closed))
        else:
            to.capacity += quantity

    def return_allotments(self) -> int:
        """One look at the allotments that are due, after a sweep; returns how many have sent units back."""
        due = [
            (key, not item.returned)
            for key, item in sorted(self.items.items())
            if item.exists and item.return_time is not None and item.return_time <= self.now
            and (not item.returned or (item.closed and self.remaining(key) > 0))
        ]  # fmt: skip
        moved = 0
        for key, first in due:
            item = self.items[key]
            closed, item.returned = item.closed, True
            item.closed = item.closed or first
            taking = (key[0], item.return_pool or "")
            if (first or closed) and self.remaining(key) > 0 and not self._returns_in_a_circle(key, taking):
                self._move(key, taking, self.remaining(key), closed=closed)
                moved += 1
        return moved

    def _returns_in_a_circle(self, giving: Key, taking: Key) -> bool:
        seen = {giving}
        while taking not in seen:
            seen.add(taking)
            item = self.items.get(taking)
            if item is None or not (item.exists and item.closed and item.returned and item.return_time):
                return False
            taking = (taking[0], item.return_pool or "")
        return True

    def delete(self, client: Client, key: Key) -> None:
        item = self.item(client, key)
        if item.confirmed or self.held(key):
            raise Refused("CAPACITY_IN_USE", sku=key[0], pool=key[1])
        item.exists = False
