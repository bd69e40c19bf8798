"""A PostgreSQL that a test restarts while gRPC runs: kept by a process of its own, for gRPC and fork do not mix."""

import asyncio
import multiprocessing
import os
import signal
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Self

import psycopg

from holdsvc.embedded.server import EmbeddedServer

ANSWER_TIMEOUT_S = 120


class RestartableServer:
    """An embedded server, started when the block begins."""

    def __init__(self, folder: Path) -> None:
        self._pipe, theirs = multiprocessing.Pipe()
        context = multiprocessing.get_context("spawn")
        self._process = context.Process(target=_keep, args=(folder, theirs), name="restartable server")
        self.dsn = ""

    def __enter__(self) -> Self:
        self._process.start()
        self.dsn = self._answer()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pipe.send("stop")
        self._process.join(ANSWER_TIMEOUT_S)

    def _answer(self) -> str:
        assert self._pipe.poll(ANSWER_TIMEOUT_S), "the server does not answer"
        return str(self._pipe.recv())

    async def restart(self) -> None:
        """Stops the server, sessions and all, and starts it again."""
        self._pipe.send("restart")
        await asyncio.to_thread(self._answer)

    async def crash(self) -> None:
        """Kills a session's process: the server throws out all the others and recovers from its log."""
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            query = "SELECT pid FROM pg_stat_activity WHERE application_name = 'holdsvc' AND pid <> pg_backend_pid()"
            [pid] = connection.execute(query + " LIMIT 1").fetchone() or (0,)
        os.kill(pid, signal.SIGKILL)


def _keep(folder: Path, pipe: Connection) -> None:
    server = EmbeddedServer(folder)
    pipe.send(server.start())
    while pipe.recv() == "restart":
        server.stop()
        pipe.send(server.start())
    server.stop()
