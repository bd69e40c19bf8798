"""How much of the loop watchers may have."""

import pytest

from holdsvc.engine.share import Share

LEAST = 0.1


def after(share: Share, seconds: float, calls: float, *, eager: bool = False) -> float:
    """The share after some time in which calls want a part of the loop; eager ones take what is left, too."""
    for _ in range(int(seconds / 0.05)):
        idle = 0.0 if eager else max(0.0, 1 - calls - share.value)
        share.adapt(idle)
    return share.value


def test_an_idle_loop_gives_nearly_all_of_its_time() -> None:
    assert after(Share(LEAST), 5, calls=0) > 0.7


def test_callers_that_take_whatever_the_loop_has_leave_the_least_within_two_seconds() -> None:
    assert after(Share(LEAST), 2.0, calls=0.9, eager=True) == pytest.approx(LEAST, abs=0.01)


def test_callers_that_need_half_of_the_loop_leave_the_other_half_but_for_a_small_part_of_the_loop() -> None:
    share = Share(LEAST)
    assert after(share, 3, calls=0.5) == pytest.approx(0.44, abs=0.01)
    assert after(share, 0.1, calls=0.5) == pytest.approx(0.44, abs=0.01)


def test_one_busy_moment_takes_little_of_the_share() -> None:
    share = Share(LEAST)
    before = after(share, 3, calls=0.5)
    share.adapt(idle=0.0)
    assert share.value > 0.95 * before


def test_the_share_comes_back_when_the_calls_are_fewer() -> None:
    share = Share(LEAST)
    after(share, 3, calls=1, eager=True)
    assert after(share, 1.5, calls=0.3) > 0.5


def test_a_loop_that_is_too_busy_even_for_the_least_leaves_the_least() -> None:
    assert after(Share(LEAST), 3, calls=1.5) == pytest.approx(LEAST, abs=0.01)


def test_a_thread_that_waits_for_a_processor_gives_less_but_not_nothing() -> None:
    share = Share(LEAST)
    for _ in range(60):
        share.adapt(idle=0.0, got=0.8)
    assert share.value == pytest.approx(0.8 * LEAST, abs=0.005)
    for _ in range(60):
        share.adapt(idle=0.0, got=0.1)
    assert share.value == pytest.approx(0.7 * LEAST, abs=0.01)
