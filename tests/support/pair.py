"""A primary and a standby of a test's own, from a data folder that was made once."""

import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from holdsvc.embedded.server import EmbeddedServer
from tests.support.polling import wait_until


class Pair:
    """Two servers of one cluster. `old` is the primary until `promote`, `new` from then on."""

    def __init__(self, folder: Path, prepared: Path, settings: dict[str, str], *, synchronous: bool) -> None:
        for name in ("old", "new"):
            (folder / name).mkdir()
            shutil.copytree(prepared / "pgdata", folder / name / "pgdata", symlinks=True)
        (folder / "new" / "pgdata" / "standby.signal").touch()
        self._folder, self._settings = folder, settings
        self._servers: dict[str, EmbeddedServer] = {}
        self.old = self.start("old", synchronous_standby_names="*" if synchronous else "")
        # Not as an argument of the program, which nothing could change later.
        upstream = make_conninfo(self.old, dbname=None, application_name="new").replace("'", "''")
        with (folder / "new" / "pgdata" / "postgresql.auto.conf").open("a") as settings_file:
            settings_file.write(f"primary_conninfo = '{upstream}'\n")
        self.new = self.start("new")
        wanted = "SELECT 1 FROM pg_stat_replication WHERE state = 'streaming'"
        with psycopg.connect(self.old, autocommit=True) as connection:
            query = f"{wanted} AND sync_state = 'sync'" if synchronous else wanted
            wait_until(lambda: connection.execute(query.encode()).fetchone())

    def start(self, name: str, **settings: str) -> str:
        """Starts a server, in place of one that has ended; returns its DSN."""
        if name in self._servers:
            self._servers[name].stop()
        self._servers[name] = EmbeddedServer(self._folder / name, settings={**self._settings, **settings})
        return self._servers[name].start()

    def copy(self, name: str) -> str:
        """A writable copy of the server `old`, which has been stopped, on the same timeline; returns its DSN."""
        (self._folder / name).mkdir()
        shutil.copytree(self._folder / "old" / "pgdata", self._folder / name / "pgdata", symlinks=True)
        return self.start(name)

    def signal(self, name: str, number: signal.Signals) -> None:
        """Sends a signal to a server and, if it stops or goes on, to its children."""
        signal_server(self._servers[name], number)

    async def promote(self) -> None:
        """Makes the standby a primary, of the next timeline."""
        async with await psycopg.AsyncConnection.connect(self.new, autocommit=True) as connection:
            cursor = await connection.execute("SELECT pg_promote(true, 60)")
            assert await cursor.fetchone() == (True,)

    def stop(self, *names: str) -> None:
        """Stops servers, all of them where none is named."""
        for name in names or tuple(self._servers):
            self._servers[name].stop()


@contextmanager
def running(folder: Path, prepared: Path, *, synchronous: bool = True, **settings: str) -> Iterator[Pair]:
    """A pair, for as long as the block runs."""
    pair = None
    try:
        pair = Pair(folder, prepared, {"shared_buffers": "32MB", **settings}, synchronous=synchronous)
        yield pair
    finally:
        if pair is not None:
            pair.stop()


def of_hosts(*dsns: str) -> str:
    """The DSN with the hosts of these, in this order."""
    hosts = ",".join(str(conninfo_to_dict(dsn)["host"]) for dsn in dsns)
    return make_conninfo(dsns[0], host=hosts, port="5432", target_session_attrs="read-write")


def signal_server(server: EmbeddedServer, number: signal.Signals) -> None:
    """Sends a signal to a server and, if it stops or goes on, to its children."""
    pid = server.pid
    assert pid is not None
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    for each in (pid, *map(int, children if number in (signal.SIGSTOP, signal.SIGCONT) else ())):
        os.kill(each, number)
