"""`holdsvc serve` as processes: starts, restarts, kills, drains."""

import itertools
import os
import signal
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import psycopg
import pytest

from holdsvc.embedded.server import EmbeddedServer, running_dsn
from inventoryhold.v1 import item_pb2, reservation_pb2
from inventoryhold.v1 import reservation_service_pb2 as pb
from tests.support.polling import wait_until
from tests.support.program import WAIT_S, Client, Program, Watched, command

DEBIAN_15 = Path("/usr/lib/postgresql/15/bin")


def test_it_serves_from_an_empty_folder_and_a_restart_keeps_the_data(tmp_path: Path) -> None:
    data_dir = tmp_path / "not" / "yet" / "there"
    with Program(data_dir, anew=True) as program:
        client = Client(program.serving())
        client.create_item("seat", 3)
        held = client.reserve("seat", 2, "first")
        program.terminate()
        assert program.end() == 0
    assert running_dsn(data_dir) is None
    with Program(data_dir, anew=True) as program:
        client = Client(program.serving())
        assert client.item("seat").held == 2
        assert client.reserve("seat", 2, "first").reservation_id == held.reservation_id
        assert "database.migrated" not in program.output


def test_kill_9_of_the_service_leaves_no_process_behind(data_dir: Path) -> None:
    with Program(data_dir, "--workers", "2", anew=True) as program:
        Client(program.serving(workers=2)).create_item("seat", 3)
        below = Watched(program.children(""))
        program.kill()
        assert below.have_ended()
        assert program.end() == -9
    assert running_dsn(data_dir) is None
    with Program(data_dir, anew=True) as program:
        assert Client(program.serving()).item("seat").capacity == 3


def test_a_killed_worker_is_replaced_and_calls_go_on(data_dir: Path) -> None:
    with Program(data_dir, "--workers", "2") as program:
        client = Client(program.serving(workers=2))
        client.create_item("seat", 30)
        workers = program.children("spawn_main")
        assert len(workers) == 2
        for worker in workers:
            os.kill(worker, 9)
            program.wait_for("worker.died")
            program.serving()
            assert Client(program).reserve("seat").reservation_id
        replaced = program.children("spawn_main")
        assert len(replaced) == 2
        assert not {*workers} & {*replaced}
        assert Client(program).item("seat").held == 2


def test_a_killed_database_is_restarted_and_calls_go_on(data_dir: Path) -> None:
    with Program(data_dir) as program:
        client = Client(program.serving())
        client.create_item("seat", 3)
        client.reserve("seat", 1, "before")
        [postgres] = program.children("postgres -D")
        os.kill(postgres, 9)
        program.wait_for("database.restarted")
        held = reserve_until_served(client)
        assert client.item("seat").held == 2
        assert held.reservation_id == client.reserve("seat", 1, "after").reservation_id
        [restarted] = program.children("postgres -D")
        assert restarted != postgres


def reserve_until_served(client: Client) -> reservation_pb2.Reservation:
    """A caller's own retries: UNAVAILABLE is the only code that is retried."""
    held: list[reservation_pb2.Reservation] = []

    def answered() -> bool:
        try:
            held.append(client.reserve("seat", 1, "after"))
        except grpc.RpcError as error:
            if error.code() != grpc.StatusCode.UNAVAILABLE:
                raise
        return bool(held)

    wait_until(answered, timeout_s=WAIT_S, pause_s=0.1)
    return held[0]


def test_a_second_service_on_one_data_dir_says_so_and_ends(two: Program) -> None:
    with Program(Path(two.environment["HOLDSVC_DATA_DIR"])) as second:
        assert second.end() == 1
    [line] = second.errors
    assert f"is in use by process {two.pid}: stop it, or" in line
    Client(two).create_item("still", 1)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_second_service_on_the_same_port_is_a_clear_error(two: Program, tmp_path: Path, workers: str) -> None:
    with Program(tmp_path / "two", "--workers", workers, listen=two.address) as second:
        assert second.end() == 1
    assert f"HOLDSVC_LISTEN: cannot listen on {two.address}" in second.output
    assert not (tmp_path / "two").exists()


def test_workers_share_one_port_and_one_metrics_page(two: Program) -> None:
    assert len({line for line in two.lines if '"serving"' in line}) == 2
    Client(two).create_item("seat", 1000)
    for _ in range(40):  # connections, not calls, are shared out
        Client(two).reserve("seat")
    name = 'grpc_server_handled_total{grpc_code="OK",grpc_method="Reserve"'
    assert [line.rpartition(" ")[2] for line in two.metrics().splitlines() if line.startswith(name)] == ["40.0"]
    served = {pid for pid in two.children("spawn_main") if _has_connection(pid, two.port)}
    assert len(served) == 2


def _has_connection(pid: int, port: int) -> bool:
    """Whether the process has an established connection on its listening port."""
    inodes = set()
    for file in Path(f"/proc/{pid}/fd").iterdir():
        target = str(file.readlink())
        if target.startswith("socket:["):
            inodes.add(target[8:-1])
    tables = (Path(f"/proc/{pid}/net/{name}").read_text().splitlines()[1:] for name in ("tcp", "tcp6"))
    for line in itertools.chain(*tables):
        fields = line.split()
        if fields[9] in inodes and fields[3] == "01" and int(fields[1].rpartition(":")[2], 16) == port:
            return True
    return False


