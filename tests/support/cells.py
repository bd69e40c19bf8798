"""Two cells, and what an operator does with tenants in them."""

import asyncio
import itertools
from typing import Any, NamedTuple, Self

import psycopg
from pydantic import SecretStr

from holdsvc.cell_file import CellAddress
from holdsvc.commands import target
from holdsvc.commands.keys import create_key
from holdsvc.ledger import joining, tenants
from tests.support.databases import copy_rows
from tests.support.harness import SET_NAME, Harness
from tests.support.partners import Partner

_LOCK = "SELECT pg_advisory_xact_lock(hashtext('holdsvc tenants'), hashtext(%s))"
_COLUMNS = """
SELECT string_agg(column_name, ', ' ORDER BY ordinal_position) FROM information_schema.columns
WHERE table_schema = 'holdsvc' AND table_name = %s AND is_generated = 'NEVER'
"""
_numbers = itertools.count(1)


class TwoCells(NamedTuple):
    """The cells of a test."""

    north: CellAddress
    south: CellAddress

    @classmethod
    def of(cls, north: str, south: str) -> Self:
        """Two databases that are cells, by the DSNs of their owner."""
        return cls(CellAddress("north", SecretStr(north)), CellAddress("south", SecretStr(south)))

    @classmethod
    def joined(cls, north: str, south: str) -> Self:
        """Makes cells of two migrated databases."""
        cells = cls.of(north, south)
        for cell in cells:
            joining.join(cell.owner, cell.name, north)
        return cells

    def new_tenant(self, cell: CellAddress, tenant: str = "") -> tuple[str, str]:
        """Places a tenant of a name of its own in a cell; returns its name and the secret of a key."""
        name = tenant or f"tenant-{next(_numbers)}"
        target.run(cell.owner, lambda connection: tenants.place(connection, name))
        return name, create_key(cell.owner, name, "shop", "all", "", None)

    async def partner(self, service: Harness, cell: CellAddress) -> Partner:
        """A caller of a new tenant in a cell."""
        _, secret = await asyncio.to_thread(self.new_tenant, cell)
        return Partner(service.channel, secret)

    def sql(self, cell: CellAddress, query: str, parameters: Any = ()) -> list[tuple[Any, ...]]:
        """Runs SQL in a cell as the owner."""
        with psycopg.connect(cell.owner, autocommit=True, options=f"-c search_path={SET_NAME},holdsvc") as connection:
            cursor = connection.execute(query.encode(), parameters)
            return cursor.fetchall() if cursor.description else []

    def freeze(self, tenant: str) -> None:
        """The step of a move after which `north` makes no change of the tenant."""
        with psycopg.connect(self.north.owner) as source:
            source.execute(_LOCK, (tenant,))
            source.execute(
                "UPDATE holdsvc.tenant_state SET state = 'FROZEN', other_cell = 'south',"
                " change_xid = pg_current_xact_id() WHERE tenant = %s",
                (tenant,),
            )

    def finish_move(self, tenant: str) -> None:
        """Copies what a frozen tenant has in `north` to `south`, which has it from then on."""
        where = f"WHERE tenant = '{tenant}'"
        with psycopg.connect(self.north.owner) as source, psycopg.connect(self.south.owner) as sink:
            sink.execute("SET session_replication_role = replica")
            for table in ("item", "reservation", "reservation_line", "request", "api_key"):
                [[columns]] = source.execute(_COLUMNS, (table,))
                copy_rows(source, sink, f"holdsvc.{table}", columns, where)
            source.execute(
                "UPDATE holdsvc.tenant_state SET state = 'MOVED', version = version + 1,"
                " change_xid = pg_current_xact_id() WHERE tenant = %s",
                (tenant,),
            )
            source.commit()
            sink.execute(
                "INSERT INTO holdsvc.tenant_state (tenant, state, version, change_time) VALUES (%s, 'HERE', 2, now())",
                (tenant,),
            )
