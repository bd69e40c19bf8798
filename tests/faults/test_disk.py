"""The disk under PostgreSQL runs full: no success is claimed that is none, and it heals when there is room again."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdsvc.embedded.server import running_dsn
from tests.faults.callers import Callers
from tests.support.polling import wait_until
from tests.support.replica import Replica
from tests.support.sessions import snapshot

SIZE = "170m"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, check=False, capture_output=True).returncode != 0:
        pytest.skip("needs to mount a small tmpfs: run as root, with CAP_SYS_ADMIN")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(ballast: Path) -> None:
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"\0" * 65536)
        except OSError:
            pass


def check_history(serving: Replica, callers: Callers) -> None:
    """The tables hold what the callers were told, and every caller knows what became of its call."""
    dsn = running_dsn(serving.data_dir)
    assert dsn is not None
    with snapshot(dsn) as sql:
        callers.history.check(sql)
    assert callers.history.summary()["unknown"] == 0


async def test_postgres_killed_on_a_full_disk_comes_back_once_there_is_room(small_disk: Path, tmp_path: Path) -> None:
    serving = Replica(tmp_path, data_dir=small_disk / "data")
    try:
        serving.start()
        async with Callers(serving.address) as callers:
            await callers.progress(50)
            fill(small_disk / "ballast")
            serving.postmaster().kill()
            # Most often it cannot start; where recovery needs no room it can, and then has none for its work.
            await asyncio.to_thread(wait_for_text, tmp_path / "serve.log", "database.restart_failed", 5)
            (small_disk / "ballast").unlink()
            recovered_s = await callers.progress(50, timeout_s=100)
        print(f"{recovered_s:.1f} s for 50 calls after there was room, {callers.history.summary()}")  # noqa: T201
        check_history(serving, callers)
    finally:
        serving.terminate()


def wait_for_text(path: Path, text: str, timeout_s: float) -> None:
    wait_until(lambda: text in path.read_text(errors="replace"), timeout_s=timeout_s)


async def test_a_full_disk_loses_nothing_and_heals(small_disk: Path, tmp_path: Path) -> None:
    serving = Replica(tmp_path, data_dir=small_disk / "data")
    try:
        serving.start()
        async with Callers(serving.address, count=24) as callers:
            await callers.progress(100)
            fill(small_disk / "ballast")
            start = time.monotonic()
            # Until nothing goes any more, or long enough.
            while time.monotonic() - start < 12:
                try:
                    await callers.progress(20, timeout_s=2)
                except TimeoutError:
                    break
            stuck_s = time.monotonic() - start
            (small_disk / "ballast").unlink()
            recovered_s = await callers.progress(100, timeout_s=100)
        print(f"stuck after {stuck_s:.1f} s, {recovered_s:.1f} s for 100 calls after that, {callers.history.summary()}")  # noqa: T201
        await asyncio.to_thread(serving.wait_serving)
        check_history(serving, callers)
    finally:
        serving.terminate()


def test_a_full_disk_under_the_log_stops_nobody() -> None:
    script = (
        "import logging, os, structlog\n"
        "from holdsvc.telemetry import logs\n"
        "logs.configure('info')\n"
        "structlog.get_logger().info('call', text='x' * 100_000)\n"
        "logging.getLogger('library').warning('lost')\n"
        "os._exit(7)\n"
    )
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([sys.executable, "-c", script], stdout=full, stderr=subprocess.PIPE, check=False)
    assert (done.returncode, done.stderr) == (7, b"")
