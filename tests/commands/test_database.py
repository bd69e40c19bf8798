"""`holdsvc psql`, `dump` and `restore` with the embedded server's own programs."""

import json
import shutil
from pathlib import Path

import pytest

from holdsvc.embedded.server import running_dsn
from holdsvc.postgres import without_password
from tests.support.program import command


@pytest.fixture
def data_dir(prepared: Path, tmp_path: Path) -> Path:
    """A data folder with one item."""
    folder = Path(shutil.copytree(prepared, tmp_path / "data"))
    items = tmp_path / "items.csv"
    items.write_text("sku,capacity\nseat,7\n")
    assert command("items", "import", str(items), "--data-dir", str(folder)).returncode == 0
    return folder


def test_a_dump_of_the_embedded_database_comes_back_in_a_new_folder(data_dir: Path, tmp_path: Path) -> None:
    file, restored = tmp_path / "holdsvc.dump", tmp_path / "restored"
    done = command("dump", str(file), "--data-dir", str(data_dir))
    assert (done.returncode, done.stderr) == (0, "")
    assert (file.stat().st_mode & 0o777, [*tmp_path.glob("*.part")]) == (0o600, [])
    done = command("restore", str(file), "--data-dir", str(restored))
    assert (done.returncode, done.stderr) == (0, "")
    [item] = command("items", "list", "--data-dir", str(restored)).stdout.splitlines()
    assert (json.loads(item)["sku"], json.loads(item)["capacity"]) == ("seat", 7)
    assert command("verify", "--data-dir", str(restored)).returncode == 0
    assert running_dsn(restored) is None
    done = command("restore", str(file), "--data-dir", str(restored))
    assert done.returncode == 1
    assert f"{restored} holds a database: name another folder" in done.stderr


def test_psql_runs_statements_and_ends_with_its_exit_code(data_dir: Path) -> None:
    target = ("--data-dir", str(data_dir))
    query = "SELECT sku, capacity FROM holdsvc.item"
    done = command("psql", *target, "--", "--tuples-only", "--no-align", "--command", query)
    assert (done.returncode, done.stdout) == (0, "seat|7\n")
    assert command("psql", *target, "--", "--command", "SELECT nonsense").returncode == 1


def test_a_dump_that_cannot_be_written_is_one_line(data_dir: Path, tmp_path: Path) -> None:
    done = command("dump", str(tmp_path / "absent" / "file"), "--data-dir", str(data_dir))
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert "cannot write" in done.stderr
    done = command("restore", str(tmp_path / "absent"), "--data-dir", str(tmp_path / "new"))
    assert (done.returncode, (tmp_path / "new").exists()) == (1, False)
    assert "cannot read" in done.stderr


def test_a_password_is_taken_out_of_the_arguments_of_a_program() -> None:
    shown, password = without_password("postgresql://me:hunter2@db/holds")
    assert (password, "hunter2" in shown, "user=me" in shown) == ("hunter2", False, True)
    assert without_password("dbname=holds")[1] is None
