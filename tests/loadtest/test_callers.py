"""The callers that `make bench` lets loose: what they report is what the service holds."""

import asyncio

import pytest

from benchmark import callers
from benchmark.callers import Plan
from tests.support.harness import StartService


@pytest.mark.parametrize("coalesce", [True, False])
@pytest.mark.parametrize("threads", [True, False])
async def test_callers_report_every_hold_that_they_made(
    start_service: StartService, threads: bool, coalesce: bool
) -> None:
    services = [await start_service(), await start_service()]
    skus = ["one", "two"]
    for sku in skus:
        await services[0].create_item(sku, 1_000_000)
    plan = Plan([service.address for service in services], "", skus, 10, coalesce, seconds=0.1, threads=threads)
    report = await asyncio.to_thread(callers.run_threads, plan) if threads else await callers.run(plan)
    held = [(await services[0].item(sku)).held for sku in skus]
    assert sum(held) == report.calls
    assert all(held)
    assert report.per_second > 0
    assert report.p50_ms > 0
