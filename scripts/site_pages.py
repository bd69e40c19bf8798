"""Builds the documentation as a site in build/site; `make docs` runs it.

The pages stay as a code host shows them. For the site they are copied, with links that work there: to README.md and
the others that are pages here, to copies of sources, and to the API, which is written from the protos' comments.
"""

import argparse
import html
import posixpath
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from scripts.api_pages import pages as api_pages

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
BUILD = ROOT / "build"
IMAGE = BUILD / "protos.binpb"
MERMAID = BUILD / "mermaid.min.js"

OUTSIDE: Mapping[str, str] = {
    "README.md": "start.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "protos/README.md": "protos.md",
    "examples/README.md": "examples.md",
}
"""Files of the repository that are pages of the site."""

PARTS: Mapping[str, list[str]] = {
    "Start": ["start", "tutorial", "quickstart"],
    "Callers": ["callers", "client", "cli", "http", "streams", "webhooks", "stock", "limits", "protos", "examples"],
    "Partners": ["partners"],
    "Operators": [
        *("operators", "installation", "console", "operations", "security", "metrics", "backup", "upgrade", "sizing"),
        *("high-availability", "scale", "cells", "performance", "reliability"),
    ],
    "Contributors": ["contributors", "contributing", "architecture", "decisions/README", "changelog"],
}
"""Parts of the table of contents, in which some pages come first; every other page of docs/ comes under More."""

HOME = """# holdsvc

Inventory holds over gRPC and PostgreSQL. [What it is, and its first call](start.md); [fifteen minutes](tutorial.md)
from nothing to a sold-out sale. Pages for [callers](callers.md), [partners](partners.md), [operators](operators.md) and
[contributors](contributors.md).
"""

_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")
_FENCE = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)
_PICTURE = re.compile(r"^```mermaid\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_STYLE = "pre.mermaid { background: #fff; color: #222; border-radius: .3rem; text-align: center; }\n"


def contents() -> dict[str, list[str]]:
    """The pages of each part of the table of contents, without their ending; every page is in one of them."""
    parts = {name: list(pages) for name, pages in PARTS.items()}
    named = {page for pages in parts.values() for page in pages}
    parts["More"] = sorted(path.stem for path in DOCS.glob("*.md") if path.stem not in named)
    parts["Reference"] = sorted(f"reference/{path.stem}" for path in (DOCS / "reference").glob("*.md"))
    parts["API"] = sorted(f"api/{Path(name).stem}" for name in api_pages(IMAGE))
    parts["Decisions"] = sorted(f"decisions/{path.stem}" for path in (DOCS / "decisions").glob("0*.md"))
    return parts


def sources() -> Iterator[tuple[str, str]]:
    """Every page that is copied: its name on the site and its file, from the repository's root."""
    yield from ((name, file) for file, name in OUTSIDE.items())
    yield from ((str(path.relative_to(DOCS)), str(path.relative_to(ROOT))) for path in sorted(DOCS.rglob("*.md")))


def rewritten(page: str, file: str, text: str, linked: set[str]) -> str:
    """The text of a page as the site needs it; files that it links to are added to `linked`."""

    def link(match: re.Match[str]) -> str:
        bang, label, target = match.groups()
        if "://" in target or target.startswith(("#", "mailto:")):
            return match[0]
        path, hash_, anchor = target.partition("#")
        full = posixpath.normpath(posixpath.join(posixpath.dirname(file), path))
        if full in OUTSIDE:
            at = OUTSIDE[full]
        elif full.startswith("docs/") and full.endswith(".md"):
            at = full.removeprefix("docs/")
        elif (ROOT / full).is_file():
            at = full.removeprefix("docs/") if bang else f"sources/{full}"
            linked.add(full)
        else:
            # A folder, which the site does not have.
            return f"{label} (`{full}`)"
        return f"{bang}[{label}]({posixpath.relpath(at, posixpath.dirname(page) or '.')}{hash_}{anchor})"

    # What a code host draws from a fence, the script of the site draws from a `pre`.
    parts = _FENCE.split(_PICTURE.sub(lambda found: _picture(found[1]), text))
    return "".join(part if part.startswith("```") else _LINK.sub(link, part) for part in parts)


def _picture(source: str) -> str:
    return f'```{{raw}} html\n<pre class="mermaid">\n{html.escape(source)}</pre>\n```'


def stage(folder: Path) -> None:
    """Writes every page, picture and linked source into a folder."""
    shutil.rmtree(folder, ignore_errors=True)
    linked: set[str] = set()
    texts = {name: rewritten(name, file, (ROOT / file).read_text(), linked) for name, file in sources()}
    texts |= {f"api/{name}": text for name, text in api_pages(IMAGE).items()}
    texts["index.md"] = HOME + "".join(
        f"\n```{{toctree}}\n:hidden:\n:caption: {name}\n:maxdepth: 1\n\n" + "\n".join(pages) + "\n```\n"
        for name, pages in contents().items()
    )
    for name, text in texts.items():
        _write(folder / name, text.encode())
    for file in linked:
        _write(folder / "sources" / file, (ROOT / file).read_bytes())
        if file.startswith("docs/"):
            _write(folder / file.removeprefix("docs/"), (ROOT / file).read_bytes())
    _write(folder / "static" / "site.css", _STYLE.encode())
    if MERMAID.exists():
        _write(folder / "static" / "mermaid.min.js", MERMAID.read_bytes())
    else:
        print("pictures are left as text: there is no npm to fetch mermaid with", file=sys.stderr)


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def build(pages: Path, site: Path) -> int:
    """Builds the site; a link that leads nowhere fails it. Returns the exit code."""
    from sphinx.application import Sphinx

    shutil.rmtree(site, ignore_errors=True)
    static = pages / "static"
    app = Sphinx(
        srcdir=pages,
        confdir=None,
        outdir=site,
        doctreedir=BUILD / "doctrees",
        buildername="html",
        warningiserror=True,
        status=None,
        freshenv=True,
        confoverrides={
            "project": "holdsvc",
            "extensions": ["myst_parser"],
            "myst_heading_anchors": 4,
            "html_theme": "furo",
            "html_title": "holdsvc",
            "html_static_path": [str(static)],
            "html_css_files": ["site.css"],
            "html_js_files": ["mermaid.min.js"] if (static / "mermaid.min.js").exists() else [],
            "html_copy_source": False,
            "exclude_patterns": ["sources", "static"],
            "suppress_warnings": ["myst.header", "misc.highlighting_failure"],
        },
    )
    app.build()
    return int(app.statuscode)


def main() -> int:
    """Copies the pages and builds the site."""
    argparse.ArgumentParser(prog="make docs", description=__doc__).parse_args()
    pages, site = BUILD / "pages", BUILD / "site"
    stage(pages)
    code = build(pages, site)
    if not code:
        print(f"open {site.relative_to(ROOT)}/index.html")
    return code


if __name__ == "__main__":
    sys.exit(main())
