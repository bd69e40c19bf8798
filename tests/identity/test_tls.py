"""TLS and client certificates: over the wire, with real keys, and through renewals."""

import asyncio
import socket
import ssl
from pathlib import Path

import grpc
import grpc.aio
import pytest

from holdsvc.api.tls import CertificateError
from inventoryhold.v1 import inventory_service_pb2 as inventory
from tests.support.certificates import Authority, Pair, shown_name
from tests.support.harness import Harness, StartService
from tests.support.partners import Partner, new_secret

AUTHORITY = Authority("authority of the service")
CALLERS = Authority("authority of its callers")


def channel_to(service: Harness, authority: Authority = AUTHORITY, client: Pair | None = None) -> grpc.aio.Channel:
    """A connection of its own, over TLS."""
    credentials = grpc.ssl_channel_credentials(
        authority.certificate, client.key if client else None, client.certificate if client else None
    )
    options = [("grpc.enable_retries", 0), ("grpc.use_local_subchannel_pool", 1)]
    return grpc.aio.secure_channel(service.address, credentials, options=options)


async def start_with(start_service: StartService, folder: Path, **settings: object) -> Harness:
    certificate, key = AUTHORITY.issue("first").write(folder)
    return await start_service(auth="api-key", tls_cert=certificate, tls_key=key, **settings)


async def start_asking_for_certificates(start_service: StartService, folder: Path) -> tuple[Harness, Path]:
    """A service that asks callers for a certificate, and the file of the authorities that it accepts."""
    authorities = folder / "callers.pem"
    authorities.write_bytes(CALLERS.certificate)
    return await start_with(start_service, folder, tls_client_ca=authorities), authorities


async def list_items(channel: grpc.aio.Channel, secret: str) -> object:
    return await Partner(channel, secret).inventory.ListItems(inventory.ListItemsRequest(), timeout=60)


def certificate_name(service: Harness) -> str:
    """The name in the certificate that a new connection is shown."""
    return shown_name(service.address, AUTHORITY)


async def test_a_key_works_over_tls_and_plain_text_is_refused(start_service: StartService, tmp_path: Path) -> None:
    service = await start_with(start_service, tmp_path)
    secret = await new_secret(service, "partner")
    async with channel_to(service) as channel:
        await list_items(channel, secret)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await list_items(channel, "none")
        assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await list_items(service.channel, secret)
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_caller_does_not_trust_another_authoritys_certificate(
    start_service: StartService, tmp_path: Path
) -> None:
    service = await start_with(start_service, tmp_path)
    async with channel_to(service, CALLERS) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await list_items(channel, "none")
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_client_certificates_are_asked_for_and_checked_and_do_not_replace_the_key(
    start_service: StartService, tmp_path: Path
) -> None:
    service, _ = await start_asking_for_certificates(start_service, tmp_path)
    secret = await new_secret(service, "partner")
    for client in (None, AUTHORITY.issue("of another authority")):
        async with channel_to(service, client=client) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await list_items(channel, secret)
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    async with channel_to(service, client=CALLERS.issue("partner")) as channel:
        await list_items(channel, secret)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await list_items(channel, "none")
    assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_a_renewed_certificate_is_shown_to_new_connections_and_open_ones_go_on(
    start_service: StartService, tmp_path: Path
) -> None:
    service = await start_with(start_service, tmp_path)
    secret = await new_secret(service, "partner")
    async with channel_to(service) as channel:
        await list_items(channel, secret)
        assert await asyncio.to_thread(certificate_name, service) == "first"
        AUTHORITY.issue("second").write(tmp_path)
        assert await asyncio.to_thread(certificate_name, service) == "second"
        assert channel.get_state() is grpc.ChannelConnectivity.READY
        await list_items(channel, secret)


async def test_files_that_do_not_fit_together_leave_the_old_certificate_in_use(
    start_service: StartService, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    service = await start_with(start_service, tmp_path)
    new = AUTHORITY.issue("second")
    (tmp_path / "server.pem").write_bytes(new.certificate)
    for _ in range(2):
        assert await asyncio.to_thread(certificate_name, service) == "first"
    assert capfd.readouterr().out.count("tls.rejected") == 1
    (tmp_path / "server.key").write_bytes(b"")
    assert await asyncio.to_thread(certificate_name, service) == "first"
    (tmp_path / "server.key").unlink()
    assert await asyncio.to_thread(certificate_name, service) == "first"
    (tmp_path / "server.key").write_bytes(new.key)
    assert await asyncio.to_thread(certificate_name, service) == "second"


async def test_a_renewed_authority_of_the_callers_counts_for_new_connections(
    start_service: StartService, tmp_path: Path
) -> None:
    service, authorities = await start_asking_for_certificates(start_service, tmp_path)
    secret = await new_secret(service, "partner")
    later = Authority("authority of its callers, renewed")
    async with channel_to(service, client=CALLERS.issue("partner")) as old:
        await list_items(old, secret)
        authorities.write_bytes(later.certificate)
        async with channel_to(service, client=later.issue("partner")) as new:
            await list_items(new, secret)
        await list_items(old, secret)
    async with channel_to(service, client=CALLERS.issue("partner")) as late:
        with pytest.raises(grpc.aio.AioRpcError):
            await list_items(late, secret)


async def test_versions_before_tls_1_2_are_refused(start_service: StartService, tmp_path: Path) -> None:
    service = await start_with(start_service, tmp_path)

    def version(most: ssl.TLSVersion) -> str | None:
        context = ssl.create_default_context(cadata=AUTHORITY.certificate.decode())
        context.set_alpn_protocols(["h2"])
        context.set_ciphers("DEFAULT@SECLEVEL=0")
        context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
        context.maximum_version = most
        host, port = service.address.split(":")
        with (
            socket.create_connection((host, int(port)), 10) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as secured,
        ):
            return secured.version()

    assert await asyncio.to_thread(version, ssl.TLSVersion.TLSv1_3) == "TLSv1.3"
    assert await asyncio.to_thread(version, ssl.TLSVersion.TLSv1_2) == "TLSv1.2"
    with pytest.warns(DeprecationWarning, match="TLSv1_1"), pytest.raises(ssl.SSLError):
        await asyncio.to_thread(version, ssl.TLSVersion.TLSv1_1)


async def test_a_certificate_without_its_key_does_not_start(start_service: StartService, tmp_path: Path) -> None:
    certificate, _ = AUTHORITY.issue("one").write(tmp_path, "one")
    _, key = AUTHORITY.issue("another").write(tmp_path, "another")
    with pytest.raises(CertificateError, match=r"one\.pem.*another\.key"):
        await start_service(auth="api-key", tls_cert=certificate, tls_key=key)
