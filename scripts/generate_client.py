"""Makes the blocking client of the asyncio one, module by module.

Text and comments of the source stay; `async` and `await` go, and names are replaced. What differs in more than that has
two forms, `AsyncName` and `Name`, in the modules beside it.
"""

import argparse
import io
import re
import subprocess
import sys
import tokenize
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CLIENT = ROOT / "src" / "holdsvc" / "client"

MODULES = {"aio": "blocking", "async_calls": "calls"}
"""The sources and what is made of them."""

HEADER = '''"""{title}, for any number of threads.

Generated from `{source}.py` by scripts/generate_client.py: change that and run `make generate`.
"""'''

TITLES = {"aio": "The blocking client", "async_calls": "How the blocking client calls"}

NAMES = {
    "async_calls": "calls",
    "asynccontextmanager": "contextmanager",
    "asyncio": "time",
    "__aenter__": "__enter__",
    "__aexit__": "__exit__",
}
"""What names become, besides the rule that `AsyncName` becomes `Name`."""

_ASYNC_NAME = re.compile(r"\bAsync(?=[A-Z])")
_ASYNC_WORDS = re.compile(r"`async (with|for)`")
_AWAITABLE = re.compile(r"Awaitable\[(\w+)\]")
_ASYNC_RULES = re.compile(r"  # noqa: ASYNC\d+")


def blocking(name: str) -> str:
    """The blocking form of a module, not yet formatted."""
    source = (CLIENT / f"{name}.py").read_text()
    source = _ASYNC_RULES.sub("", _AWAITABLE.sub(r"\1", source))
    lines = source.splitlines(keepends=True)
    tokens = list(tokenize.generate_tokens(io.StringIO(source).readline))
    docstring = next(token for token in tokens if token.type == tokenize.STRING)
    for token in reversed(tokens):
        text = _translated(token)
        if token is docstring:
            text = HEADER.format(title=TITLES[name], source=name)
        if text != token.string:
            (first, begin), (last, end) = token.start, token.end
            # Both words are followed by exactly one space.
            after = lines[last - 1][end + (not text) :]
            lines[first - 1 : last] = [lines[first - 1][:begin] + text + after]
    return "".join(lines)


def _translated(token: tokenize.TokenInfo) -> str:
    text = token.string
    if token.type == tokenize.NAME:
        if text in {"async", "await"}:
            return ""
        text = NAMES.get(text, text)
    if token.type in {tokenize.NAME, tokenize.STRING, tokenize.COMMENT}:
        return _ASYNC_WORDS.sub(r"`\1`", _ASYNC_NAME.sub("", text))
    return text


def formatted(source: str, path: Path) -> str:
    """The source as the linter and the formatter leave it: imports sorted, unused ones removed."""
    for arguments in (["check", "--fix-only", "--quiet"], ["format", "--quiet"]):
        command = [sys.executable, "-m", "ruff", *arguments, "--stdin-filename", str(path), "-"]
        source = subprocess.run(command, input=source, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    return source


def main() -> int:
    """Writes the module, or tells whether it is fresh."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; fail where the module is stale")
    options = parser.parse_args()
    stale = 0
    for source, made in MODULES.items():
        path = CLIENT / f"{made}.py"
        text = formatted(blocking(source), path)
        if not options.check:
            path.write_text(text)
        elif not path.exists() or path.read_text() != text:
            print(f"{path.relative_to(ROOT)} is stale: run 'make generate' and commit it.", file=sys.stderr)
            stale = 1
    return stale


if __name__ == "__main__":
    sys.exit(main())
