"""The commands beside `serve`, each a process of its own."""

import csv
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import grpc
import psycopg
import pytest

from holdsvc.embedded.server import EmbeddedServer, running_dsn
from holdsvc.ledger import migrate
from inventoryhold.v1 import inventory_service_pb2
from tests.support.harness import SET_NAME
from tests.support.program import Client, Program, command


@pytest.fixture(scope="module")
def program(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """A running service with AUTH=api-key, beside which the commands run."""
    folder = Path(shutil.copytree(prepared, tmp_path_factory.mktemp("commands") / "data"))
    with Program(folder, auth="api-key") as program:
        yield program.serving()


@pytest.fixture
def copied(prepared: Path, tmp_path: Path) -> Path:
    """A data folder of the test's own, that no service runs on."""
    return Path(shutil.copytree(prepared, tmp_path / "data"))


def lines_of(text: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in text.splitlines()]


def keys_of(program: Program, client: str) -> list[dict[str, object]]:
    listed = command("keys", "list", environment=program.environment)
    return [row for row in lines_of(listed.stdout) if row["client"] == client]


def code_at_the_end(client: Client) -> object:
    """The code with which calls end to be answered: a key is remembered for two seconds."""
    for _ in range(100_000):
        try:
            client.item("keyed")
        except grpc.RpcError as error:
            return error.code()
    return None


def test_config_prints_every_setting_and_masks_secrets() -> None:
    done = command("config", environment={"HOLDSVC_DSN": "postgresql://me:hunter2@db/holds", "HOLDSVC_WORKERS": "3"})
    assert done.returncode == 0
    shown = dict(line.split("=", 1) for line in done.stdout.splitlines())
    assert shown["HOLDSVC_WORKERS"] == "3"
    assert shown["HOLDSVC_DSN"] == "user=me password=*** dbname=holds host=db"
    assert "hunter2" not in done.stdout + done.stderr


def test_bad_settings_are_one_line_each_and_exit_code_1(tmp_path: Path) -> None:
    bad = {"HOLDSVC_WORKERS": "none", "HOLDSVC_DEFAULT_TTL": "30", "HOLDSVC_DATA_DIR": str(tmp_path / "data")}
    done = command("serve", "--listen", "nowhere", environment=bad)
    assert done.returncode == 1
    assert [line.partition(":")[0] for line in done.stderr.replace("holdsvc: ", "").splitlines()] == [
        "HOLDSVC_LISTEN",
        "HOLDSVC_WORKERS",
        "HOLDSVC_DEFAULT_TTL",
    ]
    assert not (tmp_path / "data").exists()


def test_auth_off_beyond_loopback_is_refused() -> None:
    done = command("serve", environment={"HOLDSVC_AUTH": "off", "HOLDSVC_LISTEN": "0.0.0.0:0"})
    assert done.returncode == 1
    assert "AUTH=off would open 0.0.0.0:0 to callers without a key" in done.stderr


def test_a_misspelt_variable_is_named(program: Program) -> None:
    taken = {**program.environment, "HOLDSVC_SWEEP_INTERVALL": "1s"}  # the folder is in use, so it ends
    done = command("serve", environment=taken)
    assert done.returncode == 1
    assert "holdsvc: HOLDSVC_SWEEP_INTERVALL is no setting" in done.stderr


@pytest.mark.parametrize(
    "arguments", [("health", "--timeout", "soon"), ("keys", "create", "--client", "web", "--expires-in", "soon")]
)
def test_a_duration_that_is_none_is_one_line(program: Program, arguments: tuple[str, ...]) -> None:
    done = command(*arguments, environment=program.environment)
    assert done.returncode in (1, 2)
    assert "'soon' is not a duration" in done.stderr
    assert "Traceback" not in done.stderr


def test_health_tells_a_serving_service_from_none(program: Program) -> None:
    for arguments in ((), ("--liveness",)):
        done = command("health", "--address", program.address, *arguments)
        assert (done.returncode, done.stdout.strip()) == (0, "SERVING")
    done = command("health", "--address", "127.0.0.1:1", "--timeout", "1s")
    assert (done.returncode, done.stdout.strip()) == (1, "UNREACHABLE")


def test_a_created_key_opens_its_scopes_until_it_is_revoked(program: Program) -> None:
    scopes = "reserve,inventory.write,inventory.read"
    made = command("keys", "create", "--client", "web", "--scopes", scopes, environment=program.environment)
    assert made.returncode == 0, made.stderr
    key = made.stdout.strip()
    client = Client(program, key)
    client.create_item("keyed", 5)
    assert client.reserve("keyed").client == "web"
    with pytest.raises(grpc.RpcError) as denied:
        client.inventory.DeleteItem(
            inventory_service_pb2.DeleteItemRequest(sku="keyed"), metadata=(("x-api-key", key + "x"),)
        )
    assert denied.value.code() == grpc.StatusCode.UNAUTHENTICATED

    [listed] = keys_of(program, "web")
    assert listed["scopes"] == scopes.split(",")
    assert listed["revoke_time"] is None
    assert key not in json.dumps(listed)
    assert "secret_hash" not in listed

    revoked = command("keys", "revoke", str(listed["key_id"]), environment=program.environment)
    assert revoked.returncode == 0, revoked.stderr
    [listed] = keys_of(program, "web")
    assert listed["revoke_time"] is not None
    assert code_at_the_end(client) == grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("keys", "create", "--client", "web", "--scopes", "reserve,fly"), "no such scope: fly"),
        (("keys", "create", "--client", ""), "client: "),
        (("keys", "revoke", "nobody"), "no API key nobody"),
        (("items", "import", "no-such-file.csv"), "cannot read no-such-file.csv"),
        (("migrate", "up", "--to", "9999"), "no migration 9999"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_exit_code_1(
    program: Program, arguments: tuple[str, ...], message: str
) -> None:
    done = command(*arguments, environment=program.environment)
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_items_import_creates_the_good_rows_and_explains_the_bad_ones(program: Program, tmp_path: Path) -> None:
    file = tmp_path / "items.csv"
    file.write_text(
        "sku,capacity,pool,display_name\n"
        "chair,10,,A chair\n"
        "table,ten,,\n"
        ",1,,\n"
        "chair,5,b2b,A chair for partners\n"
        "lamp,-1,,\n"
        "chair,7,,again\n"
    )
    done = command("items", "import", str(file), "--tenant", "shop", environment=program.environment)
    assert done.returncode == 1
    assert "6 rows read: 2 items created, 4 rows refused" in done.stdout
    with (tmp_path / "items.csv.errors.csv").open(newline="") as refused:
        rows = list(csv.DictReader(refused))
    assert [(row["line"], row["sku"], row["error"].partition(":")[0]) for row in rows] == [
        ("3", "table", "capacity"),
        ("4", "", "sku"),
        ("6", "lamp", "capacity"),
        ("7", "chair", "item 'chair' exists already"),
    ]
    listed = lines_of(command("items", "list", "--tenant", "shop", environment=program.environment).stdout)
    assert [(row["sku"], row["pool"], row["capacity"]) for row in listed] == [("chair", "", 10), ("chair", "b2b", 5)]
    assert command("items", "list", "--tenant", "shop", "--prefix", "ta", environment=program.environment).stdout == ""


def test_a_large_import_is_all_created(program: Program, tmp_path: Path) -> None:
    file = tmp_path / "many.csv"
    file.write_text("sku,capacity\n" + "".join(f"many-{number:05},1\n" for number in range(1_200)))
    done = command("items", "import", str(file), "--tenant", "large", environment=program.environment)
    assert (done.returncode, done.stdout.strip()) == (0, "1200 rows read: 1200 items created, 0 rows refused")
    assert (
        len(command("items", "list", "--tenant", "large", environment=program.environment).stdout.splitlines()) == 1_200
    )
    # Once more: every row is refused, none is changed.
    done = command("items", "import", str(file), "--tenant", "large", environment=program.environment)
    assert (done.returncode, done.stdout.strip()) == (1, "1200 rows read: 0 items created, 1200 rows refused")


def test_verify_runs_beside_a_service_and_finds_a_drift(program: Program, tmp_path: Path) -> None:
    file = tmp_path / "items.csv"
    file.write_text("sku,capacity\nsound,10\n")
    command("items", "import", str(file), "--tenant", "checked", environment=program.environment)
    done = command("verify", "--tenant", "checked", environment=program.environment)
    assert done.returncode == 0
    [sound] = lines_of(done.stdout.splitlines()[0])
    assert {"tenant": "checked", "item_count": 1, "reservation_count": 0, "drifts": []}.items() <= sound.items()
    dsn = running_dsn(Path(program.environment["HOLDSVC_DATA_DIR"]))
    assert dsn is not None
    with psycopg.connect(dsn, autocommit=True) as owner:
        owner.execute("UPDATE holdsvc.item SET held = 3, remaining = 7 WHERE sku = 'sound'")
        done = command("verify", environment=program.environment)
        owner.execute("UPDATE holdsvc.item SET held = 0, remaining = 10 WHERE sku = 'sound'")
    assert done.returncode == 1
    assert "the ledger has drifted" in done.stderr
    [report] = [row for row in lines_of(done.stdout) if row["tenant"] == "checked"]
    drift = {"sku": "sound", "pool": "", "counter": "held", "stored": 3, "recomputed": 0, "limit_id": ""}
    assert report["drifts"] == [drift]


def at_a_terminal(*arguments: str, answer: str) -> tuple[int, str]:
    """Runs a command on a terminal and answers its first question; returns the exit code and what it showed."""
    terminal, its_side = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "holdsvc", *arguments], stdin=its_side, stdout=its_side, stderr=its_side
    )
    os.close(its_side)
    shown = b""
    with suppress(OSError):  # how a terminal ends when its last program has
        while part := os.read(terminal, 65536):
            shown += part
            if b"[y/N]" in part:
                os.write(terminal, f"{answer}\n".encode())
    os.close(terminal)
    return process.wait(60), shown.decode()


