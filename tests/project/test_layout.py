"""docs/decisions/0010-layout.md: who imports whom in src/holdsvc."""

import ast
from collections.abc import Iterator, Mapping
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src" / "holdsvc"

BELOW: Mapping[str, set[str]] = {
    "ledger": {"engine", "streams", "api", "http", "relay", "process", "commands", "client"},
    "engine": {"streams", "api", "http", "relay", "process", "commands", "client"},
    "streams": {"api", "http", "relay", "process", "commands", "client"},
    "api": {"http", "relay", "process", "commands", "client"},
    "http": {"ledger", "streams", "embedded", "relay", "process", "commands", "client"},
    "embedded": {"ledger", "engine", "streams", "api", "http", "relay", "process", "commands", "client"},
    "client": {
        "ledger",
        "engine",
        "streams",
        "api",
        "http",
        "relay",
        "process",
        "commands",
        "embedded",
        "settings",
        "telemetry",
    },
}
"""Folders, and those that they must not import."""

LIBRARIES: Mapping[str, set[str]] = {
    "psycopg": {"ledger", "embedded", "postgres", "commands"},
    "psycopg_pool": {"ledger"},
    "grpc": {"api", "client", "commands", "http"},
    "httptools": {"http"},
}
"""Libraries, and the folders that may import them."""


@cache
def imports(path: Path, *, at_start: bool = False) -> frozenset[str]:
    """The modules that a file imports; `at_start`: when it is itself imported, not only within a function."""
    tree = ast.parse(path.read_text())
    found = set()
    for node in _statements(tree) if at_start else ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return frozenset(found)


def _statements(tree: ast.Module) -> Iterator[ast.stmt]:
    for node in tree.body:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        yield node


def room(path: Path) -> str:
    """The folder of a file, or its name at the top."""
    first = path.relative_to(SOURCE).parts[0]
    return first.removesuffix(".py")


FILES = sorted(SOURCE.rglob("*.py"))


def modules() -> dict[str, Path]:
    """Every module by its name."""
    return {
        ".".join(("holdsvc", *path.relative_to(SOURCE).with_suffix("").parts)).removesuffix(".__init__"): path
        for path in FILES
    }


@pytest.mark.parametrize("folder", BELOW)
def test_imports_go_one_way(folder: str) -> None:
    for path in FILES:
        if room(path) == folder:
            used = {name.split(".")[1] for name in imports(path) if name.startswith("holdsvc.")}
            assert not used & BELOW[folder], path


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_library_is_imported_only_where_it_belongs(library: str) -> None:
    rooms = {room(path) for path in FILES if library in {name.split(".")[0] for name in imports(path)}}
    assert rooms
    assert rooms <= LIBRARIES[library]


def test_no_module_imports_itself_by_way_of_others() -> None:
    names = modules()
    graph = {name: imports(path, at_start=True) & names.keys() - {name} for name, path in names.items()}
    # A package's own file imports nothing of the package.
    TopologicalSorter({name: used - {name.rpartition(".")[0]} for name, used in graph.items()}).prepare()


def test_the_architecture_names_every_folder() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    folders = {path.parent.name for path in SOURCE.glob("*/__init__.py")}
    assert {name for name in folders if f"`{name}/`" not in text} == set()


def test_no_module_has_more_than_400_lines() -> None:
    lines = {str(path.relative_to(SOURCE)): len(path.read_text().splitlines()) for path in SOURCE.rglob("*.py")}
    assert {path: count for path, count in lines.items() if count > 400} == {}


def test_no_line_of_sql_has_more_than_120_columns() -> None:
    files = [*SOURCE.glob("ledger/**/*.sql")]
    assert files
    assert [
        f"{file.name}:{number}"
        for file in files
        for number, line in enumerate(file.read_text("utf-8").splitlines(), 1)
        if len(line) > 120
    ] == []
