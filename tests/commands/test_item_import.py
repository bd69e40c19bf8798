"""`holdsvc items import`: strict CSV, words for what is wrong, and a verdict for every row of the file."""

import csv
import json
import os
import threading
from datetime import datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from holdsvc.commands import CommandError, output
from holdsvc.commands.item_import import Counts, import_items
from holdsvc.commands.row_work import BATCH

BAD_FILE = """sku,capacity,pool,display_name
concert,100,,Concert
,5,,no sku
tour,many,,
tour,3,,Tour
tour,4,,twice
hotel,9,web,Hotel
"""
CHARACTERS = [
    "a",
    "é",
    "e\u0301",  # combining
    "\u05e9",  # right to left
    "\u200f",
    "日",
    "\U0001d51e",  # beyond the basic plane
    "\U0001f3ab",
    "\ufffe",
    "\U0010ffff",  # the last one
    "\u2028",
    '"',
    ",",
    "%",
    " ",
    "'",
]


def imported(dsn: str, file: Path, content: str | bytes, **options: Any) -> Counts:
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return import_items(dsn, "default", file, file.with_name("refused.csv"), output.silent, **options)


def refused_rows(file: Path) -> list[dict[str, str]]:
    with file.with_name("refused.csv").open(newline="", encoding="utf-8") as source:
        return list(csv.DictReader(source))


def names(dsn: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(dsn) as connection:
        query = "SELECT sku, pool, display_name, capacity, oversell_limit FROM holdsvc.item ORDER BY sku, pool"
        return connection.execute(query).fetchall()


def test_refused_rows_go_to_a_file_with_line_and_reason_and_the_good_ones_are_there(
    run: Any, ledger_dsn: str, tmp_path: Path
) -> None:
    file = tmp_path / "items.csv"
    file.write_text(BAD_FILE)
    result = run("items", "import", str(file))
    assert result.exit_code == 1
    assert result.stdout == "6 rows read: 3 items created, 3 rows refused\n"
    assert f"{file}.errors.csv" in result.stderr
    with (tmp_path / "items.csv.errors.csv").open(newline="") as source:
        rows = list(csv.DictReader(source))
    assert [(row["line"], row["sku"]) for row in rows] == [("3", ""), ("4", "tour"), ("6", "tour")]
    assert rows[0]["error"].startswith("sku: ")
    assert "'many'" in rows[1]["error"]
    assert "tour" in rows[2]["error"]
    assert [row[:1] for row in names(ledger_dsn)] == [("concert",), ("hotel",), ("tour",)]


def test_a_corrected_file_of_refused_rows_can_be_imported_itself(run: Any, ledger_dsn: str, tmp_path: Path) -> None:
    file = tmp_path / "items.csv"
    file.write_text("sku,capacity\nseat,x\n")
    run("items", "import", str(file))
    errors = tmp_path / "items.csv.errors.csv"
    errors.write_text(errors.read_text().replace(",x,", ",7,"))
    assert run("items", "import", str(errors)).exit_code == 0
    assert names(ledger_dsn) == [("seat", "", "", 7, 0)]


@pytest.mark.parametrize("row", ['a,1,"Concert', 'a,1,"Con"cert', 'a,1,Con"cert"', 'a,1,"', '"a,1,Concert', 'a,"1,x'])
def test_a_quote_too_many_refuses_its_own_row_and_no_other(ledger_dsn: str, tmp_path: Path, row: str) -> None:
    content = f'sku,capacity,display_name\nfirst,1,\n{row}\nb,2,Plain\nc,3,"The ""other"", too"\n'
    assert imported(ledger_dsn, tmp_path / "items.csv", content) == Counts(read=4, created=3, refused=1)
    [refused] = refused_rows(tmp_path / "items.csv")
    assert (refused["line"], refused["text"]) == ("3", row)
    assert "quote" in refused["error"]
    assert [name[0] for name in names(ledger_dsn)] == ["b", "c", "first"]
    assert names(ledger_dsn)[1][2] == 'The "other", too'


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ("seat,1,000", "3 cells under 2 columns: a cell with a comma in it needs quotes"),
        ("seat", "1 cells under 2 columns"),
        ("seat;1", "1 cells under 2 columns"),
        ('seat,"1,000"', "capacity: must be a whole number in digits, not '1,000'"),
        ("seat,", "capacity: must be a whole number"),
        ("seat,1.5", "capacity: must be a whole number"),
        ("seat,1e3", "capacity: must be a whole number"),
        ("seat,٣", "capacity: must be a whole number"),
        ("seat,+1", "capacity: must be a whole number"),
        ("seat,1_000", "capacity: must be a whole number"),
        ("seat," + "9" * 5000, "capacity: must be a whole number"),
        ("seat,-1", "capacity: must be greater than or equal to 0"),
        ("seat,10" + "0" * 15, "capacity: must be greater than or equal to 0 and less than or equal to 10000000000"),
        (",1", "sku: "),
        ("s" * 129 + ",1", "sku: "),
        ("se\x00at,1", "sku: must not contain control characters"),
        ("se\x07at,1", "sku: must not contain control characters"),
        ("se\x85at,1", "sku: must not contain control characters"),
        ("x" * 70_000 + ",1", "the line has more than 65536 bytes"),
    ],
)
def test_a_row_that_names_no_item_is_refused_in_words(ledger_dsn: str, tmp_path: Path, row: str, why: str) -> None:
    content = f"sku,capacity\nbefore,1\n{row}\nafter,2\n"
    assert imported(ledger_dsn, tmp_path / "items.csv", content) == Counts(read=3, created=2, refused=1)
    [refused] = refused_rows(tmp_path / "items.csv")
    assert refused["line"] == "3"
    assert refused["error"].startswith(why)


