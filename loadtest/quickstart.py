"""The calls of README.md's quick start and the answers that it shows: `make smoke` and the tests repeat them."""

import json
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

README = Path(__file__).resolve().parent.parent / "README.md"
NAME = "demo"
"""What every name begins with that the quick start makes up."""

_STEP = re.compile(r"```sh\n(?P<command>[^`]+)```\n\n```json\n(?P<answer>[^`]+)```\n")

# What no two runs have in common.
_DYNAMIC = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", re.ASCII)
_OF_THE_CALLER = {"client", "itemCount", "reservationCount"}


@dataclass(frozen=True)
class Step:
    """One call as the README shows it."""

    command: str
    rpc: str
    request: str
    answer: Any

    def named(self, name: str) -> "Step":
        """The same call with names that begin with another word."""

        def rename(text: str) -> str:
            return text.replace(f"{NAME}-", f"{name}-")

        return Step(rename(self.command), self.rpc, rename(self.request), json.loads(rename(json.dumps(self.answer))))

    @property
    def refused(self) -> bool:
        """Whether the call is there to be refused."""
        return "code" in self.answer


def read(text: str) -> list[Step]:
    """The calls in their order: each a block of shell with one call, followed by its answer in JSON."""
    steps = []
    for match in _STEP.finditer(text):
        words = shlex.split(match["command"], comments=True)
        [at] = [number for number, word in enumerate(words) if re.search(r"[A-Z]\w+Service/[A-Z]\w+$", word)]
        rpc = "/".join(words[at].rsplit("/", 2)[-2:]).rpartition(".")[2]
        request = next(word for word in words if word.startswith("{"))
        steps.append(Step(match["command"].strip(), rpc, request, json.loads(match["answer"])))
    return steps


def differences(expected: Any, answer: Any, path: str = "") -> list[str]:
    """Where an answer is not as shown, but for ids, times, and what depends on the caller."""
    if isinstance(expected, dict) and isinstance(answer, dict):
        found = [f"{path}{name} is missing" for name in expected.keys() - answer.keys()]
        found += [f"{path}{name} is not expected" for name in answer.keys() - expected.keys()]
        for name in expected.keys() & answer.keys() - _OF_THE_CALLER:
            found += differences(expected[name], answer[name], f"{path}{name}.")
        return sorted(found)
    if isinstance(expected, list) and isinstance(answer, list) and len(expected) == len(answer):
        found = []
        for number, (left, right) in enumerate(zip(expected, answer, strict=True)):
            found += differences(left, right, f"{path}{number}.")
        return found
    if isinstance(expected, str) and isinstance(answer, str):
        expected, answer = _DYNAMIC.sub("…", expected), _DYNAMIC.sub("…", answer)
    return [] if expected == answer else [f"{path.rstrip('.')} is {json.dumps(answer)}, not {json.dumps(expected)}"]


def refusal(answer: Any) -> Any:
    """What the README shows of an error: its code and message; the details are bytes."""
    return {name: answer.get(name) for name in ("code", "message")}
