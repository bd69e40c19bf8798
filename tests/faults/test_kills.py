"""kill -9 of everything, under load: an acknowledged call is durable, any other happened once or not at all."""

import asyncio
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from holdsvc.embedded.server import running_dsn
from tests.faults.callers import Callers
from tests.faults.history import History
from tests.support.replica import Replica
from tests.support.sessions import snapshot

ROUNDS = int(os.environ.get("HOLDSVC_TEST_FAULT_ROUNDS", "1"))


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory, prepared: Path) -> Iterator[Replica]:
    folder = tmp_path_factory.mktemp("kills")
    service = Replica(folder, data_dir=shutil.copytree(prepared, folder / "data"), workers=2)
    service.start()
    yield service
    service.terminate()


@pytest.fixture(scope="module")
def history() -> History:
    """The module's tests share a ledger, so they share its history."""
    return History()


def a_worker(serving: Replica) -> None:
    serving.workers()[0].kill()


def the_service(serving: Replica) -> None:
    serving.kill()
    # The next one waits for the data folder's lock: the old PostgreSQL ends by itself.
    serving.start()


def a_backend(serving: Replica) -> None:
    """PostgreSQL answers the crash of one backend by restarting all of them."""
    dsn = running_dsn(serving.data_dir)
    assert dsn is not None
    with psycopg.connect(dsn) as connection:
        busy = connection.execute("SELECT pid FROM pg_stat_activity WHERE application_name = 'holdsvc'").fetchone()
    assert busy is not None
    # The pid is that of PostgreSQL's own namespace, where there is one.
    children = serving.postmaster().children()
    backend = next((child for child in children if child.pid == busy[0]), None) or children[-1]
    backend.kill()


def connections_cut(serving: Replica) -> None:
    dsn = running_dsn(serving.data_dir)
    assert dsn is not None
    with psycopg.connect(dsn) as connection:
        connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'holdsvc'")


def postgres(serving: Replica) -> None:
    serving.postmaster().send_signal(signal.SIGKILL)


@pytest.mark.parametrize("fault", [a_worker, connections_cut, a_backend, postgres, the_service])
async def test_after_a_kill_nothing_acknowledged_is_lost_and_nothing_took_effect_twice(
    serving: Replica, history: History, fault: Callable[[Replica], None]
) -> None:
    async with Callers(serving.address, history=history) as callers:
        await callers.progress(200)
        recovered_s = 0.0
        for _ in range(ROUNDS):
            await asyncio.to_thread(fault, serving)
            recovered_s = await callers.progress(200, timeout_s=100)
    print(fault.__name__, f"recovered in {recovered_s:.1f} s", callers.history.summary())  # noqa: T201
    serving.wait_serving()
    dsn = running_dsn(serving.data_dir)
    assert dsn is not None
    with snapshot(dsn) as sql:
        history.check(sql)
    assert history.summary()["unknown"] == 0
