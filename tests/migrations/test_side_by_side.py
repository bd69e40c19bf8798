"""Two releases beside each other on one database, under load: up, back, and up again, and no call fails.

The older one is this code. The newer one is this code with a synthetic change: a column, bodies of functions, a state,
an event type and a refusal.
"""

import asyncio
import random
import shutil
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import psycopg
import pytest

from inventoryhold.v1 import admin_service_pb2 as admin
from inventoryhold.v1 import admin_service_pb2_grpc, inventory_service_pb2_grpc, reservation_service_pb2_grpc
from inventoryhold.v1 import inventory_service_pb2 as inventory
from inventoryhold.v1 import reservation_service_pb2 as pb
from tests.support.harness import refused
from tests.support.program import Program, command

OLDER = Path(__file__).resolve().parents[2] / "src"
SKUS = [f"sku-{number}" for number in range(5)]
CALLERS = 8
PAUSE_S = 0.1
"""Between two walks of a caller: without it the callers slow down the starts that they wait for."""
CALLS_BETWEEN = 150
"""Calls that are answered between two steps of a roll-out."""

MIGRATION = """-- compatible since: 0100
-- widens: reservation_state_check
-- migrate:up
ALTER TABLE holdsvc.reservation ADD COLUMN note text;
ALTER TABLE holdsvc.reservation DROP CONSTRAINT reservation_state_check;
ALTER TABLE holdsvc.reservation ADD CONSTRAINT reservation_state_check CHECK (state BETWEEN 1 AND 7);
INSERT INTO holdsvc_migrations.feature (name, since) VALUES ('parking', '0101'), ('banned_holders', '0101');
-- migrate:down
DELETE FROM holdsvc_migrations.feature WHERE since = '0101';
ALTER TABLE holdsvc.reservation DROP COLUMN note;
"""

# Of each file: what stands there, and what the newer release has instead.
RESERVE = {
    "metadata, create_time, expire_time, limited\n  )": "metadata, create_time, expire_time, limited, note\n  )",
    "coalesce(_limited[i], false)\n": "coalesce(_limited[i], false), 'newer'\n",
    "IF _fitting = _items AND": "IF 'x' <> ALL (_holder) AND _fitting = _items AND",
    "      IF _verdict IS NULL THEN\n        FOR _l": """
      IF _verdict IS NULL AND _holder[_i] = 'x' AND feature_refusal('banned_holders') IS NULL THEN
        _verdict := 'DUPLICATE_RESERVATION';
        _other_id[_i] := _reservation_id[_i];
      END IF;
      IF _verdict IS NULL THEN
        FOR _l""",
}
CANCEL = {
    "  -- claim\n": """
  FOR _i IN 1 .. cardinality(_outcome) LOOP
    IF _outcome[_i] IS NULL AND _reason[_i] = 'park' THEN
      _outcome[_i] := feature_refusal('parking');
    END IF;
  END LOOP;
  -- claim
""",
    "_tenant, 3::smallint, _id,": (
        "_tenant, CASE WHEN 'park' = ANY (_reason) THEN 7::smallint ELSE 3::smallint END, _id,"
    ),
}
STEPS = {"_tenant, _state, coalesce(": "_tenant, CASE WHEN _state = 7 THEN 99 ELSE _state END, coalesce("}
CHANGES = {"reserve.sql": RESERVE, "cancel.sql": CANCEL, "steps.sql": STEPS}


@pytest.fixture
def newer(tmp_path: Path) -> Path:
    """The folder of the newer release's package."""
    folder = tmp_path / "newer"
    shutil.copytree(OLDER / "holdsvc", folder / "holdsvc")
    ledger = folder / "holdsvc" / "ledger"
    (ledger / "schema" / "0101_synthetic.sql").write_text(MIGRATION)
    for name, changes in CHANGES.items():
        text = (ledger / "functions" / name).read_text()
        for old, new in changes.items():
            assert text.count(old) == 1, (name, old)
            text = text.replace(old, new)
        (ledger / "functions" / name).write_text(text)
    return folder


