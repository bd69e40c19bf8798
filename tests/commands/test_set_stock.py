"""`holdsvc items set-stock`: counts from strict CSV, a verdict for every row, and safe to take twice."""

import asyncio
import csv
import os
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from holdsvc.commands import CommandError, output
from holdsvc.commands.row_work import BATCH
from holdsvc.commands.set_stock import Counts, set_stock
from holdsvc.ledger import items
from inventoryhold.v1 import reservation_service_pb2 as pb
from tests.support.harness import Harness
from tests.support.holds import CALLER, stock
from tests.support.polling import until

WEEK = timedelta(days=7)

BAD_FILE = """sku,on_hand,pool,count_time
concert,7,,
,5,,
tour,many,,
tour,-1,,
tour,3,,yesterday
tour,3,,2026-01-31T18:00:00
tour,3,,2020-01-31T18:00:00Z
tram,3,,2100-01-31T18:00:00Z
concert,8,,
boat,1,,
hotel,9,web,
tour,3,,9999-12-31T23:00:00-02:00
"""


def taken(dsn: str, file: Path, content: str, **options: Any) -> Counts:
    file.write_text(content)
    errors = file.with_name("refused.csv")
    return set_stock(dsn, "default", file, errors, output.silent, max_age=WEEK, **options)


def refused_rows(file: Path) -> list[dict[str, str]]:
    with file.with_name("refused.csv").open(newline="", encoding="utf-8") as source:
        return list(csv.DictReader(source))


def capacities(dsn: str) -> dict[tuple[str, str], int]:
    with psycopg.connect(dsn) as connection:
        rows = connection.execute("SELECT sku, pool, capacity FROM holdsvc.item ORDER BY sku, pool")
        return {(sku, pool): capacity for sku, pool, capacity in rows}


async def sell_and_ship(service: Harness, sku: str) -> None:
    target = {"reservation_id": (await service.reserve({sku: 1})).reservation_id}
    await service.reservations.Confirm(pb.ConfirmRequest(reservation_id=target["reservation_id"]))
    await service.reservations.Fulfil(pb.FulfilRequest(reservation_id=target["reservation_id"]))


async def test_every_row_is_set_superseded_or_refused_with_its_reason(
    service: Harness, ledger_dsn: str, tmp_path: Path
) -> None:
    for sku in ("concert", "tour", "tram", "late"):
        await service.create_item(sku, 100)
    await service.create_item("hotel", 100, pool="web")
    file = tmp_path / "counts.csv"
    long_ago = (datetime.now(UTC) - timedelta(hours=1)).isoformat()
    content = f"{BAD_FILE}late,1,,{long_ago}\n"
    before = capacities(ledger_dsn)
    expected = Counts(read=13, set=2, superseded=1, refused=10)
    assert await asyncio.to_thread(taken, ledger_dsn, file, content, dry_run=True) == expected
    assert capacities(ledger_dsn) == before
    assert await asyncio.to_thread(taken, ledger_dsn, file, content) == expected
    assert capacities(ledger_dsn) == before | {("concert", ""): 7, ("hotel", "web"): 9}
    reasons = {int(row["line"]): row["error"] for row in refused_rows(file)}
    for line, words in {
        3: "sku",
        4: "on_hand: must be a whole number",
        5: "on_hand",
        6: "count_time: 'yesterday' is no time with its zone",
        7: "is no time with its zone",
        8: "count_time: must not be more than 168 hours ago",
        9: "count_time: must not be in the future",
        10: "an earlier row counts the same item",
        11: "no item 'boat'",
        13: "is no time with its zone",
    }.items():
        assert words in reasons.pop(line)
    assert reasons == {}


async def test_a_file_without_times_is_of_when_it_was_written_so_that_taking_it_again_undoes_nothing(
    service: Harness, run: Any, tmp_path: Path
) -> None:
    await service.create_item("bed", 5)
    file = tmp_path / "counts.csv"
    file.write_text("sku,on_hand\nbed,8\n")
    for _ in range(2):
        result = await asyncio.to_thread(run, "items", "set-stock", str(file))
        assert result.stdout == "1 rows read: 1 counts set, 0 superseded, 0 rows refused\n"
    assert (await service.item("bed")).count_time.ToDatetime(UTC).timestamp() == pytest.approx(file.stat().st_mtime)
    await sell_and_ship(service, "bed")
    await asyncio.to_thread(run, "items", "set-stock", str(file))
    assert (await service.item("bed")).capacity == 7
    now = datetime.now(UTC).isoformat()
    assert (await asyncio.to_thread(run, "items", "set-stock", str(file), "--count-time", now)).exit_code == 0
    assert (await service.item("bed")).capacity == 8
    result = await asyncio.to_thread(run, "items", "set-stock", str(file))
    assert result.stdout == "1 rows read: 0 counts set, 1 superseded, 0 rows refused\n"
    result = await asyncio.to_thread(run, "items", "set-stock", str(file), "--count-time", "now")
    assert "--count-time: 'now' is no time with its zone" in str(result.exception)


