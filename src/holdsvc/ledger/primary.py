"""Which server is the primary: every host of the DSN is asked, and one that has been replaced is never believed.

libpq takes the first host that is writable, and an old primary that comes back is. Here the highest timeline wins, and
the highest ever seen is remembered, so that an older primary is refused also when it is the only one that answers.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any, NamedTuple

import psycopg
import structlog
from psycopg import AsyncConnection

from holdsvc.ledger.known_primary import Known, Memory, patroni_timeline
from holdsvc.model import Cause
from holdsvc.postgres import host_name, hosts_of
from holdsvc.settings import Settings

log = structlog.get_logger(__name__)

LOOK_S = 1.0
"""How often the hosts are asked. An old primary that is still writable when another is promoted is believed so long."""

ANSWER_S = 1.0
"""A host of several that does not answer within this time is away."""

ADMIT_S = 2.0
"""The same for a server to which a connection is open."""

STATE_SQL = """
SELECT (SELECT c.system_identifier::text FROM pg_control_system() c),
       pg_postmaster_start_time(),
       CASE WHEN NOT pg_is_in_recovery()
         THEN ('x' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))::bit(32)::bigint END,
       current_setting('synchronous_standby_names')
"""
"""The timeline is that of the WAL being written: the control file's is out of date until the first checkpoint after a
promotion."""


class State(NamedTuple):
    """What a server says of itself."""

    system: str
    """The identifier of the cluster: a standby has its primary's."""
    start_time: datetime
    """No two servers say the same, so one that has two names is recognised."""
    timeline: int | None
    """None: it is a standby."""
    sync_standbys: str
    restore_mark: int

    @property
    def instance(self) -> tuple[str, datetime]:
        """What tells this server from all others."""
        return self.system, self.start_time


class Refusal(StrEnum):
    """Why a writable server is not believed."""

    OLDER = "OLDER"
    """A primary of a later timeline has been seen."""
    OTHER_SYSTEM = "OTHER_SYSTEM"
    """It is another cluster than the one known."""
    SPLIT = "SPLIT"
    """Another writable server has the same timeline: they have parted, and nothing shows which one is right."""
    NOT_SYNCHRONOUS = "NOT_SYNCHRONOUS"
    """Its commits wait for fewer standbys than REQUIRE_SYNC says."""


class Verdict(NamedTuple):
    """What comes of the hosts' answers."""

    chosen: str | None
    refused: dict[str, Refusal]

    @property
    def cause(self) -> Cause | None:
        """Why there is no primary although a server is writable; None: there is one, or none is writable."""
        if self.chosen is not None or not self.refused:
            return None
        return Cause.DATABASE_SPLIT if Refusal.SPLIT in self.refused.values() else Cause.PRIMARY_REFUSED


def judge(answers: Mapping[str, State], known: Known | None, leader_timeline: int, require_sync: int) -> Verdict:
    """Chooses among the hosts that answered; `leader_timeline` is what Patroni says."""
    refused: dict[str, Refusal] = {}
    candidates: dict[str, Known] = {}
    for host, state in answers.items():
        if state.timeline is None:
            continue
        it = Known(state.restore_mark, state.timeline, state.system)
        if known is not None and it.restore_mark == known.restore_mark and it.system != known.system:
            refused[host] = Refusal.OTHER_SYSTEM
        elif it.timeline < leader_timeline or (known is not None and it[:2] < known[:2]):
            refused[host] = Refusal.OLDER
        else:
            candidates[host] = it
    latest = max((it[:2] for it in candidates.values()), default=None)
    best = [host for host, it in candidates.items() if it[:2] == latest]
    refused.update(dict.fromkeys(set(candidates) - set(best), Refusal.OLDER))
    if len({answers[host].instance for host in best}) > 1:
        refused.update(dict.fromkeys(best, Refusal.SPLIT))
    elif best and standbys_awaited(answers[best[0]].sync_standbys) < require_sync:
        refused.update(dict.fromkeys(best, Refusal.NOT_SYNCHRONOUS))
    else:
        return Verdict(best[0] if best else None, refused)
    return Verdict(None, refused)


def standbys_awaited(names: str) -> int:
    """How many standbys a commit waits for, by synchronous_standby_names."""
    counted = re.match(r"\s*(?:(?:FIRST|ANY)\s+)?(\d+)\s*\(", names, re.IGNORECASE)
    return int(counted[1]) if counted else int(bool(names.strip()))


def chosen_dsn(dsn: str) -> str:
    """As `find_primary`, where no loop runs."""
    return asyncio.run(find_primary(dsn)) if len(hosts_of(dsn)) > 1 else dsn


async def find_primary(dsn: str) -> str:
    """The DSN of the host that is the primary, for one command: nothing is remembered.

    Raises OperationalError where none is.
    """
    hosts = hosts_of(dsn)
    if len(hosts) == 1:
        return dsn
    states = await asyncio.gather(*(_asked_once(host) for host in hosts))
    found = {host: state for host, state in zip(hosts, states, strict=True) if state is not None}
    verdict = judge(found, None, 0, 0)
    if verdict.chosen is None:
        raise _no_primary(verdict)
    return verdict.chosen


async def _asked_once(host: str) -> State | None:
    try:
        async with asyncio.timeout(ADMIT_S), await AsyncConnection.connect(host, autocommit=True) as connection:
            cursor = await connection.execute(STATE_SQL)
            [row] = await cursor.fetchall()
            return State._make((*row, 0))
    except (psycopg.Error, TimeoutError) as error:
        log.debug("primary.silent", host=host_name(host), error=str(error))
        return None


