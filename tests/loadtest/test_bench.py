"""`make bench` in a form of seconds: it runs, and what it counts adds up. Its figures mean nothing here."""

import asyncio
import json
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# One scenario with rivals, one with bulk-loaded tables; `make bench` itself runs them all.
SCENARIOS = "hot,changes"


async def test_bench_measures_counts_every_hold_and_writes_its_table(tmp_path: Path) -> None:
    arguments = ["--seconds", "0.1", "--rounds", "1", "--scale", "0.005", "--out", str(tmp_path), "--name", "trial"]
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(ROOT / "loadtest" / "bench.py"),
        *("--only", SCENARIOS, *arguments),
        env={name: value for name, value in os.environ.items() if not name.startswith("HOLDSVC_")},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    found = json.loads((tmp_path / "trial.json").read_text())
    assert found["failures"] == []
    expected = {"cte", "plain", "empty", "unary", "confirm", "refund", "batch_confirm", "batch_cancel"}
    assert expected <= {figure["key"] for figure in found["figures"]}
    for ratio in found["ratios"]:
        assert f"| {ratio['title']} " in (tmp_path / "trial.md").read_text()
