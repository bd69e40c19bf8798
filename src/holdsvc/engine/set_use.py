"""A process's use of its function set: said at its start, every ten minutes, and at its end.

While the database hears of it no set is dropped, no schema is taken back and no feature is activated under a process.
"""

import asyncio
from typing import NoReturn
from uuid import uuid4

from holdsvc.engine import tasks
from holdsvc.ledger import upkeep
from holdsvc.ledger.database import Database
from holdsvc.ledger.failures import Conflict, NothingRan, Unknown
from holdsvc.ledger.function_set import TOUCH_INTERVAL_S

END_TIMEOUT_S = 1.0


class SetUse:
    """One process's use of the set that belongs to this code."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._process_id = uuid4()

    async def begin(self) -> None:
        """Says that the process begins; raises SetTooOld where it must not serve."""
        async with self._database.connection() as connection:
            await upkeep.use_function_set(connection, self._process_id)

    async def keep(self) -> NoReturn:
        """Repeats it until cancelled."""
        await asyncio.sleep(TOUCH_INTERVAL_S)
        await tasks.forever("function_set", self._touch)

    async def _touch(self) -> float:
        await self.begin()
        return TOUCH_INTERVAL_S

    async def end(self) -> None:
        """Says that the process ends; without an answer in time its use ends by itself, half an hour later."""
        try:
            async with asyncio.timeout(END_TIMEOUT_S), self._database.connection() as connection:
                await upkeep.leave_function_set(connection, self._process_id)
        except (NothingRan, Unknown, Conflict, TimeoutError):
            return
