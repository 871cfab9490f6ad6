"""The comparison of engines as a picture: best so far against time, one panel for each target.

Time is logarithmic, because competitors differ by orders of magnitude. Values are shares of the bound. With several
seeds, the run with the median value is drawn in full and the others are faint.
"""

from __future__ import annotations

import importlib
import math
from pathlib import Path
from typing import Any, TypeAlias

from diffuzz.studies.engines.tournament import Run, Table, need

# Keyword arguments of a line: linestyle is (offset, lengths of dashes and gaps).
Style: TypeAlias = dict[str, str | float | tuple[float, tuple[float, ...]]]

SUFFIXES = (".pdf", ".png", ".svg")
COLUMNS = 4
# Start of the time axis, in seconds; before it no competitor has a value.
EARLIEST = 1e-3
# The peers have colours of Okabe and Ito, which people with any colour vision can tell apart; the engines of diffuzz
# have shades of one blue.
STYLES: dict[str, Style] = {
    "random": {"color": "#b8cbe0", "linewidth": 1.2},
    "shapes": {"color": "#b8cbe0", "linewidth": 1.2, "linestyle": (0, (4, 2))},
    "pbt": {"color": "#8fb0d3", "linewidth": 1.2, "linestyle": (0, (1, 1))},
    "gradient": {"color": "#6f97c4", "linewidth": 1.2, "linestyle": (0, (4, 2))},
    "evolution": {"color": "#4a7ab0", "linewidth": 1.4},
    "uniform": {"color": "#8c8c8c", "linewidth": 1.6},
    "hypothesis": {"color": "#009e73", "linewidth": 1.6},
    "cma": {"color": "#d55e00", "linewidth": 1.6},
    "de": {"color": "#e69f00", "linewidth": 1.6},
    "nevergrad": {"color": "#cc79a7", "linewidth": 1.6},
    "blind": {"color": "#12355b", "linewidth": 2.0, "linestyle": (0, (3, 1.2))},
    "auto": {"color": "#12355b", "linewidth": 2.6},
}
LABELS = {
    "auto": "auto",
    "blind": "auto without constructions",
    "uniform": "uniform, as ggml draws",
    "hypothesis": "Hypothesis, target()",
    "cma": "CMA-ES (pycma)",
    "de": "differential evolution (scipy)",
    "nevergrad": "NGOpt (nevergrad)",
}
INK, RULE = "#333333", "#e4e4e4"


def check(path: Path) -> None:
    """Check that a picture can be drawn at ``path``.

    Raises ValueError for a wrong suffix or a missing folder, and MissingDependencyError without matplotlib.
    """
    if path.suffix not in SUFFIXES:
        raise ValueError(f"picture={path}: a file name that ends in {', '.join(SUFFIXES)} is needed")
    if not path.resolve().parent.is_dir():
        raise ValueError(f"picture={path}: there is no folder {path.resolve().parent}")
    need(["matplotlib"])


def draw(tables: list[Table], seconds: float, path: Path) -> None:
    """Write the picture of runs of ``seconds`` each. Raises OSError if the file cannot be written."""
    matplotlib = importlib.import_module("matplotlib.figure")
    drawn = [name for name in STYLES if any(table.of(name) for table in tables)]
    columns = min(COLUMNS, len(tables) + 1)
    # One panel more than tables, for the legend.
    rows = math.ceil((len(tables) + 1) / columns)
    figure = matplotlib.Figure(figsize=(3.5 * columns, 2.55 * rows), layout="constrained", facecolor="white")
    axes = figure.subplots(rows, columns, squeeze=False).reshape(-1)
    for axis, table in zip(axes, tables, strict=False):
        _panel(axis, table, drawn, seconds)
    lines = importlib.import_module("matplotlib.lines")
    handles = [lines.Line2D([], [], label=LABELS.get(name, name), **STYLES[name]) for name in reversed(drawn)]
    for axis in axes[len(tables) :]:
        axis.set_axis_off()
    axes[len(tables)].legend(
        handles=handles, loc="center left", frameon=False, fontsize=8.5, labelcolor=INK, handlelength=2.6
    )
    figure.supxlabel("seconds of search (without compilation)", fontsize=9, color=INK)
    figure.supylabel("best so far, as a share of the bound", fontsize=9, color=INK)
    figure.savefig(path, dpi=160, metadata={"Date": None} if path.suffix == ".svg" else None)


# ``axis`` is an Axes of matplotlib. It is Any because matplotlib need not be installed where types are checked.
def _panel(axis: Any, table: Table, drawn: list[str], seconds: float) -> None:
    axis.set_title(table.target, loc="left", fontsize=10, fontweight="bold", color=INK)
    axis.set_xscale("log")
    axis.set_xlim(EARLIEST, seconds)
    axis.set_ylim(-0.03, 1.07)
    axis.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0", "", "50 %", "", "100 %"])
    axis.tick_params(which="both", length=0, labelsize=8, labelcolor=INK)
    axis.grid(axis="y", color=RULE, linewidth=0.8)
    axis.set_axisbelow(True)
    for side, spine in axis.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color("#bbbbbb")
    bound = "no proven bound: shares of the best" if table.bound is None else f"bound {table.bound.value:.4g}"
    axis.set_title(bound, loc="right", fontsize=8, color="#777777")
    if not table.best > 0:
        axis.text(
            0.5, 0.5, "no competitor found a difference", transform=axis.transAxes, ha="center", fontsize=9, color=INK
        )
        return
    for name in drawn:
        typical = table.typical(name)
        for run in table.of(name):
            if run is not typical:
                axis.plot(*_steps(run, table, seconds), **{**STYLES[name], "linewidth": 0.8}, alpha=0.25)
        if typical is not None:
            axis.plot(*_steps(typical, table, seconds), **STYLES[name], solid_joinstyle="miter")


def _steps(run: Run, table: Table, seconds: float) -> tuple[list[float], list[float]]:
    """The times and shares of a staircase from the first value to the end of the search."""
    times, shares = [EARLIEST], [0.0]
    for at, value in run.history:
        at = max(at, EARLIEST)
        times += [at, at]
        shares += [shares[-1], min(table.fraction(value), 1.0)]
    return [*times, max(seconds, times[-1])], [*shares, shares[-1]]
