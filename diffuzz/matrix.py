"""The matrix of a target: every pair of the implementations of its operation, searched and judged.

    for cell in matrix(targets.get("matvec"), {"format": "q5_0"}, seconds=5, seed=0):
        cell.a, cell.b, cell.value, cell.agreement

Values are those of diffuzz.pair: the largest |A - B| in units of what rounding allows, or the number of elements that
differ where the result is fixed to the bit. The column of ``exact`` is each implementation's own error.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import attrs
from rich import box
from rich.console import Console
from rich.table import Table

from diffuzz import corpus, interruption, kernels, report
from diffuzz.pair import Agreement, PairError, agreement, implementations
from diffuzz.search import SearchResult, entry_of, search
from diffuzz.target import Target


@attrs.frozen
class Cell:
    """One pair: the largest value that was found, how the two agree as far as was seen, the search, and its entry."""

    a: str
    b: str
    value: float
    agreement: Agreement
    result: SearchResult
    witness: Path | None


def names(target: Target, given: Mapping[str, Any], chosen: Sequence[str] = ()) -> tuple[list[str], list[str]]:
    """(implementations that are here, what to do for those that are not); ``chosen`` instead of all of them.

    Raises PairError if there are fewer than two to compare, ImportError for a chosen one that is not here.
    """
    known = implementations(target, target.params(given))
    if not known:
        raise PairError(f"target {target.name} compares no kernels: its claim is about the arithmetic")
    for name in chosen:
        if name.partition("@")[0] not in known:
            raise PairError(f"target {target.name} has no kernels {name!r} here (it has {', '.join(known)})")
        if (remedy := kernels.missing(name)) is not None:
            raise ImportError(remedy)
        if chosen.count(name) > 1:
            raise PairError(f"kernels {name}: the same implementation twice; two different ones are needed")
        # A library that is not there is known before anything is searched.
        kernels.get(name)
    wanted = list(chosen) or list(known)
    here = [name for name in wanted if not kernels.missing(name)]
    if len(here) < 2:
        raise PairError(f"target {target.name} has only {', '.join(here)} here: two are needed")
    return here, [remedy for name in wanted if (remedy := kernels.missing(name))]


def pairs(target: Target, given: Mapping[str, Any], chosen: Sequence[str] = ()) -> list[tuple[str, str]]:
    """The pairs that are searched. Raises as ``names`` does."""
    return list(combinations(names(target, given, chosen)[0], 2))


def matrix(
    target: Target,
    given: Mapping[str, Any],
    *,
    seconds: float,
    seed: int,
    chosen: Sequence[str] = (),
    library: str | None = None,
    directory: Path | None = None,
    on_cell: Callable[[Cell], None] | None = None,
) -> list[Cell]:
    """Search every pair for ``seconds``; the pairs that are finished if the user interrupts. Witnesses of pairs that
    disagree by more than rounding are saved in ``directory``, if it is given. Raises as ``names`` and
    ``diffuzz.search.search`` do.
    """
    cells: list[Cell] = []
    for a, b in pairs(target, given, chosen):
        try:
            interruption.check()
            result = search(target, given, seconds=seconds, seed=seed, kernels=(a, b), library=library)
        except KeyboardInterrupt:
            break
        if result.interrupted:
            # How the two agree is as far as was seen in the whole time, or it is not said.
            break
        how = agreement(result.value, result.measurement.detail)
        path = None
        if directory is not None and result.case is not None and how in (Agreement.POLICY, Agreement.OUTSIDE):
            path = corpus.save(entry_of(result), directory)
        cells.append(Cell(a, b, result.value, how, result, path))
        if on_cell:
            on_cell(cells[-1])
    return cells


def outside(cells: Sequence[Cell]) -> bool:
    """Whether any pair disagrees by more than both contracts allow."""
    return any(cell.agreement is Agreement.OUTSIDE for cell in cells)


def as_json(
    target: Target,
    given: Mapping[str, Any],
    cells: Sequence[Cell],
    absent: Sequence[str],
    *,
    interrupted: bool = False,
) -> dict[str, Any]:
    """Every cell, with its value, agreement, the numbers at the worst element and its witness; ``interrupted`` if some
    are missing.
    """
    return {
        "target": target.name,
        "params": dict(target.params(given)),
        "cells": [
            {
                "kernels": list(cell.result.kernels or (cell.a, cell.b)),
                "value": report.json_number(cell.value),
                "measure": cell.result.measurement.measure,
                "agreement": cell.agreement.value,
                "detail": {name: report.json_number(value) for name, value in cell.result.measurement.detail.items()},
                "failure": cell.result.failure,
                "evaluations": cell.result.evaluations,
                "witness": None if cell.witness is None else str(cell.witness),
            }
            for cell in cells
        ],
        "missing": list(absent),
        "interrupted": interrupted,
        "environment": corpus.environment() | {k: v for cell in cells for k, v in cell.result.libraries.items()},
    }


def as_text(cells: Sequence[Cell], absent: Sequence[str]) -> str:
    """The triangle of values, with how each pair agrees, and a line for each that disagrees."""
    found = {(cell.a, cell.b): cell for cell in cells}
    rows = list(dict.fromkeys(name for pair in found for name in pair))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("")
    for name in rows[1:]:
        table.add_column(name)
    for a in rows[:-1]:
        table.add_row(a, *[_cell_text(found.get((a, b))) for b in rows[1:]])
    console = Console(width=200, file=io.StringIO(), color_system=None)
    console.print(table)
    lines = [line.rstrip() for line in console.file.getvalue().splitlines()]  # type: ignore[attr-defined]
    if cells:
        lines += ["", f"Values: {cells[0].result.measurement.measure}. How they agree is as far as was seen."]
    for cell in cells:
        if cell.agreement is Agreement.OUTSIDE:
            why = cell.result.failure or _errors(cell)
            where = f"; witness in {cell.witness}" if cell.witness else ""
            lines.append(f"{cell.a} and {cell.b} do not agree: {why}{where}.")
    return "\n".join([*lines, *(f"Not here: {line}." for line in absent)]) + "\n"


def _cell_text(cell: Cell | None) -> str:
    return "" if cell is None else f"{cell.value:.3g}, {cell.agreement.value}"


def _errors(cell: Cell) -> str:
    detail = cell.result.measurement.detail
    if "rounding" not in detail:
        return f"{cell.value:g} elements differ, the first is {detail['A']:.9g} against {detail['B']:.9g}"
    a, b = (detail[f"{side} error / a-priori bound"] for side in ("A", "B"))
    return f"{cell.a} has {a:.3g} of its a-priori bound, {cell.b} {b:.3g}"
