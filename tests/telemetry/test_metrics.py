"""The metrics page: complete, right with several workers, and of bounded size."""

import asyncio
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from google.protobuf.duration_pb2 import Duration
from prometheus_client import REGISTRY
from prometheus_client.samples import Sample

from holdsvc.telemetry import metrics
from holdsvc.telemetry.families import FAMILIES
from inventoryhold.v1 import error_reason_pb2, inventory_service_pb2, inventory_service_pb2_grpc, item_pb2
from inventoryhold.v1 import reservation_service_pb2 as pb
from inventoryhold.v1 import reservation_service_pb2_grpc as grpc_pb
from tests.support import sessions
from tests.support.harness import Harness, StartService, outcome, refused
from tests.support.metrics import labels_by_name
from tests.support.program import Program, Series, serving

ROOT = Path(__file__).resolve().parents[2]
NAMED = re.compile(r"\b(?:holdsvc|grpc_server)_[a-z0-9_]*[a-z0-9]\b")
NO_METRICS = {"holdsvc_service", "holdsvc_owner", "holdsvc_app", "holdsvc_migrations"}
"""Roles and a schema of the database, whose names look like metrics."""

TENANT_CHOSEN = {"tenant", "sku", "pool"}
BOUNDED = {
    "cell",
    "grpc_type",
    "grpc_service",
    "grpc_method",
    "grpc_code",
    "lane",
    "loop",
    "reason",
    "transition",
    "why",
    "version",
    "python_version",
    "state",
    "level",
    "le",
    "cause",
}


def _files() -> list[Path]:
    return [
        path
        for folder, suffixes in (("deploy", {".json", ".yaml", ".yml"}), ("docs", {".md"}))
        for path in sorted((ROOT / folder).rglob("*"))
        if path.suffix in suffixes
    ]


