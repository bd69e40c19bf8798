"""What the rooms of the service say to each other: plain values, no SQL and no protobuf.

Requests are what the ledger's functions take; a batch is a list of them. Times are aware datetimes in UTC, durations
whole microseconds, quantities units.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import IntEnum, StrEnum
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeAlias, TypeVar

if TYPE_CHECKING:
    from holdsvc.entries import WaitlistEntry

V_co = TypeVar("V_co", covariant=True)


class Open(IntEnum):
    """An enum that takes up numbers of a later release as they are, named UNKNOWN_n, and passes them on."""

    @classmethod
    def _missing_(cls, value: object) -> "Open | None":
        if not isinstance(value, int):
            return None
        member = int.__new__(cls, value)
        member._name_ = f"UNKNOWN_{value}"
        member._value_ = value
        return member


class State(Open):
    """A reservation's states, numbered as in the contract and in the tables."""

    HELD = 1
    CONFIRMED = 2
    CANCELLED = 3
    EXPIRED = 4
    REFUNDED = 5
    FULFILLED = 6


class SaleState(Open):
    """Whether new holds may take an item's units, numbered as in the contract and in the tables."""

    OPEN = 1
    CLOSED = 2


class StockLevel(Open):
    """How much of an item new holds may take, numbered as in the contract and in the tables."""

    AVAILABLE = 1
    LOW = 2
    OUT = 3


class LevelChange(NamedTuple):
    """The level of an item before and after."""

    before: StockLevel
    after: StockLevel


class WaitlistPolicy(Open):
    """Who may have what becomes free of an item, numbered as in the contract and in the tables."""

    OFF = 1
    FIRST_FITTING = 2
    STRICT = 3


class EventType(Open):
    """What an event tells, numbered as in the contract and in the tables."""

    RESERVED = 1
    CONFIRMED = 2
    CANCELLED = 3
    EXPIRED = 4
    REFUNDED = 5
    EXTENDED = 6
    ITEM_CREATED = 7
    ITEM_UPDATED = 8
    ITEM_DELETED = 9
    CAPACITY_ADJUSTED = 10
    CAPACITY_TRANSFERRED = 11
    MODIFIED = 12
    FULFILLED = 13
    RESCUED = 14
    STOCK_SET = 15
    LEVEL_CHANGED = 16
    WAITLIST_JOINED = 17
    WAITLIST_OFFERED = 18
    WAITLIST_TAKEN = 19
    WAITLIST_LAPSED = 20
    WAITLIST_LEFT = 21


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls: from the API key, never from a request."""

    tenant: str
    client: str
    key_id: str
    scopes: frozenset[str]
    pools: frozenset[str] = frozenset()
    """The pools that it may see and take from; empty: all."""

    def sees_pool(self, pool: str) -> bool:
        """Whether the caller may see and take from this pool."""
        return not self.pools or pool in self.pools

    def sees(self, reservation: "Reservation") -> bool:
        """Whether the caller may read this reservation: its own, or all, and in its pools only."""
        return self.sees_of(reservation.client, (line.pool for line in reservation.lines))

    def sees_of(self, client: str, pools: Iterable[str]) -> bool:
        """Whether the caller may read a reservation of this client with lines in these pools."""
        return (client == self.client or self.reads_all) and all(map(self.sees_pool, pools))

    @property
    def reads_all(self) -> bool:
        """Whether it may read other clients' reservations."""
        return "reservations.read_all" in self.scopes

    @property
    def reads_waitlists(self) -> bool:
        """Whether it may read other clients' waitlist entries."""
        return "waitlist.read" in self.scopes or self.manages_waitlists

    @property
    def manages_waitlists(self) -> bool:
        """Whether it may take other clients' entries out of the queue, and give a priority."""
        return "waitlist.manage" in self.scopes

    @property
    def writes_all(self) -> bool:
        """Whether it may act on other clients' reservations."""
        return "reservations.write_all" in self.scopes


class ItemKey(NamedTuple):
    """Names one item of a tenant."""

    sku: str
    pool: str


class Line(NamedTuple):
    """Units of one item."""

    sku: str
    pool: str
    quantity: int


class ReservationLine(NamedTuple):
    """Units of one item inside a reservation."""

    sku: str
    pool: str
    quantity: int
    confirmed_quantity: int = 0
    refunded_quantity: int = 0
    fulfilled_quantity: int = 0
    returned_quantity: int = 0


class ShortLine(NamedTuple):
    """A line that asked for more than could be had."""

    sku: str
    pool: str
    requested: int
    available: int
    next_free_time: datetime | None = None
    """When `requested` units could be had, if no hold is confirmed; None: it is not known."""
    next_free_quantity: int = 0
    """How many could be had then."""


class OverLimit(NamedTuple):
    """A limit that has no room for what a request asked for."""

    limit_id: str
    max: int
    used: int
    requested: int
    reset_time: datetime | None
    """When there would be room; None: never, or not known."""


class Original(NamedTuple):
    """What Modify and a partial Cancel can change of a reservation, as it was at some time."""

    lines: list[Line]
    holder: str
    reference: str
    metadata: dict[str, str]