def _no_primary(verdict: Verdict) -> psycopg.OperationalError:
    why = ", ".join(f"{host_name(host)} {refusal}" for host, refusal in verdict.refused.items())
    return psycopg.OperationalError(f"no host of the DSN is the primary: {why or 'none takes changes'}")


class Primary:
    """The primary among the hosts of a DSN, as the latest look found it.

    `ask` reads a server's state over a connection, within a time. `on_change` is called when connections made before
    must not be used any more.
    """

    def __init__(
        self,
        settings: Settings,
        dsn: str,
        cell: str,
        ask: Callable[[AsyncConnection[Any], float], Awaitable[State]],
        on_change: Callable[[], None],
    ) -> None:
        self._hosts = hosts_of(dsn)
        self._ask = ask
        self._on_change = on_change
        self._require_sync = settings.require_sync
        self._patroni_urls = settings.patroni_urls
        self._memory = Memory(settings.state_dir, cell)
        self._links: dict[str, AsyncConnection[Any]] = {}
        """A connection to each of several hosts; with one host the pool's own are asked."""
        self._looking = asyncio.Lock()
        self._looked_s = float("-inf")
        self._leader_timeline = 0
        self._instance: tuple[str, datetime] | None = None
        """The server that was chosen last."""
        self._verdict = Verdict(None, {})

    @property
    def alone(self) -> bool:
        """Whether the DSN names one host."""
        return len(self._hosts) == 1

    @property
    def cause(self) -> Cause | None:
        """Why no server is believed although one is writable."""
        return self._verdict.cause

    async def conninfo(self) -> str:
        """Where to connect to; raises OperationalError where no host is the primary."""
        if self.alone:
            return self._hosts[0]
        if self._verdict.chosen is None or _now_s() - self._looked_s > LOOK_S:
            await self.look()
        if self._verdict.chosen is None:
            raise _no_primary(self._verdict)
        return self._verdict.chosen

    async def look(self) -> None:
        """Asks every host; who waits for another's look takes that one."""
        came_s = _now_s()
        async with self._looking:
            if self._looked_s > came_s:
                return
            asking = asyncio.gather(*(self._state(host) for host in self._hosts))
            states, self._leader_timeline = await asyncio.gather(asking, patroni_timeline(self._patroni_urls))
            self._judge({host: state for host, state in zip(self._hosts, states, strict=True) if state is not None})
            self._looked_s = _now_s()

    async def ask_patroni(self) -> None:
        """Asks Patroni alone, for a DSN with one host."""
        self._leader_timeline = await patroni_timeline(self._patroni_urls)

    async def admit(self, connection: AsyncConnection[Any], answer_s: float = ADMIT_S) -> None:
        """Asks the server that a connection has reached; raises OperationalError where it is not the primary."""
        state = await self._ask(connection, answer_s)
        if self.alone:
            self._judge({self._hosts[0]: state})
        if self._verdict.chosen is None or state.instance != self._instance:
            self._looked_s = float("-inf")
            raise psycopg.OperationalError("the server is not the primary (any more)")

    def _judge(self, answers: Mapping[str, State]) -> None:
        # Not before: in the supervisor counters are made only after their place is known.
        from holdsvc.telemetry.counters import PRIMARY_REFUSALS

        self._memory.learn(None)
        before = self._verdict
        self._verdict = judge(answers, self._memory.known, self._leader_timeline, self._require_sync)
        for host, refusal in self._verdict.refused.items():
            PRIMARY_REFUSALS.labels(refusal).inc()
            if before.refused.get(host) is not refusal:
                self._tell(host, answers[host], refusal)
        chosen = self._verdict.chosen
        instance = None if chosen is None else answers[chosen].instance
        if chosen is not None:
            state = answers[chosen]
            self._memory.learn(Known(state.restore_mark, state.timeline or 0, state.system))
            if self._instance is not None and instance != self._instance:
                log.warning("primary.changed", host=host_name(chosen), timeline=state.timeline)
        if self._verdict.cause is not None or (instance is not None and instance != self._instance):
            self._on_change()
        self._instance = instance or self._instance

    def _tell(self, host: str, state: State, refusal: Refusal) -> None:
        known = self._memory.known
        log.error(
            "primary.refused",
            host=host_name(host),
            why=refusal.value,
            timeline=state.timeline,
            system=state.system,
            known_timeline=max(known.timeline if known else 0, self._leader_timeline),
            known_system=known.system if known else None,
        )

    async def _state(self, host: str) -> State | None:
        """What a host says of itself; None: it does not answer."""
        link = self._links.get(host)
        try:
            if link is None or link.closed:
                async with asyncio.timeout(ANSWER_S):
                    link = await AsyncConnection.connect(
                        host, autocommit=True, prepare_threshold=None, application_name="holdsvc probe"
                    )
                self._links[host] = link
            return await self._ask(link, ANSWER_S)
        except Exception as error:  # noqa: BLE001 - whatever it is, this host is not there to be chosen
            log.debug("primary.silent", host=host_name(host), error=type(error).__name__)
            self._links.pop(host, None)
            if link is not None:
                await link.close()
            return None

    async def close(self) -> None:
        """Ends the connections to the hosts."""
        links, self._links = self._links, {}
        for link in links.values():
            await link.close()


def _now_s() -> float:
    return asyncio.get_running_loop().time()
