"""The running service that `make load` and `make smoke` call: address, key and TLS from the environment."""

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
    """The service cannot be called; the message says what to do."""


@dataclass(frozen=True)
class Target:
    """Address, key and TLS files."""

    address: str
    api_key: str = ""
    tls: bool = False
    authorities: Path | None = None
    certificate: Path | None = None
    private_key: Path | None = None

    @classmethod
    def load(cls, address: str = "", environment: Mapping[str, str] = os.environ) -> "Target":
        """Reads HOLDSVC_LISTEN, HOLDSVC_API_KEY and the TLS variables; `address` overrides HOLDSVC_LISTEN."""

        def file(name: str) -> Path | None:
            value = environment.get(PREFIX + name)
            if value and not Path(value).is_file():
                raise TargetError(f"{PREFIX}{name}: there is no file {value}")
            return Path(value) if value else None

        listen = address or environment.get(PREFIX + "LISTEN") or str(Settings.model_fields["listen"].default)
        host, _, port = listen.rpartition(":")
        # A service that listens on every address (0.0.0.0) is called on loopback.
        host = {ANY_IPV4: "127.0.0.1", "[::]": "[::1]"}.get(host, host)
        # Without authorities the service's own certificate is trusted.
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
        """A channel with a connection of its own: the kernel balances connections between workers, not calls."""
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
        if not self.tls:
            return grpc.insecure_channel(self.address, options=options)
        return grpc.secure_channel(
            self.address,
            grpc.ssl_channel_credentials(_bytes(self.authorities), _bytes(self.private_key), _bytes(self.certificate)),
            options=options,
        )

    def check(self, command: str) -> None:
        """Raises TargetError, with advice for `make command`, unless the service can be reached."""
        with self.channel() as channel:
            try:
                grpc.channel_ready_future(channel).result(timeout=CONNECT_TIMEOUT_S)
            except grpc.FutureTimeoutError:
                raise TargetError(HOW_TO_START.format(address=self.address, command=command)) from None


def reason_of(error: grpc.RpcError) -> str:
    """The reason of an error, or its code if it has none, as after a broken connection."""
    status = rpc_status.from_call(error)  # type: ignore[arg-type]
    for detail in status.details if status else ():
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            return str(info.reason)
    return str(error.code().name)


def _bytes(file: Path | None) -> bytes | None:
    return file.read_bytes() if file else None
