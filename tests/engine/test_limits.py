"""The token bucket, on a loop whose clock the test moves; calls of a client that wait for each other."""

import asyncio

import pytest

from holdsvc.engine import limits
from holdsvc.engine.limits import AtOnce, Place, RateLimit
from holdsvc.errors import HoldError
from tests.engine.lanes import soon


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


async def entered(at_once: AtOnce, key: str, end: float) -> list[asyncio.Task[Place]]:
    """Two that go on and three that wait."""
    tasks = [asyncio.create_task(at_once.enter(key, end)) for _ in range(5)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert [task.done() for task in tasks] == [True, True, False, False, False]
    return tasks


async def test_calls_beyond_those_that_go_on_at_once_wait_in_order_and_then_are_refused() -> None:
    at_once = AtOnce(2, 3)
    tasks = await entered(at_once, "a", soon())
    with pytest.raises(HoldError) as refused:
        await at_once.enter("a", soon())
    assert (refused.value.reason, refused.value.refused.metadata) == ("OVERLOADED", {"cause": "QUEUE_FULL"})
    other = await at_once.enter("b", soon())
    for before, waiting in zip(tasks, tasks[2:], strict=False):
        (await before).leave()
        await waiting
    for task in tasks:
        (await task).leave()
    other.leave()
    await entered(at_once, "a", soon())


async def test_a_call_that_waits_ends_with_its_caller_or_at_its_time() -> None:
    at_once = AtOnce(2, 3)
    [first, second, gone, taker, last] = await entered(at_once, "a", soon(0.05))
    gone.cancel()
    await asyncio.sleep(0)
    (await first).leave()
    # Its place was given in this round.
    taker.cancel()
    await last
    with pytest.raises(HoldError) as refused:
        await at_once.enter("a", soon(0.01))
    assert refused.value.refused.metadata == {"cause": "DEADLINE_EXCEEDED"}
    assert (gone.cancelled(), taker.cancelled()) == (True, True)
    for task in (second, last):
        (await task).leave()
    await entered(at_once, "a", soon())


async def test_the_place_of_a_call_that_was_given_up_is_free_only_after_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    at_once = AtOnce(2, 3)
    [given_up, ended, first, second, third] = await entered(at_once, "a", soon())
    monkeypatch.setattr(limits, "GIVEN_UP_REST_S", 0.02)
    (await given_up).give_up()
    (await given_up).leave()
    (await ended).leave()
    await first
    assert (second.done(), third.done()) == (False, False)
    await second
    for task in (first, second, third):
        (await task).leave()
    await entered(at_once, "a", soon())


async def test_a_stream_that_was_given_up_after_it_left_its_place_takes_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    at_once = AtOnce(2, 3)
    monkeypatch.setattr(limits, "GIVEN_UP_REST_S", 0.02)
    opened = [await at_once.enter("a", soon()) for _ in range(2)]
    for place in opened:
        place.leave()
    opened += [await at_once.enter("a", soon()) for _ in range(2)]
    for place in opened[:2]:
        place.give_up()
    waiting = asyncio.create_task(at_once.enter("a", soon()))
    for place in opened[2:]:
        place.leave()
    await asyncio.sleep(0)
    assert not waiting.done()
    (await waiting).leave()
    await entered(at_once, "a", soon())
