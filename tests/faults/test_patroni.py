"""Patroni in strict synchronous mode: whatever happens to the leader, nothing acknowledged is lost or sold twice."""

import asyncio
import os
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from deploy.patroni.cluster import Cluster, Node, missing
from holdsvc.client import AsyncClient
from inventoryhold.v1 import inventory_service_pb2 as ipb
from inventoryhold.v1 import item_pb2
from tests.faults.callers import Callers
from tests.faults.history import History
from tests.faults.test_restarts import calling, progress
from tests.support.polling import wait_until
from tests.support.replica import Replica
from tests.support.sessions import snapshot, sql_of

pytestmark = pytest.mark.skipif(bool(missing()), reason=f"not installed: {', '.join(missing())}")

WAYS = os.environ.get("HOLDSVC_TEST_FAILOVERS", "crash").split(",")
"""What happens to the leader: crash (of its PostgreSQL), kill (of the node), orphan (its PostgreSQL goes on alone)."""

TIMEOUTS = {"ttl": 5, "loop_wait": 1, "retry_timeout": 2}
CALLERS = 40


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    try:
        with Cluster(tmp_path / "patroni", TIMEOUTS) as three:
            yield three
    except TimeoutError:
        for log in (tmp_path / "patroni").glob("*.log"):
            print(log.name, log.read_text(errors="replace")[-3000:], sep="\n")  # noqa: T201
        raise


@pytest.fixture
def serving(cluster: Cluster, tmp_path: Path) -> Iterator[Replica]:
    service = Replica(
        tmp_path,
        dsn=cluster.dsn,
        migrate_dsn=cluster.migrate_dsn,
        require_sync="on",
        patroni_url=",".join(cluster.rest_urls),
        drain_grace="1s",
    )
    service.start()
    yield service
    service.terminate()


# One test: three nodes take as long to start as all of it.
async def test_a_leader_that_hands_over_fails_no_call_and_one_that_dies_loses_nothing(
    cluster: Cluster, serving: Replica
) -> None:
    await switch_over(cluster, serving)
    history = History()
    for way in WAYS:
        await asyncio.to_thread(cluster.wait_complete)
        await lose_the_leader(cluster, serving, history, way)


async def lose_the_leader(cluster: Cluster, serving: Replica, history: History, way: str) -> None:
    async with Callers(serving.address, count=CALLERS, items=20, history=history) as callers:
        await callers.progress(500)
        old = cluster.leader
        died_s = time.time()
        getattr(old, way)()
        await asyncio.to_thread(wait_until, lambda: cluster.named("leader") not in ("", old.name))
        await callers.progress(500)
    gap_s, wait_s = gap(history, died_s)
    print(f"{way}: {gap_s:.1f} s without a success, the longest call took {wait_s:.1f} s")  # noqa: T201
    print(history.summary())  # noqa: T201
    # An orphan is writable too, and libpq takes the first host that is.
    with snapshot(dsn_of(cluster, cluster.leader)) as sql:
        history.check(sql)
    assert history.summary()["unknown"] == 0
    if way != "crash":
        old.crash()  # what an orphan's machine does by its watchdog
        cluster.start_node(old.name)
    await asyncio.to_thread(cluster.wait_complete)
    check_follows(cluster, old)


async def switch_over(cluster: Cluster, serving: Replica) -> None:
    old = cluster.leader
    async with AsyncClient(serving.address) as client:
        await client.inventory.CreateItem(ipb.CreateItemRequest(item=item_pb2.Item(sku="seat", capacity=1_000_000)))

        async def work() -> None:
            await client.reserve({"seat": 1})

        async with calling(work, CALLERS) as seen:
            await progress(seen, 500)
            start = time.monotonic()
            await asyncio.to_thread(cluster.switchover)
            await progress(seen, 500)
    took_s = time.monotonic() - start
    print(f"switchover: {seen['calls']} calls, none failed, 500 of them {took_s:.1f} s after it")  # noqa: T201
    assert cluster.leader.name != old.name
    [[held]] = sql_of(cluster.migrate_dsn)("SELECT held FROM holdsvc.item WHERE sku = 'seat'")
    assert held == seen["calls"]


def gap(history: History, died_s: float) -> tuple[float, float]:
    """The longest time without a success since then, and the longest call."""
    answers = sorted(call.returned_s for call in history.calls if call.acknowledged and call.returned_s > died_s)
    calls = [call.returned_s - call.called_s for call in history.calls if call.returned_s > died_s]
    return max(later - earlier for earlier, later in zip([died_s, *answers], answers, strict=False)), max(calls)


def dsn_of(cluster: Cluster, node: Node) -> str:
    return make_conninfo(cluster.migrate_dsn, host="127.0.0.1", port=str(node.port), target_session_attrs="any")


def check_follows(cluster: Cluster, node: Node) -> None:
    """The node takes no writes, and its events are those of the leader: it sold nothing by itself."""
    own = dsn_of(cluster, node)
    of_the_leader = sql_of(cluster.migrate_dsn)
    # Holds go on expiring meanwhile.
    [[last]] = of_the_leader("SELECT max(event_id) FROM holdsvc.event")
    events = f"SELECT count(*), sum(hashtext(e::text)) FROM holdsvc.event e WHERE event_id <= {last}"
    wait_until(lambda: sql_of(own)(events) == of_the_leader(events), pause_s=0.2)
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        sql_of(own)("UPDATE holdsvc.item SET held = 0 RETURNING held")
