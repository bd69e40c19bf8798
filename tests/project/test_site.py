"""The documentation's site: every page, every word of the protos, and the tutorial, which is run."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorSet

from scripts import api_pages, site_pages
from tests.support.program import WAIT_S, Client, serving

ROOT = Path(__file__).resolve().parents[2]
TUTORIAL = (ROOT / "docs" / "tutorial.md").read_text()
BIN = Path(sys.executable).parent


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The descriptors of the protos as they stand, with their comments."""
    folder = tmp_path_factory.mktemp("image")
    command = [sys.executable, str(ROOT / "scripts" / "generate.py")]
    options = ["--out", str(folder / "generated"), "--image", str(folder / "protos.binpb")]
    done = subprocess.run(
        [*command, *options],
        env={**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder / "protos.binpb"


def test_every_rpc_field_and_value_is_on_a_page_with_words(image: Path) -> None:
    pages = api_pages.pages(image)
    text = "\n".join(pages.values())
    assert re.findall(r"^\| `\w+` \| [^|]* \| +\|$", text, re.MULTILINE) == []
    for file in FileDescriptorSet.FromString(image.read_bytes()).file:
        if file.package == api_pages.PACKAGE:
            page = pages[f"{Path(file.name).stem}.md"]
            assert {method.name for service in file.service for method in service.method} <= set(
                re.findall(r"^### (\w+)$", page, re.MULTILINE)
            )
            for message in file.message_type:
                assert f"\n## {message.name}\n" in page
                assert {field.name for field in message.field} <= set(re.findall(r"^\| `(\w+)` ", page, re.MULTILINE))


def test_every_type_named_on_a_page_leads_to_where_it_is_described(image: Path) -> None:
    pages = api_pages.pages(image)
    for page in pages.values():
        for name, home, anchor in re.findall(r"\[([\w.]+)\]\((\w+\.md)#(\w+)\)", page):
            assert f"\n## {name}\n" in pages[home]
            assert anchor == name.lower().replace(".", "")


def test_every_page_is_in_the_contents_once(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(site_pages, "IMAGE", image)
    listed = sorted(page for pages in site_pages.contents().values() for page in pages)
    copied = {name.removesuffix(".md") for name, _ in site_pages.sources()}
    assert listed == sorted(copied | {f"api/{Path(name).stem}" for name in api_pages.pages(image)})


def test_links_of_a_page_lead_to_the_sites_own_pages_and_to_copies_of_sources() -> None:
    linked: set[str] = set()
    text = "[a](../README.md#quick-start) [b](../compose.yaml) [c](../deploy) [d](decisions/README.md) ![e](top.svg)"
    assert site_pages.rewritten("cli.md", "docs/cli.md", text, linked) == (
        "[a](start.md#quick-start) [b](sources/compose.yaml) c (`deploy`) [d](decisions/README.md) ![e](top.svg)"
    )
    assert linked == {"compose.yaml", "docs/top.svg"}


@pytest.mark.parametrize("file", [file for _, file in site_pages.sources()])
def test_every_link_of_a_page_leads_to_something(file: str) -> None:
    for target in re.findall(r"\]\((?!\w+:|#)([^)\s#]+)", (ROOT / file).read_text()):
        assert ((ROOT / file).parent / target).exists(), target


def test_every_page_that_is_linked_is_one_of_the_site() -> None:
    linked: set[str] = set()
    for name, file in site_pages.sources():
        site_pages.rewritten(name, file, (ROOT / file).read_text(), linked)
    assert [file for file in linked if file.endswith(".md")] == []


def test_the_tutorial_ends_with_a_sold_out_sale(prepared: Path, tmp_path: Path) -> None:
    [program] = re.findall(r"^```python\n(.*?)^```$", TUTORIAL, re.MULTILINE | re.DOTALL)
    start, *blocks = re.findall(r"^```sh\n(.*?)^```$", TUTORIAL, re.MULTILINE | re.DOTALL)
    assert "holdsvc serve --data-dir sale" in start
    shutil.copytree(prepared, tmp_path / "sale")
    with serving(data_dir=tmp_path / "sale") as service:
        (tmp_path / "rush.py").write_text(program.replace("127.0.0.1:50051", service.address))
        printed = ""
        for block in blocks:
            done = subprocess.run(
                ["bash", "-e", "-c", block],
                cwd=tmp_path,
                env={**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "HOLDSVC_LISTEN": service.address},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=WAIT_S,
                check=False,
            )
            assert done.returncode == 0, f"{block}\n{done.stdout}"
            printed += done.stdout
        item = Client(service).item("concert")
    assert (item.remaining, item.held, item.confirmed) == (0, 0, 20)
    for line in (
        "1 rows read: 1 items created",
        "(CAPACITY_EXCEEDED)",
        "(RESERVATION_EXPIRED)",
        "18 have a ticket, 82",
    ):
        assert line in printed
        assert line in TUTORIAL
