"""Demo items and a little traffic on them, for `holdsvc dev`."""

import random
from collections import deque
from collections.abc import Callable

import grpc

from holdsvc.client import CallError, Client
from holdsvc.client.errors import CapacityExceeded
from inventoryhold.v1 import inventory_service_pb2, item_pb2
from inventoryhold.v1.reservation_pb2 import Reservation

ITEMS = (
    ("concert-front-row", "", "Concert, front row", 40),
    ("concert-stalls", "", "Concert, stalls", 400),
    ("concert-stalls", "web", "Concert, stalls, for the web shop", 150),
    ("museum-10h", "", "Museum, entry at 10:00", 60),
    ("museum-11h", "", "Museum, entry at 11:00", 60),
    ("canoe-day", "", "Canoe for a day", 12),
    ("mug-blue", "", "Blue mug", 250),
)
"""Sku, pool, name and capacity."""

TTL_S = (10, 60)
"""The shortest and the longest life of a hold."""

SOLD_MAX = 1000
"""Sales that are remembered for a refund."""

REFUND_ABOVE = 100
"""Sales beyond which refunds keep pace with them, so that stock remains."""

Key = tuple[str, str]
"""The sku and pool of an item."""


def create_items(client: Client) -> None:
    """Creates the demo items, all of them or none."""
    items = [item_pb2.Item(sku=sku, pool=pool, display_name=name, capacity=units) for sku, pool, name, units in ITEMS]
    client.inventory.BatchCreateItems(inventory_service_pb2.BatchCreateItemsRequest(items=items))


class Visitors:
    """Buyers who hold, buy, think better of it, forget their hold, and bring things back."""

    def __init__(self, client: Client, choose: random.Random) -> None:
        self._client = client
        self._choose = choose
        self._holds: deque[str] = deque()
        self._sold: deque[tuple[str, Key]] = deque(maxlen=SOLD_MAX)
        self._number = 0

    def step(self) -> None:
        """One buyer comes, and most of the time an earlier one decides.

        Raises CallError where the service fails; a refusal is an ordinary outcome.
        """
        self._arrive()
        if self._holds and self._choose.random() < 0.9:
            self._decide(self._holds.popleft())
        if len(self._sold) > REFUND_ABOVE:
            self._refund(self._sold.popleft()[0])

    def _arrive(self) -> None:
        self._number += 1
        sku, pool, _, _ = self._choose.choice(ITEMS)
        quantity = self._choose.randint(1, 4)
        try:
            hold = self._client.reserve(
                [(sku, pool, quantity)],
                ttl=self._choose.randint(*TTL_S),
                holder=f"visitor-{self._choose.randint(1, 500)}",
                reference=f"demo-{self._number}",
            )
        except CapacityExceeded:
            # Sold out: those who bought first bring it back.
            for sale in [sale for sale in self._sold if sale[1] == (sku, pool)][:quantity]:
                self._sold.remove(sale)
                self._refund(sale[0])
        else:
            self._holds.append(hold.reservation_id)

    def _decide(self, reservation_id: str) -> None:
        """Buys, gives up or asks for more time; one in ten forgets the hold, which then expires."""
        chance = self._choose.random()
        if chance < 0.6:
            sold = _unless_refused(lambda: self._client.confirm(reservation_id))
            if sold is not None:
                self._sold.append((reservation_id, (sold.lines[0].sku, sold.lines[0].pool)))
        elif chance < 0.8:
            _unless_refused(lambda: self._client.cancel(reservation_id, reason="changed my mind"))
        elif chance < 0.9:
            _unless_refused(lambda: self._client.extend(reservation_id, TTL_S[1]))

    def _refund(self, reservation_id: str) -> None:
        _unless_refused(lambda: self._client.refund(reservation_id, reason="brought back"))


def _unless_refused(change: Callable[[], Reservation]) -> Reservation | None:
    """The reservation as changed; None where its state refuses that: it may have expired meanwhile."""
    try:
        return change()
    except CallError as error:
        if error.code is not grpc.StatusCode.FAILED_PRECONDITION:
            raise
        return None