def test_migrations_go_down_and_up_beside_a_running_database(copied: Path) -> None:
    environment = {"HOLDSVC_DATA_DIR": str(copied)}

    def states() -> list[str]:
        lines = command("migrate", "status", environment=environment).stdout.splitlines()
        return [line.split()[1] for line in lines if line[:4].isdigit()]

    with EmbeddedServer(copied):
        asked = command("migrate", "down", environment=environment)
        assert asked.returncode == 1
        assert "The data that they hold is deleted. There is no terminal to ask on: say --yes" in asked.stderr
        code, answered = at_a_terminal("migrate", "down", "--data-dir", str(copied), answer="n")
        assert (code, "nothing was taken back" in answered) == (1, True)
        assert {*states()} == {"applied"}
        down = command("migrate", "down", "--yes", environment=environment)
        assert down.stdout.startswith("took back ")
        *older, newest = states()
        assert {*older} <= {"applied"}
        assert newest == "pending"
        up = command("migrate", "up", environment=environment)
        applied, installed = up.stdout.splitlines()
        assert applied.replace("applied", "took back") == down.stdout.strip()
        assert installed == f"installed {SET_NAME}"
        assert {*states()} == {"applied"}


def test_a_command_on_a_folder_that_no_service_runs_on_starts_the_database_for_itself(copied: Path) -> None:
    environment = {"HOLDSVC_DATA_DIR": str(copied)}
    done = command("verify", environment=environment)
    assert (done.returncode, done.stdout[:2]) == (0, "ok")
    assert running_dsn(copied) is None


def test_commands_on_a_database_without_the_schema_say_what_to_do(copied: Path) -> None:
    environment = {"HOLDSVC_DATA_DIR": str(copied)}
    with EmbeddedServer(copied):
        migrate.down(running_dsn(copied) or "", 1000)
        for arguments in (("keys", "list"), ("verify",)):
            done = command(*arguments, environment=environment)
            assert done.returncode == 1
            assert "run `holdsvc migrate up`" in done.stderr
            assert "Traceback" not in done.stderr


def test_commands_on_an_empty_folder_say_what_to_do(tmp_path: Path) -> None:
    done = command("keys", "list", environment={"HOLDSVC_DATA_DIR": str(tmp_path / "none")})
    assert done.returncode == 1
    assert "start the service once" in done.stderr
    assert not (tmp_path / "none").exists()
