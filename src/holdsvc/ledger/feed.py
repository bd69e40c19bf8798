"""The feed of events: how far it is complete, and reading it, for streams, webhooks and the relay."""

from collections.abc import Iterable, Sequence
from datetime import date, datetime
from time import monotonic
from typing import NamedTuple

from holdsvc.ledger import arrays, reservations
from holdsvc.ledger.binding import Nothing, bind, bind_out, bind_scalar
from holdsvc.ledger.database import Connection
from holdsvc.ledger.events import EventRow, rebuild, reread
from holdsvc.model import Event, Reservation

SPAN_MAX = 20_000
"""Event ids that one statement looks at: few events among many that no filter wants are not found by an index."""

LINES_MAX = 2000
"""Lines of the events that one read returns, with those of the last event."""

SUBJECTS_MAX = 50
"""Reservations that one statement reads: each may have a hundred lines."""

DAY_S = 1.0
"""Time between two attempts to move the feed's day on to the clock's."""


class Identity(NamedTuple):
    """Which history of events the database has."""

    epoch: str
    timeline: str
    token_key: str
    floor: int
    """The highest event id that retention has dropped."""

    @property
    def history(self) -> str:
        """Another one means that what was read before has to be proven."""
        return f"{self.epoch}-{self.timeline}"

    def continues(self, history: str) -> bool:
        """Whether a history is of this epoch: its ids mean the same here, as far as nothing was lost."""
        return history.rpartition("-")[0] == self.epoch


class Poll(NamedTuple):
    """What the feed's end looks like."""

    last_event_id: int
    passed: bool
    """Whether the mark given is reached: every id up to what was the last one then is there or never will be."""
    complete_event_id: int | None
    """With `passed`: the highest event up to there."""
    mark: str | None
    """A new mark for `last_event_id`."""
    complete_hash: int | None
    """Of the event `complete_event_id`; None: it is the fence that was known."""
    read_time: datetime
    history: str
    """Which history of events this is."""
    feed_day: date
    """The feed's day: new events have it."""


class Position(NamedTuple):
    """A place in the feed: after this event, when `day` was the feed's day or had been before.

    No later event has an earlier day than the feed had before `day`.
    """

    event_id: int
    day: date


UNKNOWN = Position(-1, date.min)
"""Before every event."""


class Look(NamedTuple):
    """What one look at the end of the feed found."""

    history: str
    """Which history of events this is."""
    fence: Position | None
    """The last event up to which the feed is complete; None while transactions from before the first look still run."""
    fence_hash: int | None
    """Of that event; None: there is none."""
    complete_id: int
    """The feed is complete up to this id, which may belong to no event; -1 without a fence."""
    last_event_id: int
    """The last id drawn. Between `complete_id` and it there may be ids whose transactions still run."""
    day: date
    """That of the position `complete_id`; without a fence, of `last_event_id`."""
    feed_day: date
    read_time: datetime
    """When this was; what is read after it is not older."""


class _Mark(NamedTuple):
    """Once no transaction from before `mark` runs, the feed is complete up to `event_id`."""

    event_id: int
    day: date
    mark: str
    since: float


class End:
    """The end of the feed, as one look after another finds it."""

    def __init__(self) -> None:
        self.look: Look | None = None
        """The latest look; None before the first one."""
        self._mark: _Mark | None = None
        self._day_tried_s = -DAY_S

    @property
    def lag_s(self) -> float:
        """For how long open transactions have kept the feed from becoming complete; younger events may be missing."""
        return monotonic() - self._mark.since if self._mark else 0.0

    @property
    def days_behind(self) -> int:
        """By how many days the partition for new events is behind the database's clock."""
        return max(0, (self.look.read_time.date() - self.look.feed_day).days) if self.look else 0

    def day_is_due(self) -> bool:
        """Whether an attempt to move the feed's day on to the clock's is due; it then counts as made."""
        due = self.days_behind > 0 and monotonic() >= self._day_tried_s + DAY_S
        if due:
            self._day_tried_s = monotonic()
        return due

    async def find(self, connection: Connection) -> Look:
        """Looks again."""
        before, mark = self.look, self._mark
        known_id = mark.event_id if mark else before.complete_id if before else -1
        fence = (before.fence if before else None) or UNKNOWN
        seen = await poll(connection, known_id, mark.mark if mark else None, fence)
        self.look = self._judged(seen)
        return self.look

    def _judged(self, seen: Poll) -> Look:
        """Moves the fence when the mark has been reached, and keeps the next mark."""
        before, mark = self.look, self._mark
        if before is not None and before.history != seen.history:
            # Ids and marks of another history mean nothing: the next look begins anew.
            self._mark = None
            return _without_fence(seen)
        look = before or _without_fence(seen)
        if mark is not None and seen.passed:
            assert seen.complete_event_id is not None
            fence = Position(seen.complete_event_id, mark.day)
            hash_ = look.fence_hash if seen.complete_hash is None else seen.complete_hash
            look = look._replace(fence=fence, fence_hash=hash_, complete_id=mark.event_id, day=mark.day)
            self._mark = None
        elif mark is None and seen.mark is None and look.fence is not None:
            # No id has been drawn since the last look.
            look = look._replace(fence=Position(look.fence.event_id, seen.feed_day), day=seen.feed_day)
        if seen.mark is not None:
            self._mark = _Mark(seen.last_event_id, seen.feed_day, seen.mark, monotonic())
        return look._replace(last_event_id=seen.last_event_id, feed_day=seen.feed_day, read_time=seen.read_time)


