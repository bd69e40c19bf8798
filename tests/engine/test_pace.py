"""What a lane expects of itself."""

import pytest

from holdsvc.engine.admission import Pace


def test_a_lane_that_has_run_nothing_expects_no_wait() -> None:
    assert Pace(500).wait_s(10_000) == 0


def test_the_wait_is_that_of_the_batches_ahead_and_the_one_under_way_and_its_own() -> None:
    pace = Pace(10)
    for _ in range(200):
        pace.ran(0.1)
    assert pace.wait_s(0) == pytest.approx(0.2, rel=0.01)
    assert pace.wait_s(35) == pytest.approx(0.5, rel=0.01)


def test_one_slow_batch_hardly_counts_and_fast_ones_are_believed_soon() -> None:
    pace = Pace(10)
    for _ in range(200):
        pace.ran(0.01)
    pace.ran(1.0)
    assert pace.wait_s(0) < 0.25
    for _ in range(6):
        pace.ran(0.01)
    assert pace.wait_s(0) < 0.03
