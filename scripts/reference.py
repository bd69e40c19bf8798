"""Writes docs/reference/ from the protos, the scopes, the settings, the error codes and the commands.

`make generate` runs it; a test fails when a page differs from what it would write.
"""

import importlib
import inspect
import pkgutil
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import typer

from holdsvc import api, settings, variables
from holdsvc.api.rpcs import ALL_SCOPES, RPCS
from holdsvc.api.statuses import CODES
from holdsvc.commands.cli import program

ROOT = Path(__file__).resolve().parent.parent
REFERENCE = ROOT / "docs" / "reference"
PROTOS = ROOT / "protos" / "inventoryhold" / "v1"

_ABOUT_RPCS = """\
Package `inventoryhold.v1`. The comments in [the protos](../../protos/inventoryhold/v1) describe every field, state and
refusal; reflection serves them to tools. A key needs one of the scopes named.
"""
_ABOUT_ERRORS = """\
Each error carries a `google.rpc.ErrorInfo` with the domain `holdsvc` and one of these reasons; its metadata has every
changing word of the message. An error fits into 8 KB of trailers: detail lines that would not are left out, and
`omitted` counts them. `UNAVAILABLE` is the one code that a client may retry by itself.
"""
_ABOUT_SETTINGS = """\
From the environment, or as flags of `holdsvc serve` (`--listen`, …), read at start. Durations are written `500ms`,
`90s`, `30m`, `24h`, `2d`. `holdsvc config` prints the effective settings.
"""
_ABOUT_COMMANDS = """\
`holdsvc COMMAND --help` shows the options. A command on a DATA_DIR whose service runs uses that running database.
"""
_RPC = re.compile(r"((?:  //.*\n)+)  rpc (\w+)\(")
_REASON = re.compile(r"((?:  //.*\n)+)  ERROR_REASON_(\w+) = [1-9]")


def rpcs() -> str:
    """The page of rpcs: each that is served, with the first sentence of its comment and the scopes that open it.

    Raises ValueError for an rpc without a comment or a handler without a scope.
    """
    handlers = _handlers()
    rows: dict[str, list[tuple[str, ...]]] = {}
    for row in RPCS.values():
        service, rpc = row.service, row.name
        if rpc in handlers:
            comments = dict(_comments(_RPC, PROTOS / f"{_snake(service)}.proto"))
            if rpc not in comments:
                raise ValueError(f"{service}/{rpc} has no comment in its proto")
            sentence = re.split(r"(?<=\.) ", comments[rpc])[0]
            needed = "any" if row.scopes == ALL_SCOPES else " or ".join(f"`{scope}`" for scope in row.scopes)
            lane = f"`{row.lane}`" if row.lane else ""
            rows.setdefault(service, []).append((f"`{rpc}`", sentence, needed, row.effect.value, lane))
            handlers.remove(rpc)
    if handlers:
        raise ValueError(f"no scope for {', '.join(sorted(handlers))}")
    head = ("rpc", "what it does", "scope", "effect", "lane")
    tables = "".join(f"\n## {service}\n{_table(head, table)}" for service, table in rows.items())
    return _page("Rpcs", "protos/ and the scopes", _ABOUT_RPCS) + tables


def errors() -> str:
    """The page of reasons, each with its code and what its proto says. Raises ValueError where the two codes differ."""
    rows = []
    for reason, comment in _comments(_REASON, PROTOS / "error_reason.proto"):
        code, _, text = comment.partition(". ")
        if CODES[reason].name != code:
            raise ValueError(f"error_reason.proto says {code} of {reason}, which is answered as {CODES[reason].name}")
        rows.append((f"`{reason}`", f"`{code}`", text))
    table = _table(("reason", "code", "what it means, what to do"), rows)
    return _page("Errors", "protos/inventoryhold/v1/error_reason.proto", _ABOUT_ERRORS) + "\n" + table


def settings_page() -> str:
    """The page of settings with their defaults, and of the variables that callers read."""
    rows = [
        (f"`{row.env_name}`", f"`{row.default}`" if row.default else "", row.description) for row in variables.rows()
    ]
    callers = [(f"`{settings.PREFIX}{name}`", text) for name, text in variables.CALLER_VARIABLES.items()]
    return (
        f"{_page('Settings', 'src/holdsvc/settings.py', _ABOUT_SETTINGS)}\n"
        f"{_table(('variable', 'default', 'what it is'), rows)}\n"
        "## Variables of callers\n"
        "The commands that call a service, `make load` and `make smoke` read these, and `HOLDSVC_LISTEN`.\n\n"
        f"{_table(('variable', 'what it is'), callers)}"
    )


def commands() -> str:
    """The page of the command line: every command with the first paragraph of its help."""
    rows = [(f"`holdsvc {name}`", sentence) for name, sentence in _commands(program())]
    return (
        _page("Commands", "src/holdsvc/commands/", _ABOUT_COMMANDS) + "\n" + _table(("command", "what it does"), rows)
    )


PAGES: Mapping[str, Callable[[], str]] = {
    "commands.md": commands,
    "errors.md": errors,
    "rpcs.md": rpcs,
    "settings.md": settings_page,
}


def _handlers() -> set[str]:
    names: set[str] = set()
    for module in pkgutil.iter_modules(api.__path__):
        for name, servicer in vars(importlib.import_module(f"{api.__name__}.{module.name}")).items():
            if inspect.isclass(servicer) and name.endswith("Servicer") and servicer.__module__.startswith(api.__name__):
                names |= {method for method in vars(servicer) if method[0].isupper()}
    return names


def _commands(group: typer.Typer, prefix: str = "") -> Iterator[tuple[str, str]]:
    for command in group.registered_commands:
        if command.callback is not None:
            name = command.name or command.callback.__name__
            paragraph = (inspect.getdoc(command.callback) or "").partition("\n\n")[0]
            yield prefix + name, " ".join(paragraph.split())
    for inner in group.registered_groups:
        if inner.typer_instance is not None:
            yield from _commands(inner.typer_instance, f"{prefix}{inner.name} ")


def _comments(pattern: re.Pattern[str], proto: Path) -> Iterator[tuple[str, str]]:
    for comment, name in pattern.findall(proto.read_text()):
        yield name, " ".join(line.strip().removeprefix("//").strip() for line in comment.splitlines())


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()


def _page(title: str, source: str, about: str) -> str:
    return f"# {title}\n\n<!-- Written by `make generate` from {source}; do not edit. -->\n\n{about}"


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


if __name__ == "__main__":
    for name, page in PAGES.items():
        (REFERENCE / name).write_text(page())