@dataclass(slots=True)
class Reservation:
    """A reservation as a caller sees it: a lapsed hold is EXPIRED."""

    reservation_id: str
    client: str
    holder: str
    reference: str
    state: State
    lines: list[ReservationLine]
    create_time: datetime
    expire_time: datetime
    metadata: dict[str, str] = field(default_factory=dict)
    order_id: str = ""
    customer_name: str | None = None
    customer_email: str | None = None
    confirm_time: datetime | None = None
    cancel_time: datetime | None = None
    refund_time: datetime | None = None
    fulfil_time: datetime | None = None
    reason: str = ""
    revision: int = 1
    original: Original | None = None
    """What it was before it was modified; None: it never was."""
    entry_id: str = ""
    """The waitlist entry whose offer it is; empty: of none."""

    @property
    def rescued(self) -> bool:
        """Whether it had expired and was taken again by Confirm."""
        return self.confirm_time is not None and self.confirm_time >= self.expire_time


@dataclass(slots=True)
class Item:
    """An item with its stored counters."""

    sku: str
    pool: str
    display_name: str
    capacity: int
    remaining: int
    held: int
    confirmed: int
    oversell_limit: int
    revision: int
    create_time: datetime | None
    update_time: datetime
    sale_state: SaleState = SaleState.OPEN
    buffer: int = 0
    """Units that new holds never take."""
    count_time: datetime | None = None
    """When the latest count that is in `capacity` was made."""
    low_at: int | None = None
    """From so few units on that new holds may take the item is LOW; None: its level is not followed."""
    return_pool: str | None = None
    """The pool that its units go to at `return_time`; None: the default pool."""
    return_time: datetime | None = None
    waitlist_policy: WaitlistPolicy = WaitlistPolicy.OFF
    waiting: int = 0
    """Waitlist entries that wait for it."""


@dataclass(slots=True)
class Event:
    """One committed change, with its subject as it was right after it."""

    event_id: int
    type: EventType
    lines: list[Line]
    client: str
    key_id: str
    request_id: str
    reason: str
    occur_time: datetime
    reservation: Reservation | None = None
    item: Item | None = None
    entry: "WaitlistEntry | None" = None
    written_off_lines: list[Line] = field(default_factory=list)
    returned_lines: list[Line] = field(default_factory=list)
    level_change: LevelChange | None = None


class Transferred(NamedTuple):
    """The two items of a transfer of capacity, as they are after it."""

    giving: Item
    taking: Item


@dataclass(slots=True)
class Done(Generic[V_co]):
    """A change took effect, or had taken effect before."""

    value: V_co
    """What the change made of its subject."""
    replayed: bool
    due: bool = False
    """Whether units are due to entries that wait for them: these are served before the answer."""


class Cause(StrEnum):
    """Why a request could not be carried out though it was valid: the `cause` in metadata, metrics and the runbook."""

    DATABASE_AWAY = "DATABASE_AWAY"
    """The database cannot be reached, or does not answer."""
    DATABASE_REFUSED = "DATABASE_REFUSED"
    """The database is read-only, or has no disk, memory or connections left."""
    PRIMARY_REFUSED = "PRIMARY_REFUSED"
    """A server is writable that has been replaced, is of another cluster, or does not wait for its standbys."""
    DATABASE_SPLIT = "DATABASE_SPLIT"
    """Two servers with the same timeline are writable: nothing shows which one is right."""
    STANDBY_AWAY = "STANDBY_AWAY"
    """The wait of a commit for a standby was cancelled."""
    POOL_EXHAUSTED = "POOL_EXHAUSTED"
    """All connections of this process were in use for POOL_TIMEOUT, while the database answered."""
    STATEMENT_TIMEOUT = "STATEMENT_TIMEOUT"
    """The statement ran longer than STATEMENT_TIMEOUT."""
    LOCK_WAIT = "LOCK_WAIT"
    """Another transaction kept a row locked."""
    CONFLICT = "CONFLICT"
    """Other transactions were preferred to this one again and again."""
    DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"
    """The call's time was over before the database answered."""
    QUEUE_FULL = "QUEUE_FULL"
    """More waits already than could be answered in time."""
    STREAMS_MAX = "STREAMS_MAX"
    """As many streams are open as the process serves."""
    BODIES_MAX = "BODIES_MAX"
    """Requests of the client do not get complete, and as many as may be on their way at once wait behind them."""


class Violation(NamedTuple):
    """One bad field of a request."""

    field: str
    description: str
    rule: str
    """A name in capitals by which a program recognises the rule."""


@dataclass(frozen=True, slots=True, eq=False)
class Refused:
    """A request is answered with an error: a reason of the contract's catalogue, and what the caller may read.

    Requests of a batch that are refused alike share one, whose answer is then made once.
    """

    reason: str
    message: str
    metadata: dict[str, str] = field(default_factory=dict)
    """Every changing word of the message, by name."""
    shortfall: Sequence[ShortLine] = ()
    over_limit: OverLimit | None = None
    violations: Sequence[Violation] = ()
    omitted: int = 0
    """Bad fields that are not among `violations`."""
    retry_after_s: float | None = None


class Sweep(NamedTuple):
    """Not judged: lapsed holds on these items would make room. Sweep them and call again."""

    items: list[ItemKey]


class Serve(NamedTuple):
    """Not judged: entries wait for these items and come first. Sweep them, serve the waitlists and call again."""

    items: list[ItemKey]


class Again(NamedTuple):
    """Not judged: another change of the same reservation or request id came first. Call again."""


class Part(NamedTuple, Generic[V_co]):
    """Rows of a list."""

    rows: Sequence[V_co]
    looked_to: list[str] | None
    """Where to go on, by the key of a row, where not all were looked at; None where they were."""


Answer: TypeAlias = Done[V_co] | Refused
"""The end of a request."""

Outcome: TypeAlias = Done[V_co] | Refused | Sweep | Serve | Again
"""What a run of a request in the ledger led to: an answer, or a reason to run it again."""
