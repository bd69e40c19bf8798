"""The cells of a process: databases, in each of which some tenants live whole, and which tenant lives where."""

from collections.abc import Sequence
from typing import Protocol

from holdsvc.engine.engine import Engine
from holdsvc.ledger.webhooks import Attempt, Webhook
from holdsvc.streams.hub import Streams


class Sender(Protocol):
    """Sends to webhooks."""

    async def reaches(self, tenant: str, url: str) -> bool:
        """Whether a webhook may have this URL, as far as its name says so now."""

    async def test(self, tenant: str, webhook: Webhook, secret: bytes) -> Attempt:
        """Sends a test event to a webhook and tells what came of it."""


class Cell(Protocol):
    """One database, and what of this process works on it."""

    @property
    def name(self) -> str:
        """As the operator calls it; empty: the only one, which needs no name."""

    @property
    def engine(self) -> Engine:
        """Runs changes and reads."""

    @property
    def streams(self) -> Streams:
        """Tells what happens."""

    @property
    def sender(self) -> Sender:
        """Sends to webhooks."""


class Cells:
    """Finds the cell of a tenant."""

    def __init__(self, cells: Sequence[Cell]) -> None:
        self.first = cells[0]

    def of(self, _tenant: str) -> Cell:
        """Where a tenant lives."""
        return self.first
