"""`holdsvc tenants` beside a service that goes on selling."""

import asyncio
import json
import math
import subprocess
from pathlib import Path

import grpc
import pytest

from inventoryhold.v1 import event_service_pb2 as events
from inventoryhold.v1 import inventory_service_pb2 as inventory
from inventoryhold.v1 import reservation_service_pb2 as pb
from tests.cells.conftest import StartCells
from tests.support.cells import TwoCells
from tests.support.harness import outcome, refusal_of, refused
from tests.support.partners import Partner
from tests.support.polling import until
from tests.support.program import command


@pytest.fixture
def environment(cells: TwoCells, tmp_path: Path) -> dict[str, str]:
    """The variables that name both cells."""
    file = tmp_path / "cells.toml"
    file.write_text("".join(f"[{cell.name}]\ndsn = {json.dumps(cell.owner)}\n" for cell in cells))
    return {"HOLDSVC_CELLS": str(file), "HOLDSVC_AUTH": "off"}


async def run(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs `holdsvc tenants`."""
    return await asyncio.to_thread(command, "tenants", *arguments, environment=environment)


async def sell(caller: Partner, made: set[str], moved: asyncio.Event) -> None:
    """Reserves one unit after another until some calls after the move."""
    left = 5
    while left:
        left -= moved.is_set()
        answer = await outcome(caller.reservations.Reserve(pb.ReserveRequest(lines=[{"sku": "seat", "quantity": 1}])))
        if isinstance(answer, pb.ReserveResponse):
            made.add(answer.reservation.reservation_id)
        else:
            assert answer == "TENANT_MOVED"


async def follow(caller: Partner, token: str, told: list[int], count: float = math.inf) -> str:
    """Notes the ids of events, until there are `count` or the stream ends with TENANT_MOVED; returns the last token."""
    stream = caller.events.StreamEvents(events.StreamEventsRequest(resume_token=token))
    try:
        while len(told) < count:
            message = await stream.read()
            told += [event.event_id for event in message.events]
            token = message.resume_token
        stream.cancel()
    except grpc.aio.AioRpcError as error:
        assert refusal_of(error).reason == "TENANT_MOVED"
    return token


async def test_a_tenant_moves_while_it_sells_and_its_old_rows_are_removed(
    cells: TwoCells, start_cells: StartCells, environment: dict[str, str]
) -> None:
    service = await start_cells()
    placed = await run(environment, "place", "acme", "--cell", "north")
    assert placed.stdout == "acme lives in north\n", placed.stderr
    secret = (await asyncio.to_thread(cells.new_tenant, cells.north, "acme"))[1]
    caller = Partner(service.channel, secret)
    await caller.inventory.CreateItem(inventory.CreateItemRequest(item={"sku": "seat", "capacity": 1000}))
    begin = caller.events.StreamEvents(events.StreamEventsRequest(from_oldest=True))
    first = (await begin.read()).resume_token
    begin.cancel()
    told: list[int] = []
    following = asyncio.create_task(follow(caller, first, told))
    made: set[str] = set()
    moved = asyncio.Event()
    selling = [asyncio.create_task(sell(caller, made, moved)) for _ in range(2)]
    await until(lambda: len(made) >= 20)
    result = await run(environment, "move", "acme", "--to", "south")
    moved.set()
    await asyncio.gather(*selling)
    assert result.stdout.startswith("acme lives in south (version 2): "), result.stderr
    rows = "SELECT reservation_id::text FROM holdsvc.reservation WHERE tenant = 'acme'"
    assert {id_ for (id_,) in cells.sql(cells.south, rows)} == made
    last = await following
    ids = "SELECT event_id FROM holdsvc.event_history WHERE tenant = 'acme'"
    ids += " UNION SELECT event_id FROM holdsvc.event WHERE tenant = 'acme' ORDER BY 1"
    made_events = [id_ for (id_,) in cells.sql(cells.south, ids)]
    assert len(told) < len(made_events)
    await follow(caller, last, told, len(made_events))
    assert told == made_events
    late = caller.events.StreamEvents(events.StreamEventsRequest(resume_token=first))
    assert (await refused(late.read())).reason == "RESUME_TOKEN_EXPIRED"
    listed = await run(environment, "list")
    states = {
        (row["cell"], row["state"]) for row in map(json.loads, listed.stdout.splitlines()) if row["tenant"] == "acme"
    }
    assert states == {("north", "MOVED"), ("south", "HERE")}
    cleaned = await run(environment, "clean", "acme")
    assert cleaned.stdout == "north has no rows of acme any more\n", cleaned.stderr
    assert cells.sql(cells.north, rows) == []
    aborted = await run(environment, "abort", "acme")
    assert (aborted.returncode, aborted.stderr) == (1, "holdsvc: no move of acme is under way\n")
