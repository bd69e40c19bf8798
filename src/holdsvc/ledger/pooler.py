"""Poolers between the service and PostgreSQL: one that lends a session for a single transaction is recognised."""

from collections.abc import Sequence
from typing import Any

from psycopg import AsyncConnection

from holdsvc.settings import PREFIX, SettingsError

LOOKS = 3
"""How often each connection is asked for its session."""


async def refuse_shared_sessions(connections: Sequence[AsyncConnection[Any]]) -> None:
    """Raises SettingsError where connections do not have a session each, and the same one at every look.

    Prepared statements and settings of a session are lost there, or meet another client's statement.
    """
    looks = [[await _session(each) for each in connections] for _ in range(LOOKS)]
    if len(set(looks[0])) < len(connections) or any(look != looks[0] for look in looks):
        raise SettingsError(
            f"{PREFIX}DSN leads to a pooler that lends its connections for one transaction each: "
            f"set {PREFIX}PREPARE=off, or let the pooler keep sessions (pool_mode=session)"
        )


async def _session(connection: AsyncConnection[Any]) -> int:
    cursor = await connection.execute("SELECT pg_backend_pid()", prepare=False)
    [[pid]] = await cursor.fetchall()
    return int(pid)
