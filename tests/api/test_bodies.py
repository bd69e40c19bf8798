"""Request bodies on their way: a turn for each, and who is given up for those who wait."""

import asyncio
import time
from dataclasses import dataclass, field

import pytest

from holdsvc.api.bodies import LOOK_S, Bodies
from holdsvc.errors import HoldError

PATIENCE_S = 4 * LOOK_S


@dataclass
class Caller:
    """A call whose body comes when the test says so."""

    body: asyncio.Future[object] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    asked: asyncio.Event = field(default_factory=asyncio.Event)

    async def read(self) -> object:
        self.asked.set()
        return await self.body


def begin(bodies: Bodies, count: int, client: str = "one") -> tuple[list[Caller], list[asyncio.Task[bytes]]]:
    callers = [Caller() for _ in range(count)]
    return callers, [asyncio.create_task(bodies.read(caller, client)) for caller in callers]


async def test_a_body_is_asked_for_only_in_its_turn() -> None:
    bodies = Bodies(2)
    callers, tasks = begin(bodies, 3)
    await callers[1].asked.wait()
    assert not callers[2].asked.is_set()
    callers[1].body.set_result(b"1")
    await callers[2].asked.wait()
    callers[0].body.set_result(b"0")
    callers[2].body.set_result(b"2")
    assert await asyncio.gather(*tasks) == [b"0", b"1", b"2"]


async def test_a_body_that_takes_long_keeps_its_turn_while_no_other_waits() -> None:
    bodies = Bodies(2, patience_s=PATIENCE_S)
    callers, tasks = begin(bodies, 2)
    await asyncio.wait(tasks, timeout=3 * PATIENCE_S)
    assert not any(task.done() for task in tasks)
    for caller in callers:
        caller.body.set_result(b"late")
    assert await asyncio.gather(*tasks) == [b"late", b"late"]


async def test_the_oldest_bodies_that_take_long_are_given_up_as_many_as_wait() -> None:
    bodies = Bodies(3, patience_s=PATIENCE_S)
    callers, tasks = begin(bodies, 5)
    async with asyncio.timeout(5):
        await asyncio.gather(callers[3].asked.wait(), callers[4].asked.wait())
    for task in tasks[:2]:
        with pytest.raises(HoldError) as refused:
            await task
        assert refused.value.reason == "OVERLOADED"
    for caller in callers[2:]:
        caller.body.set_result(b"complete")
    assert await asyncio.gather(*tasks[2:]) == [b"complete"] * 3


async def test_a_client_whose_bodies_take_long_keeps_no_other_client_waiting() -> None:
    bodies = Bodies(3, client_max=2, patience_s=PATIENCE_S)
    slow, slow_tasks = begin(bodies, 4, "slow")
    await slow[1].asked.wait()
    for _ in range(10):
        [caller], [task] = begin(bodies, 1, "other")
        caller.body.set_result(b"complete")
        assert await task == b"complete"
    assert not slow[2].asked.is_set()
    # Only its own calls wait: they end its own bodies.
    [caller], [task] = begin(bodies, 1, "other")
    async with asyncio.timeout(5):
        await asyncio.gather(*(each.asked.wait() for each in slow))
    assert not task.done()
    caller.body.set_result(b"complete")
    assert await task == b"complete"
    for each in slow[2:]:
        each.body.set_result(b"complete")
    found = await asyncio.gather(*slow_tasks, return_exceptions=True)
    assert [isinstance(each, HoldError) for each in found] == [True, True, False, False]


async def test_the_more_calls_of_a_client_wait_the_sooner_its_bodies_are_given_up() -> None:
    bodies = Bodies(8, client_max=2, patience_s=10 * PATIENCE_S)
    _, few = begin(bodies, 3, "few")
    _, many = begin(bodies, 100, "many")
    with pytest.raises(HoldError):
        await many[0]
    assert not any(task.done() for task in few)
    with pytest.raises(HoldError):
        await few[0]
    for task in (*few, *many):
        task.cancel()
    await asyncio.gather(*few, *many, return_exceptions=True)


async def test_a_client_whose_bodies_were_given_up_is_told_so_at_once_while_as_many_wait() -> None:
    bodies = Bodies(8, client_max=2, patience_s=PATIENCE_S)
    callers, tasks = begin(bodies, 6)
    with pytest.raises(HoldError):
        await tasks[0]
    [late], [refused] = begin(bodies, 1)
    with pytest.raises(HoldError) as error:
        await refused
    assert error.value.refused.metadata == {"cause": "BODIES_MAX"}
    assert not late.asked.is_set()
    [other], [served] = begin(bodies, 1, "other")
    other.body.set_result(b"complete")
    assert await served == b"complete"
    # One that gets complete ends that.
    for caller in callers:
        if not caller.body.done():
            caller.body.set_result(b"complete")
    assert b"complete" in await asyncio.gather(*tasks, return_exceptions=True)
    late.body.set_result(b"complete")
    assert await bodies.read(late, "one") == b"complete"


async def test_a_caller_who_leaves_gives_its_turn_to_the_next() -> None:
    bodies = Bodies(1)
    callers, tasks = begin(bodies, 3)
    await callers[0].asked.wait()
    tasks[1].cancel()
    tasks[0].cancel()
    await callers[2].asked.wait()
    callers[2].body.set_result(b"complete")
    assert await tasks[2] == b"complete"
    assert [task.cancelled() for task in tasks] == [True, True, False]


async def test_a_stall_of_this_process_does_not_count_as_a_callers_delay() -> None:
    bodies = Bodies(1, patience_s=PATIENCE_S)
    callers, tasks = begin(bodies, 2)
    await callers[0].asked.wait()
    for _ in range(3):
        # Each is longer than the patience, and followed by a single round of the loop.
        time.sleep(2 * PATIENCE_S)  # noqa: ASYNC251 - the stall
        await asyncio.sleep(0)
    callers[0].body.set_result(b"delayed by this machine")
    assert await tasks[0] == b"delayed by this machine"
    callers[1].body.set_result(b"next")
    assert await tasks[1] == b"next"
