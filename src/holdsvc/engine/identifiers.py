"""Identifiers that the service makes."""

import os
import random
import time


class Uuid7:
    """Makes UUIDs of version 7 (RFC 9562): 48 bits of milliseconds, then 74 random ones, so that they sort by time.

    The milliseconds are the database's: this machine's clock, corrected by what the database's last answer showed, so
    that lists stay newest first also where a service's clock is off.
    """

    def __init__(self) -> None:
        self._offset_s = 0.0
        # They must be unique, not secret: a system call for each would cost as much as all the rest.
        self._random = random.Random(os.urandom(32))

    def observe(self, database_time_s: float) -> None:
        """Takes a time of the database, seconds since 1970, that was read a moment ago."""
        self._offset_s = database_time_s - time.time()

    def __call__(self) -> str:
        """Returns a new UUID in its usual text form."""
        milliseconds = int((time.time() + self._offset_s) * 1000)
        bits = self._random.getrandbits(74)
        value = (
            (milliseconds & 0xFFFFFFFFFFFF) << 80
            | 0x7000 << 64
            | (bits >> 62) << 64
            | 0x8000 << 48
            | bits & 0x3FFFFFFFFFFFFFFF
        )
        text = f"{value:032x}"
        return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
