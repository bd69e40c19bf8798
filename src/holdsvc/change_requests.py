"""Requests for changes, as the engine takes them and the ledger's functions run them; a batch is a list of them.

Times are aware datetimes in UTC, durations whole microseconds, quantities units.
"""

from dataclasses import dataclass, field
from datetime import datetime
from enum import IntEnum

from holdsvc.model import Caller, Line, ReservationLine


@dataclass(slots=True)
class Request:
    """What every change brings: who makes it and which call it is.

    `fingerprint` is a hash of the content, by which a reused request_id is told from a repeated call.
    """

    caller: Caller
    request_id: str
    fingerprint: bytes
    served: bool = field(default=False, kw_only=True)
    """Whether waitlists were served for it: it is judged by what that left."""

    @property
    def line_count(self) -> int:
        """How many lines it brings."""
        return 0


@dataclass(slots=True)
class Reserve(Request):
    """Take `lines`, one a item, for `ttl_us`."""

    reservation_id: str
    lines: list[ReservationLine]
    """Nothing of them confirmed: they become the reservation's."""
    holder: str
    reference: str
    ttl_us: int
    metadata: dict[str, str]
    duplicate_window_us: int | None

    @property
    def line_count(self) -> int:
        """How many lines it brings."""
        return len(self.lines)


@dataclass(slots=True)
class Targeted(Request):
    """A change of one reservation, named by id or by the client's reference."""

    reservation_id: str | None
    reference: str | None


@dataclass(slots=True)
class Modify(Targeted):
    """Change a hold in place; what is None stays. `lines` are the quantities to have, 0 for none."""

    revision: int
    lines: list[Line] | None
    holder: str | None
    new_reference: str | None
    metadata: dict[str, str] | None

    @property
    def line_count(self) -> int:
        """How many lines it brings."""
        return len(self.lines or ())


@dataclass(slots=True)
class Confirm(Targeted):
    """Sell what is held, or `lines` of it; with `rescue` also what expired a while ago."""

    order_id: str
    minted: bool
    customer_name: str
    customer_email: str
    lines: list[Line]
    rescue: bool = False

    @property
    def line_count(self) -> int:
        """How many lines it brings."""
        return len(self.lines)


@dataclass(slots=True)
class Cancel(Targeted):
    """Give back what is held, or `lines` of it."""

    reason: str
    lines: list[Line] = field(default_factory=list)

    @property
    def line_count(self) -> int:
        """How many lines it brings."""
        return len(self.lines)


class RefundUnits(IntEnum):
    """Which units of a line a refund means, numbered as in the contract."""

    ANY = 1
    UNFULFILLED = 2
    FULFILLED = 3


@dataclass(slots=True)
class Refund(Targeted):
    """Take back what is confirmed, or `lines` of it."""

    lines: list[Line]
    write_off: bool
    reason: str
    units: RefundUnits = RefundUnits.ANY
    effective_time: datetime | None = None
    """When the goods came back or were written off; None: now."""

    @property
    def line_count(self) -> int:
        """How many lines it brings."""
        return len(self.lines)


@dataclass(slots=True)
class Fulfil(Targeted):
    """Take what is confirmed, or `lines` of it, out of the building."""

    lines: list[Line]
    reason: str
    effective_time: datetime | None
    """When the goods left; None: now."""

    @property
    def line_count(self) -> int:
        """How many lines it brings."""
        return len(self.lines)


@dataclass(slots=True)
class Extend(Targeted):
    """Hold until now + `ttl_us`."""

    ttl_us: int


@dataclass(slots=True)
class Adjust(Request):
    """Change an item's capacity by `delta`."""

    sku: str
    pool: str
    delta: int
    reason: str
    effective_time: datetime | None = None
    """When the goods came or left; None: now."""


@dataclass(slots=True)
class SetStock(Request):
    """Set an item's capacity from a count of `on_hand` units; a `revision` other than 0 must be the item's.

    It has no request_id: a count with a time is safe to repeat.
    """

    sku: str
    pool: str
    on_hand: int
    count_time: datetime | None
    """When it was counted; None: now."""
    revision: int


@dataclass(slots=True)
class Transfer(Request):
    """Move `quantity` units of capacity between pools."""

    sku: str
    from_pool: str
    to_pool: str
    quantity: int
    reason: str


@dataclass(slots=True)
class Join(Request):
    """Wait for `lines`, one an item; an offer is held for `offer_ttl_us`."""

    entry_id: str
    lines: list[Line]
    holder: str
    reference: str
    priority: int
    offer_ttl_us: int
    expire_time: datetime | None
    """When the entry lapses if it still waits; None: it waits until it leaves."""
    metadata: dict[str, str]

    @property
    def line_count(self) -> int:
        """How many lines it brings."""
        return len(self.lines)
