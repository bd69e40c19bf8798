"""What the relay asks of a broker, and the simplest one: standard output."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from holdsvc.relay.cloud_event import CloudEvent


class BrokerDown(Exception):
    """The broker takes nothing at present: the relay tries again later."""


class RelayError(Exception):
    """The relay cannot go on, however often it tries; the message says what to do."""


class OutputClosed(RelayError):
    """The program that read standard output has ended."""


@dataclass(frozen=True)
class KafkaSecurity:
    """What a connection to Kafka needs besides its URL."""

    mechanism: str = "SCRAM-SHA-512"
    """Of SASL, where the URL names a user."""
    password: str = ""
    ca: Path | None = None
    """Authorities to trust, PEM; None: the system's."""
    certificate: Path | None = None
    key: Path | None = None
    """What is shown to a broker that asks for a certificate, PEM."""


class Broker(Protocol):
    """Takes events and keeps them. To add one, write these three methods and name it in `relay.open_broker`."""

    async def open(self) -> None:
        """Connects; raises BrokerDown."""

    async def publish(self, events: Sequence[CloudEvent]) -> list[CloudEvent]:
        """Returns once the broker keeps all of them; those returned it refuses for good and keeps as dead letters.

        No two have the same key, so their order does not matter. Raises BrokerDown when some may not be kept.
        """

    async def close(self) -> None:
        """Disconnects."""


class Stdout:
    """Writes JSON lines."""

    async def open(self) -> None:
        """Needs nothing."""

    async def publish(self, events: Sequence[CloudEvent]) -> list[CloudEvent]:
        """Writes each as a line; raises OutputClosed."""
        try:
            sys.stdout.buffer.writelines(event.encode() + b"\n" for event in events)
            sys.stdout.buffer.flush()
        except BrokenPipeError as error:
            raise OutputClosed("standard output is closed") from error
        except OSError as error:
            raise BrokerDown(f"standard output: {error.strerror}") from error
        return []

    async def close(self) -> None:
        """Needs nothing."""
