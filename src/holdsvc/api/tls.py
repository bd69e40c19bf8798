"""TLS: the service's certificate, and the authorities that its callers' certificates must come from.

They are looked at before each handshake, so files that change are taken up by the next connection; those that are open
keep what they began with, and no call notices. At least TLS 1.2: gRPC's own default, held by a test.
"""

import ssl
import tempfile
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import grpc
import structlog

from holdsvc.settings import Settings

log = structlog.get_logger(__name__)


class CertificateError(ValueError):
    """Files that do not make a certificate with its key; the message names them and never quotes them."""


class _Signature(NamedTuple):
    """Shows whether a file has changed, also when it was replaced under the same name and time."""

    modified_ns: int
    size: int
    inode: int


@dataclass(frozen=True)
class _Contents:
    """What stands in the files."""

    key: bytes = field(repr=False)
    certificate: bytes
    authorities: bytes | None


class Certificates:
    """The files, as they were when they last fitted together."""

    def __init__(self, certificate: Path, key: Path, client_authorities: Path | None) -> None:
        """Reads them; raises CertificateError."""
        self._certificate = certificate
        self._key = key
        self._authorities = client_authorities
        self._files = [path for path in (certificate, key, client_authorities) if path is not None]
        # gRPC asks from threads of its own.
        self._lock = threading.Lock()
        self._seen = self._signatures()
        self._contents = self._read()
        self._version = 1
        self._context: tuple[int, ssl.SSLContext] | None = None

    def context(self) -> ssl.SSLContext:
        """What an HTTP connection is secured with: the newest files that fit together."""
        self.reload()
        with self._lock:
            if self._context is None or self._context[0] != self._version:
                self._context = self._version, self._new_context()
            return self._context[1]

    def _new_context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        # A session taken up again would be of an authority that may no longer be trusted.
        context.num_tickets = 0
        context.options |= ssl.OP_NO_TICKET
        with tempfile.TemporaryDirectory(prefix="holdsvc-tls-") as folder:
            # Python loads a chain from files only; these are the contents that were found to fit together.
            certificate, key = Path(folder, "certificate.pem"), Path(folder, "key.pem")
            certificate.write_bytes(self._contents.certificate)
            key.touch(mode=0o600)
            key.write_bytes(self._contents.key)
            context.load_cert_chain(certificate, key, password="")
        if self._contents.authorities is not None:
            context.load_verify_locations(cadata=self._contents.authorities.decode("ascii"))
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    def credentials(self) -> grpc.ServerCredentials:
        """What a server serves with: always the newest files that fit together."""
        given = 0

        def fresh() -> grpc.ServerCertificateConfiguration | None:
            """Returns certificates that this server has not got yet.

            gRPC frees what it is given: the same object given twice would crash it.
            """
            nonlocal given
            self.reload()
            with self._lock:
                if given == self._version:
                    return None
                given = self._version
                return grpc.ssl_server_certificate_configuration(
                    [(self._contents.key, self._contents.certificate)], root_certificates=self._contents.authorities
                )

        first = fresh()
        assert first is not None
        return grpc.dynamic_ssl_server_credentials(
            first,
            fresh,  # type: ignore[arg-type]  # None is no change: the stubs do not know
            require_client_authentication=self._authorities is not None,
        )

    def reload(self) -> None:
        """Loads files that have changed. Files that do not fit together are reported once and not used."""
        with self._lock:
            try:
                signatures = self._signatures()
                if signatures == self._seen:
                    return
                self._seen = signatures
                current = self._read()
                if self._signatures() != signatures:
                    # Changed once more while they were read: the next handshake reads them.
                    return
            except CertificateError as error:
                log.error("tls.rejected", error=str(error))  # noqa: TRY400 - the message says it all
                return
            self._contents = current
            self._version += 1
        log.info("tls.reloaded", certificate=str(self._certificate))

    def _signatures(self) -> list[_Signature | None]:
        return [_signature(path) for path in self._files]

    def _read(self) -> _Contents:
        try:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            # Without a password OpenSSL would ask for one on the terminal.
            context.load_cert_chain(self._certificate, self._key, password="")
            authorities = None
            if self._authorities is not None:
                authorities = self._authorities.read_bytes()
                context.load_verify_locations(cadata=authorities.decode("ascii"))
            contents = _Contents(self._key.read_bytes(), self._certificate.read_bytes(), authorities)
        except (OSError, ValueError) as error:
            # ssl.SSLError is an OSError.
            why = error.reason if isinstance(error, ssl.SSLError) else type(error).__name__
            names = ", ".join(str(path) for path in self._files)
            raise CertificateError(f"{names} do not make a certificate with its key: {why}") from None
        return contents


def certificates_of(settings: Settings) -> Certificates | None:
    """The certificates to serve with, None without TLS; raises CertificateError."""
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    return Certificates(settings.tls_cert, settings.tls_key, settings.tls_client_ca)


def _signature(path: Path) -> _Signature | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return _Signature(found.st_mtime_ns, found.st_size, found.st_ino)
