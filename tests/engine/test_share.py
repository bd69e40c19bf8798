"""How much of the loop watchers may have."""

import pytest

from holdsvc.streams.share import LEFT, Share

LEAST = 0.1


def after(share: Share, seconds: float, calls: float, *, eager: bool = False, watchers: float = 1.0) -> float:
    """The share after some time in which calls want a part of the loop; eager ones take what is left, too.

    Watchers use what they may have, up to a part of the loop.
    """
    for _ in range(int(seconds / 0.05)):
        room = 1.0 if eager else max(LEAST, 1.0 - calls)
        sent = min(watchers, share.value, room)
        busy = 1.0 if eager else min(1.0, calls + sent)
        share.spend(0.05 * sent)
        share.adapt(0.05, 0.05 * busy)
    return share.value


def test_an_idle_loop_gives_nearly_all_of_its_time() -> None:
    assert after(Share(LEAST), 5, calls=0) == pytest.approx(1 - LEFT)


def test_callers_that_take_whatever_the_loop_has_leave_half_of_it_within_a_second_and_the_least_within_three() -> None:
    share = Share(LEAST)
    assert after(share, 1.0, calls=0.9, eager=True) < 0.5
    assert after(share, 2.0, calls=0.9, eager=True) == pytest.approx(LEAST, abs=0.01)


def test_half_a_second_in_which_all_is_slow_leaves_watchers_most_of_a_scarce_share() -> None:
    share = Share(LEAST)
    before = after(share, 3, calls=0.55, watchers=0.3)
    assert after(share, 0.5, calls=0.9, watchers=0.3, eager=True) > 0.6 * before


def test_callers_that_need_half_of_the_loop_leave_the_other_half_but_for_a_small_part_of_the_loop() -> None:
    share = Share(LEAST)
    assert after(share, 3, calls=0.5) == pytest.approx(0.5 - LEFT, abs=0.01)
    assert after(share, 0.1, calls=0.5) == pytest.approx(0.5 - LEFT, abs=0.01)


def test_what_watchers_leave_unused_does_not_make_their_share_grow_or_fall() -> None:
    share = Share(LEAST)
    assert after(share, 3, calls=0.5, watchers=0.1) == pytest.approx(0.5 - LEFT, abs=0.01)
    assert after(share, 3, calls=0.5, watchers=0.4) == pytest.approx(0.5 - LEFT, abs=0.01)


def test_a_busy_moment_takes_a_part_of_the_share_and_it_comes_back() -> None:
    share = Share(LEAST)
    before = after(share, 3, calls=0.5)
    share.adapt(0.05, 0.05)
    assert share.value > 0.6 * before
    assert after(share, 1, calls=0.5) == pytest.approx(before, abs=0.01)


def test_the_share_comes_back_when_the_calls_are_fewer() -> None:
    share = Share(LEAST)
    after(share, 3, calls=1, eager=True)
    assert after(share, 1, calls=0.3) > 0.5


def test_a_loop_that_is_too_busy_even_for_the_least_leaves_the_least() -> None:
    assert after(Share(LEAST), 3, calls=1.5) == pytest.approx(LEAST, abs=0.01)


def test_a_thread_that_waits_for_a_processor_gives_less_but_not_nothing() -> None:
    share = Share(LEAST)
    for _ in range(60):
        share.adapt(0.05, 0.04, 0.01)
    assert share.value == pytest.approx(0.8 * LEAST, abs=0.005)
    for _ in range(60):
        share.adapt(0.05, 0.005, 0.045)
    assert share.value == pytest.approx(0.7 * LEAST, abs=0.01)


def test_a_thread_that_neither_ran_nor_waited_gives_nearly_all_of_its_time() -> None:
    share = Share(LEAST)
    share.adapt(0.05, 0.0)
    assert share.value == pytest.approx(1 - LEFT)
