"""A proxy before PostgreSQL's socket that can lose the answer to a COMMIT, freeze, and slow down."""

import asyncio
import tempfile
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from psycopg.conninfo import conninfo_to_dict, make_conninfo

_SOCKET = ".s.PGSQL.5432"
_COMMAND_COMPLETE = b"C\x00\x00\x00"
"""Type and the first bytes of the length of the message that ends a statement: in autocommit, after its commit."""


class Proxy:
    """Listens on a unix socket of its own and passes bytes on, until told otherwise."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._upstream = str(Path(str(conninfo_to_dict(dsn)["host"])) / _SOCKET)
        self._folder = tempfile.TemporaryDirectory(prefix="proxy-")
        self._open = asyncio.Event()
        self._open.set()
        self._links: set[asyncio.Task[None]] = set()
        self._frozen_links: set[asyncio.Task[None]] = set()
        self._marker: bytes | None = None
        self.cuts = 0
        """Answers lost."""
        self.cut = asyncio.Event()

    @property
    def dsn(self) -> str:
        """The database's DSN, through the proxy."""
        return make_conninfo(self._dsn, host=self._folder.name)

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_unix_server(self._connected, str(Path(self._folder.name) / _SOCKET))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        for link in list(self._links):
            link.cancel()
        await asyncio.gather(*self._links, return_exceptions=True)
        await self._server.wait_closed()
        for _ in range(3):  # transports tell their ends on the loop's next rounds
            await asyncio.sleep(0)
        self._folder.cleanup()

    def freeze(self) -> None:
        """Reads nothing more, closes nothing: what a dead switch looks like."""
        self._open.clear()

    def thaw(self) -> None:
        """Goes on where it stopped."""
        self._open.set()

    def heal_for_new_connections(self) -> None:
        """Forwards new connections; the frozen ones stay silent."""
        self._open = asyncio.Event()
        self._open.set()

    def cut_after_commit(self, marker: bytes) -> None:
        """Loses the answer to the next statement whose bytes hold the marker, and the connection with it."""
        self._marker = marker
        self.cut.clear()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._links.add(task)
        opened = self._open
        try:
            await opened.wait()
            up_reader, up_writer = await asyncio.open_unix_connection(self._upstream)
            asked: list[bool] = []
            both = [
                asyncio.create_task(self._pass(reader, up_writer, opened, asked, answers=False)),
                asyncio.create_task(self._pass(up_reader, writer, opened, asked, answers=True)),
            ]
            try:
                await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for one in both:
                    one.cancel()
                await asyncio.gather(*both, return_exceptions=True)
                up_writer.transport.abort()
                with suppress(OSError):
                    await up_writer.wait_closed()
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            writer.transport.abort()
            with suppress(OSError):
                await writer.wait_closed()
            self._links.discard(task)

    async def _pass(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        opened: asyncio.Event,
        asked: list[bool],
        *,
        answers: bool,
    ) -> None:
        while data := await reader.read(65536):
            await opened.wait()
            if not answers and self._marker is not None and self._marker in data:
                self._marker = None
                asked.append(True)
            if answers and asked and _COMMAND_COMPLETE in data:
                self.cuts += 1
                self.cut.set()
                return
            writer.write(data)
            await writer.drain()