@pytest.mark.parametrize("name", ["pool", "display_name", "oversell_limit", "sale_state", "buffer", "low_at"])
def test_the_contracts_rules_hold_for_every_column(ledger_dsn: str, tmp_path: Path, name: str) -> None:
    content = f"sku,capacity,{name}\na,1,{'1' * 257}\nb,1,\x01\nc,1,\n"
    assert imported(ledger_dsn, tmp_path / "items.csv", content) == Counts(read=3, created=1, refused=2)
    assert [row["error"].partition(":")[0] for row in refused_rows(tmp_path / "items.csv")] == [name, name]


def test_what_steers_a_sale_is_imported_and_listed(run: Any, ledger_dsn: str, tmp_path: Path) -> None:
    content = "sku,capacity,sale_state,buffer,low_at\na,9,CLOSED,2,3\nb,9,OPEN,,0\nc,9,,,\nd,9,closed,,\n"
    assert imported(ledger_dsn, tmp_path / "items.csv", content) == Counts(read=4, created=3, refused=1)
    assert [row["error"] for row in refused_rows(tmp_path / "items.csv")] == [
        "sale_state: must be OPEN or CLOSED, not 'closed'"
    ]
    listed = [json.loads(line) for line in run("items", "list").stdout.splitlines()]
    assert [(item["sku"], item["sale_state"], item["buffer"], item["low_at"]) for item in listed] == [
        ("a", "CLOSED", 2, 3), ("b", "OPEN", 0, 0), ("c", "OPEN", 0, None)
    ]  # fmt: skip


def test_the_sale_of_an_item_is_closed_and_opened_by_commands(run: Any, ledger_dsn: str, tmp_path: Path) -> None:
    imported(ledger_dsn, tmp_path / "items.csv", "sku,capacity,pool\na,9,\na,9,web\n")
    closed = run("items", "close", "a", "--pool", "web")
    assert (closed.exit_code, json.loads(closed.stdout)["sale_state"]) == (0, "CLOSED")
    listed = [json.loads(line) for line in run("items", "list").stdout.splitlines()]
    assert [(item["pool"], item["sale_state"]) for item in listed] == [("", "OPEN"), ("web", "CLOSED")]
    assert json.loads(run("items", "open", "a", "--pool", "web").stdout)["sale_state"] == "OPEN"
    unknown = run("items", "close", "b")
    assert (unknown.exit_code, str(unknown.exception)) == (1, "no item 'b'")


