"""Identity in a service as operators run it: several processes, TLS, keys by the command line, its log and metrics."""

import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from holdsvc.commands import cli
from inventoryhold.v1 import inventory_service_pb2 as inventory
from inventoryhold.v1 import inventory_service_pb2_grpc
from tests.support.certificates import Authority, shown_name
from tests.support.polling import wait_until
from tests.support.program import command, serving, variables

AUTHORITY = Authority("authority of the service")
CHANNELS = 12
"""Connections, which the kernel spreads over two workers: that one of them gets none happens once in 2,048 runs."""


@pytest.mark.parametrize("listen", ["0.0.0.0:0", "[::]:0", "192.0.2.1:50051"])
def test_auth_off_beyond_this_machine_does_not_start_and_says_why(tmp_path: Path, listen: str) -> None:
    done = command("serve", environment=variables(listen=listen, auth="off", data_dir=tmp_path))
    assert done.returncode == 1
    assert f"AUTH=off would open {listen} to callers without a key" in done.stderr
    assert "holdsvc keys create" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_certificate_that_is_none_does_not_start_and_says_why(tmp_path: Path) -> None:
    certificate, key = AUTHORITY.issue("server").write(tmp_path)
    key.write_text("no key")
    done = command("serve", environment=variables(tls_cert=certificate, tls_key=key, data_dir=tmp_path / "data"))
    assert done.returncode == 1
    assert "HOLDSVC_TLS_CERT" in done.stderr
    assert "server.key" in done.stderr
    assert "no key" not in done.stderr
    assert "Traceback" not in done.stderr


class Caller:
    """Calls without a pause on many connections, until it is told to stop."""

    def __init__(self, address: str, secret: str) -> None:
        credentials = grpc.ssl_channel_credentials(AUTHORITY.certificate)
        options = [("grpc.enable_retries", 0), ("grpc.use_local_subchannel_pool", 1)]
        self._channels = [grpc.secure_channel(address, credentials, options) for _ in range(CHANNELS)]
        self._metadata = (("x-api-key", secret),)
        self._stop = threading.Event()
        self.answered = 0
        self.refused_at: dict[int, float] = {}
        self.failures: list[str] = []

    def run(self, index: int) -> None:
        list_items = inventory_service_pb2_grpc.InventoryServiceStub(self._channels[index]).ListItems
        while not self._stop.is_set():
            try:
                list_items(inventory.ListItemsRequest(), metadata=self._metadata, timeout=60)
                self.answered += 1
                assert index not in self.refused_at, "a revoked key works again"
            except grpc.RpcError as error:
                if error.code() is grpc.StatusCode.UNAUTHENTICATED:
                    self.refused_at.setdefault(index, time.monotonic())
                else:
                    self.failures.append(str(error))
            time.sleep(0.02)

    def stop(self) -> None:
        """Lets the calls end; after that `close`."""
        self._stop.set()

    def close(self) -> None:
        for channel in self._channels:
            channel.close()


def subjects(address: str, count: int = CHANNELS) -> set[str]:
    """The names in the certificates that new connections are shown."""
    return {shown_name(address, AUTHORITY) for _ in range(count)}


def test_two_workers_take_up_a_renewed_certificate_and_a_revoked_key_without_a_failed_call(
    ledger_dsn: str, tmp_path: Path
) -> None:
    certificate, key = AUTHORITY.issue("first").write(tmp_path)
    keys = variables(dsn=ledger_dsn)
    secret = command(
        "keys", "create", "--client", "partner", "--scopes", "inventory.read", environment=keys
    ).stdout.strip()
    tls: dict[str, Any] = {"tls_cert": str(certificate), "tls_key": str(key)}
    with serving(workers=2, dsn=ledger_dsn, auth="api-key", **tls) as service:
        caller = Caller(service.address, secret)
        with ThreadPoolExecutor(CHANNELS) as pool:
            runs = [pool.submit(caller.run, index) for index in range(CHANNELS)]
            try:
                assert subjects(service.address) == {"first"}
                AUTHORITY.issue("second").write(tmp_path)
                service.send_signal(signal.SIGHUP)
                assert len({service.wait_for("tls.reloaded")["pid"] for _ in range(2)}) == 2
                assert subjects(service.address) == {"second"}
                # By the change of the files alone.
                AUTHORITY.issue("third").write(tmp_path)
                assert subjects(service.address) == {"third"}
                assert not caller.failures
                assert not caller.refused_at
                done = command("keys", "revoke", secret.split("_")[1], environment=keys)
                assert done.returncode == 0, done.stderr
                revoked = time.monotonic()
                wait_until(lambda: len(caller.refused_at) == CHANNELS)
            finally:
                caller.stop()
        for run in runs:
            run.result()
        caller.close()
        assert not caller.failures
        assert caller.answered > CHANNELS
        assert len(caller.refused_at) == CHANNELS
        assert max(caller.refused_at.values()) - revoked < 5
        assert service.stop() == 0


