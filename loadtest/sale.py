"""One item on sale, its buyers, and the checks at the end.

The buyers count every unit that a call took or returned in a `Tally`. At the end three independent records must agree:
the service's counters, its reservations, and this tally.
"""

import random
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from google.protobuf import duration_pb2
from target import Target, reason_of
from verdict import Check, Tally, judge

from inventoryhold.v1 import (
    admin_service_pb2,
    admin_service_pb2_grpc,
    inventory_service_pb2,
    inventory_service_pb2_grpc,
    item_pb2,
    reservation_pb2,
    reservation_service_pb2,
    reservation_service_pb2_grpc,
)

HELD = reservation_pb2.Reservation.STATE_HELD
CONFIRMED = reservation_pb2.Reservation.STATE_CONFIRMED

CALL_TIMEOUT_S = 30.0
VERIFY_TIMEOUT_S = 300.0
ABANDONED_TTL = duration_pb2.Duration(seconds=2)
LAPSE_TIMEOUT_S = 30.0

# Shares of reservations by what follows; the rest is abandoned and expires. Some requests are sent twice.
CONFIRMED_SHARE = 0.60
CANCELLED_SHARE = 0.35
REPEATED_SHARE = 0.05

SOLD_OUT = "CAPACITY_EXCEEDED"
"""The refusal that is normal in a sale."""


class CallFailed(Exception):
    """A call was answered with an error other than the normal refusal."""


Heard = Callable[[str, str, float, Exception | None], None]
"""Receives each call: rpc, outcome (`OK` or a reason), milliseconds, the failure if any."""


class Buyer:
    """One caller with a connection of its own."""

    def __init__(self, sale: "Sale", heard: Heard) -> None:
        self._sale = sale
        self._heard = heard
        self._channel = sale.target.channel()
        self._reservations = reservation_service_pb2_grpc.ReservationServiceStub(self._channel)
        self._sold = ""

    def connect(self) -> None:
        """Waits for the connection, so that it does not count in the first call."""
        grpc.channel_ready_future(self._channel).result(timeout=CALL_TIMEOUT_S)

    def close(self) -> None:
        """Closes the connection."""
        self._channel.close()

    def call(self, rpc: str, request: Any) -> Any:
        """Calls the ReservationService; returns None for the normal refusal, raises CallFailed for other errors."""
        start = time.perf_counter()
        outcome, answer, failure = "OK", None, None
        try:
            answer = getattr(self._reservations, rpc)(
                request, timeout=CALL_TIMEOUT_S, metadata=self._sale.target.metadata
            )
        except grpc.RpcError as error:
            outcome = reason_of(error)
            if outcome != SOLD_OUT:
                failure = CallFailed(f"{rpc}: {outcome}: {error.details()}")
        milliseconds = (time.perf_counter() - start) * 1000
        tally = self._sale.tally
        tally.latencies_ms.setdefault((rpc, outcome), []).append(milliseconds)
        self._heard(rpc, outcome, milliseconds, failure)
        if failure:
            tally.failed[str(failure)] += 1
            raise failure
        return answer

    def reserve(self, quantity: int, *, abandoned: bool = False) -> reservation_pb2.Reservation | None:
        """Reserves units of the item; returns None if too few are available."""
        request = reservation_service_pb2.ReserveRequest(
            request_id=secrets.token_hex(16),
            lines=[item_pb2.ItemQuantity(sku=self._sale.sku, quantity=quantity)],
            ttl=ABANDONED_TTL if abandoned else None,
        )
        answer = self.call("Reserve", request)
        if answer is None:
            return None
        if random.random() < REPEATED_SHARE:
            again = self.call("Reserve", request)
            if (
                again is None
                or not again.replayed
                or again.reservation.reservation_id != answer.reservation.reservation_id
            ):
                self._sale.tally.broken.append(f"request_id {request.request_id} was sent twice and taken twice")
        held: reservation_pb2.Reservation = answer.reservation
        return held

    def buy(self) -> None:
        """One purchase: refunds the previous one, reserves, then confirms, cancels or abandons the hold."""
        if self._sold:
            self._give_back()
        fate = random.random()
        quantity = random.choice((1, 1, 1, 2, 3))
        held = self.reserve(quantity, abandoned=fate > CONFIRMED_SHARE + CANCELLED_SHARE)
        if held is None:
            return
        self._sale.tally.reserved_count += 1
        if fate < CONFIRMED_SHARE:
            self._confirm(held, quantity)
        elif fate < CONFIRMED_SHARE + CANCELLED_SHARE:
            self.call(
                "Cancel",
                reservation_service_pb2.CancelRequest(
                    reservation_id=held.reservation_id, request_id=secrets.token_hex(16), reason="load: changed my mind"
                ),
            )

    def _confirm(self, held: reservation_pb2.Reservation, quantity: int) -> None:
        """Confirms a hold."""
        request = reservation_service_pb2.ConfirmRequest(
            reservation_id=held.reservation_id, request_id=secrets.token_hex(16)
        )
        if self.call("Confirm", request) is not None:
            self._sale.tally.confirmed += quantity
            self._sale.tally.confirmed_count += 1
            self._sold = held.reservation_id

    def _give_back(self) -> None:
        request = reservation_service_pb2.RefundRequest(
            reservation_id=self._sold, request_id=secrets.token_hex(16), reason="load: sent back"
        )
        self._sold = ""
        answer = self.call("Refund", request)
        if answer is not None:
            self._sale.tally.confirmed -= sum(line.confirmed_quantity for line in answer.reservation.lines)