@pytest.mark.parametrize("workers", [1, 2])
def test_sigterm_under_load_loses_no_accepted_call(data_dir: Path, workers: int) -> None:
    with Program(data_dir, "--workers", str(workers)) as program:
        Client(program.serving(workers=workers)).create_item("seat", 1_000_000)
        answered: list[str] = []
        codes: set[grpc.StatusCode] = set()
        enough = threading.Event()
        stopped = threading.Event()

        def caller(number: int) -> None:
            client = Client(program)
            count = 0
            while not stopped.is_set():
                request = pb.ReserveRequest(
                    lines=[item_pb2.ItemQuantity(sku="seat", quantity=1)], request_id=f"{number}/{count}"
                )
                try:
                    answer = client.reservations.Reserve(request, timeout=30)
                except grpc.RpcError as error:
                    codes.add(error.code())
                    return
                answered.append(answer.reservation.reservation_id)
                count += 1
                if len(answered) > 300:
                    enough.set()

        with ThreadPoolExecutor(16) as pool:
            callers = [pool.submit(caller, number) for number in range(16)]
            assert enough.wait(WAIT_S)
            program.terminate()
            code = program.end()
            stopped.set()
            for done in callers:
                done.result()
        assert code == 0
        assert codes == {grpc.StatusCode.UNAVAILABLE}, "nothing ran of it: a retry is safe"
    with EmbeddedServer(data_dir):
        dsn = running_dsn(data_dir)
        assert dsn is not None
        with psycopg.connect(dsn) as owner:
            stored = {str(row[0]) for row in owner.execute("SELECT reservation_id FROM holdsvc.reservation")}
    assert set(answered) <= stored
    assert stored == set(answered), "what was done was answered"


@pytest.mark.parametrize("workers", [1, 2])
def test_an_address_that_is_taken_is_a_clear_error(data_dir: Path, workers: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with Program(data_dir, "--workers", str(workers), listen=address) as program:
            assert program.end() == 1
        assert f"cannot listen on {address}" in program.output
        assert "Traceback" not in program.output


def test_a_metrics_address_that_is_taken_is_a_clear_error(data_dir: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with Program(data_dir, metrics_listen=address) as program:
            assert program.end() == 1
        assert f"HOLDSVC_METRICS_LISTEN: cannot listen on {address}" in program.output
        assert "Traceback" not in program.output


def test_sigterm_during_the_start_ends_it_cleanly(data_dir: Path) -> None:
    with Program(data_dir) as program:
        program.wait_for("database.started")
        program.terminate()
        assert program.end() == 0
        assert "Traceback" not in program.output
    assert running_dsn(data_dir) is None


def test_sigterm_while_the_database_is_not_ready_ends_it_cleanly(data_dir: Path) -> None:
    # A standby that refuses queries is alive and never ready, like one that recovers for long.
    (data_dir / "pgdata" / "standby.signal").touch()
    with (data_dir / "pgdata" / "postgresql.auto.conf").open("a") as file:
        file.write("hot_standby = off\n")
    with Program(data_dir) as program:
        program.wait_for_child("postgres -D")
        program.terminate()
        assert program.end() == 0
        assert "Traceback" not in program.output
        assert "database.started" not in program.output
    assert running_dsn(data_dir) is None


def test_a_worker_that_does_not_end_is_killed_in_time(data_dir: Path) -> None:
    with Program(data_dir, drain_grace="100ms") as program:
        program.serving()
        [worker] = program.children("spawn_main")
        os.kill(worker, signal.SIGSTOP)
        program.terminate()
        program.wait_for("worker.killed")
        assert program.end() == 0
    assert running_dsn(data_dir) is None


@pytest.mark.skipif(not DEBIAN_15.exists(), reason="PostgreSQL 15 is not installed")
def test_it_serves_from_an_own_postgresql_15_by_dsn(tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path / "own", bin_dir=DEBIAN_15):
        dsn = running_dsn(tmp_path / "own")
        assert dsn is not None
        unused = tmp_path / "unused"
        with Program(unused, dsn=dsn) as program:
            client = Client(program.serving())
            client.create_item("seat", 3)
            client.reserve("seat")
            checked = command("verify", environment=program.environment)
            assert checked.returncode == 0, checked.stderr
            program.terminate()
            assert program.end() == 0
        assert not unused.exists()


def test_a_database_that_cannot_be_reached_is_one_line_and_exit_code_1(tmp_path: Path) -> None:
    checked = command("verify", environment={"HOLDSVC_DSN": f"host={tmp_path} user=nobody password=secret-word"})
    assert checked.returncode == 1
    assert "holdsvc: the database does not answer" in checked.stderr
    assert "secret-word" not in checked.stderr
    assert "Traceback" not in checked.stderr