@pytest.mark.parametrize("asks_callers", [False, True])
def test_health_is_asked_over_tls_with_the_services_own_certificate(
    ledger_dsn: str, tmp_path: Path, asks_callers: bool
) -> None:
    certificate, key = AUTHORITY.issue("server", "holds.example.org").write(tmp_path)
    tls: dict[str, Any] = {"tls_cert": str(certificate), "tls_key": str(key)}
    if asks_callers:
        (tmp_path / "callers.pem").write_bytes(AUTHORITY.certificate)
        tls["tls_client_ca"] = str(tmp_path / "callers.pem")
    with serving(dsn=ledger_dsn, auth="api-key", **tls) as service:
        assert command("health", "--address", service.address, environment=variables(**tls)).stdout == "SERVING\n"
        other = AUTHORITY.issue("another", "holds.example.org").write(tmp_path, "another")
        tls |= {"tls_cert": str(other[0]), "tls_key": str(other[1])}
        assert command("health", "--address", service.address, environment=variables(**tls)).stdout == "UNREACHABLE\n"


def test_sighup_without_tls_is_the_end_of_a_terminal_and_ends_the_service_cleanly(ledger_dsn: str) -> None:
    with serving(dsn=ledger_dsn) as service:
        service.send_signal(signal.SIGHUP)
        assert service.end() == 0
        assert service.wait_for("stopped")


def test_keys_are_made_listed_and_revoked_by_the_command_line(ledger_dsn: str) -> None:
    keys = variables(dsn=ledger_dsn)
    made = command(
        "keys", "create", "--tenant", "t", "--client", "c", "--scopes", "reserve, confirm,reserve",
        "--pools", ",web", "--expires-in", "90d", environment=keys,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    secret = made.stdout.strip()
    listed = command("keys", "list", "--tenant", "t", environment=keys).stdout
    assert secret.split("_")[1] in listed
    assert secret not in listed
    assert "secret" not in listed
    assert '"scopes": ["reserve", "confirm"], "pools": ["", "web"]' in listed
    assert command("keys", "list", "--tenant", "another", environment=keys).stdout == ""
    assert command("keys", "revoke", secret.split("_")[1], "--tenant", "another", environment=keys).returncode == 1
    assert command("keys", "revoke", secret.split("_")[1], "--tenant", "t", environment=keys).returncode == 0
    assert '"revoke_time": null' not in command("keys", "list", "--tenant", "t", environment=keys).stdout


@pytest.mark.parametrize(
    "wrong",
    [
        ("--client", ""),
        ("--client", "c" * 129),
        ("--client", "a\x1fb"),
        ("--client", "c", "--scopes", "everything"),
        ("--client", "c", "--scopes", ""),
        ("--client", "c", "--pools", "a\x1fb"),
        ("--client", "c", "--expires-in", "0"),
        ("--client", "c", "--expires-in", "9999999d"),
        ("--client", "c", "--expires-in", "soon"),
    ],
)
def test_a_key_without_sense_is_refused_in_one_line(
    ledger_dsn: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], wrong: tuple[str, ...]
) -> None:
    monkeypatch.setenv("HOLDSVC_DSN", ledger_dsn)
    monkeypatch.setattr("sys.argv", ["holdsvc", "keys", "create", *wrong])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("holdsvc: ")
    assert printed.err.count("\n") == 1