async def test_a_count_below_what_is_held_is_refused_and_lapsed_holds_make_room(
    service: Harness, ledger_dsn: str, tmp_path: Path
) -> None:
    await service.create_item("bed", 5)
    await service.reserve({"bed": 3}, ttl=timedelta(seconds=30))
    file, content = tmp_path / "counts.csv", "sku,on_hand\nbed,2\n"
    assert await asyncio.to_thread(taken, ledger_dsn, file, content) == Counts(1, 0, 0, 1)
    [row] = refused_rows(file)
    assert "3 units of 'bed' would have to be free, 2 are" in row["error"]
    service.clock.advance(timedelta(minutes=1))
    assert await asyncio.to_thread(taken, ledger_dsn, file, content, dry_run=True) == Counts(1, 1, 0, 0)
    assert (await service.item("bed")).held == 3
    assert await asyncio.to_thread(taken, ledger_dsn, file, content) == Counts(1, 1, 0, 0)
    assert capacities(ledger_dsn) == {("bed", ""): 2}


async def test_a_run_that_is_killed_in_the_middle_and_made_again_sets_all_and_undoes_nothing(
    service: Harness, ledger_dsn: str, tmp_path: Path
) -> None:
    rows = 8 * BATCH
    skus = [f"i{number:05}" for number in range(rows)]
    async with service.cell.database.connection() as connection:
        for start in range(0, rows, 1000):
            await items.create(connection, CALLER, stock(skus[start : start + 1000]))
    file = tmp_path / "counts.csv"
    file.write_text("sku,on_hand\n" + "".join(f"{sku},{number + 1}\n" for number, sku in enumerate(skus)))

    def set_so_far() -> int:
        return int(service.sql("SELECT count(*) FROM item WHERE capacity < 1000000")[0][0])

    command = (sys.executable, "-m", "holdsvc", "items", "set-stock", str(file), "--dsn", ledger_dsn)
    process = await asyncio.create_subprocess_exec(*command)
    try:
        await until(set_so_far)
    finally:
        process.kill()
        await process.wait()
    assert 0 < set_so_far() < rows
    await sell_and_ship(service, skus[0])
    await sell_and_ship(service, skus[-1])
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=False)
    assert done.stdout == f"{rows} rows read: {rows} counts set, 0 superseded, 0 rows refused\n"
    expected = {(sku, ""): number + 1 for number, sku in enumerate(skus)}
    expected[skus[0], ""] -= 1
    expected[skus[-1], ""] -= 1
    assert capacities(ledger_dsn) == expected
    await service.verify()


def test_a_pipe_is_of_now_and_progress_is_told(ledger_dsn: str, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=("sku,on_hand\nseat,1\n",))
    writer.start()
    told: list[tuple[str, int, int]] = []
    counts = set_stock(ledger_dsn, "default", pipe, tmp_path / "bad.csv", lambda *how: told.append(how), max_age=WEEK)
    writer.join()
    assert counts == Counts(read=1, set=0, superseded=0, refused=1)
    assert told == [("set stock from pipe", 0, 0), ("set stock from pipe", 1, 1)]


def test_a_stopped_run_says_what_was_done(ledger_dsn: str, tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="name another one for the refused rows"):
        set_stock(ledger_dsn, "default", tmp_path / "a", tmp_path / "a", output.silent, max_age=WEEK)
    with pytest.raises(CommandError, match="there is no column 'onhand'"):
        taken(ledger_dsn, tmp_path / "counts.csv", "sku,onhand\n")
    file = tmp_path / "counts.csv"
    file.write_text("sku,on_hand\nseat,1\n")
    with pytest.raises(CommandError, match="until then 0 counts were set, 0 were superseded and"):
        set_stock(ledger_dsn, "default", file, Path("/dev/full"), output.silent, max_age=WEEK)
