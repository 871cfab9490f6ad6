"""``diffuzz scan``: all blocks of all tensors of a model."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from diffuzz.cli.options import (
    BAD_INPUT,
    CONFIRMED,
    JSON,
    MODEL,
    VERBOSITY,
    answer_of,
    complain,
    open_model,
    print_json,
    print_text,
    report,
)
from diffuzz.cli.tables import bare_table, columns, fitting, folded
from diffuzz.corpus.spelling import json_number

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float32

    from diffuzz.models.model import Model
    from diffuzz.models.scanning import Outlier, Scanned, Spread

# Lines about outliers in a report; the JSON has all of them.
_MOST_LINES = 20
# Places of an outlier: of a single tensor that is looked at, and of one of many.
_PLACES_ALONE, _PLACES = 8, 1
# Columns that a table of both measures begins with, and those that a narrow terminal does without.
_ABOUT = ("tensors", "format", "count", "blocks")
_SPARE = ("of bound", "count", "blocks")
_NAME = re.compile(r"blk\.(\d+)\.(.+)")
_WHY = {
    "non-finite": "{count} not finite",
    "zero scale": "{count} of scale 0",
    "subnormal scale": "{count} of a subnormal f16 scale",
    "cancelling": "{count} whose minimum takes away what the codes say, terms / weights",
    "far": "{count} far from the others, largest weight / that of the median block",
}


@click.command("scan")
@MODEL
@click.option("--tensor", metavar="NAME", help="Only this tensor.")
@VERBOSITY
@JSON
def command(model: Path, tensor: str | None, quiet: bool, as_json: bool) -> int:
    """Multiply every block of a model with the published ramp on both paths: drift by tensor, and odd blocks."""
    from diffuzz.models import scanning
    from diffuzz.models.model import ModelError

    opened = open_model(model)
    start = time.perf_counter()
    try:
        most = _PLACES if tensor is None else _PLACES_ALONE
        found = list(scanning.scanned(opened, ramp, only=tensor, most=most))
    except ModelError as error:
        raise click.UsageError(f"{model}: {error}") from error
    seconds = time.perf_counter() - start
    skipped = {
        name: one.format
        for name, one in opened.tensors.items()
        if tensor in (None, name) and not scanning.supported(one)
    }
    if as_json:
        print_json(scan_json(opened, found, skipped, seconds))
    else:
        print_text(answer_of(scan_text(opened, found, seconds), quiet))
    if skipped:
        # Nothing is passed over in silence.
        name, format = next(iter(skipped.items()))
        more = f" and {_counted(len(skipped) - 1, 'more tensor')}" if len(skipped) > 1 else ""
        return complain(f"{model}: {name} is {format}, which cannot be scanned here{more}", BAD_INPUT)
    return CONFIRMED if any(not one.finite for one in found) else 0


def ramp(n: int) -> Float32[np.ndarray, " n"]:
    """The ramp of the published claims around the middle of a block: of 256 elements it is that ramp."""
    from diffuzz.targets import published

    return published.ramp(n, c=n // 2)


def scan_json(model: Model, found: list[Scanned], skipped: dict[str, str], seconds: float) -> dict[str, object]:
    """What was seen of every tensor, in the file's order."""
    from diffuzz.corpus.environment import environment

    return {
        "model": str(model.path),
        "architecture": model.architecture,
        "activation": "ramp(n, c=n/2)",
        "measures": {
            "normalised": "|A - B| / (||w||_1 max|x|)",
            "relative": "|A - B| / max(|A|, 1e-9)",
        },
        "blocks": sum(one.blocks for one in found),
        "finite": all(one.finite for one in found),
        "tensors": [_tensor_json(one) for one in found],
        "not_scanned": skipped,
        "seconds": round(seconds, 3),
        "environment": environment(),
    }


def _tensor_json(one: Scanned) -> dict[str, object]:
    return {
        "name": one.name,
        "format": one.format,
        "shape": list(one.shape),
        "blocks": one.blocks,
        "normalised": None if one.normalised is None else _spread_json(one.normalised),
        "relative": None if one.relative is None else _spread_json(one.relative),
        "bound": one.bound,
        "outliers": [
            {
                "reason": outlier.reason,
                "count": outlier.count,
                "places": [
                    {"row": place.row, "block": place.block, "value": json_number(place.value)}
                    for place in outlier.places
                ],
            }
            for outlier in one.outliers
        ],
    }


def _spread_json(spread: Spread) -> dict[str, object]:
    return {
        "median": json_number(spread.median),
        "mean": json_number(spread.mean),
        "largest": json_number(spread.largest.value),
        "row": spread.largest.row,
        "block": spread.largest.block,
    }


