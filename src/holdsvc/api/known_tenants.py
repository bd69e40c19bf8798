"""What is remembered of tenants that have moved: it outlives the processes of a machine, and the silence of a cell.

A cell that was put back to a time before a move still says that it has the tenant. A process that starts while the cell
where the tenant lives does not answer knows better by this alone.
"""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import structlog

from holdsvc.settings import PREFIX, SettingsError

log = structlog.get_logger(__name__)


class Home(NamedTuple):
    """Where a tenant lives: of two of these the greater one is right."""

    version: int
    cell: str


class KnownTenants:
    """The latest homes of tenants that have moved, in a file that the processes of a folder share; None: in no file.

    Every process writes what is later than the file, so no lock is needed: what two of them overwrite is written again
    with the next look.
    """

    def __init__(self, folder: Path | None) -> None:
        self._file = None if folder is None else folder / "tenants.json"
        self.homes: dict[str, Home] = {}
        self._written: dict[str, Home] = {}
        self._read_ns = 0
        self._told_failure = False
        try:
            if self._file is not None:
                self._read(self._file)
        except (OSError, ValueError) as error:
            raise SettingsError(
                f"{PREFIX}STATE_DIR: {self._file} cannot be read ({error}): if all cells answer, they know it all:"
                " delete the file"
            ) from error

    def learn(self, tenant: str, home: Home) -> bool:
        """Takes note of a home; False: it is known, or a later one is."""
        if (known := self.homes.get(tenant)) is not None and home <= known:
            return False
        self.homes[tenant] = home
        return True

    def share(self) -> Iterable[str]:
        """Takes up what other processes have written, and writes what they lack; returns the tenants that were new."""
        if self._file is None:
            return ()
        learnt: list[str] = []
        try:
            learnt = self._read(self._file)
            if self._written != self.homes:
                self._write(self._file)
            self._told_failure = False
        except (OSError, ValueError) as error:
            if not self._told_failure:
                self._told_failure = True
                log.error("tenants.not_remembered", file=str(self._file), error=str(error))  # noqa: TRY400
        return learnt

    def _read(self, file: Path) -> list[str]:
        try:
            changed_ns = file.stat().st_mtime_ns
        except FileNotFoundError:
            self._written = {}
            return []
        if changed_ns == self._read_ns:
            return []
        content = json.loads(file.read_text())
        try:
            self._written = {tenant: Home(int(version), str(cell)) for tenant, (version, cell) in content.items()}
        except (AttributeError, TypeError) as error:
            raise ValueError(str(error)) from error
        self._read_ns = changed_ns
        return [tenant for tenant, home in self._written.items() if self.learn(tenant, home)]

    def _write(self, file: Path) -> None:
        part = file.with_name(f"{file.name}.{os.getpid()}")
        with part.open("w") as sink:
            json.dump(self.homes, sink)
            sink.flush()
            os.fsync(sink.fileno())
        part.replace(file)
        self._written = dict(self.homes)
