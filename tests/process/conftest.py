"""Data folders, and a service that the tests of a file share."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.program import Program, serving


@pytest.fixture
def data_dir(tmp_path: Path, prepared: Path) -> Path:
    """A folder in which a service has run before: a start from there takes half the time."""
    return Path(shutil.copytree(prepared, tmp_path / "data"))


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory, prepared: Path) -> Iterator[Program]:
    """A service with two workers; a test that ends one waits until the next one serves."""
    folder = Path(shutil.copytree(prepared, tmp_path_factory.mktemp("two") / "data"))
    with serving(workers=2, data_dir=folder) as program:
        yield program