def scan_text(model: Model, found: list[Scanned], seconds: float) -> str:
    """A line for each kind of tensor and format that has blocks, and the outliers."""
    blocks, broken = sum(one.blocks for one in found), sum(not one.finite for one in found)
    state = f"weights of {_counted(broken, 'tensor')} are NaN or infinite" if broken else "all weights are finite"
    lines = folded([
        f"{model.path}: {_counted(len(found), 'tensor')}, {_counted(blocks, 'block')} in {seconds:.1f} s; {state}."
    ])  # fmt: skip
    kinds = _kinds(found)
    rows = [_row(kind, format, some) for (kind, format), some in kinds.items() if _blocks(some)]
    if rows:
        lines += ["", *_tables(rows)]
        lines += ["", *folded([
            "normalised  |A - B| / (||w||_1 max|x|), for a block w, the ramp x, A = w.x (APR) and B = w.x^ (GGUF)",
            "relative    |A - B| / max(|A|, 1e-9), as published; unbounded, since A may cancel",
            "at          layer, row and block of the largest",
        ])]  # fmt: skip
    if plain := [f"{kind} ({format})" for (kind, format), some in kinds.items() if not _blocks(some)]:
        lines += ["", *folded([f"without blocks, only looked at for NaN and infinity: {', '.join(plain)}"])]
    said = [(one, outlier) for one in found for outlier in one.outliers]
    if said:
        # What is wrong comes first, and then what is so of the smallest part of a tensor.
        said.sort(key=lambda pair: (pair[1].reason != "non-finite", pair[1].count / max(1, pair[0].blocks)))
        lines += ["", "Odd blocks:", *folded(_outlier_text(outlier) for _, outlier in said[:_MOST_LINES])]
        if len(said) > _MOST_LINES:
            lines.append(f"  and in {len(said) - _MOST_LINES} more tensors, see --json")
    return report(lines)


def _tables(rows: list[tuple[str, ...]]) -> list[str]:
    """One table of both measures, or, where that is too wide, one for each."""
    about, normalised, relative = _columns_of(rows, 0, 4), _columns_of(rows, 4, 8), _columns_of(rows, 8, 11)
    measures = (("normalised", ("median", "largest", "of bound", "at"), normalised),
                ("relative", ("median", "largest", "at"), relative))  # fmt: skip
    both = [f"{name}: {heading}" if heading == "median" else heading
            for name, headings, _ in measures for heading in headings]  # fmt: skip
    whole = bare_table([*_ABOUT, *both], rows, wraps=False)
    if max(map(len, whole)) <= columns():
        return whole
    lines: list[str] = []
    for name, headings, cells in measures:
        narrow = [(*one, *other) for one, other in zip(about, cells, strict=True)]
        lines += [*([""] if lines else []), f"{name}:", *fitting([*_ABOUT, *headings], narrow, _SPARE)]
    return lines


def _columns_of(rows: list[tuple[str, ...]], start: int, stop: int) -> list[tuple[str, ...]]:
    return [row[start:stop] for row in rows]


def _blocks(some: list[Scanned]) -> int:
    return sum(one.blocks for one in some)


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _kinds(found: Iterable[Scanned]) -> dict[tuple[str, str], list[Scanned]]:
    """Tensors by what they are in their layer, and by their format."""
    kinds: dict[tuple[str, str], list[Scanned]] = {}
    for one in found:
        match = _NAME.fullmatch(one.name)
        kind = (match[2] if match else one.name).removesuffix(".weight")
        kinds.setdefault((kind, one.format), []).append(one)
    return kinds


def _row(kind: str, format: str, some: list[Scanned]) -> tuple[str, ...]:
    """Medians are the middle one of the tensors' own."""
    cells = []
    bounded = False
    for measure in ("normalised", "relative"):
        spreads = [(spread, one) for one in some if (spread := getattr(one, measure)) is not None]
        if not spreads:
            return (kind, format, str(len(some)), *[""] * 8)
        medians = sorted(spread.median for spread, _ in spreads)
        worst, one = max(spreads, key=lambda pair: pair[0].largest.value)
        cells += [f"{medians[len(medians) // 2]:.2e}", f"{worst.largest.value:.3g}"]
        if not bounded:
            share = math.nan if not one.bound else 100 * worst.largest.value / one.bound
            cells.append(f"{share:.0f} %")
            bounded = True
        match = _NAME.fullmatch(one.name)
        layer = f"{match[1]}: " if match else ""
        cells.append(f"{layer}{worst.largest.row}, {worst.largest.block}")
    return (kind, format, str(len(some)), f"{sum(one.blocks for one in some):,}", *cells)


def _outlier_text(one: Outlier) -> str:
    places = ", ".join(f"row {place.row} block {place.block} ({place.value:.4g})" for place in one.places)
    more = ", ..." if one.count > len(one.places) else ""
    why = _WHY[one.reason].format(count=f"{one.count:,}")
    return f"  {one.tensor}: {why}: {places}{more}"
