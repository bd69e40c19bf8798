"""The same hold by pgbench."""

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from psycopg.conninfo import conninfo_to_dict

from benchmark.load import LOADTEST
from benchmark.messages import HOT, UNIFORM_COUNT
from benchmark.stage import query


class Unavailable(Exception):
    """A rival's program is not installed; the message says what to install."""


SECONDS_MIN = 5
CONNECTS_PER_SECOND = 100
"""pgbench's time includes that of connecting: on a busy machine one second ended before the first transaction, and five
before a thousand clients were connected. Its rate does not include it."""

TRIAL_HOLDS = 5
"""Of each client, where a measurement takes less than a second."""


@dataclass(frozen=True)
class PgbenchResult:
    """The result of pgbench."""

    per_second: float
    latency_ms: float


def pgbench(bin_dir: Path, dsn: str, folder: Path, *, hot: bool, clients: int, seconds: float) -> PgbenchResult:
    """Runs baseline/hold.sql and checks that the database and pgbench count the same."""
    program = bin_dir / "pgbench"
    if not program.exists():
        found = shutil.which("pgbench")
        if found is None:
            raise Unavailable("no pgbench: install PostgreSQL's client programs (Debian: postgresql-contrib)")
        program = Path(found)
    sql = (LOADTEST / "baseline" / "hold.sql").read_text()
    if hot:
        script_text = sql.replace(":sku", f"'{HOT}'")
    else:
        many = "'item-' || lpad(:number::text, 5, '0')"
        script_text = f"\\set number random(0, {UNIFORM_COUNT - 1})\n" + sql.replace(":sku", many)
    script = folder / f"hold-{'hot' if hot else 'uniform'}.sql"
    script.write_text("\n".join(line for line in script_text.splitlines() if not line.startswith("--")))
    before = _held(dsn)
    # A trial makes a few holds: the shortest time that is sure to see any is long.
    amount = f"--time={max(SECONDS_MIN, round(seconds)) + clients // CONNECTS_PER_SECOND}"
    if seconds < 1:
        amount = f"--transactions={TRIAL_HOLDS}"
    parameters = conninfo_to_dict(dsn)
    command = [str(program), "--no-vacuum", "--protocol=prepared", f"--file={script}"]
    command += [f"--client={clients}", f"--jobs={min(2, clients)}", amount]
    command += [f"--host={parameters['host']}", f"--port={parameters['port']}", f"--username={parameters['user']}"]
    answer = subprocess.run([*command, str(parameters["dbname"])], check=True, capture_output=True, text=True).stdout
    done = int(_number(answer, r"transactions actually processed: (\d+)"))
    counted = _held(dsn) - before
    if counted != done or _number(answer, r"failed transactions: (\d+)") > 0:
        raise RuntimeError(f"pgbench says {done} holds and the database {counted}:\n{answer}")
    return PgbenchResult(_number(answer, r"tps = ([\d.]+)"), _number(answer, r"latency average = ([\d.]+)"))


def _number(text: str, pattern: str) -> float:
    match = re.search(pattern, text)
    if match is None:
        raise RuntimeError(f"pgbench says nothing of {pattern!r}:\n{text}")
    return float(match[1])


def _held(dsn: str) -> int:
    """Units held, as the items and as the reservations count them."""
    items = query(dsn, "SELECT sum(held)::bigint FROM item")[0][0]
    lines = query(dsn, "SELECT count(*) FROM reservation_line")[0][0]
    if items != lines:
        raise RuntimeError(f"the items hold {items} units and the reservations {lines}")
    return int(items)
