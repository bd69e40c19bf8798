"""Proofs that a new primary has what a reader was told: ids alone prove nothing, a failover gives lost ones again.

A reader remembers the last event e that it was told, with a place v before it: everything up to v was committed before
e was drawn. So a server that has e has everything up to v, and the events told in (v, e] are counted and hashed. A
server that answers the same sum has lost nothing that was told; reading goes on from e. e also keeps its id and
those before it from being given again.
"""

from datetime import date
from typing import NamedTuple
from zlib import crc32

from holdsvc.ledger.binding import bind_out
from holdsvc.ledger.database import Connection
from holdsvc.ledger.feed import SPAN_MAX, Filter, Position

IDS_MAX = 1_000_000
"""Event ids over which a proof may reach; a reader that catches up for longer between two proofs is refused."""

UNPROVEN = -1
"""The number of a proof that never holds."""


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