def _without_fence(seen: Poll) -> Look:
    return Look(seen.history, None, None, -1, seen.last_event_id, seen.feed_day, seen.feed_day, seen.read_time)


class Filter(NamedTuple):
    """Which events a reader is told."""

    tenant: str | None
    """None: of all tenants."""
    client: str | None = None
    """Of reservations, those of this client only."""
    types: frozenset[int] = frozenset()
    """Empty: all types."""
    pools: frozenset[str] = frozenset()
    """Only what lies in these pools altogether; empty: in any."""

    @property
    def arguments(self) -> tuple[str | None, str | None, str | None, str | None]:
        """As the functions take it."""
        return (
            self.tenant,
            self.client,
            _joined(",", map(str, self.types)),
            _joined("\x1f", self.pools),
        )


class FeedEvent(NamedTuple):
    """An event with whose it is and where it lies."""

    tenant: str
    day: date
    event: Event
    hash: int = 0
    """What tells it from another event to which its id was given."""
    filters: Sequence[int] = ()
    """Of the filters that it was read for, those that want it."""


class _RelayPosition(NamedTuple):
    epoch: str
    event_id: int
    event_day: date


_IDENTITY = bind_out("feed_identity", Identity)
_POLL = bind_out("poll_feed", Poll, "previous_value", "previous_mark", "fence", "day")
_READ = bind("read_events", EventRow, *("tenant", "client", "types", "pools", "after", "upto", "day", "limit"))
_RELAY = bind_out("relay_position", _RelayPosition, "name")
_SAVE_RELAY = bind_scalar("save_relay_position", Nothing, "name", "epoch", "event_id", "event_day")


async def identity(connection: Connection) -> Identity:
    """Reads which history this is and where it begins."""
    return await _IDENTITY.one(connection)


async def poll(connection: Connection, value: int, mark: str | None, fence: Position) -> Poll:
    """Looks at the feed's end; takes a new mark when `mark` is reached and there is more than `value`."""
    return await _POLL.one(connection, previous_value=value, previous_mark=mark, fence=fence.event_id, day=fence.day)


async def last(connection: Connection) -> Poll:
    """Looks at the feed's end and takes no mark."""
    return await poll(connection, 2**62, None, UNKNOWN)


async def read(
    connection: Connection, filters: Sequence[Filter], after: Position, upto: Position, *, limit: int
) -> tuple[list[FeedEvent], Position]:
    """The next events up to `upto` that at least one filter wants, and how far that reaches.

    The feed must be complete up to `upto`. It may reach further than the last of the events, and there may be none
    although more follow.
    """
    reach = min(upto.event_id, after.event_id + SPAN_MAX)
    rows = await _READ.fetch(
        connection,
        **_columns(filters),
        after=after.event_id,
        upto=reach,
        day=after.day,
        limit=limit,
    )
    lines = count = 0
    while count < len(rows) and lines < LINES_MAX:
        lines += len(rows[count].line_sku)
        count += 1
    found = await rebuilt(connection, rows[:count])
    if count < len(rows) or count == limit:
        return found, Position(rows[count - 1].event_id, rows[count - 1].occur_day)
    return found, upto if reach == upto.event_id else Position(reach, rows[-1].occur_day if rows else after.day)


def _columns(filters: Sequence[Filter]) -> dict[str, str]:
    names = ("tenant", "client", "types", "pools")
    return {name: arrays.texts(filter_.arguments[index] for filter_ in filters) for index, name in enumerate(names)}


def _joined(separator: str, words: Iterable[str]) -> str | None:
    """The words, each between separators; None: there are none."""
    text = separator.join(sorted(words))
    return f"{separator}{text}{separator}" if text else None


async def rebuilt(connection: Connection, rows: list[EventRow]) -> list[FeedEvent]:
    """The events of rows, with the reservations that they are about."""
    ids: dict[str, dict[str, None]] = {}
    for row in rows:
        if row.reservation_id is not None and row.entry is None:
            ids.setdefault(row.tenant, {})[str(row.reservation_id)] = None
    subjects: dict[tuple[str, str], Reservation] = {}
    for tenant, wanted in ids.items():
        names = list(wanted)
        for start in range(0, len(names), SUBJECTS_MAX):
            for subject in await reservations.get(connection, tenant, names[start : start + SUBJECTS_MAX]):
                if subject is not None:
                    subjects[tenant, subject.reservation_id] = subject
    found = []
    for row in rows:
        event = rebuild(row, subjects.get((row.tenant, str(row.reservation_id))))
        if row.reservation_id is not None and event.reservation is None:
            event = rebuild(await reread(connection, row), None)
        found.append(FeedEvent(row.tenant, row.occur_day, event, row.hash or 0, row.filters or ()))
    return found


async def relay_position(connection: Connection, name: str) -> tuple[str, Position] | None:
    """The history and place to which a relay has come; None: it has not begun."""
    rows = await _RELAY.fetch(connection, name=name)
    return (rows[0].epoch, Position(rows[0].event_id, rows[0].event_day)) if rows else None


async def save_relay_position(connection: Connection, name: str, history: str, position: Position) -> None:
    """Remembers how far a relay has come in a history, if that is the present one."""
    await _SAVE_RELAY.fetch(connection, name=name, epoch=history, event_id=position.event_id, event_day=position.day)