class Target:
    """A running release, and the calls that it is answering."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.channel = grpc.aio.insecure_channel(program.address, options=[("grpc.enable_retries", 0)])
        self.reservations = reservation_service_pb2_grpc.ReservationServiceStub(self.channel)
        self.inventory = inventory_service_pb2_grpc.InventoryServiceStub(self.channel)
        self.admin = admin_service_pb2_grpc.AdminServiceStub(self.channel)
        self.calls = 0

    async def walk(self, name: str) -> None:
        """A hold's life in some calls."""
        skus = random.sample(SKUS, 2)
        lines = [{"sku": sku, "quantity": 1} for sku in skus]
        made = await self.reservations.Reserve(pb.ReserveRequest(lines=lines, request_id=name, reference=name))
        id_ = made.reservation.reservation_id
        await self.reservations.Extend(pb.ExtendRequest(reservation_id=id_))
        if random.random() < 0.5:
            await self.reservations.Confirm(pb.ConfirmRequest(reference=name))
            await self.reservations.Refund(pb.RefundRequest(reservation_id=id_))
        else:
            await self.reservations.Cancel(pb.CancelRequest(reservation_id=id_, reason="changed"))
        await self.reservations.GetReservation(pb.GetReservationRequest(reservation_id=id_))
        await self.reservations.ListReservations(pb.ListReservationsRequest(sku=skus[0], page_size=5))
        await self.reservations.ListReservationEvents(pb.ListReservationEventsRequest(reservation_id=id_))
        await self.inventory.AdjustCapacity(inventory.AdjustCapacityRequest(sku="sku-0", delta=1))
        await self.inventory.ListItems(inventory.ListItemsRequest(page_size=3))


