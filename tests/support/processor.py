"""Processor time of a process: what other processes do meanwhile is not in it."""

from pathlib import Path

from holdsvc.ledger.database import Connection


def processor_s(pid: int) -> float:
    """What the process has used so far."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


async def backend_of(connection: Connection) -> int:
    """The process of the database that serves the connection."""
    [(pid,)] = await connection.fetch("SELECT pg_backend_pid()")
    return int(pid)
