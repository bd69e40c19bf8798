"""How a move takes each table's rows of a tenant along: the only list of them.

A test fails where a table with a tenant is missing here.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

LIMIT_NUMBER = "limit_number"
"""Its values are numbers of the cell's own, so the rows get others on the way."""


@dataclass(frozen=True)
class Table:
    """A table whose rows of a tenant are taken along."""

    name: str
    into: str = ""
    """The table there; empty: the same."""
    where: str = "true"
    """The rows that are taken along, as a condition on `t`."""
    values: Mapping[str, str] = field(default_factory=dict)
    """What a column gets instead of its value, as an expression on `t`."""
    key: tuple[str, ...] = ()
    """Of a large table: its key beside the tenant. Its rows are copied before the freeze, later changes after it."""

    @property
    def target(self) -> str:
        """The table that the rows go to."""
        return self.into or self.name


_OF_A_LIVE_LIMIT = (
    "EXISTS (SELECT 1 FROM holdsvc.hold_limit h"
    " WHERE h.limit_number = t.limit_number AND h.tenant = t.tenant AND h.state < 3)"
)
"""What counted for a deleted limit is on its way out and stays behind."""

TABLES = (
    Table("api_key"),
    Table("item"),
    Table("reservation", key=("reservation_id",)),
    Table("reservation_line", key=("reservation_id", "sku", "pool")),
    Table("sales_order", key=("order_id",)),
    Table("request", key=("request_key",)),
    # The mark is a transaction id of the cell: the work on the limit goes on behind a new one.
    Table("hold_limit", where="t.state < 3", values={"build_mark": "NULL"}),
    Table("limit_subject", where=_OF_A_LIVE_LIMIT),
    Table("limit_use", where=_OF_A_LIVE_LIMIT),
    Table("limit_change", where=_OF_A_LIVE_LIMIT),
    Table("waitlist_entry"),
    Table("waitlist_line"),
    Table("stock_move"),
    Table("quarantine"),
    # A sender there begins with the first event there; the rest of here is sent from here.
    Table("webhook", values={"lease_id": "NULL"}),
    Table("event_history", key=("occur_day", "event_id")),
    Table("event", into="event_history", key=("occur_day", "event_id")),
)

STAYS = {
    "tenant_state": "it says where the tenant is",
}
"""Tables with a tenant that no move copies, and why."""
