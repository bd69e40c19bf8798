"""The file of HOLDSVC_CELLS: what is read, and in what words the rest is refused."""

from pathlib import Path

import pytest

from holdsvc import cell_file
from holdsvc.cell_file import CELLS_MAX
from holdsvc.postgres import with_ends
from holdsvc.settings import Settings, SettingsError

GOOD = """
[north]
dsn = "postgresql://app:geheim@north/holds"
migrate_dsn = "postgresql://owner@north/holds"
patroni_url = "http://north:8008"

[south-2]
dsn = "host=south dbname=holds"
"""


def test_cells_are_read_in_the_order_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "cells.toml"
    path.write_text(GOOD)
    north, south = cell_file.read(path)
    assert (north.name, north.service, north.owner) == (
        "north",
        with_ends("postgresql://app:geheim@north/holds"),
        with_ends("postgresql://owner@north/holds"),
    )
    assert (south.name, south.owner, south.patroni_url) == ("south-2", with_ends("host=south dbname=holds"), "")
    assert "geheim" not in repr(north) + north.masked
    settings = Settings.load(cells=str(path), dsn="")
    assert settings.addresses == [north, south]
    assert settings.of_cell(north).patroni_urls == ["http://north:8008"]
    assert settings.of_cell(south).patroni_urls == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "has 0 tables"),
        ("".join(f'[c{number}]\ndsn = "host=h{number}"\n' for number in range(CELLS_MAX + 1)), "has 65 tables"),
        ("[north]\n", "[north] has no dsn"),
        ('[North]\ndsn = "host=h"\n', "cannot be a cell's name"),
        ('["-"]\ndsn = "host=h"\n', "cannot be a cell's name"),
        ('north = "host=h"\n', "north must be a table"),
        ("[north]\ndsn = 5\n", "[north] dsn must be a string"),
        ('[north]\ndsn = "host=h"\npassword = "geheim"\n', "[north] has password"),
        ('[north]\ndsn = "postgresql://me:ge@heim@h/d"\n', "[north] dsn: this is not a connection string"),
        ('[north]\ndsn = "host=h"\npatroni_url = "north"\n', "[north] patroni_url: write http://"),
        ('[a]\ndsn = "host=h dbname=d password=geheim"\n[b]\ndsn = "host=h dbname=d"\n', "[a] and [b] are the same"),
        ("[north\n", "is not TOML"),
        ("#" * (256 * 1024 + 1), "more than 262144 bytes"),
    ],
)
def test_a_file_that_makes_no_sense_is_refused_in_words_without_a_secret(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "cells.toml"
    path.write_text(text)
    with pytest.raises(SettingsError) as error:
        Settings.load(cells=str(path), dsn="")
    assert words in str(error.value)
    assert "HOLDSVC_CELLS: " in str(error.value)
    assert "geheim" not in str(error.value)
    assert "heim" not in str(error.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"cannot read .*gone.toml: No such file"):
        Settings.load(cells=str(tmp_path / "gone.toml"), dsn="")


@pytest.mark.parametrize("other", [{"dsn": "host=h"}, {"migrate_dsn": "host=h"}, {"patroni_url": "http://h:8008"}])
def test_cells_go_with_no_setting_of_one_database(tmp_path: Path, other: dict[str, str]) -> None:
    path = tmp_path / "cells.toml"
    path.write_text(GOOD)
    with pytest.raises(SettingsError, match=r"leave .* empty"):
        Settings.load(**{"dsn": "", "cells": str(path), **other})
