"""Commands over cells: which cell they work on, and what they do over all of them."""

import asyncio
import json
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from holdsvc.cell_file import CellAddress
from holdsvc.commands import CommandError, target
from holdsvc.commands.cli import program
from holdsvc.ledger import joining
from holdsvc.ledger.database import Database
from holdsvc.ledger.schema_files import MigrationError
from holdsvc.ledger.tenants import CellError
from holdsvc.settings import Settings
from tests.support.cells import TwoCells
from tests.support.databases import created
from tests.support.forks import Piped
from tests.support.polling import wait_until

Run = Callable[..., Result]


@pytest.fixture
def file(cells: TwoCells, tmp_path: Path) -> Path:
    """The file of HOLDSVC_CELLS."""
    path = tmp_path / "cells.toml"
    path.write_text("".join(f'[{cell.name}]\ndsn = "{cell.owner}"\n' for cell in cells))
    return path


@pytest.fixture
def run(file: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a command on the cells."""
    monkeypatch.delenv("HOLDSVC_DSN", raising=False)
    monkeypatch.setenv("HOLDSVC_CELLS", str(file))

    def command(*arguments: str) -> Result:
        return CliRunner().invoke(program(arguments), arguments)

    return command


def test_the_first_key_places_its_tenant_and_later_commands_find_it(cells: TwoCells, run: Run) -> None:
    new = ("keys", "create", "--client", "shop", "--tenant", "acme")
    refused = run(*new)
    assert refused.exit_code != 0
    assert "in no cell" in str(refused.exception)
    assert "north, south" in str(refused.exception)
    made = run(*new, "--cell", "south")
    assert made.exit_code == 0, made.output
    assert cells.sql(cells.south, "SELECT tenant, state FROM tenant_state") == [("acme", "HERE")]
    assert cells.sql(cells.north, "SELECT count(*)::int FROM api_key") == [(0,)]
    # Without --cell: where it lives; with another cell it is refused.
    assert run(*new).exit_code == 0
    listed = run("keys", "list", "--tenant", "acme").stdout.splitlines()
    assert [json.loads(line)["client"] for line in listed] == ["shop", "shop"]
    assert "is in the cell south" in str(run(*new, "--cell", "north").exception)
    assert run("keys", "revoke", json.loads(listed[0])["key_id"], "--tenant", "acme").exit_code == 0
    assert "there is no cell 'west'" in str(run(*new, "--cell", "west").exception)


def test_verify_and_migrate_go_over_all_cells_and_tell_which_failed(cells: TwoCells, run: Run) -> None:
    for cell in cells:
        cells.new_tenant(cell)
        cells.sql(
            cell,
            "INSERT INTO item (tenant, sku, pool, display_name, capacity, remaining, oversell_limit, create_time,"
            " update_time) SELECT tenant, 'seat', '', '', 5, 5, 0, now(), now() FROM tenant_state",
        )
    verified = run("verify")
    assert verified.exit_code == 0, verified.output
    assert "2 items of 2 tenants" in verified.output
    assert len(run("verify", "--cell", "north").stdout.splitlines()) == 2
    assert run("migrate", "status").stdout.count("0100 applied") == 2
    assert run("migrate", "status", "--cell", "south").stdout.count("0100 applied") == 1
    assert run("migrate", "up").exit_code == 0
    assert "name one with --cell: north, south" in str(run("psql").exception)


def test_migrate_up_makes_cells_of_new_databases_and_refuses_swapped_ones(
    server_dsn: str, cells: TwoCells, file: Path, run: Run
) -> None:
    with created(server_dsn) as fresh:
        file.write_text(file.read_text() + f'[west]\ndsn = "{fresh}"\n')
        up = run("migrate", "up")
        assert up.exit_code == 0, up.output
        assert "this is the cell west now" in up.output
        with pytest.raises(MigrationError, match="is the cell 'west'"):
            joining.join(fresh, "east", cells.north.owner)
        file.write_text(file.read_text().replace("[west]", "[gone]").replace("[south]", "[west]"))
        swapped = run("migrate", "up")
        assert swapped.exit_code != 0
        assert "not done in west, gone" in str(swapped.exception)


def test_config_shows_where_the_cells_are_without_secrets(file: Path, run: Run) -> None:
    file.write_text(file.read_text() + '[far]\ndsn = "postgresql://me:geheim@far.example/holds"\n')
    shown = run("config").output
    assert f"HOLDSVC_CELLS={file}" in shown
    assert "# cell far:" in shown
    assert "far.example" in shown
    assert "geheim" not in shown


def test_a_database_that_is_another_cell_is_refused_by_commands_and_by_the_service(
    cells: TwoCells, file: Path, run: Run
) -> None:
    tenant, _ = cells.new_tenant(cells.south)
    file.write_text(f'[north]\ndsn = "{cells.south.owner}"\n[west]\ndsn = "{cells.north.owner}"\n')
    for arguments in (
        ("keys", "create", "--tenant", "new", "--client", "shop", "--cell", "north"),
        ("tenants", "keep", tenant, "--cell", "north"),
        ("tenants", "place", "new", "--cell", "north"),
        ("items", "list", "--tenant", tenant),
        ("psql", "--cell", "north", "--", "--command", "SELECT 1"),
        ("relay", "--to", "nats://127.0.0.1:4222", "--cell", "north"),
    ):
        assert "the database of north is the cell 'south': correct its DSN" in str(run(*arguments).exception), arguments
    assert cells.sql(cells.south, "SELECT tenant, version FROM tenant_state") == [(tenant, 1)]

    async def serve(name: str) -> None:
        database = Database(Settings.load(), cells.south.owner, name)
        try:
            await database.open()
        finally:
            await database.close()

    with pytest.raises(CellError, match="the database of west is the cell 'south'"):
        asyncio.run(serve("west"))
    asyncio.run(serve("south"))


def test_two_commands_at_once_place_a_tenant_in_one_cell(
    cells: TwoCells, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOLDSVC_CELLS", str(file))
    home, both = target.home, threading.Barrier(2)

    def looked(*arguments: Any) -> CellAddress | None:
        found = home(*arguments)
        with suppress(threading.BrokenBarrierError):
            both.wait(timeout=0.5)
        return found

    monkeypatch.setattr(target, "home", looked)

    def place(cell: str) -> str:
        try:
            with target.opened_for(None, None, cell, "acme"):
                return "placed"
        except CommandError as error:
            return str(error)

    with ThreadPoolExecutor(2) as threads:
        told = sorted(threads.map(place, ("north", "south")))
    assert told[0] == "placed"
    assert "the tenant 'acme' is in the cell" in told[1]
    assert sum(len(cells.sql(cell, "SELECT 1 FROM tenant_state")) for cell in cells) == 1


def test_relays_of_two_cells_that_share_a_folder_remember_each_their_own_primary(
    cells: TwoCells, file: Path, tmp_path: Path
) -> None:
    environment = {**os.environ, "HOLDSVC_CELLS": str(file), "HOLDSVC_STATE_DIR": str(tmp_path)}
    environment.pop("HOLDSVC_DSN", None)
    relays = [Piped(["relay", "--to", "stdout", "--cell", cell.name], environment) for cell in cells]
    try:
        wait_until(lambda: len(list(tmp_path.glob("primary*.json"))) == len(cells))
    finally:
        for each in relays:
            each.kill()
            each.wait()
            each.stdout.close()
            each.stderr.close()
    assert {path.name for path in tmp_path.glob("primary*.json")} == {"primary-north.json", "primary-south.json"}