def test_a_time_without_its_zone_refuses_its_row(ledger_dsn: str, tmp_path: Path) -> None:
    content = (
        "sku,capacity,pool,return_time,return_pool\na,1,web,2026-07-04T18:00:00,\nb,1,web,soon,\nc,1,,2026-07-04T18:00Z,\n"
        "d,1,web,2026-07-04T20:00:00+02:00,\ne,1,,2026-07-04T18:00:00Z,box\n"
    )
    assert imported(ledger_dsn, tmp_path / "items.csv", content) == Counts(read=5, created=2, refused=3)
    assert [row["error"] for row in refused_rows(tmp_path / "items.csv")] == [
        "return_time: '2026-07-04T18:00:00' is no time with its zone: write it as in 2026-01-31T18:00:00Z",
        "return_time: 'soon' is no time with its zone: write it as in 2026-01-31T18:00:00Z",
        "return_pool: must be another pool than the item's",
    ]
    with psycopg.connect(ledger_dsn) as connection:
        query = "SELECT DISTINCT return_time AT TIME ZONE 'UTC' FROM holdsvc.item"
        assert connection.execute(query).fetchall() == [(datetime(2026, 7, 4, 18),)]  # noqa: DTZ001


def test_a_byte_that_is_not_utf_8_refuses_its_row_with_the_byte_and_its_place(ledger_dsn: str, tmp_path: Path) -> None:
    content = b"sku,capacity\na,1\ncaf" + b"\xe9,2\nb,3\n"
    assert imported(ledger_dsn, tmp_path / "items.csv", content) == Counts(read=3, created=2, refused=1)
    [refused] = refused_rows(tmp_path / "items.csv")
    assert (refused["line"], refused["text"]) == ("3", r"caf\xe9,2")
    assert refused["error"].startswith("byte 0xe9 at place 4 is not UTF-8")


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (b"", "it is empty"),
        (b"\n", "it is empty"),
        (b"name,capacity", "there is no column 'name'; the column sku is missing"),
        (b"sku", "the column capacity is missing"),
        (b"sku,capacity,sku", "the column 'sku' stands there twice"),
        (b"sku,capacity,capcity", r"there is no column 'capcity' \(did you mean capacity\?\)"),
        (b"SKU,capacity", r"there is no column 'SKU' \(did you mean sku\?\)"),
        (b"sku, capacity", r"there is no column ' capacity' \(did you mean capacity\?\)"),
        (b"sku,capacity,", "there is no column ''"),
        (b"sku;capacity", "the columns are separated by ;, not by commas"),
        (b"sku\tcapacity", "the columns are separated by tabs, not by commas"),
        (b"sku,capacity\rseat", "there is no column 'capacity\\\\rseat'"),
        (b'"sku,capacity', "a quote is opened and not closed"),
        ("sku,capacity".encode("utf-16"), "byte 0xff at place 1 is not UTF-8"),
        (b"x" * 100_000, "more than 65536 bytes"),
    ],
)
def test_a_header_that_is_none_is_refused_in_words_and_nothing_is_created(
    ledger_dsn: str, tmp_path: Path, header: bytes, message: str
) -> None:
    with pytest.raises(CommandError, match=f"items.csv, line 1: .*{message}"):
        imported(ledger_dsn, tmp_path / "items.csv", header + b"\nseat,1\n")
    assert names(ledger_dsn) == []
    assert [path.name for path in tmp_path.iterdir()] == ["items.csv"]


def test_a_mark_at_the_begin_windows_line_ends_and_empty_lines_change_nothing(ledger_dsn: str, tmp_path: Path) -> None:
    content = b"\xef\xbb\xbfcapacity,sku\r\n\r\n1,a\r\n\n2,b"
    assert imported(ledger_dsn, tmp_path / "items.csv", content) == Counts(read=2, created=2, refused=0)
    assert [row[0] for row in names(ledger_dsn)] == ["a", "b"]


