"""What a person sees who starts the service wrongly, or too early: `holdsvc serve` as a process."""

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

HOLDSVC = Path(sys.executable).with_name("holdsvc")


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A free port that no other process gets."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]


def _serve(tmp_path: Path, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [
            HOLDSVC,
            "serve",
            "--auth=off",
            "--listen=127.0.0.1:0",
            "--metrics-listen=",
            f"--data-dir={tmp_path}",
            *options,
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.fixture
def stranger_dsn(ledger_dsn: str) -> Iterator[str]:
    """The DSN of a role that has nothing to do with holdsvc."""
    with psycopg.connect(ledger_dsn, autocommit=True) as administrator:
        administrator.execute("CREATE ROLE stranger LOGIN")
        yield make_conninfo(ledger_dsn, user="stranger")
        administrator.execute("DROP ROLE stranger")


def _await_event(process: subprocess.Popen[str], event: str) -> str:
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("{") and event in json.loads(line)["event"]:
            return line
    raise AssertionError(f"{event} was never logged")


def test_who_waits_for_the_database_says_so_and_can_be_stopped(tmp_path: Path, closed_port: int) -> None:
    with _serve(tmp_path, f"--dsn=postgresql://shop:secret@127.0.0.1:{closed_port}/shop") as process:
        line = _await_event(process, "database.awaited")
        assert "Connection refused" in line
        assert "secret" not in line
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)


def test_a_worker_that_cannot_become_the_service_role_says_so_and_can_be_stopped(
    tmp_path: Path, stranger_dsn: str
) -> None:
    with _serve(tmp_path, f"--dsn={stranger_dsn}") as process:
        _await_event(process, "permission denied to set role")
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
        assert process.returncode == 0


def test_an_address_that_is_taken_is_named(tmp_path: Path, ledger_dsn: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with _serve(tmp_path, f"--dsn={ledger_dsn}", f"--metrics-listen={address}") as process:
            output, _ = process.communicate(timeout=60)
            assert process.returncode == 1
            assert f"HOLDSVC_METRICS_LISTEN: cannot listen on {address}" in output
        with _serve(tmp_path, f"--dsn={ledger_dsn}", f"--listen={address}") as process:
            output, _ = process.communicate(timeout=60)
            assert process.returncode == 1
            assert address in output
