"""The service that a command calls: its address, key and TLS from the environment, and whether it answers."""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Self, TypeVar

import grpc
import typer

from holdsvc.addresses import join_address, split_address
from holdsvc.client import CallError, Client, Tls
from holdsvc.client.connection import TIMEOUT_S, channel_options
from holdsvc.client.statuses import from_rpc
from holdsvc.commands import CommandError
from holdsvc.settings import PREFIX, Settings

M = TypeVar("M")

PAUSE_S = 0.3
"""Between two looks whether the service answers."""

_PROBE = "/grpc.health.v1.Health/Check"
_PROBE_S = 2.0
_ANY = {str(IPv4Address(0)): "127.0.0.1", str(IPv6Address(0)): "::1"}


class ServiceAway(CommandError):
    """The service could not be reached; nothing was sent."""


def callable_address(listen: str) -> str:
    """Where to call a service that listens there: on every address means on loopback too. Raises ValueError."""
    host, port = split_address(listen)
    return join_address(_ANY.get(host, host), port)


@dataclass(frozen=True)
class Endpoint:
    """Address, key and TLS files of the service to call."""

    address: str
    api_key: str = ""
    authorities: Path | None = None
    certificate: Path | None = None
    private_key: Path | None = None

    @classmethod
    def load(cls, address: str = "", environment: Mapping[str, str] = os.environ) -> Self:
        """Reads HOLDSVC_LISTEN, HOLDSVC_API_KEY and the TLS variables; `address` replaces HOLDSVC_LISTEN.

        Raises CommandError for an address that is none and for a file that is not there.
        """

        def file(name: str) -> Path | None:
            value = environment.get(PREFIX + name)
            if value and not Path(value).is_file():
                raise CommandError(f"{PREFIX}{name}: there is no file {value}")
            return Path(value) if value else None

        listen = address or environment.get(f"{PREFIX}LISTEN") or str(Settings.model_fields["listen"].default)
        try:
            callable_at = callable_address(listen)
        except ValueError as error:
            raise CommandError(f"{'--address' if address else f'{PREFIX}LISTEN'}: {error}") from None
        certificate, private_key = file("TLS_CLIENT_CERT"), file("TLS_CLIENT_KEY")
        if (certificate is None) != (private_key is None):
            raise CommandError(f"{PREFIX}TLS_CLIENT_CERT and {PREFIX}TLS_CLIENT_KEY: set both or none")
        return cls(
            callable_at,
            environment.get(f"{PREFIX}API_KEY", ""),
            # Without authorities the service's own certificate is trusted.
            file("TLS_CA") or file("TLS_CERT"),
            certificate,
            private_key,
        )

    @property
    def tls(self) -> Tls | None:
        """TLS as the client takes it; None for plain text. Raises CommandError for a file that cannot be read."""
        if self.authorities is None:
            return None
        return Tls(_bytes(self.authorities), _bytes(self.private_key), _bytes(self.certificate))

    def client(self, timeout_s: float) -> Client:
        """A client whose calls take at most `timeout_s`."""
        return Client(self.address, api_key=self.api_key, tls=self.tls, timeout_s=timeout_s, coalesce=False)

    def wait(self, timeout_s: float | None) -> None:
        """Returns when the service answers, and says on standard error when it does not at first.

        Raises ServiceAway after `timeout_s`; None waits without end.
        """
        tls = self.tls
        options = channel_options(None)
        began = time.monotonic()
        told = False
        with (
            grpc.secure_channel(self.address, tls.credentials(), options)
            if tls
            else grpc.insecure_channel(self.address, options)
        ) as channel:
            while (cause := _why_away(channel)) is not None:
                if timeout_s is not None and time.monotonic() - began + PAUSE_S >= timeout_s:
                    raise ServiceAway(
                        f"{self.address} does not answer: {cause}. Name another address with --address or"
                        f" {PREFIX}LISTEN, or start a service: `holdsvc dev`"
                    )
                if not told:
                    told = True
                    _say(f"{self.address} does not answer: {cause}; trying again")
                time.sleep(PAUSE_S)
        if told:
            _say(f"{self.address} answers")

    @contextmanager
    def called(self, timeout_s: float) -> Iterator[Client]:
        """A client of a service that answers; raises ServiceAway where none does within `timeout_s`."""
        self.wait(timeout_s)
        with self.client(timeout_s) as client:
            yield client

    @contextmanager
    def streaming(self) -> Iterator[Client]:
        """A client for `followed`, once the service answers."""
        self.wait(None)
        with self.client(TIMEOUT_S) as client:
            yield client

    def followed(self, open_stream: Callable[[], Iterator[M]]) -> Iterator[M]:
        """The messages of a stream that is opened again, without end, whenever it breaks; what happens is said.

        Raises CallError where the service refuses it.
        """
        broken = False
        while True:
            try:
                for message in open_stream():
                    if broken:
                        _say("the stream is open again")
                        broken = False
                    yield message
            except CallError as error:
                if error.code is not grpc.StatusCode.UNAVAILABLE:
                    raise
                if not broken:
                    _say(f"the stream broke: {_cause(error)}; opening it again")
                broken = True
            time.sleep(PAUSE_S)
            self.wait(None)


def _why_away(channel: grpc.Channel) -> str | None:
    """Why the service does not answer; None when it does, whatever it answers."""
    try:
        probe: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(_PROBE, None, None)
        probe(b"", timeout=_PROBE_S, wait_for_ready=False)
    except grpc.RpcError as error:
        failure: CallError = from_rpc(error)
        if failure.code is grpc.StatusCode.UNAVAILABLE and not failure.reason:
            return _cause(failure)
        if failure.code is grpc.StatusCode.DEADLINE_EXCEEDED:
            return f"no answer within {_PROBE_S:g} s"
    return None


def _cause(failure: CallError) -> str:
    """What gRPC says at the end of its story."""
    return failure.message.rpartition("last error: ")[2].removeprefix("UNKNOWN: ")


def _say(text: str) -> None:
    typer.echo(f"holdsvc: {text}", err=True)


def _bytes(file: Path | None) -> bytes | None:
    try:
        return file.read_bytes() if file else None
    except OSError as error:
        raise CommandError(f"cannot read {file}: {error.strerror}") from error
