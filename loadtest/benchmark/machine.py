"""Where and with what was measured."""

import os
import platform
import subprocess
import time
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

from benchmark.load import LOADTEST

PACKAGES = ("grpcio", "protobuf", "psycopg", "uvloop")


def describe(postgres_version: str) -> dict[str, str]:
    """Machine, versions, date and commit, in the order in which they are printed."""
    return {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": _commit(),
        "machine": f"{os.cpu_count()} × {_processor()}, {_memory_gb():.0f} GB, {platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "postgresql": f"{postgres_version} (fsync on)",
        "packages": ", ".join(f"{name} {version(name)}" for name in PACKAGES),
    }


def foreign_share(seconds: float = 1.0) -> float:
    """How much of the machine others use: of all processors, while this process sleeps."""
    before = _jiffies()
    time.sleep(seconds)
    busy, total = (after - first for after, first in zip(_jiffies(), before, strict=True))
    return busy / max(1, total)


def _jiffies() -> tuple[int, int]:
    numbers = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    total = sum(numbers)
    return total - numbers[3] - numbers[4], total


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
