"""What the engine reports to the metrics."""

from typing import Protocol

from holdsvc.engine.waitlists import ServeObserver
from holdsvc.ledger.tenants import Moved
from holdsvc.model import Cause


class Observer(ServeObserver, Protocol):
    """Receives what the metrics show of batches and sweeps."""

    def batch(self, lane: str, size: int, wait_s: float, run_s: float) -> None:
        """A batch of `size` requests has run; its first waited `wait_s`."""

    def settled(self, lane: str, outcomes: dict[str, int]) -> None:
        """Requests have been answered: how many, by OK, REPLAYED or the reason of the refusal."""

    def retried(self, lane: str, why: str) -> None:
        """A batch, or a request of it, runs once more."""

    def not_run(self, cause: Cause) -> None:
        """The database did not carry out a batch, a change or a read."""

    def left(self, tenant: str, moved: Moved) -> None:
        """A change or read met a tenant that is not in this cell, or about to leave it."""

    def taken(self, count: int) -> None:
        """Offers of waitlist entries have been confirmed."""

    def expired(self, expired_count: int) -> None:
        """A sweep on demand has released lapsed holds."""
