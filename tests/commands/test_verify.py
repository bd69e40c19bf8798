"""`holdsvc verify`: a report for each tenant; and how long commands show progress."""

import asyncio
import io
import json
import sys
from typing import Any

import pytest

from holdsvc.commands import output
from holdsvc.commands.verify import recount
from tests.support.harness import Harness


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
    monkeypatch.setattr(output, "monotonic", lambda: now)
    with output.progress() as tell:
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
    with output.progress() as tell:
        tell("verify", 5, 10)
        tell("verify", 10, 10)
    assert "verify" in terminal.getvalue()
    assert "10/10" in terminal.getvalue()
