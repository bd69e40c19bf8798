"""The calls of the quick start and the answers that it shows: `make smoke` and the tests repeat them."""

import base64
import json
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf import json_format, symbol_database
from google.rpc import error_details_pb2 as _error_details  # noqa: F401 - registers the messages by name

from inventoryhold.v1 import error_reason_pb2 as _error_reason  # noqa: F401

ROOT = Path(__file__).resolve().parent.parent
PAGES = (ROOT / "README.md", ROOT / "docs" / "quickstart.md", ROOT / "docs" / "http.md")
"""Each continues the one before."""
NAME = "demo"
"""Prefix of every name that the quick start makes up."""

_STEP = re.compile(r"```sh\n(?P<command>[^`]+)```\n\n```json\n(?P<answer>[^`]+)```\n")

# What differs between two runs.
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


def read() -> list[Step]:
    """The calls in their order: each a block of shell with one call, followed by its answer in JSON."""
    steps = []
    for match in _STEP.finditer("\n".join(page.read_text() for page in PAGES)):
        words = shlex.split(match["command"], comments=True)
        [at] = [number for number, word in enumerate(words) if re.search(r"[A-Z]\w+Service/[A-Z]\w+$", word)]
        rpc = "/".join(words[at].rsplit("/", 2)[-2:]).rpartition(".")[2]
        request = next(word for word in words if word.startswith("{"))
        steps.append(Step(match["command"].strip(), rpc, request, decoded(json.loads(match["answer"]))))
    return steps


def differences(expected: Any, answer: Any, path: str = "") -> list[str]:
    """Where an answer differs from the one shown, apart from ids, times, and what depends on the caller."""
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


def decoded(answer: Any) -> Any:
    """An answer of `buf curl`; the details of an error, which it prints in base64, as JSON."""
    if "details" not in answer:
        return answer
    return {**answer, "details": [_detail(**detail) for detail in answer["details"]]}


def _detail(type: str, value: str, **_: Any) -> Any:  # noqa: A002 - the names are buf's
    message = symbol_database.Default().GetSymbol(type)()
    message.ParseFromString(base64.b64decode(value + "=" * (-len(value) % 4)))
    return {"type": type, **json_format.MessageToDict(message)}
