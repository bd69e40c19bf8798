"""The model of ReservationService: what each call must answer."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from inventoryhold.v1 import reservation_service_pb2 as pb
from tests.model.books import (
    CANCELLED,
    CONFIRMED,
    EVENT_FULFILLED,
    EXPIRED,
    EXTENDED,
    FULFILLED,
    HELD,
    MODIFIED,
    REFUNDED,
    RESCUED,
    RESERVED,
    STATE_NAMES,
    Client,
    Key,
    Line,
    Refused,
    Reservation,
    merged,
)
from tests.model.limits import Limits

DEFAULT_TTL = timedelta(minutes=30)
MAX_LIFETIME = timedelta(hours=72)
RESCUE_WINDOW = timedelta(hours=24)

SOLD = (CONFIRMED, FULFILLED)

Answer = tuple[Reservation, bool]
"""The reservation, and whether it is a replay."""


class Ledger(Limits):
    """What one tenant's callers may expect."""

    def reserve(self, client: Client, request: pb.ReserveRequest, reservation_id: str) -> Answer:
        lines = merged(request.lines)
        for sku, pool in lines:
            if not client.sees(pool):
                raise Refused("ITEM_NOT_FOUND", sku=sku, pool=pool)
        earlier = self.replay(client, "Reserve", request)
        if earlier is not None:
            return self.reservations[earlier], True
        for key in lines:
            self.item(client, key)
        if request.HasField("duplicate_window"):
            self._refuse_duplicate(client, request, set(lines))
        self._refuse_units(lines, lambda: self.refuse_over_limit(client.name, request.holder, lines))
        ttl = request.ttl.ToTimedelta() if request.HasField("ttl") else DEFAULT_TTL
        reservation = Reservation(
            reservation_id=reservation_id,
            client=client.name,
            holder=request.holder,
            reference=request.reference,
            lines=[Line(sku, pool, units) for (sku, pool), units in lines.items()],
            create_time=self.now,
            expire_time=self.now + ttl,
            metadata=dict(request.metadata),
        )
        reservation.moved(RESERVED, [(sku, pool, units) for (sku, pool), units in lines.items()])
        self.reservations[reservation_id] = reservation
        self.claim(client, "Reserve", request, reservation_id)
        return reservation, False

    def _refuse_units(
        self, wanted: dict[Key, int], refuse_over_limit: Callable[[], None], own: dict[Key, int] | None = None
    ) -> None:
        """Units of a new hold, or the growth of one that has `own` of them."""
        own = own or {}
        growth = {key: units - own.get(key, 0) for key, units in wanted.items() if units > own.get(key, 0)}
        for sku, pool in growth:
            if self.items[sku, pool].closed:
                raise Refused("SALE_CLOSED", sku=sku, pool=pool)
        refuse_over_limit()
        short = [key for key, units in growth.items() if units > max(0, self.free(key))]
        if short:
            sku, pool = short[0]
            raise Refused(
                "CAPACITY_EXCEEDED",
                sku=sku,
                pool=pool,
                requested=wanted[short[0]],
                available=own.get(short[0], 0) + max(0, self.free(short[0])),
                short_lines=len(short),
            )

    def _refuse_duplicate(self, client: Client, request: pb.ReserveRequest, keys: set[Key]) -> None:
        since = self.now - request.duplicate_window.ToTimedelta()
        found = [
            other.reservation_id
            for other in self.reservations.values()
            if other.holder == request.holder
            and other.client == client.name
            and other.create_time >= since
            and other.state(self.now) in (HELD, *SOLD)
            and keys & {line.key for line in other.lines if self._has_units(other, line)}
        ]
        if found:
            raise Refused("DUPLICATE_RESERVATION", **self._named(client, max(found)))

    def _has_units(self, reservation: Reservation, line: Line) -> bool:
        return reservation.state(self.now) == HELD or line.confirmed > line.refunded

    def _named(self, client: Client, reservation_id: str) -> dict[str, str]:
        """How a refusal names another reservation: not at all where the client may not see it."""
        seen = self.visible(client, self.reservations[reservation_id])
        return {"reservation_id": reservation_id} if seen else {}

    # Finding

    def find(
        self, client: Client, request: Any, fits: Callable[[Reservation], bool] | None, *, rescue: bool = False
    ) -> Reservation:
        """The reservation that a request names; `fits` says which a change may start from, None: it is a read."""
        if request.WhichOneof("target") == "reference":
            named = [
                reservation
                for reservation in self.reservations.values()
                if reservation.reference == request.reference
                and reservation.client == client.name
                # A change looks at what its key may see only.
                and (fits is None or self.visible(client, reservation))
            ]
            fit = [reservation for reservation in named if fits is None or fits(reservation)]
            if not fit and rescue:
                fit = [reservation for reservation in named if self._can_be_rescued(reservation)]
            if len(fit) > 1:
                raise Refused("REFERENCE_AMBIGUOUS", reference=request.reference)
            if not named:
                raise Refused("RESERVATION_NOT_FOUND", reference=request.reference)
            return fit[0] if fit else max(named, key=lambda r: r.reservation_id)
        found = self.reservations.get(request.reservation_id)
        if found is None or not self.visible(client, found):
            raise Refused("RESERVATION_NOT_FOUND", reservation_id=request.reservation_id)
        return found

    def _earlier(self, client: Client, rpc: str, request: Any) -> Reservation | None:
        """What an earlier call with this request_id changed, where the caller may still see it."""
        earlier = self.replay(client, rpc, request)
        if earlier is None:
            return None
        if not self.visible(client, self.reservations[earlier]):
            raise Refused("RESERVATION_NOT_FOUND")
        return self.reservations[earlier]

    def _is_held(self, reservation: Reservation) -> bool:
        return reservation.state(self.now) == HELD

    def _can_be_rescued(self, reservation: Reservation) -> bool:
        return reservation.state(self.now) == EXPIRED and reservation.expire_time > self.now - RESCUE_WINDOW

    def _refuse_state(self, reservation: Reservation, wanted: str) -> None:
        """`wanted`: "held", "open" (units to fulfil) or "sold" (units to refund)."""
        state = reservation.state(self.now)
        if state == REFUNDED:
            reason = "ALREADY_REFUNDED"
        elif wanted == "held":
            reasons = {HELD: "", CANCELLED: "RESERVATION_ALREADY_CANCELLED", EXPIRED: "RESERVATION_EXPIRED"}
            reason = reasons.get(state, "RESERVATION_ALREADY_CONFIRMED")
        elif state not in SOLD:
            reason = "RESERVATION_NOT_CONFIRMED"
        else:
            reason = "ALREADY_FULFILLED" if wanted == "open" and state == FULFILLED else ""
        if reason:
            raise Refused(reason, reservation_id=reservation.reservation_id, state=STATE_NAMES[state])

    def _refuse_more(self, named: dict[Key, int], there: dict[Key, int]) -> None:
        over = [key for key, units in named.items() if units > there.get(key, 0)]
        if over:
            # The first in the order of the request.
            sku, pool = over[0]
            raise Refused(
                "QUANTITY_EXCEEDED", sku=sku, pool=pool, requested=named[over[0]], available=there.get(over[0], 0)
            )

    def _changed(self, client: Client, rpc: str, request: Any, reservation: Reservation) -> Answer:
        self.claim(client, rpc, request, reservation.reservation_id)
        return reservation, False

    # Holds

    def modify(self, client: Client, request: pb.ModifyRequest) -> Answer:
        paths = set(request.update_mask.paths)
        wanted = {(line.sku, line.pool): line.quantity for line in request.lines} if "lines" in paths else {}
        for sku, pool in wanted:
            if not client.sees(pool):
                raise Refused("ITEM_NOT_FOUND", sku=sku, pool=pool)
        earlier = self._earlier(client, "Modify", request)
        if earlier is not None:
            return earlier, True
        reservation = self.find(client, request, self._is_held)
        self._refuse_state(reservation, "held")
        if request.revision not in (0, reservation.revision):
            raise Refused("REVISION_MISMATCH", revision=reservation.revision)
        own = {line.key: line.quantity for line in reservation.lines}
        for key in wanted:
            if key not in self.items or not self.items[key].exists:
                raise Refused("ITEM_NOT_FOUND", sku=key[0], pool=key[1])
        after = {key: units for key, units in {**own, **wanted}.items() if units}
        if not after:
            raise Refused("INVALID_FIELD")
        holder = request.holder if "holder" in paths else reservation.holder
        grown = {key: units - own.get(key, 0) for key, units in wanted.items()}
        self._refuse_units(
            wanted,
            lambda: self.refuse_over_limit(
                reservation.client, holder, grown, after if holder != reservation.holder else None
            ),
            own,
        )
        before = (own, reservation.holder, reservation.reference, reservation.metadata)
        reservation.lines = [Line(*key, units) for key, units in after.items()]
        if "holder" in paths:
            reservation.holder = request.holder
        if "reference" in paths:
            reservation.reference = request.new_reference
        if "metadata" in paths:
            reservation.metadata = dict(request.metadata)
        if before != (after, reservation.holder, reservation.reference, reservation.metadata):
            reservation.moved(MODIFIED, [(*key, units - own.get(key, 0)) for key, units in wanted.items()])
        return self._changed(client, "Modify", request, reservation)

    def confirm(self, client: Client, request: pb.ConfirmRequest, order_id: str) -> Answer:
        """`order_id` is the answer's: the service mints one when the request has none."""
        earlier = self._earlier(client, "Confirm", request)
        if earlier is not None:
            return earlier, True
        reservation = self.find(client, request, self._is_held, rescue=request.rescue)
        named = merged(request.lines)
        if reservation.state(self.now) in SOLD:
            sold = {line.key: line.confirmed for line in reservation.lines if line.confirmed}
            if request.order_id in ("", reservation.order_id) and (not named or named == sold):
                # Only a call that is answered with OK makes its request id count.
                self.claim(client, "Confirm", request, reservation.reservation_id)
                return reservation, True
        rescued = request.rescue and self._can_be_rescued(reservation)
        if not rescued:
            self._refuse_state(reservation, "held")
        if request.order_id in self.orders:
            named_id = self._named(client, self.orders[request.order_id])
            raise Refused("ORDER_ID_IN_USE", order_id=request.order_id, **named_id)
        there = {line.key: line.quantity for line in reservation.lines}
        self._refuse_more(named, there)
        if rescued:
            self._rescue(reservation, there)
        for line in reservation.lines:
            line.confirmed = named.get(line.key, 0) if named else line.quantity
            self.items[line.key].confirmed += line.confirmed
        reservation.stored_state = CONFIRMED
        reservation.order_id = request.order_id or order_id
        reservation.customer = (request.customer.name, request.customer.email)
        reservation.confirm_time = self.now
        reservation.moved(CONFIRMED, [(line.sku, line.pool, line.confirmed) for line in reservation.lines])
        self.orders[reservation.order_id] = reservation.reservation_id
        return self._changed(client, "Confirm", request, reservation)

    def _rescue(self, reservation: Reservation, units: dict[Key, int]) -> None:
        # An unswept hold is ended first, also where it is refused then.
        if reservation.stored_state == HELD:
            reservation.expired()
        for sku, pool in units:
            if not self.items[sku, pool].exists:
                raise Refused("ITEM_NOT_FOUND", sku=sku, pool=pool)
        self._refuse_units(units, lambda: self.refuse_over_limit(reservation.client, reservation.holder, units))
        reservation.moved(RESCUED, [(line.sku, line.pool, line.quantity) for line in reservation.lines])

    def cancel(self, client: Client, request: pb.CancelRequest) -> Answer:
        earlier = self._earlier(client, "Cancel", request)
        if earlier is not None:
            return earlier, True
        reservation = self.find(client, request, self._is_held)
        self._refuse_state(reservation, "held")
        named = merged(request.lines)
        own = {line.key: line.quantity for line in reservation.lines}
        self._refuse_more(named, own)
        left = {key: units - named.get(key, 0) for key, units in own.items()}
        if named and any(left.values()):
            reservation.lines = [Line(*key, units) for key, units in left.items() if units]
            reservation.moved(MODIFIED, [(*key, -units) for key, units in named.items()])
        else:
            reservation.stored_state = CANCELLED
            reservation.cancel_time = self.now
            reservation.reason = request.reason
            reservation.moved(CANCELLED, [(*key, units) for key, units in own.items()])
        return self._changed(client, "Cancel", request, reservation)

    def extend(self, client: Client, request: pb.ExtendRequest) -> Answer:
        earlier = self._earlier(client, "Extend", request)
        if earlier is not None:
            return earlier, True
        reservation = self.find(client, request, self._is_held)
        self._refuse_state(reservation, "held")
        ttl = request.ttl.ToTimedelta() if request.HasField("ttl") else DEFAULT_TTL
        until: datetime = min(self.now + ttl, reservation.create_time + MAX_LIFETIME)
        if until > reservation.expire_time:
            reservation.expire_time = until
            reservation.moved(EXTENDED, [])
        return self._changed(client, "Extend", request, reservation)

    # What is sold

    def fulfil(self, client: Client, request: pb.FulfilRequest) -> Answer:
        earlier = self._earlier(client, "Fulfil", request)
        if earlier is not None:
            return earlier, True
        reservation = self.find(client, request, lambda r: r.state(self.now) == CONFIRMED)
        self._refuse_state(reservation, "open")
        named = merged(request.lines)
        there = {line.key: line.open for line in reservation.lines}
        self._refuse_more(named, there)
        leaving = {line.key: (named.get(line.key, 0) if named else line.open) for line in reservation.lines}
        short = [key for key, units in leaving.items() if units > self.items[key].capacity]
        if short:
            sku, pool = short[0]
            raise Refused("CAPACITY_EXCEEDED", sku=sku, pool=pool, available=self.items[short[0]].capacity)
        for line in reservation.lines:
            line.fulfilled += leaving[line.key]
            self.items[line.key].confirmed -= leaving[line.key]
            self.items[line.key].capacity -= leaving[line.key]
        reservation.fulfil_time = self.now
        self._settle(reservation, request.reason, EVENT_FULFILLED, leaving)
        return self._changed(client, "Fulfil", request, reservation)

    def refund(self, client: Client, request: pb.RefundRequest) -> Answer:
        earlier = self._earlier(client, "Refund", request)
        if earlier is not None:
            return earlier, True
        reservation = self.find(client, request, lambda r: r.state(self.now) in SOLD)
        self._refuse_state(reservation, "sold")
        kinds = {pb.RefundRequest.UNITS_UNFULFILLED: (True, False), pb.RefundRequest.UNITS_FULFILLED: (False, True)}
        unfulfilled, fulfilled = kinds.get(request.units, (True, True))
        there = {line.key: line.open * unfulfilled + line.away * fulfilled for line in reservation.lines}
        named = merged(request.lines)
        self._refuse_more(named, there)
        if not named and not any(there.values()):
            first = reservation.lines[0]
            raise Refused("QUANTITY_EXCEEDED", sku=first.sku, pool=first.pool, requested=1, available=0)
        taken = {line.key: (named.get(line.key, 0) if named else there[line.key]) for line in reservation.lines}
        back = {
            line.key: taken[line.key] - (min(taken[line.key], line.open) if unfulfilled else 0)
            for line in reservation.lines
        }
        for (sku, pool), units in back.items():
            if units and not request.write_off and not self.items[sku, pool].exists:
                raise Refused("ITEM_NOT_FOUND", sku=sku, pool=pool)
        for line in reservation.lines:
            item, units, returned = self.items[line.key], taken[line.key], back[line.key]
            line.refunded += units
            line.returned += returned
            item.confirmed -= units - returned
            item.capacity += -min(units - returned, item.capacity) if request.write_off else returned
        reservation.refund_time = self.now
        self._settle(reservation, request.reason, REFUNDED, taken)
        return self._changed(client, "Refund", request, reservation)

    def _settle(self, reservation: Reservation, reason: str, kind: int, moved: dict[Key, int]) -> None:
        """The state that follows from the lines."""
        lines = reservation.lines
        if all(line.refunded == line.confirmed for line in lines):
            reservation.stored_state = REFUNDED
        elif any(line.fulfilled for line in lines) and not any(line.open for line in lines):
            reservation.stored_state = FULFILLED
        else:
            reservation.stored_state = CONFIRMED
        reservation.reason = reason
        reservation.moved(kind, [(*key, units) for key, units in moved.items()])
