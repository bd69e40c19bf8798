"""Plots of the results, as PNG files beside the table."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmark.results import Results

BARS = (
    ("plain", "plain service, transaction per call"),
    ("cte", "pgbench, one CTE statement"),
    ("unary", "holdsvc, unary"),
    ("client_shared_100", "holdsvc, 100 callers of its client"),
    ("redis", "Redis Lua, AOF always"),
    ("batch_100_uniform", "holdsvc, batches of 100, 10,000 items"),
    ("batch_500_uniform", "holdsvc, batches of 500, 10,000 items"),
    ("batch_100_hot", "holdsvc, batches of 100"),
    ("batch_500_hot", "holdsvc, batches of 500"),
)
CAPTIONS = {
    "throughput": "Holds per second of the service and its rivals",
    "latency": "Latency of Reserve at fixed rates, one and two workers",
    "size": "The cost of a hold as the tables grow",
}
OWN, OTHER, THIRD = "#2b6cb0", "#a0aec0", "#dd6b20"


def draw(results: Results, where: Mapping[str, str], folder: Path, name: str) -> list[Path]:
    """Draws what there are figures for; returns the files."""
    try:
        import matplotlib as mpl
    except ImportError:
        results.skip("no plots: matplotlib is not installed (pip install 'holdsvc[bench]')")
        return []
    mpl.use("Agg")
    import matplotlib.pyplot as plt

    made = []
    for kind, figure in _figures(plt, results):
        figure.text(0.99, 0.01, f"{where['machine']} · {where['date']} · {where['commit']}", ha="right", fontsize=6)
        figure.tight_layout(rect=(0, 0.03, 1, 1))
        made.append(folder / f"{name}-{kind}.png")
        figure.savefig(made[-1], dpi=120)
        plt.close(figure)
    return made


def _figures(plt: Any, results: Results) -> Iterator[tuple[str, Any]]:
    if "unary" in results.figures and "cte" in results.figures:
        yield "throughput", _throughput(plt, results)
    if "latency" in results.series:
        yield "latency", _latency(plt, results.series["latency"])
    if "size" in results.series:
        yield "size", _size(plt, results.series["size"])


def _throughput(plt: Any, results: Results) -> Any:
    bars = [(label, results.figures[key].value, key) for key, label in BARS if key in results.figures]
    figure, axes = plt.subplots(figsize=(8, 0.45 * len(bars) + 1.2))
    colours = [OTHER if key in ("plain", "cte", "redis") else OWN for _, _, key in bars]
    drawn = axes.barh([label for label, _, _ in bars], [value for _, value, _ in bars], color=colours)
    axes.bar_label(drawn, labels=[f"{value:,.0f}" for _, value, _ in bars], padding=3, fontsize=8)
    axes.set_xscale("log")
    axes.margins(x=0.15)
    axes.set_xlabel("holds per second of one hot item, unless said otherwise (logarithmic)")
    return figure


def _latency(plt: Any, series: list[tuple[int, float, float, float, float]]) -> Any:
    figure, axes = plt.subplots(figsize=(8, 4))
    for workers, colour in ((1, OWN), (2, THIRD)):
        rows = [row for row in series if row[0] == workers]
        name = f"{workers} worker{'s' if workers > 1 else ''}"
        rates = [rate for _, _, rate, _, _ in rows]
        axes.plot(rates, [p50 for _, _, _, p50, _ in rows], "o-", color=colour, label=f"{name}, p50")
        axes.plot(rates, [p99 for _, _, _, _, p99 in rows], "s--", color=colour, label=f"{name}, p99")
    axes.set_xlabel("Reserve calls per second, at fixed times (20, 50 and 80 % of the most)")
    axes.set_ylabel("milliseconds from when the call was due")
    axes.set_ylim(bottom=0)
    axes.legend()
    return figure


def _size(plt: Any, series: list[tuple[int, float, float]]) -> Any:
    figure, axes = plt.subplots(figsize=(8, 3.5))
    labels = [f"{size:,}" for size, _, _ in series]
    axes.plot(labels, [filled / max(empty, 1) for _, filled, empty in series], "o-", color=OWN)
    axes.axhline(0.9, color=OTHER, linestyle=":", label="goal: 0.9")
    axes.set_ylim(0, max(1.25, *(1.1 * filled / max(empty, 1) for _, filled, empty in series)))
    axes.set_xlabel("reservations in the tables")
    axes.set_ylabel("holds/s ÷ those of an empty database beside it")
    axes.legend()
    return figure
