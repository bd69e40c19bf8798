"""Identifiers that the service makes."""

import os
import random
import time

_VARIANT = dict(zip("0123456789abcdef", "89ab" * 4, strict=True))
"""By a random digit: one that has the two bits of the RFC's variant and two random ones."""


class Uuid7:
    """Makes UUIDs of version 7 (RFC 9562): 48 bits of milliseconds, then 74 random ones, so that they sort by time.

    The milliseconds are the database's: this machine's clock, corrected by what the database's last answer showed, so
    that lists stay newest first also where a service's clock is off.
    """

    def __init__(self) -> None:
        self._offset_s = 0.0
        # They must be unique, not secret; a system call for each would double the cost.
        self._random = random.Random(os.urandom(32))

    def observe(self, database_time_s: float) -> None:
        """Takes a time of the database, seconds since 1970, that was read a moment ago."""
        self._offset_s = database_time_s - time.time()

    def __call__(self) -> str:
        """Returns a new UUID in its usual text form."""
        return self.many(1)[0]

    def many(self, count: int) -> list[str]:
        """Returns new UUIDs of one millisecond."""
        time_hex = f"{int((time.time() + self._offset_s) * 1000) & 0xFFFFFFFFFFFF:012x}"
        head = f"{time_hex[:8]}-{time_hex[8:]}-7"
        random_hex = self._random.randbytes(10 * count).hex()
        return [
            f"{head}{part[:3]}-{_VARIANT[part[3]]}{part[4:7]}-{part[7:19]}"
            for part in [random_hex[start : start + 20] for start in range(0, 20 * count, 20)]
        ]
