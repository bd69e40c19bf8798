"""Profiles a worker under load with py-spy; writes the top of the profile as Markdown with date and commit."""

import re
import shutil
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmark import messages
from benchmark.context import FAILED_PRECONDITION, Bench
from benchmark.scenarios.hot import CONNECTIONS
from benchmark.stage import Running

# Each sample of native frames stops the process: at 250 samples a second it served a third of the calls.
RATE_HZ = 50
TOP = 60
KINDS = ("unary", "refused", "shared", "batch", "uniform")
SHARED = 32
"""Calls of a batch that the client makes of a hundred callers' calls: 20 to 50."""

_LOCATION = re.compile(r"^(.*) \((.*?)(?::(\d+))?\)$")


def run(bench: Bench, kind: str, where: Mapping[str, str], out: Path) -> None:
    """Profiles the worker while Reserve, made or refused, or BatchReserve of 32 or 500 runs."""
    program = Path(sys.executable).parent / "py-spy"
    found = str(program) if program.exists() else shutil.which("py-spy")
    if found is None:
        sys.exit("bench.py: no py-spy: pip install py-spy")
    stacks = bench.folder / "stacks.txt"
    rate = 0.0
    with bench.ledger() as ledger, bench.service(ledger) as service:
        command = [found, "record", f"--pid={service.workers[0]}", f"--rate={RATE_HZ}", "--format=raw", "--native"]
        command += [f"--duration={max(1, round(bench.seconds))}", f"--output={stacks}"]
        finished = threading.Event()

        def load() -> None:
            nonlocal rate
            rate = _load(bench, kind, service, ledger)
            finished.set()

        thread = threading.Thread(target=load)
        thread.start()
        # Skips the warm-up.
        finished.wait(1.5)
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        thread.join()
    lines = [f"# Profile: {kind}", "", *(f"- {name}: {value}" for name, value in where.items())]
    lines += [f"- load: {rate:,.0f} a second while sampled at {RATE_HZ} Hz", ""]
    lines += _summary(stacks.read_text().splitlines())
    text = "\n".join(lines) + "\n"
    print(text)
    out.mkdir(parents=True, exist_ok=True)
    name = f"profile-{kind}-{re.sub(r'[^0-9]', '', where['date'])[:12]}-{where['commit']}.md"
    (out / name).write_text(text)
    print(f"written to {out / name}")


def _load(bench: Bench, kind: str, service: Running, ledger: str) -> float:
    if kind == "refused":
        sold_out = [messages.reserve([messages.SOLD_OUT])]
        seconds, status = bench.seconds + 2, FAILED_PRECONDITION
        return bench.calls(service, sold_out, status=status, connections=CONNECTIONS, seconds=seconds).per_second
    if kind == "unary":
        message, each = [messages.reserve([messages.HOT])], 1
        how: dict[str, Any] = {"connections": CONNECTIONS}
    else:
        each = SHARED if kind == "shared" else 500
        message = messages.batch(each, hot=kind != "uniform")
        how = {"method": "BatchReserve", "each": each, "in_flight": 4, "connections": 4}
    return bench.holds(service, ledger, message, seconds=bench.seconds + 2, **how).per_second * each


def _summary(stacks: Sequence[str]) -> list[str]:
    own: Counter[str] = Counter()
    lines: Counter[str] = Counter()
    inclusive: Counter[str] = Counter()
    samples = 0
    for stack in stacks:
        frames, _, count_text = stack.rpartition(" ")
        count = int(count_text)
        named = [_name(frame) for frame in frames.split(";")]
        samples += count
        own[named[-1][0]] += count
        lines[named[-1][1]] += count
        # Counts each Python function once per stack, so that recursion does not count twice.
        inclusive.update(dict.fromkeys({name for name, _ in named if ".py)" in name}, count))
    found = []
    for title, counter in (("Own time", own), ("Time with callees", inclusive), ("Own time by line", lines)):
        found += [f"## {title} ({samples} samples)", "", "```"]
        found += [f"{count / max(1, samples):6.1%}  {name}" for name, count in counter.most_common(TOP)]
        found += ["```", ""]
    return found


def _name(frame: str) -> tuple[str, str]:
    """Function with file, and the same with the line."""
    match = _LOCATION.match(frame)
    if match is None:
        return frame, frame
    function, file, line = match.groups()
    if function.startswith("0x"):
        # Without symbols the library's name says more than an address.
        return f"native code ({Path(file).name})", f"native code ({Path(file).name})"
    return f"{function} ({file})", f"{function} ({file}:{line})"
