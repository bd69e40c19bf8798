"""Where spans are asked for. While `active` is None, as it is by default, no package of OpenTelemetry is imported.

`telemetry.otel` makes the spans; `api` asks for a call's, `engine` for a batch's, `ledger` for a statement's.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from importlib.util import find_spec
from typing import Any, NamedTuple, Protocol

from holdsvc.addresses import split_address
from holdsvc.settings import PREFIX, Settings, SettingsError


class Host(NamedTuple):
    """Where a server is reached."""

    address: str
    port: int


class Place(NamedTuple):
    """The database of a statement."""

    host: Host
    namespace: str


class Tracing(Protocol):
    """Makes spans. A caller's place in a trace is opaque: it is only carried from the call to its batch."""

    def call(
        self, method: str, metadata: Mapping[str, str | bytes], system: str = "grpc"
    ) -> AbstractContextManager[None]:
        """The span of a call over gRPC or another system, under the caller's own when its metadata names one."""

    def answered(self, code: str, reason: str, tenant: str, client: str) -> None:
        """Says how the present call ended."""

    def place(self) -> Any:
        """Where in a trace the present code runs."""

    def batch(self, lane: str, places: Sequence[Any]) -> AbstractContextManager[None]:
        """The span of a batch, linked with those of its calls."""

    def statement(self, sql: str, place: Place | None) -> AbstractContextManager[None]:
        """The span of a statement, within that of its batch or call."""

    def ids(self) -> dict[str, str]:
        """trace_id and span_id of the present span, for a log line; empty outside of any."""

    def close(self) -> None:
        """Sends what is left."""


active: Tracing | None = None


def check(settings: Settings) -> None:
    """Raises SettingsError when tracing is on and its packages are missing: before any worker starts."""
    if settings.tracing and (find_spec("opentelemetry") is None or find_spec("opentelemetry.exporter") is None):
        raise SettingsError(f"{PREFIX}TRACING is on and its packages are missing: pip install 'holdsvc[otel]'")


def configure(settings: Settings) -> None:
    """Turns tracing on where the settings say so."""
    global active  # noqa: PLW0603 - one process, one tracing; a lookup less on the way of each call
    if settings.tracing:
        from holdsvc.telemetry.otel import from_environment

        active = from_environment(Host(*split_address(settings.listen)))


def close() -> None:
    """Sends what is left and turns tracing off."""
    global active  # noqa: PLW0603
    if active is not None:
        active.close()
        active = None


def add_ids(_logger: Any, _method: str, event: Any) -> Any:
    """A structlog processor: puts the ids of the present span into a log line."""
    if active is not None:
        event.update(active.ids())
    return event
