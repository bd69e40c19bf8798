"""Results of a run: figures, ratios, failures."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Figure:
    """An absolute figure."""

    key: str
    title: str
    value: float
    unit: str
    note: str = ""


@dataclass(frozen=True)
class Ratio:
    """A quotient of two figures of the same run, and its goal."""

    title: str
    value: float
    goal: float
    most: bool = False
    """Whether the goal is an upper bound."""

    @property
    def met(self) -> bool:
        """Whether the goal is reached."""
        return self.value <= self.goal if self.most else self.value >= self.goal


@dataclass
class Results:
    """Collected while the benchmark runs."""

    figures: dict[str, Figure] = field(default_factory=dict)
    ratios: list[Ratio] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    series: dict[str, Any] = field(default_factory=dict)
    """Data of the plots."""

    def add(self, key: str, title: str, value: float, unit: str = "holds/s", note: str = "") -> float:
        """Records and prints a figure; returns its value."""
        figure = Figure(key, title, value, unit, note)
        self.figures[key] = figure
        print(f"  {title:<58} {format_value(value):>10} {unit}{'  (' + note + ')' if note else ''}", flush=True)
        return value

    def ratio(self, title: str, value: float, goal: float, *, most: bool = False) -> None:
        """Records a ratio."""
        ratio = Ratio(title, value, goal, most)
        self.ratios.append(ratio)
        print(f"    = {title}: {value:.2f} (goal {'at most' if most else 'at least'} {goal:g})", flush=True)

    def compare(self, title: str, above: str, below: str, goal: float) -> None:
        """Records the ratio of two figures if both were measured."""
        if above in self.figures and below in self.figures:
            self.ratio(title, quotient(self.figures[above].value, self.figures[below].value), goal)

    def fail(self, what: str) -> None:
        """Records a failure of the run."""
        self.failures.append(what)
        print(f"  FAILED: {what}", flush=True)

    def skip(self, why: str) -> None:
        """Records what was not measured."""
        self.skipped.append(why)
        print(f"  skipped: {why}", flush=True)


def quotient(above: float, below: float) -> float:
    """Divides; in a trial run the divisor may be 0 because no call of a rival has ended."""
    return above / max(below, 1e-9)


def format_value(value: float) -> str:
    """Three digits or whole numbers."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def median(values: Sequence[float]) -> float:
    """The median of the rounds."""
    return statistics.median(values)
