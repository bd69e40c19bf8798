"""docs/: the commands, settings, files and queries that they name exist."""

import re
from pathlib import Path

import pytest
from typer.main import get_command

from holdsvc import settings, variables
from holdsvc.commands.cli import program
from holdsvc.model import Cause
from holdsvc.relay.nats import DEAD_LETTERS

ROOT = Path(__file__).resolve().parents[2]
DOCS = sorted((ROOT / "docs").rglob("*.md"))


def _commands() -> set[str]:
    root = get_command(program())
    found = set()
    for name, command in root.commands.items():  # type: ignore[attr-defined]
        found.add(name)
        found |= {f"{name} {inner}" for inner in getattr(command, "commands", {})}
    return found


@pytest.mark.parametrize("path", DOCS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_command_named_exists(path: Path) -> None:
    known = _commands()
    groups = {name.split(" ")[0] for name in known if " " in name}
    for first, second in re.findall(
        r"(?:`|\$ |…` |=… )holdsvc ([a-z-]+)(?: ([a-z-]+))?", " ".join(path.read_text().split())
    ):
        assert first in known, first
        assert first not in groups or f"{first} {second}" in known, (first, second)


@pytest.mark.parametrize("path", DOCS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_setting_named_exists(path: Path) -> None:
    text = path.read_text()
    named = set(re.findall(r"HOLDSVC_[A-Z_]+[A-Z]", text))
    # A stream of NATS, as the relay names it.
    assert variables.unknown_names(dict.fromkeys(named - {DEAD_LETTERS}, "")) == []
    known = {name.upper() for name in settings.Settings.model_fields}
    prefixes = ("QUEUE_", "CENSUS_", "LOG_CALLS", "POOL_", "BATCH_M", "SWEEP_", "DRAIN_", "REQUEST_ID_RET", "EVENT_R")
    assert {word for word in re.findall(r"\b[A-Z]+(?:_[A-Z]+)+\b", text) if word.startswith(prefixes)} <= known | set(
        Cause
    )


@pytest.mark.parametrize("path", DOCS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_file_linked_or_named_exists(path: Path) -> None:
    text = path.read_text()
    # Not pictures: `make bench` draws them.
    for target in re.findall(r"\]\(([^)#:]+\.(?:md|sql|json|yaml))", text):
        assert (path.parent / target).exists(), target
    for target in re.findall(r"`((?:docs|deploy|tests|loadtest)/[\w./-]+)`", text):
        assert (ROOT / target).exists(), target


def test_every_decision_is_in_the_index() -> None:
    decisions = ROOT / "docs" / "decisions"
    index = (decisions / "README.md").read_text()
    for path in decisions.glob("0*.md"):
        assert f"]({path.name})" in index, path.name


def test_the_runbook_names_queries_that_there_are() -> None:
    queries = set(re.findall(r"^-- ([a-z ]+?)(?::|$)", (ROOT / "docs" / "monitoring.sql").read_text(), re.MULTILINE))
    text = " ".join((ROOT / "docs" / "operations.md").read_text().split())
    for name in ("who blocks whom", "old transactions", "lapsed holds", "conversion by client", "connections by state"):
        assert name in queries
        assert f"*{name}*" in text
