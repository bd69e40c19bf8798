"""Waitlist entries, as the rooms of the service say them to each other: plain values, as in `model`."""

from dataclasses import dataclass, field
from datetime import datetime

from holdsvc.model import Caller, Line, Open


class EntryState(Open):
    """A waitlist entry's states, numbered as in the contract and in the tables."""

    WAITING = 1
    OFFERED = 2
    TAKEN = 3
    LAPSED = 4
    LEFT = 5


class PassReason(Open):
    """Why an entry was passed though its turn had come, numbered as in the contract and in the tables."""

    NONE = 0
    LIMIT = 1
    UNSERVABLE = 2


@dataclass(slots=True)
class WaitlistEntry:
    """A place in the queue of its items; what has lapsed is LAPSED."""

    entry_id: str
    client: str
    holder: str
    reference: str
    state: EntryState
    lines: list[Line]
    priority: int
    offer_ttl_us: int
    create_time: datetime
    metadata: dict[str, str] = field(default_factory=dict)
    expire_time: datetime | None = None
    offer_time: datetime | None = None
    end_time: datetime | None = None
    reservation_id: str = ""
    pass_reason: PassReason = PassReason.NONE
    reason: str = ""
    revision: int = 1
    position: int = 0
    """From 1; 0: it does not wait, or it was not asked for."""
    sequence: int = 0
    """Orders entries of the same priority."""

    def seen_by(self, caller: Caller) -> bool:
        """Whether the caller may read it: its own, or all, and in its pools only."""
        own = self.client == caller.client or caller.reads_waitlists
        return own and all(caller.sees_pool(line.pool) for line in self.lines)