@pytest.mark.parametrize("character", CHARACTERS)
def test_texts_of_full_length_in_any_script_arrive_as_they_are_and_are_listed_so(
    run: Any, ledger_dsn: str, tmp_path: Path, character: str
) -> None:
    texts = [(character * 256)[:length] for length in (128, 64, 256)]
    file = tmp_path / "items.csv"
    with file.open("w", newline="", encoding="utf-8") as sink:
        csv.writer(sink).writerows([("sku", "pool", "display_name", "capacity"), (*texts, 5)])
    assert run("items", "import", str(file)).stdout == "1 rows read: 1 items created, 0 rows refused\n"
    assert names(ledger_dsn) == [(*texts, 5, 0)]
    listed = json.loads(run("items", "list", "--prefix", texts[0]).stdout)
    assert [listed[name] for name in ("sku", "pool", "display_name")] == texts
    assert run("items", "import", str(file)).stdout == "1 rows read: 0 items created, 1 rows refused\n"
    with (tmp_path / "items.csv.errors.csv").open(newline="", encoding="utf-8") as source:
        [refused] = csv.DictReader(source)
    assert [refused[name] for name in ("sku", "pool", "display_name")] == texts


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.one_of(
            st.text(alphabet='ab,"; 1\t\x00é', max_size=12),
            st.tuples(st.sampled_from("abc"), st.integers(-1, 3)).map(lambda row: f"{row[0]},{row[1]}"),
        ),
        max_size=30,
    )
)
def test_every_row_is_either_created_or_refused(ledger_dsn: str, tmp_path: Path, lines: list[str]) -> None:
    with psycopg.connect(ledger_dsn, autocommit=True) as connection:
        connection.execute("DELETE FROM holdsvc.item")
    file = tmp_path / "items.csv"
    (tmp_path / "refused.csv").unlink(missing_ok=True)
    content = "\n".join(["sku,capacity", *lines])
    dry = imported(ledger_dsn, file, content, dry_run=True)
    assert names(ledger_dsn) == []
    counts = imported(ledger_dsn, file, content)
    assert counts == dry
    assert counts.read == len([line for line in lines if line])
    assert counts.created == len(names(ledger_dsn))
    refused = refused_rows(file) if counts.refused else []
    assert counts.refused == len(refused) == counts.read - counts.created


def test_a_dry_run_judges_every_row_and_creates_nothing(run: Any, ledger_dsn: str, tmp_path: Path) -> None:
    file = tmp_path / "items.csv"
    file.write_text("sku,capacity\n" + "".join(f"sku-{number},5\n" for number in range(BATCH + 1)) + "sku-0,5\n")
    result = run("items", "import", str(file), "--dry-run")
    assert result.stdout == f"{BATCH + 2} rows read: {BATCH + 1} items would be created, 1 rows refused\n"
    assert result.exit_code == 1
    assert names(ledger_dsn) == []


def test_a_file_of_refused_rows_that_cannot_be_written_is_found_before_any_row_is_made(
    run: Any, ledger_dsn: str, tmp_path: Path
) -> None:
    file = tmp_path / "items.csv"
    file.write_text("sku,capacity\nseat,1\nseat,2\n")
    for errors in (tmp_path / "absent" / "refused.csv", tmp_path, file):
        result = run("items", "import", str(file), "--errors", str(errors))
        assert result.exit_code == 1
        assert isinstance(result.exception, CommandError)
        assert "--errors" in str(result.exception)
    assert names(ledger_dsn) == []


def test_a_file_of_refused_rows_that_becomes_full_is_told_with_what_was_created(run: Any, tmp_path: Path) -> None:
    file = tmp_path / "items.csv"
    file.write_text("sku,capacity\nseat,1\nseat,2\n")
    result = run("items", "import", str(file), "--errors", "/dev/full")
    assert "No space left on device" in str(result.exception)
    assert "until then 1 items were created" in str(result.exception)
    assert isinstance(result.exception, CommandError)
    assert Path("/dev/full").is_char_device()


def test_a_pipe_can_be_imported(ledger_dsn: str, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=("sku,capacity\nseat,1\n",))
    writer.start()
    counts = import_items(ledger_dsn, "default", pipe, tmp_path / "refused.csv", output.silent)
    writer.join()
    assert counts == Counts(read=1, created=1, refused=0)


def test_import_tells_how_far_it_is(ledger_dsn: str, tmp_path: Path) -> None:
    file = tmp_path / "items.csv"
    file.write_text("sku,capacity\n" + "".join(f"sku-{number},5\n" for number in range(1200)))
    told: list[tuple[str, int, int]] = []
    counts = import_items(ledger_dsn, "default", file, tmp_path / "bad", lambda *how: told.append(how))
    assert counts == Counts(read=1200, created=1200, refused=0)
    assert told == [("import items.csv", done, 1200) for done in (0, 500, 1000, 1200)]
    assert not (tmp_path / "bad").exists()


@pytest.mark.parametrize("tenant", ["", "x" * 129, "a\nb"])
@pytest.mark.parametrize("arguments", [("items", "list"), ("keys", "list"), ("keys", "create", "--client", "web")])
def test_a_tenants_name_that_is_none_is_refused(run: Any, arguments: tuple[str, ...], tenant: str) -> None:
    result = run(*arguments, "--tenant", tenant)
    assert isinstance(result.exception, CommandError)
    assert str(result.exception).startswith("--tenant: must have 1 to 128 characters")
