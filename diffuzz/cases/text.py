"""Rendering of cases and corpus entries as text that fits on a screen. Nothing here prints."""

from __future__ import annotations

import math

import numpy as np

from diffuzz import formats
from diffuzz.cases.case import Case
from diffuzz.cases.space import Space, TensorSpec

WIDTH = 100
# Runs of one array that are written out; what is longer is summarised.
RUNS = 10


def decimal(value: float) -> str:
    """The shortest decimal that reads back as the same float32; an int (of an integer array) in full."""
    if isinstance(value, int):
        return str(value)
    if abs(value) < 1e7 and value == int(value):
        return "-0" if value == 0 and math.copysign(1, value) < 0 else str(int(value))
    narrow = np.float32(value)
    return np.format_float_positional(narrow, trim="-") if 1e-4 <= abs(value) < 1e7 else str(narrow)


def space_text(space: Space) -> str:
    """``x float32[n<=255] in [-16, 16]; ...``: which cases there are."""

    def numbers(spec: TensorSpec) -> str:
        if spec.kind == "blocks":
            return f"blocks of {spec.format}"
        return f"{spec.dtype} in [{decimal(spec.low)}, {decimal(spec.high)}]"

    shapes = (", ".join(f"{d.name}{'=' if d.fixed else '<='}{d.size}" for d in spec.shape) for spec in space.tensors)
    return "; ".join(f"{spec.name}[{shape}] {numbers(spec)}" for spec, shape in zip(space.tensors, shapes, strict=True))


def runs_text(array: np.ndarray) -> str:
    """An array run by run in C order: ``10 x 2, -10 x 5``; the first RUNS runs and a summary where there are more."""
    flat = array.reshape(-1)
    # The two zeros are different inputs.
    edges = np.flatnonzero((flat[1:] != flat[:-1]) | (np.signbit(flat[1:]) != np.signbit(flat[:-1]))) + 1
    starts, ends = [0, *edges.tolist()], [*edges.tolist(), flat.size]
    written = [
        decimal(flat[start].item()) + (f" x {end - start}" if end - start > 1 else "")
        for start, end in zip(starts[:RUNS], ends[:RUNS], strict=True)
    ]
    text = ", ".join(written)
    if len(starts) <= RUNS:
        return text
    levels = len(np.unique(flat))
    return (
        f"{text}, ... ({flat.size} elements in {len(starts)} runs, {levels} distinct, "
        f"{decimal(flat.min().item())} to {decimal(flat.max().item())})"
    )


def _blocks_text(spec: TensorSpec, array: np.ndarray) -> list[str]:
    fmt = formats.get(spec.format or "")
    blocks = array.reshape(-1, fmt.type_size)
    count = f"{len(blocks)} block{'s' if len(blocks) > 1 else ''} of {fmt.name}"
    lines = [f"{spec.name} = {count}"]
    for name, values in fmt.unpack(blocks).items():
        lines.append(f"  {name} = {runs_text(values)}")
    return lines


def case_text(space: Space, case: Case) -> str:
    """Every array of a case, in the order of the space; one line each, one for each field of blocks."""
    lines: list[str] = []
    for spec in space.tensors:
        array = case[spec.name]
        if spec.kind == "blocks":
            lines += _blocks_text(spec, array)
        else:
            shape = "" if array.ndim == 1 else f" {list(array.shape)}"
            lines.append(f"{spec.name}{shape} = {runs_text(array)}")
    return "\n".join(line if len(line) <= 4 * WIDTH else line[: 4 * WIDTH] + " ..." for line in lines)


def printable(text: str) -> str:
    """``text`` with ? for every character that could control a terminal, or has no place in UTF-8 or XML."""
    return "".join(c if c.isprintable() else "?" for c in text)
