"""README.md and the pages beside it: their commands run, their answers are those given, the reference is fresh."""

import asyncio
import json
import os
import re
import sys
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from quickstart import PAGES, decoded, differences, read

from holdsvc import variables
from holdsvc.api.auth.keyring import make_key
from holdsvc.commands.keys import create_key
from holdsvc.ledger import migrate
from inventoryhold.v1 import reservation_pb2, reservation_service_pb2
from scripts import reference
from tests.support.harness import Harness, StartService

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
INSTALLATION = (ROOT / "docs" / "installation.md").read_text()
CLIENT = (ROOT / "docs" / "client.md").read_text()
BIN = Path(sys.executable).parent

# Roles are the whole server's: another test's database may have brought this one.
OTHER_TESTS_ROLE = """
DO $$ BEGIN CREATE ROLE holdsvc_service NOLOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$
"""


def _blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


async def _run(*command: str, **environment: str) -> tuple[int | None, str, str]:
    bare = {name: value for name, value in os.environ.items() if not name.startswith("HOLDSVC_")}
    process = await asyncio.create_subprocess_exec(
        *command,
        env={**bare, **environment},
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await process.communicate()
    return process.returncode, output.decode(), errors.decode()


async def test_the_quick_start_is_answered_as_it_says(start_service: StartService) -> None:
    service = await start_service(http_listen="127.0.0.1:0")
    [hold] = [block for block in _blocks(README, "sh") if block.startswith("hold()")]
    steps = read()
    assert len(steps) >= 7
    for step in steps:
        script = f"{hold}{step.command}".replace(".venv/bin/", f"{BIN}/")
        script = script.replace("127.0.0.1:50051", service.address).replace("127.0.0.1:8080", service.http_address)
        code, output, errors = await _run("bash", "-c", script)
        assert (code != 0) == step.refused, errors
        assert differences(step.answer, decoded(json.loads(output or errors))) == [], step.command


async def test_the_quick_starts_reserve_sent_again_is_replayed(service: Harness) -> None:
    await service.create_item("demo-tour", 10)
    [step] = [step for step in read() if "demo-request-1" in step.request]
    request = json.loads(step.request)
    message = reservation_service_pb2.ReserveRequest(
        request_id=request["request_id"], reference=request["reference"], lines=request["lines"], ttl={"seconds": 900}
    )
    first, second = await service.reservations.Reserve(message), await service.reservations.Reserve(message)
    assert (first.replayed, second.replayed) == (False, True)
    assert second.reservation == first.reservation
    assert (await service.item("demo-tour")).held == 4


async def test_smoke_passes_with_a_key_and_takes_back_what_it_made(start_service: StartService) -> None:
    service = await start_service(auth="api-key")
    # The command runs a loop of its own.
    key = await asyncio.to_thread(create_key, service.owner_dsn, "shop", "smoke", "all", "", None)
    command = (sys.executable, str(ROOT / "loadtest" / "smoke.py"))
    code, output, errors = await _run(*command, HOLDSVC_LISTEN=service.address, HOLDSVC_API_KEY=key)
    assert code == 0, output + errors
    assert service.sql(
        "SELECT sum(held + confirmed), count(*) FILTER (WHERE delete_time IS NULL) FROM holdsvc.item"
    ) == [(0, 0)]
    code, output, errors = await _run(
        *command, HOLDSVC_LISTEN=service.address, HOLDSVC_API_KEY=make_key("default").secret
    )
    assert code == 1
    assert "unauthenticated" in output


async def test_smoke_fails_when_an_answer_is_not_as_shown(service: Harness) -> None:
    service.sql("ALTER TABLE holdsvc.item ALTER COLUMN revision SET DEFAULT 7")
    command = (sys.executable, str(ROOT / "loadtest" / "smoke.py"))
    code, output, _ = await _run(*command, HOLDSVC_LISTEN=service.address)
    assert code == 1
    assert 'item.revision is "7", not "1"' in output


@pytest.mark.parametrize(("text", "state", "quantity"), [(README, "CONFIRMED", 2), (CLIENT, "HELD", 2)])
async def test_the_python_example_runs(service: Harness, text: str, state: str, quantity: int) -> None:
    await service.create_item("demo-tour", 10)
    [example] = _blocks(text, "python")
    code, output, errors = await _run(sys.executable, "-c", example.replace("127.0.0.1:50051", service.address))
    assert code == 0, errors
    reservation = await service.get(output.split()[-1])
    assert reservation.lines[0].quantity == quantity
    assert reservation_pb2.Reservation.State.Name(reservation.state) == f"STATE_{state}"


async def test_ones_own_postgresql_needs_no_superuser(server_dsn: str, start_service: StartService) -> None:
    [statements] = _blocks(INSTALLATION, "sql")
    with psycopg.connect(server_dsn, autocommit=True) as administrator:
        administrator.execute(OTHER_TESTS_ROLE.encode())
        for statement in statements.replace("DATABASE holdsvc", "DATABASE own").split(";\n"):
            if statement.strip() and "ROLE holdsvc_service " not in statement:
                administrator.execute(statement.encode())
        try:
            migrate.up(make_conninfo(server_dsn, dbname="own", user="holdsvc_owner", password="one"))
            app = make_conninfo(server_dsn, dbname="own", user="holdsvc_app", password="another")
            service = await start_service(dsn=app)
            await service.create_item("seat", 1)
            await service.reserve({"seat": 1})
            await service.verify()
            with (
                psycopg.connect(app, autocommit=True) as connection,
                pytest.raises(psycopg.errors.InsufficientPrivilege),
            ):
                connection.execute("SELECT * FROM holdsvc.item")
        finally:
            administrator.execute(b"DROP DATABASE own WITH (FORCE)")
            administrator.execute(b"DROP ROLE holdsvc_owner, holdsvc_app")


@pytest.mark.parametrize("name", reference.PAGES)
def test_the_reference_is_that_of_the_code(name: str) -> None:
    stale = f"docs/reference/{name} is stale: run 'make generate' and commit it"
    assert (reference.REFERENCE / name).read_text() == reference.PAGES[name](), stale


def test_the_picture_of_a_holds_life_has_every_state() -> None:
    [picture] = _blocks(README, "mermaid")
    states = {f"STATE_{state}" for state in re.findall(r"\b[A-Z]{3,}\b", picture)}
    assert states == set(reservation_pb2.Reservation.State.keys()) - {"STATE_UNSPECIFIED"}


def test_the_readme_has_200_lines_at_most() -> None:
    assert len(README.splitlines()) <= 200


def test_every_setting_named_is_one() -> None:
    text = "".join(page.read_text() for page in PAGES) + (ROOT / "CONTRIBUTING.md").read_text()
    assert variables.unknown_names(dict.fromkeys(re.findall(r"HOLDSVC_[A-Z_]+[A-Z]", text), "")) == []


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_every_target_and_file_named_exists(name: str) -> None:
    text = (ROOT / name).read_text()
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:^    |`)make ([a-z]+)", text, re.MULTILINE)) <= targets
    for link in re.findall(r"\]\((?!https?:)([^)#]+)\)", text):
        assert (ROOT / link).exists(), link
