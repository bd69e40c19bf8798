"""Admission: whether a request could be answered in time, from the average time of its lane's batches.

A queue that is bounded by its length alone answers every call too late once more calls come than are answered.
"""

SLOWER_WEIGHT = 0.1
FASTER_WEIGHT = 0.5
"""Weights of the latest batch in the average.

One slow batch (a first plan, a checkpoint) is no reason to refuse calls; a fast one shows what is possible.
"""

DEADLINE_SHARE = 0.5
"""The share of the time to its deadline that a request may wait."""

NO_LOAD_S = 0.05
"""A wait that is no load: a request with less time is queued all the same, and ends at its own deadline."""


class Pace:
    """The average time of a lane's batches."""

    def __init__(self, batch_max: int) -> None:
        self._batch_max = batch_max
        self._batch_s = 0.0

    def ran(self, seconds: float) -> None:
        """Takes the time of a batch; of one that ran beside another, half."""
        weight = SLOWER_WEIGHT if seconds > self._batch_s else FASTER_WEIGHT
        self._batch_s += weight * (seconds - self._batch_s)

    def wait_s(self, ahead: int) -> float:
        """How long until the request after `ahead` others is answered, one batch being under way."""
        return (ahead // self._batch_max + 2) * self._batch_s
