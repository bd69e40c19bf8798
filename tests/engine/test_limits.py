"""The token bucket, on a loop whose clock the test moves."""

import asyncio

import pytest

from holdsvc.engine import limits
from holdsvc.engine.limits import RateLimit
from holdsvc.errors import HoldError


class Watch:
    """Stands in for the loop's clock."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: self.now, raising=False)


def refused_for(limit: RateLimit, key: str) -> float:
    with pytest.raises(HoldError) as refused:
        limit.take(key, "calls per second")
    refusal = refused.value.refused
    assert (refusal.reason, refusal.metadata) == ("RATE_LIMITED", {"limit": "calls per second"})
    assert refusal.retry_after_s is not None
    return refusal.retry_after_s


async def test_a_burst_of_one_second_passes_then_the_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    watch, limit = Watch(monkeypatch), RateLimit(10)
    for _ in range(10):
        limit.take("a", "calls per second")
    assert refused_for(limit, "a") == pytest.approx(0.1)
    watch.now += 0.1
    limit.take("a", "calls per second")
    refused_for(limit, "a")
    watch.now += 3600
    for _ in range(10):
        limit.take("a", "calls per second")
    refused_for(limit, "a")


async def test_each_key_has_a_bucket_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    Watch(monkeypatch)
    limit = RateLimit(1)
    limit.take("a", "calls per second")
    limit.take("b", "calls per second")
    refused_for(limit, "a")


async def test_below_one_a_second_one_call_passes_and_the_refusal_says_how_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    watch, limit = Watch(monkeypatch), RateLimit(0.5)
    limit.take("a", "calls per second")
    assert refused_for(limit, "a") == pytest.approx(2.0)
    watch.now += 2.0
    limit.take("a", "calls per second")


async def test_the_memory_of_keys_is_bounded_and_forgets_the_longest_unused(monkeypatch: pytest.MonkeyPatch) -> None:
    watch = Watch(monkeypatch)
    monkeypatch.setattr(limits, "BUCKETS_MAX", 3)
    limit = RateLimit(1)
    for key in "abcd":
        limit.take(key, "calls per second")
        watch.now += 0.01
    assert list(limit._buckets) == ["b", "c", "d"]
    refused_for(limit, "d")