class Load:
    """Callers that walk on one of the releases which take calls; it keeps every error."""

    def __init__(self) -> None:
        self.targets: list[Target] = []
        self.errors: list[str] = []
        self.answered: Counter[Target] = Counter()
        self._walked = asyncio.Condition()
        self._tasks = [asyncio.create_task(self._caller(number)) for number in range(CALLERS)]

    async def _caller(self, number: int) -> None:
        count = 0
        while True:
            if not self.targets:
                await asyncio.sleep(0)
                continue
            target = random.choice(self.targets)
            target.calls += 1
            count += 1
            try:
                await target.walk(f"{number}-{count}")
            except grpc.RpcError as error:
                self.errors.append(f"{error.code()}: {error.details()}")
            target.calls -= 1
            async with self._walked:
                self.answered[target] += 1
                self._walked.notify_all()
            await asyncio.sleep(PAUSE_S)

    async def go_on(self) -> None:
        """Returns when every release that takes calls has answered some more."""
        wanted = {target: self.answered[target] + CALLS_BETWEEN // (9 * len(self.targets)) for target in self.targets}
        async with self._walked, asyncio.timeout(120):
            await self._walked.wait_for(lambda: all(self.answered[target] >= n for target, n in wanted.items()))

    async def take_away(self, target: Target) -> None:
        """Sends it no more calls, as a load balancer does, and returns when those in flight are answered."""
        self.targets.remove(target)
        async with self._walked, asyncio.timeout(120):
            await self._walked.wait_for(lambda: target.calls == 0)

    async def end(self) -> None:
        for target in [*self.targets]:
            await self.take_away(target)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@asynccontextmanager
async def serving(dsn: str, code: Path) -> AsyncIterator[Target]:
    # This code is in the fork's memory already.
    python_path = "" if code == OLDER else str(code)
    with Program(None, dsn=dsn, python_path=python_path, drain_grace="5s") as program:
        await asyncio.to_thread(program.serving)
        target = Target(program)
        yield target
        await target.channel.close()


def migrate(dsn: str, code: Path, *arguments: str) -> tuple[int, str]:
    done = command("migrate", *arguments, "--dsn", dsn, environment={"PYTHONPATH": str(code)})
    return done.returncode, done.stdout + done.stderr


async def stock(target: Target) -> None:
    for sku in SKUS:
        item = {"sku": sku, "capacity": 1_000_000}
        await target.inventory.CreateItem(inventory.CreateItemRequest(item=item))


def query(dsn: str, sql: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(dsn) as owner:
        return owner.execute(sql.encode()).fetchall()


def sets(dsn: str) -> list[str]:
    return [name for (name,) in query(dsn, "SELECT name FROM holdsvc_migrations.function_set")]


async def test_a_release_is_rolled_out_and_rolled_back_under_load_and_no_call_fails(
    database_dsn: str, newer: Path
) -> None:
    async with serving(database_dsn, OLDER) as old:
        await stock(old)
        load = Load()
        load.targets = [old]
        await load.go_on()
        async with serving(database_dsn, newer) as new:
            # Both serve, each on its own functions.
            assert len(sets(database_dsn)) == 2
            load.targets = [old, new]
            await load.go_on()
            notes = {note for (note,) in query(database_dsn, "SELECT DISTINCT note FROM holdsvc.reservation")}
            assert notes == {None, "newer"}
            code, output = await asyncio.to_thread(migrate, database_dsn, newer, "down", "--yes")
            assert (code, "needs the migration 0101" in output) == (1, True), output
            # The roll-out goes on: the older one goes, and starts again on the newer schema for the way back.
            await load.take_away(old)
            await asyncio.to_thread(old.program.stop)
            await load.go_on()
            async with serving(database_dsn, OLDER) as back:
                load.targets.append(back)
                await load.go_on()
                await load.take_away(new)
                await asyncio.to_thread(new.program.stop)
                await load.go_on()
                # The schema goes back too, under the older one's load.
                code, output = await asyncio.to_thread(migrate, database_dsn, newer, "down", "--yes")
                assert (code, output) == (0, "took back 0101 synthetic\n")
                assert len(sets(database_dsn)) == 1
                await load.go_on()
                await load.end()
                report = await back.admin.VerifyLedger(admin.VerifyLedgerRequest())
    assert load.errors == []
    assert report.ok, report.drifts


async def test_new_values_and_refusals_wait_for_their_activation_and_older_code_starts_no_more_after_it(
    database_dsn: str, newer: Path
) -> None:
    async with serving(database_dsn, OLDER) as old, serving(database_dsn, newer) as new:
        await stock(old)

        async def held(target: Target, holder: str = "") -> str:
            request = pb.ReserveRequest(lines=[{"sku": "sku-0", "quantity": 1}], holder=holder)
            return (await target.reservations.Reserve(request)).reservation.reservation_id

        # Off: the new value is refused, the new refusal does not refuse.
        park = pb.CancelRequest(reservation_id=await held(old), reason="park")
        refusal = await refused(new.reservations.Cancel(park))
        assert (refusal.code.name, refusal.reason) == ("FAILED_PRECONDITION", "FEATURE_NOT_ACTIVE")
        assert refusal.metadata == {"feature": "parking"}
        await held(new, "x")
        code, output = await asyncio.to_thread(migrate, database_dsn, newer, "activate", "parking")
        assert (code, "which does not know parking: stop them first" in output) == (1, True), output
        await asyncio.to_thread(old.program.stop)
        for feature in ("parking", "banned_holders"):
            code, output = await asyncio.to_thread(migrate, database_dsn, newer, "activate", feature)
            assert (code, output) == (0, f"{feature} is active\n")
        # On: the new state and the new event type pass through code that has no name for them.
        assert (await new.reservations.Cancel(park)).reservation.state == 7
        listed = await new.reservations.ListReservations(pb.ListReservationsRequest())
        assert 7 in {reservation.state for reservation in listed.reservations}
        trail = pb.ListReservationEventsRequest(reservation_id=park.reservation_id)
        assert [event.type for event in (await new.reservations.ListReservationEvents(trail)).events] == [1, 99]
        request = pb.ReserveRequest(lines=[{"sku": "sku-0", "quantity": 1}], holder="x")
        assert (await refused(new.reservations.Reserve(request))).reason == "DUPLICATE_RESERVATION"
    with Program(None, dsn=database_dsn) as program:
        assert await asyncio.to_thread(program.end) == 1
        assert "serves code of schema version 0101 and newer" in program.output
