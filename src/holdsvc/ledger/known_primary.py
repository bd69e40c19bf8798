"""What is remembered of the primary: the latest timeline seen by this process, by others of its folder, by Patroni."""

import asyncio
import json
import os
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import structlog

from holdsvc.settings import PREFIX, SettingsError

log = structlog.get_logger(__name__)

PATRONI_TIMEOUT_S = 1.0
PATRONI_BYTES_MAX = 1024 * 1024


class Known(NamedTuple):
    """A primary as far as it can be compared with another: the later one is the greater one."""

    restore_mark: int
    """An operator has begun a new epoch: then timelines and clusters of before say nothing."""
    timeline: int
    system: str


class Memory:
    """The latest primary of a cell ever seen, in a file that the processes of a folder share.

    Without a folder it is known to this process alone.

    Every process writes what is later than the file. No lock is needed: what two of them overwrite is written again
    with the next look.
    """

    def __init__(self, folder: Path | None, cell: str) -> None:
        self._file = None if folder is None else folder / (f"primary-{cell}.json" if cell else "primary.json")
        self.known: Known | None = None
        self._told_failure = False
        if self._file is None:
            return
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            self._read(self._file)
        except OSError as error:
            raise SettingsError(f"{PREFIX}STATE_DIR: {self._file}: {error.strerror}") from error
        except ValueError as error:
            raise SettingsError(
                f"{PREFIX}STATE_DIR: {self._file} cannot be read ({error}): if the database that answers now is the "
                "right one, delete the file"
            ) from error

    def learn(self, seen: Known | None) -> None:
        """Remembers a primary, if it is later than what is known; takes up what other processes have learnt."""
        if seen is not None and _later(seen, self.known):
            self.known = seen
        if self._file is None:
            return
        try:
            written = self._read(self._file)
            if self.known is not None and _later(self.known, written):
                self._write(self._file, self.known)
            self._told_failure = False
        except (OSError, ValueError) as error:
            if not self._told_failure:
                self._told_failure = True
                log.error("primary.not_remembered", file=str(self._file), error=str(error))  # noqa: TRY400

    def _read(self, file: Path) -> Known | None:
        try:
            content = json.loads(file.read_text())
        except FileNotFoundError:
            return None
        try:
            written = Known(int(content["restore_mark"]), int(content["timeline"]), str(content["system"]))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{error!r}") from error
        if _later(written, self.known):
            self.known = written
        return written

    @staticmethod
    def _write(file: Path, known: Known) -> None:
        part = file.with_name(f"{file.name}.{os.getpid()}")
        with part.open("w") as sink:
            json.dump(known._asdict(), sink)
            sink.flush()
            os.fsync(sink.fileno())
        part.replace(file)


def _later(one: Known, other: Known | None) -> bool:
    """Timelines of two clusters are not compared: what was known first stays, until an operator begins an epoch."""
    if other is None or one.restore_mark > other.restore_mark:
        return True
    return one.restore_mark == other.restore_mark and one.system == other.system and one.timeline > other.timeline


async def patroni_timeline(urls: Sequence[str]) -> int:
    """The timeline of the leader that Patroni names at the first of its addresses that answers; 0: none does."""
    if not urls:
        return 0
    answers = await asyncio.gather(*(asyncio.to_thread(_leaders_timeline, url) for url in urls))
    return max(answers)


def _leaders_timeline(url: str) -> int:
    # Without the proxies of the environment: Patroni is in the same network as the database.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"{url.rstrip('/')}/cluster", timeout=PATRONI_TIMEOUT_S) as answer:
            cluster = json.loads(answer.read(PATRONI_BYTES_MAX))
        members = [each for each in cluster["members"] if each["role"] in ("leader", "master")]
        return max((int(each.get("timeline", 0)) for each in members), default=0)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        log.debug("primary.patroni_silent", url=url, error=type(error).__name__)
        return 0
