"""`make load`: a real run against a real service, and its judgement of a sale that went wrong."""

import asyncio
import os
import sys
from collections import Counter
from pathlib import Path

import pytest
from verdict import Tally, judge

from benchmark.load import percentile
from inventoryhold.v1 import item_pb2
from tests.support.harness import Harness

ROOT = Path(__file__).resolve().parents[2]


async def _run(address: str, *arguments: str) -> tuple[int | None, str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HOLDSVC_")}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(ROOT / "loadtest" / "run.py"),
        *arguments,
        env={**environment, "HOLDSVC_LISTEN": address},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    return process.returncode, output.decode()


async def test_load_sells_what_fits_checks_every_promise_and_leaves_no_item(service: Harness) -> None:
    code, output = await _run(service.address, "--seconds", "1", "--buyers", "30")
    assert code == 0, output
    assert "FAILED" not in output
    assert output.count("100 callers at once, 60 units: 60 got one, 40 did not") >= 1
    for call in ("Reserve", "Confirm", "Cancel", "Refund"):
        assert f"\n{call} " in output
    assert service.sql("SELECT count(*) FROM holdsvc.item WHERE delete_time IS NULL") == [(0,)]


async def test_load_fails_when_the_ledger_has_drifted(service: Harness) -> None:
    await service.create_item("other", 5)
    service.sql("UPDATE holdsvc.item SET held = 2, remaining = 3")
    code, output = await _run(service.address, "--seconds", "0.1", "--buyers", "5", "--rush", "10", "--units", "5")
    assert code == 1
    assert "FAILED VerifyLedger" in output
    assert "drift: other held" in output


async def test_load_without_a_service_says_how_to_start_one() -> None:
    code, output = await _run("127.0.0.1:1", "--seconds", "1")
    assert code == 1
    assert "make serve" in output
    assert "Traceback" not in output


@pytest.mark.parametrize(
    ("item", "tally", "broken"),
    [
        (item_pb2.Item(capacity=10, remaining=-1, held=4, confirmed=7), Tally(confirmed=7), "OVERSOLD"),
        (item_pb2.Item(capacity=10, remaining=3, held=4, confirmed=7), Tally(confirmed=7), "the counters add up"),
        (item_pb2.Item(capacity=10, remaining=1, held=3, confirmed=6), Tally(confirmed=6), "the reservations say"),
        (item_pb2.Item(capacity=11, remaining=0, held=4, confirmed=7), Tally(confirmed=8), "the callers' own count"),
        (
            item_pb2.Item(capacity=11, remaining=0, held=4, confirmed=7),
            Tally(confirmed=7, failed=Counter(["Reserve: UNAVAILABLE"])),
            "1 calls failed",
        ),
    ],
)
def test_books_that_differ_are_told(item: item_pb2.Item, tally: Tally, broken: str) -> None:
    checks = judge(item, held=4, confirmed=7, tally=tally)
    assert any(broken in check.text for check in checks if not check.ok)


def test_a_percentile_is_a_value_that_was_seen() -> None:
    assert [percentile([1.0, 2.0, 3.0, 4.0], percent) for percent in (0, 50, 99, 100)] == [1.0, 2.0, 4.0, 4.0]
