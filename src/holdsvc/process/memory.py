"""Memory that the work has freed goes back to the system: the C library keeps much of it for the next work."""

import asyncio
import ctypes
import sys
from collections.abc import Callable

INTERVAL_S = 5.0


def find_trim() -> Callable[[int], int] | None:
    """Glibc's `malloc_trim`, which a call through ctypes runs without Python's lock; None on other C libraries."""
    if sys.platform != "linux":
        return None
    found: Callable[[int], int] | None = getattr(ctypes.CDLL(None), "malloc_trim", None)
    return found


class Memory:
    """Gives free memory back, again and again."""

    def __init__(self, trim: Callable[[int], int]) -> None:
        self._trim = trim

    async def step(self) -> float:
        """Gives back what is free, in a thread; returns the pause until the next time."""
        await asyncio.to_thread(self._trim, 0)
        return INTERVAL_S
