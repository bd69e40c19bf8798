"""`holdsvc health`: ask a running service for its health, with the service's own certificate where it has one."""

import socket
import ssl
from pathlib import Path
from typing import Annotated

import grpc
import typer
from grpc_health.v1 import health_pb2, health_pb2_grpc

from holdsvc.addresses import split_address
from holdsvc.commands import CommandError
from holdsvc.commands.endpoint import callable_address
from holdsvc.commands.options import read
from holdsvc.durations import parse_duration
from holdsvc.settings import Settings


def health(
    address: Annotated[str, typer.Option(help="Where the service listens, host:port. Default: HOLDSVC_LISTEN.")] = "",
    timeout: Annotated[str, typer.Option(help="The longest to wait for the answer, as in 500ms or 3s.")] = "3s",
    liveness: Annotated[
        bool, typer.Option("--liveness", help="Ask whether the process works, not the database.")
    ] = False,
) -> None:
    """Ask a running service for its health; exit code 0 only when it is SERVING."""
    timeout_s = read("--timeout", parse_duration, timeout).total_seconds()
    if address:
        read("--address", split_address, address)
    answer = ask(Settings.load(), address, timeout_s, liveness=liveness)
    typer.echo(answer)
    if answer != "SERVING":
        raise typer.Exit(1)


def ask(settings: Settings, address: str, timeout_s: float, *, liveness: bool) -> str:
    """Asks for the health: SERVING, NOT_SERVING or UNREACHABLE."""
    target = callable_address(address or settings.listen)
    try:
        channel = _channel(settings, target, timeout_s)
    except (OSError, ValueError):
        return "UNREACHABLE"
    with channel:
        request = health_pb2.HealthCheckRequest(service="liveness" if liveness else "")
        stub = health_pb2_grpc.HealthStub(channel)
        try:
            answer = stub.Check(request, timeout=timeout_s)
        except grpc.RpcError:
            return "UNREACHABLE"
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))


def _channel(settings: Settings, target: str, timeout_s: float) -> grpc.Channel:
    if settings.tls_cert is None or settings.tls_key is None:
        return grpc.insecure_channel(target)
    certificate = _bytes_of(settings.tls_cert)
    # It trusts the very certificate that the service has, and shows it where callers must show one: that works where
    # TLS_CLIENT_CA has signed it.
    pair = (_bytes_of(settings.tls_key), certificate) if settings.tls_client_ca else (None, None)
    credentials = grpc.ssl_channel_credentials(certificate, *pair)
    return grpc.secure_channel(
        target, credentials, options=[("grpc.ssl_target_name_override", _name(settings, target, timeout_s))]
    )


def _bytes_of(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise CommandError(f"cannot read {file}: {error.strerror}") from error


def _name(settings: Settings, target: str, timeout_s: float) -> str:
    """A name for which the service's certificate is valid: the probe goes to an address, not to a name."""
    assert settings.tls_cert is not None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.load_verify_locations(settings.tls_cert)
    context.set_alpn_protocols(["h2"])
    if settings.tls_client_ca is not None:
        context.load_cert_chain(settings.tls_cert, settings.tls_key, password="")
    host, port = split_address(target)
    with socket.create_connection((host, port), timeout_s) as plain, context.wrap_socket(plain) as secured:
        shown = secured.getpeercert() or {}
    names = [str(name[1]) for name in shown.get("subjectAltName", ())]
    return names[0].replace("*", "probe") if names else host
