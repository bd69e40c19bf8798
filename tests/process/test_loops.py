"""The background loops of a worker and of the supervisor go on after whatever their step raises."""

import asyncio
from collections.abc import Awaitable, Callable
from ctypes import c_uint64
from typing import Any

import pytest

from holdsvc.cell_file import only
from holdsvc.engine import tasks
from holdsvc.ledger import stock
from holdsvc.ledger.failures import Conflict, NothingRan, Unknown
from holdsvc.process import memory
from holdsvc.process.worker import Heartbeat
from holdsvc.settings import Settings
from holdsvc.telemetry import metrics
from holdsvc.telemetry.census import Census
from tests.support.harness import Harness, loop_failures
from tests.support.polling import until

FAULTS = [ValueError("a fault of ours"), NothingRan(), Unknown(), Conflict(), TimeoutError(), MemoryError()]


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "PAUSE_MAX_S", 0.0)


def failing(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, after it has raised each fault once."""
    faults = list(FAULTS)

    def call(*arguments: Any, **named: Any) -> Any:
        if faults:
            raise faults.pop()
        return function(*arguments, **named)

    return call


async def test_the_health_check_goes_on(service: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    services = service.service._services
    assert services is not None
    told: list[bool] = []
    before = loop_failures("health")
    monkeypatch.setattr(services, "set_serving", failing(lambda alive: told.append(alive[""])))
    await until(lambda: told)
    assert loop_failures("health") - before == len(FAULTS)


async def test_the_gauges_go_on(service: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    before = loop_failures("gauges")
    monkeypatch.setattr(service.cell.engine, "queue_depths", failing(lambda: {"reserve": 77}))
    await until(lambda: metrics.QUEUE_DEPTH.labels("", "reserve")._value.get() == 77)
    assert loop_failures("gauges") - before == len(FAULTS)


async def run_until(step: Callable[[], Awaitable[float]], loop: str, condition: Callable[[], object]) -> None:
    before = loop_failures(loop)
    task = asyncio.create_task(tasks.forever(loop, step))
    try:
        await until(condition)
        assert loop_failures(loop) - before == len(FAULTS)
    finally:
        await tasks.end([task])


async def test_the_census_goes_on(ledger_dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    census = Census(Settings.load(census_interval="1s"), only(ledger_dsn)[0])
    monkeypatch.setattr(stock, "tenants", failing(stock.tenants))
    try:
        await run_until(census.step, "census", lambda: census.last is not None)
    finally:
        await census.close()


async def test_the_census_survives_a_start_without_a_database(ledger_dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = failing(asyncio.sleep)
    census = Census(Settings.load(census_interval="1s"), only(ledger_dsn)[0])
    real = Census.count

    async def count(self: Census, connection: Any) -> Any:
        await opened(0)
        return await real(self, connection)

    monkeypatch.setattr(Census, "count", count)
    try:
        await run_until(census.step, "census", lambda: census.last is not None)
    finally:
        await census.close()


async def test_the_heartbeat_goes_on() -> None:
    beat = c_uint64(0)
    heartbeat = Heartbeat(beat)
    await run_until(failing(heartbeat.step), "heartbeat", lambda: beat.value)


async def test_giving_memory_back_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    trim = memory.find_trim()
    if trim is None:
        pytest.skip("this C library has no malloc_trim")
    monkeypatch.setattr(memory, "INTERVAL_S", 0.0)
    given_back: list[bool] = []

    def counted(rest: int) -> int:
        given_back.append(bool(trim(rest)))
        return 0

    await run_until(memory.Memory(failing(counted)).step, "memory", lambda: len(given_back) > 1)
