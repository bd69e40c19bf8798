"""The report: printed, and written as Markdown and JSON."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path

from benchmark import plots
from benchmark.results import Figure, Ratio, Results, format_value

BEGIN = "<!-- written by make bench ARGS=--publish -->"
END = "<!-- end of what is written -->"


def file_name(where: Mapping[str, str], only: str) -> str:
    """A name that sorts by date."""
    return "-".join(
        part for part in (re.sub(r"\D", "", where["date"])[:12], where["commit"], only.replace(",", "-")) if part
    )


def write(results: Results, where: Mapping[str, str], folder: Path, name: str) -> None:
    """Prints the table and writes it to the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    pictures = plots.draw(results, where, folder, name)
    text = "\n".join(_lines(results, where)) + "\n"
    print("\n" + text)
    (folder / f"{name}.md").write_text(text)
    content = {
        "where": dict(where),
        "figures": [asdict(figure) for figure in results.figures.values()],
        "ratios": [{**asdict(ratio), "met": ratio.met} for ratio in results.ratios],
        "failures": results.failures,
        "skipped": results.skipped,
        "series": results.series,
    }
    (folder / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")
    files = [folder / f"{name}.md", folder / f"{name}.json", *pictures]
    print("written: " + ", ".join(str(file) for file in files))


def publish(results: Results, where: Mapping[str, str], document: Path) -> None:
    """Replaces the part between the document's two marks with table and plots."""
    before, _, rest = document.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    if not after:
        raise ValueError(f"{document} lacks the marks {BEGIN} and {END}")
    pictures = plots.draw(results, where, document.parent, document.stem)
    # The document has its own heading.
    lines = [*list(_lines(results, where))[1:], ""]
    for picture in pictures:
        lines += [f"![{plots.CAPTIONS[picture.stem.rpartition('-')[2]]}]({picture.name})", ""]
    document.write_text("\n".join([before + BEGIN, *lines, END + after]))
    print("published: " + ", ".join(str(file) for file in [document, *pictures]))


def _lines(results: Results, where: Mapping[str, str]) -> Iterator[str]:
    yield "# Benchmark"
    yield ""
    for name, value in where.items():
        yield f"- {name}: {value}"
    yield ""
    yield from _table(("ratio", "measured", "goal", ""), [_ratio_row(ratio) for ratio in results.ratios])
    yield ""
    yield from _table(("figure", "value", "unit", "note"), [_figure_row(one) for one in results.figures.values()])
    for title, notes in (("Failures", results.failures), ("Skipped", results.skipped)):
        if notes:
            yield ""
            yield f"{title}:"
            yield from (f"- {note}" for note in notes)


def _ratio_row(ratio: Ratio) -> tuple[str, ...]:
    goal = f"{'≤' if ratio.most else '≥'} {ratio.goal:g}"
    return (ratio.title, f"{ratio.value:.2f}", goal, "met" if ratio.met else "**missed**")


def _figure_row(figure: Figure) -> tuple[str, ...]:
    return (figure.title, format_value(figure.value), figure.unit, figure.note)


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> Iterator[str]:
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    for number, row in enumerate([head, *rows]):
        yield "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        if number == 0:
            yield "|" + "|".join("-" * (width + 2) for width in widths) + "|"
