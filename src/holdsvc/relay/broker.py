"""What the relay asks of a broker, and the simplest one: standard output."""

import sys
from collections.abc import Sequence
from typing import Protocol

from holdsvc.relay.cloud_event import CloudEvent


class BrokerDown(Exception):
    """The broker does not take anything now: try again later."""


class Broker(Protocol):
    """Takes events and keeps them. To add one, write these three and name it in `relay.open_broker`."""

    async def open(self) -> None:
        """Connects; raises BrokerDown."""

    async def publish(self, events: Sequence[CloudEvent]) -> list[CloudEvent]:
        """Returns once the broker keeps all of them; the ones returned it refused for good, and keeps as dead letters.

        No two are of one key, so their order does not matter. Raises BrokerDown when some may not be kept.
        """

    async def close(self) -> None:
        """Disconnects."""


class Stdout:
    """Writes JSON lines."""

    async def open(self) -> None:
        """Needs nothing."""

    async def publish(self, events: Sequence[CloudEvent]) -> list[CloudEvent]:
        """Writes each as a line."""
        sys.stdout.buffer.writelines(event.encode() + b"\n" for event in events)
        sys.stdout.buffer.flush()
        return []

    async def close(self) -> None:
        """Needs nothing."""
