"""`holdsvc limits`: set, list, usage, delete."""

import asyncio
import json
from typing import Any

import pytest

from holdsvc.commands import CommandError
from holdsvc.errors import HoldError
from tests.support.harness import Harness


async def test_limits_are_set_listed_and_deleted_beside_a_service(service: Harness, run: Any) -> None:
    await service.create_item("tour-a", 10)
    held = await service.reserve({"tour-a": 3}, holder="ann")
    options = ("--max", "4", "--prefix", "tour-", "--pool", "", "--counts", "held-and-confirmed", "--window", "30d")
    made = await asyncio.to_thread(run, "limits", "set", "four-each", *options)
    assert made.exit_code == 0, made.output
    shown = json.loads(made.stdout)
    assert shown | {"create_time": "", "update_time": ""} == {
        "limit_id": "four-each",
        "sku_prefix": "tour-",
        "pool": "",
        "per": "HOLDER",
        "counts": "HELD_AND_CONFIRMED",
        "max_quantity": 4,
        "window": "720h",
        "state": "ACTIVE",
        "create_time": "",
        "update_time": "",
    }
    usage = await asyncio.to_thread(run, "limits", "usage", "four-each", "--client", "dev", "--holder", "ann")
    found = json.loads(usage.stdout)
    assert (found["used"], found["held"], found["confirmed"], found["max_quantity"]) == (3, 3, 0, 4)
    assert found["reset_time"].startswith(held.expire_time.ToJsonString()[:19])
    await asyncio.to_thread(run, "limits", "set", "all", "--max", "100", "--per", "client")
    listed = (await asyncio.to_thread(run, "limits", "list")).stdout.splitlines()
    assert [json.loads(line)["limit_id"] for line in listed] == ["all", "four-each"]
    deleted = await asyncio.to_thread(run, "limits", "delete", "four-each")
    assert (deleted.exit_code, deleted.stdout) == (0, "deleted four-each\n")
    assert len((await asyncio.to_thread(run, "limits", "list")).stdout.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (("set", "a", "--max", "-1"), CommandError, "limit.max_quantity"),
        (("set", "a", "--max", "1", "--per", "everybody"), CommandError, "PER_EVERYBODY"),
        (("set", "a", "--max", "1", "--window", "1h"), CommandError, "limit.window"),
        (("set", "a", "--max", "1", "--window", "soon"), CommandError, "--window"),
        (("delete", "none"), HoldError, "no limit 'none'"),
        (("usage", "none", "--client", "dev"), HoldError, "no limit 'none'"),
    ],
)
def test_what_is_wrong_is_named(run: Any, arguments: tuple[str, ...], error: type[Exception], words: str) -> None:
    result = run("limits", *arguments)
    assert isinstance(result.exception, error)
    assert words in str(result.exception)
