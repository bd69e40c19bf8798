"""Every command that works on a database: how it takes its target, and how it refuses one."""

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.program import command

ON_A_DATABASE = [
    ("migrate", "status"),
    ("migrate", "up"),
    ("migrate", "down", "--yes"),
    ("keys", "list"),
    ("keys", "create", "--client", "web"),
    ("keys", "revoke", "0123456789ab"),
    ("items", "list"),
    ("items", "import", __file__),
    ("events", "list"),
    ("events", "export", "2026-01-31"),
    ("events", "begin-epoch"),
    ("relay", "--to", "stdout"),
    ("verify",),
    ("psql",),
    ("dump", "never-written"),
]
MALFORMED = "postgresql://me:hunter@2word@db/holds"


def _serve_arguments(tmp_path: Path) -> tuple[str, ...]:
    return ("serve", "--listen", "127.0.0.1:0", "--metrics-listen", "", "--data-dir", str(tmp_path / "data"))


@contextmanager
def old_server() -> Iterator[str]:
    """A server that speaks PostgreSQL's protocol as far as a connection and says that it is version 14."""

    def message(kind: bytes, body: bytes) -> bytes:
        return kind + struct.pack("!I", len(body) + 4) + body

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                while (length := struct.unpack("!I", connection.recv(4))[0]) == 8:  # SSL and GSSAPI are declined
                    connection.recv(length - 4)
                    connection.sendall(b"N")
                connection.recv(length - 4)
                version = message(b"S", b"server_version\x0014.9\x00") + message(b"S", b"client_encoding\x00UTF8\x00")
                connection.sendall(message(b"R", struct.pack("!I", 0)) + version + message(b"Z", b"I"))
                connection.recv(1024)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"host=127.0.0.1 port={listener.getsockname()[1]} user=me dbname=holds sslmode=disable"
        listener.shutdown(socket.SHUT_RDWR)
    thread.join()


@pytest.mark.parametrize("arguments", ON_A_DATABASE)
def test_a_malformed_dsn_is_one_line_without_its_password(arguments: tuple[str, ...]) -> None:
    for done in (
        command(*arguments, environment={"HOLDSVC_DSN": MALFORMED}),
        command(*arguments, "--dsn", MALFORMED),
    ):
        assert done.returncode == 1
        [line] = done.stderr.splitlines()
        assert line.startswith("holdsvc: HOLDSVC_DSN: this is not a connection string of PostgreSQL")
        assert "2word" not in done.stdout + done.stderr


@pytest.mark.parametrize("name", ["HOLDSVC_DSN", "HOLDSVC_MIGRATE_DSN"])
def test_serve_and_config_refuse_a_malformed_dsn_in_one_line(tmp_path: Path, name: str) -> None:
    for arguments in (_serve_arguments(tmp_path), ("config",)):
        done = command(*arguments, environment={name: MALFORMED})
        assert done.returncode == 1
        assert done.stderr.startswith(f"holdsvc: {name}: this is not a connection string")
        assert "2word" not in done.stdout + done.stderr


@pytest.mark.parametrize("arguments", [("serve",), ("keys", "list"), ("migrate", "status"), ("migrate", "up")])
def test_an_old_postgresql_is_refused_in_words(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    with old_server() as dsn:
        whole = _serve_arguments(tmp_path) if arguments == ("serve",) else arguments
        done = command(*whole, environment={"HOLDSVC_DSN": dsn})
    assert done.returncode == 1
    assert "holdsvc: the database is PostgreSQL 14: holdsvc needs 15 or newer" in done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_two_targets_are_refused(tmp_path: Path) -> None:
    done = command("keys", "list", "--dsn", "dbname=holds", "--data-dir", str(tmp_path))
    assert (done.returncode, done.stderr) == (
        1,
        "holdsvc: --dsn and --data-dir name two databases: give one of them\n",
    )


def test_a_target_of_the_flags_replaces_the_one_of_the_environment(tmp_path: Path) -> None:
    absent = tmp_path / "absent"
    environment = {"HOLDSVC_DSN": "dbname=holds", "HOLDSVC_MIGRATE_DSN": "dbname=holds"}
    done = command("keys", "list", "--data-dir", str(absent), environment=environment)
    assert f"{absent} holds no database" in done.stderr
    dsn = f"host={tmp_path} dbname=other"
    done = command("keys", "list", "--dsn", dsn, environment={**environment, "HOLDSVC_DATA_DIR": str(absent)})
    assert f'"{tmp_path}/.s.PGSQL.5432" failed' in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [("keys", "list", "--tenant"), ("keys", "create", "--client"), ("keys", "revoke"), ("items", "list", "--prefix")],
)
def test_an_argument_that_is_not_utf_8_is_one_line(prepared: Path, arguments: tuple[str, ...]) -> None:
    done = command(*arguments, "caf\udce9", environment={"HOLDSVC_DATA_DIR": str(prepared)})
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert done.stderr.startswith("holdsvc: ")
