"""The machine and the versions of a measurement."""

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from benchmark.load import LOADTEST

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
PACKAGES = ("grpcio", "protobuf", "psycopg", "uvloop")


def describe(postgres_version: str) -> dict[str, str]:
    """Machine, versions, date and commit, in the order of the report."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": _commit(),
        "machine": f"{os.cpu_count()} cores of {_processor()}, {_memory_gb():.0f} GB",
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "postgresql": f"{postgres_version} (fsync on)",
        "packages": ", ".join(f"{name} {version(name)}" for name in PACKAGES),
    }


class Meter:
    """Measures the processor time of others: all that is busy and not used by this process or its descendants."""

    def __init__(self) -> None:
        self._before = self._read()

    @staticmethod
    def _read() -> tuple[float, float, float]:
        return (*_machine_s(), family_s(os.getpid()))

    def others(self) -> float:
        """Share of all processors since the last call, time stolen by the hypervisor included."""
        after = self._read()
        busy, total, own = (new - old for new, old in zip(after, self._before, strict=True))
        self._before = after
        return max(0.0, busy - own) / max(0.01, total)


def _machine_s() -> tuple[float, float]:
    """Busy and total time of all processors."""
    numbers = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    total = sum(numbers)
    return (total - numbers[3] - numbers[4]) / TICKS_PER_S, total / TICKS_PER_S


def family_s(root: int) -> float:
    """Processor time of a process and its descendants, ended ones that were waited for included."""
    parents: dict[int, int] = {}
    spent: dict[int, int] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue  # the process has ended
            parents[int(folder.name)] = int(fields[1])
            spent[int(folder.name)] = sum(int(field) for field in fields[11:15])
    family = {root}
    grown = 0
    while grown != len(family):
        grown = len(family)
        family |= {pid for pid, parent in parents.items() if parent in family}
    return sum(spent[pid] for pid in family) / TICKS_PER_S


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    try:
        answer = subprocess.run(command, cwd=LOADTEST, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return answer.stdout.strip()


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _memory_gb() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
