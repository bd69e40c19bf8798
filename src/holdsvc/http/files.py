"""The files of the package that a browser asks for: the description of the rpcs, and the pages of `site/`."""

from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

from holdsvc.http.exchange import Exchange, Header

FOLDER = Path(__file__).parent
SITE = FOLDER / "site"
INDEX = "index.html"
DESCRIPTION = "openapi.json"

_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".svg": "image/svg+xml",
}
"""Files of other types are not served."""

_SOURCES = "; ".join(
    (
        "default-src 'none'",
        *(f"{kind}-src 'self'" for kind in ("script", "style", "img", "connect")),
        *(f"{kind} 'none'" for kind in ("base-uri", "form-action", "frame-ancestors")),
    )
)
_POLICY: tuple[Header, ...] = (
    ("content-security-policy", _SOURCES),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-opener-policy", "same-origin"),
)
"""A page runs what comes along with it and talks to its own service, nothing else."""


class _File(NamedTuple):
    headers: tuple[Header, ...]
    tag: str
    content: bytes


class Files:
    """Read once: a request names one of them or none, never a path on the disk."""

    def __init__(self) -> None:
        self._files = {path: _file(file) for path, file in _found()}

    def answer(self, exchange: Exchange) -> None:
        """Answers a GET or HEAD."""
        file = self._files.get(exchange.path)
        if file is None:
            exchange.answer(404, (("content-type", "text/plain; charset=utf-8"),), b"there is no such page\n")
        elif exchange.header("if-none-match") == file.tag:
            exchange.answer(304, file.headers)
        else:
            exchange.answer(200, file.headers, file.content)


def _found() -> Iterator[tuple[str, Path]]:
    yield f"/{DESCRIPTION}", FOLDER / DESCRIPTION
    for file in SITE.rglob("*"):
        if file.suffix in _TYPES:
            path = file.relative_to(SITE).as_posix()
            yield f"/{path}", file
            if path == INDEX:
                yield "/", file


def _file(path: Path) -> _File:
    content = path.read_bytes()
    tag = f'"{blake2b(content, digest_size=12).hexdigest()}"'
    # Asked for again each time, and sent again only when it has changed: an update shows at once.
    headers = (("content-type", _TYPES[path.suffix]), ("etag", tag), ("cache-control", "no-cache"), *_POLICY)
    return _File(headers, tag, content)