class Sale:
    """An item of `capacity` units with a unique name, from its creation to its deletion."""

    def __init__(self, target: Target, capacity: int) -> None:
        self.target = target
        self.capacity = capacity
        self.sku = f"load-{secrets.token_hex(4)}"
        self.tally = Tally()
        self.checks: list[Check] = []
        self._channel = target.channel()
        self._inventory = inventory_service_pb2_grpc.InventoryServiceStub(self._channel)
        self._reservations = reservation_service_pb2_grpc.ReservationServiceStub(self._channel)
        self._admin = admin_service_pb2_grpc.AdminServiceStub(self._channel)
        self._options: dict[str, Any] = {"timeout": CALL_TIMEOUT_S, "metadata": target.metadata}

    def open(self) -> None:
        """Creates the item."""
        item = item_pb2.Item(sku=self.sku, display_name="made by the load test", capacity=self.capacity)
        self._inventory.CreateItem(inventory_service_pb2.CreateItemRequest(item=item), **self._options)

    def start_clock(self) -> None:
        """Starts the time of the buyers."""
        self._began, self._calls_before = time.monotonic(), self.tally.call_count

    def stop_clock(self) -> None:
        """Ends the time of the buyers."""
        self.tally.buyers_seconds = time.monotonic() - self._began
        self.tally.buyers_calls = self.tally.call_count - self._calls_before

    def rush(self, name: str, callers: int, heard: Heard) -> None:
        """Has `callers` reserve one unit each at the same moment; checks that they got all units and no more."""
        self._await_lapses()
        free = self.capacity - self.tally.confirmed
        start = threading.Barrier(callers)
        buyers = [Buyer(self, heard) for _ in range(callers)]

        def reserve(buyer: Buyer) -> reservation_pb2.Reservation | None:
            try:
                buyer.connect()
                start.wait(CALL_TIMEOUT_S)
                return buyer.reserve(1)
            except (grpc.FutureTimeoutError, threading.BrokenBarrierError):
                # The others must not wait for a caller that cannot connect.
                start.abort()
                return None
            except CallFailed:
                return None

        # Under locust these threads are greenlets.
        with ThreadPoolExecutor(callers) as pool:
            taken = sum(held is not None for held in pool.map(reserve, buyers))
        for buyer in buyers:
            buyer.close()
        fits = min(callers, free)
        text = f"{name}: {callers} callers at once, {free} units: {taken} got one, {callers - taken} did not"
        self.checks.append(Check(taken == fits, text if taken == fits else f"{text}; {fits} should have"))

    def _await_lapses(self) -> None:
        """Waits until the abandoned holds have expired, because the number of free units is unknown before."""
        deadline = time.monotonic() + LAPSE_TIMEOUT_S
        while any(self.reservations((HELD,))):
            if time.monotonic() > deadline:
                self.checks.append(Check(False, f"abandoned holds have not expired within {LAPSE_TIMEOUT_S:g} s"))
                return
            time.sleep(0.2)

    def cancel_holds(self) -> None:
        """Cancels all holds."""
        for reservation in self.reservations((HELD,)):
            request = reservation_service_pb2.CancelRequest(reservation_id=reservation.reservation_id)
            self._reservations.Cancel(request, **self._options)

    def reservations(self, states: Sequence[Any]) -> Iterator[reservation_pb2.Reservation]:
        """The item's reservations in these states, listed by the service."""
        token = ""
        while True:
            request = reservation_service_pb2.ListReservationsRequest(
                sku=self.sku, states=states, page_size=1000, page_token=token
            )
            page = self._reservations.ListReservations(request, **self._options)
            yield from page.reservations
            token = page.next_page_token
            if not token:
                return

    def judge(self) -> None:
        """Compares the item's counters, its reservations and the tally, and runs VerifyLedger."""
        item = self._inventory.GetItem(inventory_service_pb2.GetItemRequest(sku=self.sku), **self._options).item
        held = confirmed = 0
        for reservation in self.reservations((HELD, CONFIRMED)):
            for line in reservation.lines:
                if reservation.state == HELD:
                    held += line.quantity
                else:
                    confirmed += line.confirmed_quantity - line.refunded_quantity
        self.checks += judge(item, held, confirmed, self.tally)
        report = self._admin.VerifyLedger(
            admin_service_pb2.VerifyLedgerRequest(), timeout=VERIFY_TIMEOUT_S, metadata=self.target.metadata
        )
        drifts = "; ".join(
            f"{drift.sku} {drift.counter} {drift.stored}, not {drift.recomputed}" for drift in report.drifts
        )
        self.checks.append(
            Check(
                report.ok,
                f"VerifyLedger: {report.item_count} items, {report.reservation_count} live reservations, "
                + ("no drift" if report.ok else f"drift: {drifts}"),
            )
        )

    def clear(self) -> None:
        """Cancels and refunds everything and deletes the item; its reservations stay as history."""
        self.cancel_holds()
        for reservation in self.reservations((CONFIRMED,)):
            request = reservation_service_pb2.RefundRequest(reservation_id=reservation.reservation_id)
            self._reservations.Refund(request, **self._options)
        self._inventory.DeleteItem(inventory_service_pb2.DeleteItemRequest(sku=self.sku), **self._options)

    def close(self) -> None:
        """Closes the connection."""
        self._channel.close()
