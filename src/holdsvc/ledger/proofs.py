"""Proofs that a new primary has what a reader was told: ids alone prove nothing, a failover gives lost ones again.

A reader remembers the last event e that it was told, with a place v before it: everything up to v was committed before
e was drawn. So a server that has e has everything up to v, and the events told in (v, e] are counted and hashed. A
server that answers the same sum has lost nothing that was told; reading goes on from e. e also keeps its id and
those before it from being given again.
"""

from collections import deque
from collections.abc import Callable, Sequence
from datetime import date
from functools import reduce
from operator import xor
from typing import NamedTuple, Protocol
from zlib import crc32

from holdsvc.ledger.binding import bind_out
from holdsvc.ledger.database import Connection
from holdsvc.ledger.feed import SPAN_MAX, Filter, Look, Poll, Position

IDS_MAX = 1_000_000
"""Event ids over which a proof may reach; a reader that catches up for longer between two proofs is refused."""

UNPROVEN = -1
"""The number of a proof that never holds."""

LOOKS_MAX = 64
"""Looks that are remembered: an event is told after two."""


class Proof(NamedTuple):
    """Proves what was told up to `event_id`, by the events in (after, event_id]."""

    after: int
    event_id: int
    number: int
    digest: int
    day: date
    """That of a position at or before `at` and `after`."""
    at: int
    """Where reading goes on on another timeline."""
    whole: bool
    """The events are those of all tenants, not those that the reader was told: it was told none for a while."""
    filter_mark: int
    """By which filter they were told."""

    @property
    def place(self) -> Position:
        """Where reading goes on on another timeline."""
        return Position(self.at, self.day)

    def told(self, event_id: int, number: int, digest: int) -> "Proof":
        """The proof after further events, up to `event_id`."""
        after, known, known_digest = (self.at, 0, 0) if self.whole else self[:1] + self[2:4]
        total = UNPROVEN if known == UNPROVEN else known + number
        return self._replace(
            after=after, event_id=event_id, number=total, digest=known_digest ^ digest, at=event_id, whole=False
        )

    def of(self, filter_: Filter) -> "Proof":
        """The proof for a reader with this filter: what was told by another one cannot be summed up by it."""
        mark = mark_of(filter_)
        if mark == self.filter_mark or self.whole:
            return self._replace(filter_mark=mark)
        return self._replace(after=self.event_id, number=UNPROVEN, digest=0, filter_mark=mark)


class Anchor(NamedTuple):
    """An event that was visible to a look at the feed: a server that has it has every event up to `complete_id`."""

    event_id: int
    hash: int
    complete_id: int
    day: date
    """That of the position `complete_id`."""


def mark_of(filter_: Filter) -> int:
    """Tells filters apart."""
    return crc32(repr((filter_.tenant, filter_.client, sorted(filter_.types), sorted(filter_.pools))).encode())


def nothing_told(start: Position, filter_: Filter, *, proven: bool) -> Proof:
    """The proof of a reader that begins; `proven`: whatever comes after `start` is told, whichever events those are."""
    return Proof(
        start.event_id,
        start.event_id,
        0 if proven else UNPROVEN,
        0,
        start.day,
        start.event_id,
        whole=False,
        filter_mark=mark_of(filter_),
    )


def anchored(proof: Proof, anchor: Anchor) -> Proof:
    """The proof of a reader that was told everything up to an anchor, and nothing after its `complete_id`."""
    at, day = max((proof.at, proof.day), (anchor.complete_id, anchor.day))
    return Proof(anchor.event_id - 1, anchor.event_id, 1, anchor.hash, day, at, True, proof.filter_mark)


def begun(look: Look, last: Poll, filter_: Filter) -> Proof | None:
    """The proof of a reader that begins after the feed's end `last`, or after the fence where a look is behind it.

    None: there is no fence yet.
    """
    if look.fence is None:
        return None
    start = look.fence
    if look.complete_id >= last.last_event_id:
        start = Position(min(start.event_id, last.last_event_id), min(start.day, last.feed_day))
    proof = nothing_told(start, filter_, proven=True)
    if look.fence_hash is None:
        return proof
    return anchored(proof, Anchor(look.fence.event_id, look.fence_hash, start.event_id, start.day))


class Hashed(Protocol):
    """An event that was told."""

    @property
    def event_id(self) -> int:
        """Its id."""

    @property
    def hash(self) -> int:
        """What tells it from another event with this id."""


class Prover:
    """Makes the proofs of what readers are told, by the latest looks at the feed; one for each history."""

    def __init__(self) -> None:
        self._looks: deque[Look] = deque(maxlen=LOOKS_MAX)
        """Those between which ids were drawn."""
        self._anchor: Anchor | None = None
        """The latest event up to which all have been handed to the readers."""

    def note(self, look: Look) -> None:
        """Remembers a look, up to whose fence the readers have been handed everything."""
        if look.fence is not None and look.fence_hash is not None:
            known = self._before(look.fence.event_id)
            if known is not None:
                self._anchor = Anchor(look.fence.event_id, look.fence_hash, known.complete_id, known.day)
        if not self._looks or self._looks[-1].last_event_id < look.last_event_id:
            self._looks.append(look)

    def _before(self, event_id: int) -> Look | None:
        """The latest look before an event's id was drawn: a server with the event has all that was complete then."""
        return next((look for look in reversed(self._looks) if look.last_event_id < event_id), None)

    def told(
        self,
        proof: Proof,
        events: Sequence[Hashed],
        between: Callable[[int, int], Sequence[Hashed] | None],
        reached: Position,
    ) -> Proof:
        """The proof after these events, which reach up to a place; over as few events as it can be.

        `between` has the reader's events of a range of ids (after, up to); None: no longer all of them.
        """
        if not events:
            return self._nothing_told(proof, reached)
        last = events[-1].event_id
        look = self._before(last)
        if look is not None and look.complete_id > proof.after:
            known = between(look.complete_id, last)
            if known is not None:
                new = Proof(look.complete_id, 0, 0, 0, look.day, 0, False, proof.filter_mark)
                return new.told(last, len(known), _xored(known))
        return proof.told(last, len(events), _xored(events))

    def _nothing_told(self, proof: Proof, reached: Position) -> Proof:
        anchor = self._anchor
        if anchor is None or anchor.event_id > reached.event_id:
            return proof
        fits = proof.whole or proof.event_id <= anchor.complete_id
        return anchored(proof, anchor) if fits else proof


def _xored(events: Sequence[Hashed]) -> int:
    return reduce(xor, [event.hash for event in events], 0)


class _Sum(NamedTuple):
    number: int
    digest: int


_SUM = bind_out("sum_events", _Sum, *("tenant", "client", "types", "pools", "after", "upto", "day"))


async def holds(connection: Connection, proof: Proof, filter_: Filter) -> bool:
    """Whether this server has what was told."""
    if proof.number == UNPROVEN or proof.event_id - proof.after > IDS_MAX:
        return False
    if not proof.whole and proof.filter_mark != mark_of(filter_):
        return False
    tenant, client, types, pools = (Filter(None) if proof.whole else filter_).arguments
    count = digest = 0
    for after in range(proof.after, proof.event_id, SPAN_MAX):
        found = await _SUM.one(
            connection,
            tenant=tenant,
            client=client,
            types=types,
            pools=pools,
            after=after,
            upto=min(after + SPAN_MAX, proof.event_id),
            day=proof.day,
        )
        count += found.number
        digest ^= found.digest
    return (count, digest) == (proof.number, proof.digest)
