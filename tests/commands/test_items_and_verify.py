"""Commands beside the service: import with a file of bad rows, recount with a report, and how they show progress."""

import asyncio
import csv
import io
import json
import sys
from pathlib import Path
from typing import Any

import psycopg
import pytest
from typer.testing import CliRunner, Result

from holdsvc.commands import progress
from holdsvc.commands.cli import app
from holdsvc.commands.item_import import import_items
from holdsvc.commands.target import CommandError
from holdsvc.commands.verify import recount
from tests.support.harness import Harness

BAD_FILE = """sku,capacity,pool,display_name
concert,100,,Concert
,5,,no sku
tour,many,,
tour,3,,Tour
tour,4,,twice
hotel,9,web,Hotel
"""


@pytest.fixture
def run(ledger_dsn: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs a command on the test's database."""
    monkeypatch.setenv("HOLDSVC_DSN", ledger_dsn)
    # Its log would go to the runner's output, and that of every later test with it.
    monkeypatch.setattr("holdsvc.telemetry.logs.configure", lambda *_: None)

    def command(*arguments: str) -> Result:
        return CliRunner().invoke(app, arguments)

    return command


def _sql(dsn: str, query: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        return connection.execute(query.encode()).fetchall()


def test_bad_rows_go_to_a_file_with_line_and_reason_and_the_good_ones_are_there(
    run: Any, ledger_dsn: str, tmp_path: Path
) -> None:
    file = tmp_path / "items.csv"
    file.write_text(BAD_FILE)
    result = run("items", "import", str(file))
    assert result.exit_code == 1
    assert "3 items created, 3 rows refused" in result.stdout
    assert f"{file}.errors.csv" in result.stderr
    with (tmp_path / "items.csv.errors.csv").open(newline="") as source:
        rows = list(csv.DictReader(source))
    assert [(row["line"], row["sku"]) for row in rows] == [("3", ""), ("4", "tour"), ("6", "tour")]
    assert "sku must have" in rows[0]["error"]
    assert "'many'" in rows[1]["error"]
    assert "tour" in rows[2]["error"]
    assert _sql(ledger_dsn, "SELECT sku, capacity FROM holdsvc.item ORDER BY sku") == [
        ("concert", 100),
        ("hotel", 9),
        ("tour", 3),
    ]


def test_a_mended_file_of_bad_rows_can_be_imported_itself(run: Any, ledger_dsn: str, tmp_path: Path) -> None:
    file = tmp_path / "items.csv"
    file.write_text("sku,capacity\nseat,x\n")
    run("items", "import", str(file))
    errors = tmp_path / "items.csv.errors.csv"
    errors.write_text(errors.read_text().replace(",x,", ",7,"))
    result = run("items", "import", str(errors))
    assert result.exit_code == 0
    assert _sql(ledger_dsn, "SELECT sku, capacity FROM holdsvc.item") == [("seat", 7)]


def test_import_tells_how_far_it_is(ledger_dsn: str, tmp_path: Path) -> None:
    file = tmp_path / "items.csv"
    file.write_text("sku,capacity\n" + "".join(f"sku-{number},5\n" for number in range(1200)))
    told: list[tuple[str, int, int]] = []
    assert import_items(ledger_dsn, "default", file, tmp_path / "bad", lambda *how: told.append(how)) == (1200, 0)
    assert told == [("import items.csv", done, 1200) for done in (0, 500, 1000, 1200)]
    assert not (tmp_path / "bad").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"name,capacity\n", "lacks the columns sku"),
        (b"sku,capacity\n\xff\xfe,1\n", "no CSV file in UTF-8"),
        (b"", "lacks the columns capacity, sku"),
    ],
)
def test_a_file_that_is_none_is_refused_as_a_whole(
    ledger_dsn: str, tmp_path: Path, content: bytes, message: str
) -> None:
    file = tmp_path / "items.csv"
    file.write_bytes(content)
    with pytest.raises(CommandError, match=message):
        import_items(ledger_dsn, "default", file, tmp_path / "bad", progress.silent)


@pytest.mark.parametrize("capacity", ["", "-1", "1.5", "9" * 5000, "10" + "0" * 15])
def test_a_capacity_that_is_none_is_one_bad_row(run: Any, tmp_path: Path, capacity: str) -> None:
    file = tmp_path / "items.csv"
    file.write_text(f"sku,capacity\nseat,{capacity}\n")
    assert "0 items created, 1 rows refused" in run("items", "import", str(file)).stdout
    with (tmp_path / "items.csv.errors.csv").open(newline="") as source:
        [row] = csv.DictReader(source)
    assert row["error"].startswith("capacity must be a whole number from 0 to 10^15")


async def test_verify_reports_what_it_counted(service: Harness, run: Any) -> None:
    await service.create_item("seat", 5)
    await service.reserve({"seat": 2})
    result = await asyncio.to_thread(run, "verify")
    assert result.exit_code == 0
    report, last = result.stdout.splitlines()
    assert json.loads(report) | {"seconds": 0} == {
        "tenant": "default",
        "item_count": 1,
        "reservation_count": 1,
        "drifts": [],
        "seconds": 0,
    }
    assert last == "ok: recounted 1 items of 1 tenants against 1 reservations"


async def test_verify_names_each_counter_that_differs(service: Harness, run: Any) -> None:
    await service.create_item("seat", 5)
    service.sql("UPDATE holdsvc.item SET held = 1, remaining = 4")
    result = await asyncio.to_thread(run, "verify")
    assert result.exit_code == 1
    [drift] = json.loads(result.stdout.splitlines()[0])["drifts"]
    assert (drift["sku"], drift["counter"]) == ("seat", "held")
    assert "the ledger has drifted: 1 counters differ" in result.stderr


async def test_verify_tells_how_far_it_is(service: Harness) -> None:
    for number in range(3):
        await service.create_item(f"sku-{number}", 5)
    told: list[tuple[str, int, int]] = []
    await asyncio.to_thread(lambda: list(recount(service.owner_dsn, "", lambda *how: told.append(how))))
    assert told[0] == ("verify default", 0, 3)
    assert told[-1] == ("verify default", 3, 3)


def test_without_a_terminal_progress_is_a_line_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 0.0
    monkeypatch.setattr(progress, "monotonic", lambda: now)
    with progress.shown() as tell:
        tell("verify", 1, 10)
        now = 6.0
        tell("verify", 5, 10)
        tell("verify", 6, 10)
    assert capsys.readouterr().err == "verify: 5 of 10\n"


def test_on_a_terminal_progress_is_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", terminal)
    with progress.shown() as tell:
        tell("verify", 5, 10)
        tell("verify", 10, 10)
    assert "verify" in terminal.getvalue()
    assert "10/10" in terminal.getvalue()
