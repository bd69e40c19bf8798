"""Changes of reservations as the engine takes them, made from requests."""

from collections.abc import Callable, Sequence

from holdsvc import change_requests, model
from holdsvc.api import convert, validation
from holdsvc.api.calls import Call
from holdsvc.api.content import check_pools, fingerprint, merged_lines, units
from holdsvc.change_requests import RefundUnits
from holdsvc.model import Line, ReservationLine, Violation
from holdsvc.settings import Settings
from inventoryhold.v1 import reservation_service_pb2 as pb

Check = Callable[..., None]
"""Raises INVALID_FIELD for what is wrong with a request: see `validation.check`."""

Targeted = (
    pb.ModifyRequest | pb.ConfirmRequest | pb.CancelRequest | pb.RefundRequest | pb.FulfilRequest | pb.ExtendRequest
)


class Changes:
    """Makes a change of each request; raises INVALID_FIELD, and ITEM_NOT_FOUND for pools that the key may not see."""

    def __init__(self, settings: Settings) -> None:
        self._ttl = validation.TtlRule(settings)

    def reserve(
        self, request: pb.ReserveRequest, call: Call, check: Check, reservation_id: str = ""
    ) -> change_requests.Reserve:
        """A new hold; `reservation_id` is made where it is empty."""
        ttl_us, violation = self._ttl.read(request)
        check(request, violation, _duplicate_window_rule(request))
        wanted = units(request.lines)
        check_pools(call.caller, wanted)
        metadata = request.metadata
        return change_requests.Reserve(
            caller=call.caller,
            request_id=request.request_id,
            fingerprint=fingerprint(request),
            reservation_id=reservation_id or call.cell.engine.new_id(),
            lines=[ReservationLine(sku, pool, quantity) for (sku, pool), quantity in wanted.items()],
            holder=request.holder,
            reference=request.reference,
            ttl_us=ttl_us,
            # Most have none; the copy of an empty map costs as much as the rest of this.
            metadata=dict(metadata) if metadata else {},
            duplicate_window_us=(
                validation.microseconds_of(request.duplicate_window) if request.HasField("duplicate_window") else None
            ),
        )

    def modify(self, request: pb.ModifyRequest, call: Call, check: Check) -> change_requests.Modify:
        """A change of a hold in place; what `update_mask` does not name stays."""
        check(request, _repeated_item_rule(request.lines), validation.mask_rule(request.update_mask))
        paths = set(request.update_mask.paths)
        lines = None
        if "lines" in paths:
            lines = [Line(line.sku, line.pool, line.quantity) for line in request.lines[:]]
            check_pools(call.caller, [(line.sku, line.pool) for line in lines])
        return change_requests.Modify(
            *_target(request, call),
            revision=request.revision,
            lines=lines,
            holder=request.holder if "holder" in paths else None,
            new_reference=request.new_reference if "reference" in paths else None,
            metadata=dict(request.metadata) if "metadata" in paths else None,
        )

    def confirm(
        self, request: pb.ConfirmRequest, call: Call, check: Check, new_order_id: str = ""
    ) -> change_requests.Confirm:
        """A sale of what is held; where it names no order, `new_order_id` is its id, made where that is empty."""
        check(request)
        customer = request.customer
        return change_requests.Confirm(
            *_target(request, call),
            order_id=request.order_id or new_order_id or call.cell.engine.new_id(),
            minted=not request.order_id,
            customer_name=customer.name,
            customer_email=customer.email,
            lines=merged_lines(request.lines),
            rescue=request.rescue,
        )

    def cancel(self, request: pb.CancelRequest, call: Call, check: Check) -> change_requests.Cancel:
        """The return of what is held."""
        check(request)
        return change_requests.Cancel(*_target(request, call), reason=request.reason, lines=merged_lines(request.lines))

    def refund(self, request: pb.RefundRequest, call: Call, check: Check) -> change_requests.Refund:
        """The return of what was sold."""
        check(request)
        return change_requests.Refund(
            *_target(request, call),
            lines=merged_lines(request.lines),
            write_off=request.write_off,
            reason=request.reason,
            units=RefundUnits(request.units or RefundUnits.ANY),
            effective_time=convert.time_of(request, "effective_time"),
        )

    def fulfil(self, request: pb.FulfilRequest, call: Call, check: Check) -> change_requests.Fulfil:
        """The departure of what was sold."""
        check(request)
        return change_requests.Fulfil(
            *_target(request, call),
            lines=merged_lines(request.lines),
            reason=request.reason,
            effective_time=convert.time_of(request, "effective_time"),
        )

    def extend(self, request: pb.ExtendRequest, call: Call, check: Check) -> change_requests.Extend:
        """More time for a hold."""
        ttl_us, violation = self._ttl.read(request)
        check(request, violation)
        return change_requests.Extend(*_target(request, call), ttl_us=ttl_us)


def _duplicate_window_rule(request: pb.ReserveRequest) -> Violation | None:
    if request.HasField("duplicate_window") and not request.holder:
        return Violation(
            "duplicate_window", "needs holder: it looks for other reservations of the same holder", "NEEDS_HOLDER"
        )
    return None


def _repeated_item_rule(lines: Sequence[pb.LineChange]) -> Violation | None:
    seen: set[tuple[str, str]] = set()
    for index, line in enumerate(lines[:]):
        if (line.sku, line.pool) in seen:
            return Violation(f"lines[{index}]", "names an item that an earlier line names", "LINES_UNIQUE")
        seen.add((line.sku, line.pool))
    return None


def _target(request: Targeted, call: Call) -> tuple[model.Caller, str, bytes, str | None, str | None]:
    """The first fields of every change of a reservation."""
    by_reference = request.WhichOneof("target") == "reference"
    return (
        call.caller,
        request.request_id,
        fingerprint(request),
        None if by_reference else request.reservation_id,
        request.reference if by_reference else None,
    )
