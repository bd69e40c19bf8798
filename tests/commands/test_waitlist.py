"""`holdsvc waitlist`: list."""

import asyncio
import json
from typing import Any

import pytest

from holdsvc.commands import CommandError
from inventoryhold.v1 import item_pb2
from tests.support.harness import Harness


async def test_entries_are_listed_in_the_order_of_the_queue_beside_a_service(service: Harness, run: Any) -> None:
    for sku in ("seat", "bunk"):
        await service.create_item(sku, 1, waitlist_policy=item_pb2.Item.WAITLIST_POLICY_STRICT)
        await service.reserve({sku: 1})
    await service.join({"seat": 1}, "ann", reference="cart-1")
    await service.join({"seat": 1, "bunk": 1}, "ben", priority=1)
    await service.join({"bunk": 1}, "cid")
    listed = await asyncio.to_thread(run, "waitlist", "list", "--sku", "seat")
    assert listed.exit_code == 0, listed.output
    found = [json.loads(line) for line in listed.stdout.splitlines()]
    assert [(entry["holder"], entry["state"], entry["priority"]) for entry in found] == [
        ("ben", "WAITING", 1),
        ("ann", "WAITING", 0),
    ]
    assert found[1]["lines"] == [{"sku": "seat", "pool": "", "quantity": 1}]
    every = await asyncio.to_thread(run, "waitlist", "list")
    assert [json.loads(line)["holder"] for line in every.stdout.splitlines()] == ["ben", "ann", "cid"]
    ended = await asyncio.to_thread(run, "waitlist", "list", "--states", "left,taken")
    assert (ended.exit_code, ended.stdout) == (0, "")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(("--states", "GONE"), "no such state: GONE"), (("--pool", "web"), "--pool needs --sku")],
)
def test_what_is_wrong_is_named(run: Any, arguments: tuple[str, ...], words: str) -> None:
    result = run("waitlist", "list", *arguments)
    assert isinstance(result.exception, CommandError)
    assert words in str(result.exception)
