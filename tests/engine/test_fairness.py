"""Fair queueing: what a tenant may take of the slots, and whose turn is next."""

import asyncio

import pytest

from holdsvc.engine.fairness import ABANDONED_S, BUSY_S, REST, SHORT_S, Activity, FairQueue
from holdsvc.errors import HoldError
from tests.engine.lanes import LoopClock


class Work:
    """Turns that run until they are told to end."""

    def __init__(self, queue: FairQueue) -> None:
        self._queue = queue
        self.running: list[str] = []
        self._ends: dict[str, asyncio.Event] = {}

    def start(self, name: str) -> asyncio.Task[None]:
        """Starts a turn; the first letter of its name is its tenant."""
        self._ends[name] = asyncio.Event()
        return asyncio.ensure_future(self._run(name))

    async def _run(self, name: str) -> None:
        async with self._queue.turn(name[0]):
            self.running.append(name)
            try:
                await self._ends[name].wait()
            finally:
                self.running.remove(name)

    async def end(self, name: str) -> None:
        """Ends a turn, and lets the next ones begin."""
        self._ends[name].set()
        await settled()


async def settled() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_free_slots_go_to_the_tenants_in_rotation() -> None:
    work = Work(FairQueue(2, 2, 100))
    for name in ("a1", "a2", "a3", "a4", "b1", "b2", "c1"):
        work.start(name)
        await settled()
    assert work.running == ["a1", "a2"]
    await work.end("a1")
    assert work.running == ["a2", "a3"]
    await work.end("a2")
    assert work.running == ["a3", "b1"]
    await work.end("a3")
    assert work.running == ["b1", "c1"]
    await work.end("b1")
    assert work.running == ["c1", "a4"]
    await work.end("c1")
    assert work.running == ["a4", "b2"]
    await work.end("a4")
    await work.end("b2")
    assert work.running == []


async def test_one_tenant_leaves_slots_for_the_others() -> None:
    work = Work(FairQueue(3, 2, 100))
    for name in ("a1", "a2", "a3"):
        work.start(name)
    await settled()
    assert work.running == ["a1", "a2"]
    work.start("b1")
    await settled()
    assert work.running == ["a1", "a2", "b1"]
    for name in ("a1", "a2", "a3", "b1"):
        await work.end(name)


async def test_long_turns_of_a_tenant_run_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = LoopClock(monkeypatch)
    work = Work(FairQueue(3, 3, 100))
    work.start("a1")
    await settled()
    clock.advance(2 * SHORT_S)
    await work.end("a1")
    for name in ("a2", "a3", "b1", "b2"):
        work.start(name)
    await settled()
    assert work.running == ["a2", "b1", "b2"]
    for name in ("a2", "a3", "b1", "b2"):
        await work.end(name)
    # Short ones again: the average of the tenant falls, and its turns run side by side.
    for number in range(10, 20):
        work.start(f"a{number}")
        await settled()
        await work.end(f"a{number}")
    for name in ("a4", "a5", "a6"):
        work.start(name)
    await settled()
    assert work.running == ["a4", "a5", "a6"]
    for name in ("a4", "a5", "a6"):
        await work.end(name)


async def test_more_than_may_wait_are_refused() -> None:
    queue = FairQueue(1, 1, 2)
    work = Work(queue)
    for name in ("a1", "a2", "a3"):
        work.start(name)
    await settled()
    assert queue.depth == 2
    with pytest.raises(HoldError) as refused:
        await work.start("a4")
    assert (refused.value.reason, refused.value.refused.metadata) == ("OVERLOADED", {"cause": "QUEUE_FULL"})
    other = work.start("b1")
    for name in ("a1", "b1", "a2", "a3"):
        await work.end(name)
    await other
    assert queue.depth == 0


async def test_a_turn_that_is_cancelled_gives_its_place_to_the_next() -> None:
    work = Work(FairQueue(1, 1, 100))
    first = work.start("a1")
    await settled()
    waiting = work.start("a2")
    chosen = work.start("b1")
    last = work.start("b2")
    await settled()
    waiting.cancel()
    await settled()
    # The slot is given and its taker cancelled in the same round: the one after it gets it.
    first.cancel()
    await asyncio.sleep(0)
    chosen.cancel()
    await settled()
    assert work.running == ["b2"]
    await work.end("b2")
    await last


async def test_a_turn_that_is_cancelled_in_the_round_in_which_a_slot_becomes_free_is_passed_over() -> None:
    work = Work(FairQueue(1, 1, 100))
    first = work.start("a1")
    await settled()
    waiting = [work.start(name) for name in ("a2", "b1", "b2")]
    await settled()
    for task in (first, waiting[0], waiting[1]):
        task.cancel()
    await settled()
    assert work.running == ["b2"]
    await work.end("b2")
    await waiting[2]


async def test_a_tenant_that_must_rest_leaves_its_turns_to_others_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = LoopClock(monkeypatch)
    work = Work(FairQueue(2, 1, 100, lambda tenant, _average_s: tenant == "a"))
    for name in ("a1", "a2", "b1", "b2"):
        work.start(name)
    await settled()
    clock.advance(0.01)
    await work.end("a1")
    await work.end("b1")
    assert work.running == ["b2"]
    clock.advance(REST * 0.01)
    async with asyncio.timeout(5):
        while work.running != ["b2", "a2"]:
            await asyncio.sleep(0)


async def test_a_turn_that_is_cancelled_counts_as_a_long_one() -> None:
    averages: list[float] = []

    def must_rest(_tenant: str, average_s: float) -> bool:
        averages.append(average_s)
        return False

    work = Work(FairQueue(1, 1, 100, must_rest))
    turn = work.start("a1")
    await settled()
    turn.cancel()
    await settled()
    assert averages == [ABANDONED_S]


async def test_a_tenant_is_busy_for_a_moment_after_its_change(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = LoopClock(monkeypatch)
    activity = Activity()
    assert not activity.any()
    activity.note("a")
    assert (activity.any(), activity.beside("a"), activity.beside("b")) == (True, False, True)
    activity.note("b")
    activity.note("b")
    assert (activity.beside("a"), activity.beside("b")) == (True, True)
    clock.advance(BUSY_S)
    activity.note("b")
    assert (activity.beside("a"), activity.beside("b")) == (True, False)
    clock.advance(BUSY_S)
    assert not activity.any()
