"""Writes the tables of README.md from what they tell about: the protos, the scopes, the settings, the error codes.

They stand between `<!-- rpcs -->` and `<!-- end of rpcs -->`, and so on. `make generate` runs this; a test fails when a
table is not what this would write.
"""

import importlib
import inspect
import pkgutil
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from holdsvc import api, settings
from holdsvc.api.auth.scopes import SCOPES
from holdsvc.api.errors import CODES

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
PROTOS = ROOT / "protos" / "inventoryhold" / "v1"

_RPC = re.compile(r"((?:  //.*\n)+)  rpc (\w+)\(")
_REASON = re.compile(r"((?:  //.*\n)+)  ERROR_REASON_(\w+) = [1-9]")


def served() -> set[str]:
    """The names of the rpcs that have a handler."""
    names: set[str] = set()
    for module in pkgutil.iter_modules(api.__path__):
        for name, servicer in vars(importlib.import_module(f"{api.__name__}.{module.name}")).items():
            if inspect.isclass(servicer) and name.endswith("Servicer") and servicer.__module__.startswith(api.__name__):
                names |= set(vars(servicer))
    return names


def rpcs() -> str:
    """Every rpc that is served, with the first sentence of its comment and the scopes of which it needs one."""
    handlers = served()
    rows = []
    for method, scopes in SCOPES.items():
        _, service, rpc = method.split("/")
        if rpc in handlers:
            comments = dict(_comments(_RPC, PROTOS / f"{_snake(service.rpartition('.')[2])}.proto"))
            sentence = re.split(r"(?<=\.) ", comments[rpc])[0]
            needed = " or ".join(f"`{scope}`" for scope in scopes)
            rows.append((f"`{service.rpartition('.')[2]}/{rpc}`", sentence, needed))
    return _table(("rpc", "what it does", "scope"), rows)


def errors() -> str:
    """Every reason with its code and what the proto says of it."""
    rows = []
    for reason, comment in _comments(_REASON, PROTOS / "error_reason.proto"):
        code, _, text = comment.partition(". ")
        if CODES[reason].name != code:
            raise ValueError(f"error_reason.proto says {code} of {reason}, which is answered as {CODES[reason].name}")
        rows.append((f"`{reason}`", f"`{code}`", text))
    return _table(("reason", "code", "what it means, what to do"), rows)


def variables() -> str:
    """Every setting with its default, then what callers read."""
    rows = [
        (f"`{row.env_name}`", f"`{row.default}`" if row.default else "", row.description) for row in settings.rows()
    ]
    return _table(("variable", "default", "what it is"), rows)


def callers() -> str:
    """What `make load` and `make smoke` read."""
    rows = [(f"`{settings.PREFIX}{name}`", text) for name, text in settings.CALLER_VARIABLES.items()]
    return _table(("variable", "what it is"), rows)


TABLES: dict[str, Callable[[], str]] = {"rpcs": rpcs, "errors": errors, "settings": variables, "callers": callers}


def rewrite(text: str) -> str:
    """The README with its tables as they should be."""
    for name, table in TABLES.items():
        begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
        head, found, rest = text.partition(begin)
        _, closed, tail = rest.partition(end)
        if not (found and closed):
            raise ValueError(f"README.md lacks {begin} … {end}")
        text = f"{head}{begin}\n{table()}{end}{tail}"
    return text


def _comments(pattern: re.Pattern[str], proto: Path) -> Iterator[tuple[str, str]]:
    for comment, name in pattern.findall(proto.read_text()):
        yield name, " ".join(line.strip().removeprefix("//").strip() for line in comment.splitlines())


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


if __name__ == "__main__":
    README.write_text(rewrite(README.read_text()))
