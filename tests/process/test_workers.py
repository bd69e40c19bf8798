"""Workers are replaced when they hang, and started again when they cannot be started."""

import os
import resource
import signal
import time
from pathlib import Path

from holdsvc.process.workforce import BEAT_INTERVAL_S, HANG_S
from holdsvc.telemetry.page import CONNECTIONS_MAX
from tests.faults import attackers
from tests.support.polling import wait_until
from tests.support.program import Client, Program, Series, serving

REPLACED_S = 15.0


def value(series: Series, name: str, **labels: str) -> float:
    return sum(
        found for (what, having), found in series.items() if what == name and labels.items() <= dict(having).items()
    )


def test_the_page_shows_version_and_processes(two: Program) -> None:
    series = two.series()
    assert value(series, "holdsvc_build_info") == 1
    for process in ("supervisor", "worker-0", "worker-1"):
        for name in ("resident_memory_bytes", "cpu_seconds_total", "open_fds", "start_time_seconds"):
            assert value(series, f"process_{name}", process=process) > 0, (name, process)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    assert value(series, "process_max_fds", process="worker-0") == hard


def test_a_worker_that_hangs_is_replaced_and_counted(two: Program) -> None:
    assert HANG_S > 10 * BEAT_INTERVAL_S
    Client(two).create_item("hang", 10)
    before = two.series()
    hung = two.children("spawn_main")[0]
    start = time.monotonic()
    os.kill(hung, signal.SIGSTOP)
    assert two.wait_for("worker.hung")["pid"] == hung
    two.serving()
    assert time.monotonic() - start < REPLACED_S
    assert hung not in two.children("spawn_main")
    assert Client(two).reserve("hang").reservation_id
    after = two.series()
    counted = {
        name: value(after, f"holdsvc_{name}") - value(before, f"holdsvc_{name}")
        for name in ("worker_hangs_total", "worker_deaths_total", "workers")
    }
    assert counted == {"worker_hangs_total": 1, "worker_deaths_total": 0, "workers": 0}


def test_a_killed_worker_leaves_its_name_to_the_next(two: Program) -> None:
    os.kill(two.children("spawn_main")[0], signal.SIGKILL)
    two.wait_for("worker.died")
    two.serving()
    wait_until(lambda: value(two.series(), "holdsvc_workers") == 2)
    names = {dict(labels).get("process") for name, labels in two.series() if name == "process_open_fds"}
    assert names == {"supervisor", "worker-0", "worker-1"}


def test_a_worker_that_cannot_be_started_is_tried_again_and_the_others_serve(two: Program) -> None:
    Client(two).create_item("start", 10)
    limits = resource.prlimit(two.pid, resource.RLIMIT_NOFILE)
    # Nothing that the supervisor has is taken from it; it cannot open more.
    resource.prlimit(two.pid, resource.RLIMIT_NOFILE, (3, limits[1]))
    os.kill(two.children("spawn_main")[0], signal.SIGKILL)
    assert "Too many open files" in two.wait_for("worker.not_started")["error"]
    assert Client(two).reserve("start").reservation_id
    resource.prlimit(two.pid, resource.RLIMIT_NOFILE, limits)
    two.serving()
    assert value(two.series(), "holdsvc_worker_start_failures_total") >= 1
    assert value(two.series(), "holdsvc_workers") == 2


def test_a_supervisor_that_stood_still_blames_no_worker(data_dir: Path) -> None:
    with serving(data_dir=data_dir) as program:
        everyone = [program.pid, *program.children("spawn_main")]
        for pid in everyone:
            os.kill(pid, signal.SIGSTOP)
        time.sleep(HANG_S + 1)
        for pid in reversed(everyone):
            os.kill(pid, signal.SIGCONT)
        Client(program).create_item("seat", 1)
        assert value(program.series(), "holdsvc_worker_hangs_total") == 0


def test_idle_connections_to_the_metrics_port_keep_no_worker_from_being_replaced(data_dir: Path) -> None:
    with serving(data_dir=data_dir) as program:
        with attackers.attacking("idle_connections", program.metrics_port):
            wait_until(lambda: value(program.series(), "process_open_fds", process="supervisor") > CONNECTIONS_MAX)
            os.kill(program.children("spawn_main")[0], signal.SIGKILL)
            program.serving()
            series = program.series()
        assert value(series, "holdsvc_workers") == 1
        assert value(series, "process_open_fds", process="supervisor") < 2 * CONNECTIONS_MAX


def test_the_file_limit_is_raised_to_what_the_system_allows(data_dir: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(512, hard), hard))
    try:
        with serving(data_dir=data_dir, anew=True) as program:
            for pid in (program.pid, *program.children("spawn_main")):
                assert resource.prlimit(pid, resource.RLIMIT_NOFILE)[0] == hard
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
