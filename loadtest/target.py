"""The running service that load and smoke calls go to: address, key and TLS from the environment."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from holdsvc.settings import PREFIX, Settings

CONNECT_TIMEOUT_S = 5.0
ANY_IPV4 = str(IPv4Address(0))

HOW_TO_START = """\
Nothing answers at {address}. Start a service in another terminal:

    make serve

or name the address of a running one: HOLDSVC_LISTEN=host:port make {command}"""


class TargetError(Exception):
    """The calls cannot begin; the message says what to do."""


@dataclass(frozen=True)
class Target:
    """Where to call and with what."""

    address: str
    api_key: str = ""
    tls: bool = False
    authorities: Path | None = None
    certificate: Path | None = None
    private_key: Path | None = None

    @classmethod
    def load(cls, address: str = "", environment: Mapping[str, str] = os.environ) -> "Target":
        """Reads HOLDSVC_LISTEN, HOLDSVC_API_KEY and the TLS variables; a given address goes over HOLDSVC_LISTEN."""

        def file(name: str) -> Path | None:
            value = environment.get(PREFIX + name)
            if value and not Path(value).is_file():
                raise TargetError(f"{PREFIX}{name}: there is no file {value}")
            return Path(value) if value else None

        listen = address or environment.get(PREFIX + "LISTEN") or str(Settings.model_fields["listen"].default)
        host, _, port = listen.rpartition(":")
        # A service listens on every address (0.0.0.0); one calls it on one of them.
        host = {ANY_IPV4: "127.0.0.1", "[::]": "[::1]"}.get(host, host)
        # Beside the service itself its own certificate is the one to trust, where no authorities are named.
        authorities = file("TLS_CA") or file("TLS_CERT")
        return cls(
            f"{host}:{port}",
            environment.get(PREFIX + "API_KEY", ""),
            authorities is not None,
            authorities,
            file("TLS_CLIENT_CERT"),
            file("TLS_CLIENT_KEY"),
        )

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """The metadata of every call."""
        return (("x-api-key", self.api_key),) if self.api_key else ()

    def channel(self) -> grpc.Channel:
        """A connection of its own: with several workers it is connections that are shared out, not calls."""
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
        if not self.tls:
            return grpc.insecure_channel(self.address, options=options)
        return grpc.secure_channel(
            self.address,
            grpc.ssl_channel_credentials(_bytes(self.authorities), _bytes(self.private_key), _bytes(self.certificate)),
            options=options,
        )

    def check(self, command: str) -> None:
        """Returns when the service can be reached; raises TargetError, saying how to start one for `make command`."""
        with self.channel() as channel:
            try:
                grpc.channel_ready_future(channel).result(timeout=CONNECT_TIMEOUT_S)
            except grpc.FutureTimeoutError:
                raise TargetError(HOW_TO_START.format(address=self.address, command=command)) from None


def reason_of(error: grpc.RpcError) -> str:
    """The reason that an error carries, or its code where it has none, as when the connection broke."""
    status = rpc_status.from_call(error)  # type: ignore[arg-type]
    for detail in status.details if status else ():
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            return str(info.reason)
    return str(error.code().name)


def _bytes(file: Path | None) -> bytes | None:
    return file.read_bytes() if file else None
