"""The types on the way from a servicer to the SQL call and back: mypy refuses a wrong field, kind or answer."""

import re
from pathlib import Path

import pytest
from mypy import api

ROOT = Path(__file__).parents[2]

SNIPPET = """\
from holdsvc import change_requests
from holdsvc.engine.engine import Engine
from holdsvc.errors import unwrap
from holdsvc.ledger import items
from holdsvc.ledger.database import Connection

async def run(
    engine: Engine, confirm: change_requests.Confirm, adjust: change_requests.Adjust, connection: Connection
) -> None:
    [confirmed] = await engine.confirm([confirm], 1.0)
    [adjusted] = await engine.adjust([adjust], 1.0)
    unwrap(confirmed).value.order_id.upper()
    unwrap(adjusted).value.capacity.bit_length()
    unwrap(confirmed).value.capacity  # attr-defined
    unwrap(adjusted).value.order_id  # attr-defined
    confirmed.value  # union-attr
    await engine.cancel([confirm], 1.0)  # list-item
    await items.adjust(connection, "tenant", [confirm])  # list-item
    confirm.order = "A-1"  # attr-defined
    await engine.change("tenant", lambda connection: items.get(connection, "tenant", []), 1.0)  # return-value
"""


def test_mypy_sees_a_wrong_field(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    file = tmp_path / "snippet.py"
    file.write_text(SNIPPET)
    report, failure, _ = api.run([str(file)])
    assert not failure
    found = {int(line): code for line, code in re.findall(r"snippet\.py:(\d+): error: .*\[([a-z-]+)\]", report)}
    lines = enumerate(SNIPPET.splitlines(), 1)
    assert found == {number: line.partition("# ")[2] for number, line in lines if "# " in line}, report
