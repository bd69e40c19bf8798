"""How fast a lane goes: what tells, before a request is queued, whether it could be answered in time.

A queue that is only bounded by its length answers everybody too late once more comes than goes: each call waits, misses
its deadline, and its place was wasted. Refused at once, the excess costs nothing and the others are answered.
"""

SLOWER_WEIGHT = 0.1
FASTER_WEIGHT = 0.5
"""Weights of the latest batch in the average.

One slow batch (a first plan, a checkpoint) is no reason to refuse anybody; a fast one shows what is possible.
"""

DEADLINE_SHARE = 0.5
"""Of a request's time, how much the wait may take.

With 0.8 a hiccup of the machine made 6 % of the accepted calls late.
"""


class Pace:
    """The average time of a lane's batches."""

    def __init__(self, batch_max: int) -> None:
        self._batch_max = batch_max
        self._batch_s = 0.0

    def ran(self, seconds: float) -> None:
        """A batch has run; of the time of one that had another beside it, half counts."""
        weight = SLOWER_WEIGHT if seconds > self._batch_s else FASTER_WEIGHT
        self._batch_s += weight * (seconds - self._batch_s)

    def wait_s(self, ahead: int) -> float:
        """How long until the request after `ahead` others is answered, one batch being under way."""
        return (ahead // self._batch_max + 2) * self._batch_s
