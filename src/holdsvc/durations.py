"""Durations as people write them: `500ms`, `90s`, `30m`, `24h`, `2d`, `1h30m`."""

import re
from datetime import timedelta

_UNITS = {
    "ms": timedelta(milliseconds=1),
    "s": timedelta(seconds=1),
    "m": timedelta(minutes=1),
    "h": timedelta(hours=1),
    "d": timedelta(days=1),
}
_DURATION = re.compile(r"(\d+(?:ms|s|m|h|d))+", re.ASCII)
_DURATION_PART = re.compile(r"(\d+)(ms|s|m|h|d)", re.ASCII)


def parse_duration(value: object) -> timedelta:
    """Reads `500ms`, `90s`, `30m`, `24h`, `2d`, a chain such as `1h30m`, or `0`."""
    if isinstance(value, timedelta):
        return value
    text = str(value).strip()
    if text == "0":
        return timedelta()
    if not _DURATION.fullmatch(text):
        raise ValueError(
            f"{text!r} is not a duration: write a whole number with its unit, as in 500ms, 90s, 30m, 24h, 2d"
        )
    try:
        return sum((int(count) * _UNITS[unit] for count, unit in _DURATION_PART.findall(text)), timedelta())
    except OverflowError as error:
        raise ValueError(f"{text!r} is too long a duration") from error


def format_duration(value: timedelta) -> str:
    """Writes a duration as `parse_duration` reads it, in the largest unit that is exact; below a millisecond is cut."""
    for unit, length in (("h", _UNITS["h"]), ("m", _UNITS["m"]), ("s", _UNITS["s"])):
        if value and not value % length:
            return f"{value // length}{unit}"
    return f"{value // _UNITS['ms']}ms" if value else "0"