@pytest.mark.parametrize("path", _files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_every_metric_named_in_dashboards_alerts_and_docs_exists(path: Path) -> None:
    named = set(NAMED.findall(path.read_text())) - NO_METRICS
    known = set(labels_by_name())
    # A recording rule's name has colons and is none of ours; a histogram may be named without its ending.
    known |= {name.removesuffix("_bucket") for name in known if name.endswith("_bucket")}
    assert named <= known, named - known


def test_the_docs_name_every_metric() -> None:
    text = (ROOT / "docs" / "metrics.md").read_text()
    missing = {name for name in labels_by_name() if name.removesuffix("_bucket") not in text}
    assert {name for name in missing if not name.endswith(("_sum", "_count"))} == set()


def test_only_the_census_has_labels_that_callers_choose() -> None:
    bounded_by_settings = {family.name for family in FAMILIES}
    for name, labels in labels_by_name().items():
        assert set(labels) <= (BOUNDED | TENANT_CHOSEN if name in bounded_by_settings else BOUNDED), name


def _transitions() -> Counter[tuple[str, str]]:
    [family] = [family for family in REGISTRY.collect() if family.name == "holdsvc_reservations"]
    return Counter(
        {
            (sample.labels["transition"], sample.labels["reason"]): int(sample.value)
            for sample in family.samples
            if sample.name == "holdsvc_reservations_total"
        }
    )


@pytest.fixture
def before() -> Counter[tuple[str, str]]:
    """The transitions before the test: it looks at what has come since."""
    return _transitions()


async def test_transitions_are_counted_once_by_what_came_of_them(
    service: Harness, before: Counter[tuple[str, str]]
) -> None:
    await service.create_item("seat", 3)
    first = await service.reserve({"seat": 1}, request_id="one")
    await service.reserve({"seat": 1}, request_id="one")
    await refused(service.reservations.Reserve(_reserve("seat", 5)))
    await service.reservations.Confirm(pb.ConfirmRequest(reservation_id=first.reservation_id))
    await refused(service.reservations.Cancel(pb.CancelRequest(reservation_id=first.reservation_id)))
    await service.reservations.Refund(pb.RefundRequest(reservation_id=first.reservation_id))
    second = await service.reserve({"seat": 1})
    await service.reservations.Extend(pb.ExtendRequest(reservation_id=second.reservation_id, ttl=Duration(seconds=60)))
    await service.reservations.Cancel(pb.CancelRequest(reservation_id=second.reservation_id))
    assert _transitions() - before == {
        ("reserve", "OK"): 2,
        ("reserve", "REPLAYED"): 1,
        ("reserve", "CAPACITY_EXCEEDED"): 1,
        ("confirm", "OK"): 1,
        ("cancel", "RESERVATION_ALREADY_CONFIRMED"): 1,
        ("cancel", "OK"): 1,
        ("refund", "OK"): 1,
        ("extend", "OK"): 1,
    }


async def test_expiry_is_counted_for_every_kind_of_sweep(service: Harness, before: Counter[tuple[str, str]]) -> None:
    await service.create_item("seat", 1)
    await service.reserve({"seat": 1}, ttl=Duration(seconds=1))
    service.clock.advance(Duration(seconds=5).ToTimedelta())
    # On demand: the sale finds the lapsed hold.
    await service.reserve({"seat": 1}, ttl=Duration(seconds=1))
    service.clock.advance(Duration(seconds=5).ToTimedelta())
    answer = await service.reservations.Cleanup(pb.CleanupRequest())
    assert answer.expired_count == 1
    assert (_transitions() - before)["expire", "OK"] == 2


async def test_a_full_queue_counts_as_overloaded(start_service: StartService, before: Counter[tuple[str, str]]) -> None:
    service = await start_service(queue_max=1)
    await service.create_item("seat", 10)
    with sessions.transaction(service.owner_dsn) as lock:
        lock.execute("SELECT 1 FROM holdsvc.item FOR UPDATE")
        calls = [asyncio.ensure_future(outcome(service.reservations.Reserve(_reserve("seat", 1)))) for _ in range(8)]
        # A call that is answered now was refused.
        await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
    answers = await asyncio.gather(*calls)
    assert (_transitions() - before)["reserve", "OVERLOADED"] == answers.count("OVERLOADED")
    assert answers.count("OVERLOADED") > 0


def test_reasons_are_those_of_the_catalogue() -> None:
    names = {name.removeprefix("ERROR_REASON_") for name in error_reason_pb2.ErrorReason.DESCRIPTOR.values_by_name}
    assert {reason for _, reason in _transitions()} <= names | {"OK", "REPLAYED", "DEADLINE_EXCEEDED", "CANCELLED"}


async def test_a_method_that_does_not_exist_makes_no_series(service: Harness) -> None:
    before = {tuple(sample.labels.items()) for sample in _samples("grpc_server_started_total")}
    call: Any = service.channel.unary_unary("/inventoryhold.v1.ReservationService/Nonsense")
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await call(b"")
    assert refusal.value.code() == grpc.StatusCode.UNIMPLEMENTED
    assert {tuple(sample.labels.items()) for sample in _samples("grpc_server_started_total")} == before


def _samples(name: str) -> list[Sample]:
    return [sample for family in REGISTRY.collect() for sample in family.samples if sample.name == name]


def _reserve(sku: str, quantity: int, ttl_s: int = 60) -> pb.ReserveRequest:
    return pb.ReserveRequest(lines=[item_pb2.ItemQuantity(sku=sku, quantity=quantity)], ttl=Duration(seconds=ttl_s))


def _total(series: Series, name: str, **labels: str) -> float:
    return sum(
        value for (found, having), value in series.items() if found == name and labels.items() <= dict(having).items()
    )


async def _drive(address: str) -> None:
    """A little of everything, once."""
    async with grpc.aio.insecure_channel(address) as channel:
        reservations = grpc_pb.ReservationServiceStub(channel)
        held = [(await reservations.Reserve(_reserve("seat", 1))).reservation.reservation_id for _ in range(4)]
        await reservations.Confirm(pb.ConfirmRequest(reservation_id=held[0]))
        await reservations.Fulfil(pb.FulfilRequest(reservation_id=held[0]))
        # What was fulfilled comes back into the capacity.
        await reservations.Refund(pb.RefundRequest(reservation_id=held[0]))
        grown = pb.ModifyRequest(reservation_id=held[1], lines=[{"sku": "seat", "quantity": 2}])
        grown.update_mask.paths.append("lines")
        await reservations.Modify(grown)
        await reservations.Confirm(pb.ConfirmRequest(reservation_id=held[1]))
        await reservations.Cancel(pb.CancelRequest(reservation_id=held[2]))
        await reservations.Extend(pb.ExtendRequest(reservation_id=held[3], ttl=Duration(seconds=90)))
        await reservations.Reserve(_reserve("short", 1, ttl_s=1))
        # The only unit: gone while the hold lives, and swept on demand once it has lapsed.
        await outcome(reservations.Reserve(_reserve("only", 1, ttl_s=1)))
        await outcome(reservations.Confirm(pb.ConfirmRequest(reservation_id=held[2])))


MOVES = (
    "grpc_server_started_total",
    "grpc_server_handled_total",
    "grpc_server_handling_seconds_count",
    "holdsvc_errors_total",
    "holdsvc_batch_size_count",
    "holdsvc_batch_wait_seconds_count",
    "holdsvc_batch_seconds_count",
    "holdsvc_retries_total",
    "holdsvc_sweep_runs_total",
    "holdsvc_sweep_expired_total",
    "holdsvc_sweep_released_units_total",
    "holdsvc_allotment_returned_units_total",
    "holdsvc_lapsed_holds",
    "holdsvc_oldest_lapsed_hold_age_seconds",
    "holdsvc_census_timestamp_seconds",
    "holdsvc_census_seconds",
)
MOVES_BY = (
    *(("holdsvc_reservations_total", {"transition": transition, "reason": "OK"}) for transition in metrics.TRANSITIONS),
    ("holdsvc_reservations_total", {"transition": "confirm", "reason": "RESERVATION_ALREADY_CANCELLED"}),
    *(
        (name, {"state": state})
        for name in ("holdsvc_units", "holdsvc_top_item_units")
        for state in ("held", "confirmed", "remaining")
    ),
    ("holdsvc_active_holds", {"tenant": "default"}),
    ("holdsvc_closed_items", {"tenant": "default"}),
    ("holdsvc_item_levels", {"level": "out"}),
)
SOLD: set[object] = {
    *(("holdsvc_reservations_total", name, "OK") for name in ("reserve", "confirm", "cancel", "refund")),
    *(("holdsvc_units", state) for state in ("held", "confirmed", "remaining")),
    "holdsvc_batch_size_count",
    "holdsvc_errors_total",
    "holdsvc_sweep_runs_total",
    ("holdsvc_active_holds", "default"),
}
"""Metrics that move in a sale, where no hold expires or is extended."""
AT_REST = {
    "holdsvc_sweep_failures_total": 0,
    "holdsvc_quarantined_holds_total": 0,
    "holdsvc_units": 200_003,
    "holdsvc_queue_depth": 0,
    "holdsvc_pool_waiting": 0,
    "holdsvc_database_up": 1,
    "holdsvc_workers": 2,
    "holdsvc_workers_wanted": 2,
    "holdsvc_worker_deaths_total": 0,
    "holdsvc_items": 5,
    "holdsvc_closed_items": 1,
    "holdsvc_pool_max": 16,
}
"""What stands still while all is well, with the value that it then has."""


async def _create_items(address: str) -> None:
    async with grpc.aio.insecure_channel(address) as channel:
        inventory = inventory_service_pb2_grpc.InventoryServiceStub(channel)
        # An allotment that will have returned in a moment: its pool is closed and out then.
        allotment = item_pb2.Item(sku="allotment", pool="web", capacity=2, low_at=1)
        allotment.return_time.FromDatetime(datetime.now(UTC) + timedelta(seconds=3))
        await inventory.CreateItem(inventory_service_pb2.CreateItemRequest(item=allotment))
        await inventory.BatchCreateItems(
            inventory_service_pb2.BatchCreateItemsRequest(
                items=[
                    item_pb2.Item(sku=sku, capacity=capacity)
                    for sku, capacity in (("seat", 100_000), ("short", 100_000), ("only", 1))
                ]
            )
        )


def _moved(first: Series, now: Series) -> set[object]:
    """Names of what has not yet another value than at first."""
    still: set[object] = {name for name in MOVES if _total(now, name) == _total(first, name)}
    still |= {
        (name, *labels.values())
        for name, labels in MOVES_BY
        if _total(now, name, **labels) == _total(first, name, **labels)
    }
    return still


async def test_under_load_each_domain_metric_moves_and_none_is_multiplied_by_workers(ledger_dsn: str) -> None:
    with serving(workers=2, dsn=ledger_dsn, census_interval="200ms", sweep_interval="1500ms") as service:
        address = f"127.0.0.1:{service.port}"
        await _create_items(address)
        first = await asyncio.to_thread(service.series)
        still: set[object] = {"nothing has been looked at"}
        seen: set[object] = set()
        async with asyncio.timeout(200):
            while still - seen:
                await _drive(address)
                now = await asyncio.to_thread(service.series)
                still = _moved(first, now)
                seen |= {*MOVES, *((name, *labels.values()) for name, labels in MOVES_BY)} - still
            # A look at the queue that fell into the last call is shown until the next look.
            now = await asyncio.to_thread(service.series)
            while {name: _total(now, name) for name in AT_REST} != AT_REST:
                now = await asyncio.to_thread(service.series)
        assert {name for name, _ in now if name.startswith("holdsvc")} <= set(labels_by_name()) | {
            name.replace("_total", "_created") for name in labels_by_name()
        }


async def test_while_make_load_runs_the_page_of_a_fresh_service_moves(tmp_path: Path) -> None:
    with serving(data_dir=tmp_path, census_interval="100ms") as service:
        first = await asyncio.to_thread(service.series)
        seen: set[object] = set()
        async with asyncio.timeout(200):
            # Now and then a count falls between two sales: then there is another.
            while not seen >= SOLD:
                seen |= await _seen_during_a_sale(service, first)


async def _seen_during_a_sale(service: Program, first: Series) -> set[object]:
    """Names of what had another value than at first while `make load` ran."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HOLDSVC_")}
    load = await asyncio.create_subprocess_exec(
        sys.executable,
        str(ROOT / "loadtest" / "run.py"),
        *("--seconds", "1", "--buyers", "10"),
        env={**environment, "HOLDSVC_LISTEN": f"127.0.0.1:{service.port}"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    seen: set[object] = set()
    ended = asyncio.ensure_future(load.communicate())
    while not ended.done():
        now = await asyncio.to_thread(service.series)
        seen |= {*MOVES, *((name, *labels.values()) for name, labels in MOVES_BY)} - _moved(first, now)
        await asyncio.wait([ended], timeout=0.1)
    output, _ = ended.result()
    assert load.returncode == 0, output.decode()
    return seen


async def test_a_dead_workers_gauges_go_and_its_counts_stay(ledger_dsn: str) -> None:
    with serving(workers=2, dsn=ledger_dsn, census_interval="200ms") as service:
        await _create_items(f"127.0.0.1:{service.port}")
        for _ in range(5):
            await _drive(f"127.0.0.1:{service.port}")
        before = await asyncio.to_thread(service.series)
        victim = next(int(line["pid"]) for line in service.events if line["event"] == "serving")
        os.kill(victim, signal.SIGKILL)
        await asyncio.to_thread(service.wait_for, "worker.died")
        await asyncio.to_thread(service.wait_for, "serving")
        after = await asyncio.to_thread(service.series)
        assert _total(after, "holdsvc_pool_max") == 16
        assert _total(after, "holdsvc_worker_deaths_total") == 1
        for transition in ("reserve", "confirm", "cancel"):
            labels = {"transition": transition, "reason": "OK"}
            assert _total(after, "holdsvc_reservations_total", **labels) == _total(
                before, "holdsvc_reservations_total", **labels
            )


def test_the_supervisor_and_the_relay_have_no_metrics_of_a_worker() -> None:
    modules = "holdsvc.process.supervisor, holdsvc.telemetry.census, holdsvc.commands.relay, holdsvc.relay.relay"
    program = f"import sys, {modules}; sys.exit('holdsvc.telemetry.metrics' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
