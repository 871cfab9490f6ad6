"""Rendering of cases and corpus entries as text that fits on a screen. Nothing here prints."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from diffuzz import formats
from diffuzz.cases.case import Case
from diffuzz.cases.space import Space, TensorSpec

WIDTH = 100
# Runs of one array that are written out; what is longer is summarised.
RUNS = 10
_NONE: Mapping[str, str] = MappingProxyType({})


def decimal(value: float) -> str:
    """The shortest decimal that reads back as the same float32; an int (of an integer array) in full."""
    if isinstance(value, int):
        return str(value)
    if abs(value) < 1e7 and value == int(value):
        return "-0" if value == 0 and math.copysign(1, value) < 0 else str(int(value))
    narrow = np.float32(value)
    return np.format_float_positional(narrow, trim="-") if 1e-4 <= abs(value) < 1e7 else str(narrow)


def space_text(space: Space, instead: Mapping[str, str] = _NONE) -> str:
    """``x[n<=255] float32 in [-16, 16]; ...``: which cases there are, or what stands for an array ``instead``."""

    def tensor(spec: TensorSpec) -> str:
        if spec.name in instead:
            return instead[spec.name]
        shape = ", ".join(dim.text for dim in spec.shape)
        if spec.kind == "blocks":
            return f"{spec.name}[{shape}] blocks of {spec.format}"
        low, high = (str(int(end)) if spec.dtype == "int32" else decimal(end) for end in (spec.low, spec.high))
        return f"{spec.name}[{shape}] {spec.numbers} in [{low}, {high}]"

    return "; ".join(map(tensor, space.tensors))


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


def array_text(name: str, array: np.ndarray) -> str:
    """``x = 10 x 2, -10 x 5``, with the shape where there is more than one dimension: ``x [2, 64] = ...``."""
    return f"{name}{'' if array.ndim == 1 else f' {list(array.shape)}'} = {runs_text(array)}"


def blocks_text(spec: TensorSpec, array: np.ndarray) -> list[str]:
    """Rows of blocks as how many there are, ``weights = 5 rows of 3 blocks of q4_K``, and a line for each field.

    A scale that is stored as a byte, the exponent of a power of two, is shown as that byte.
    """
    fmt = formats.get(spec.format or "")
    blocks = array.reshape(-1, fmt.type_size)
    rows, across = int(np.prod(array.shape[:-1], dtype=int)), array.shape[-1] // fmt.type_size
    count = f"{_counted(rows, 'row')} of " if array.ndim > 1 else ""
    lines = [f"{spec.name} = {count}{_counted(across, 'block')} of {fmt.name}"]
    records = np.ascontiguousarray(blocks).view(fmt.layout).reshape(-1)
    for name, values in fmt.unpack(blocks).items():
        if name in fmt.scale_fields and name in (records.dtype.names or ()) and records[name].dtype == np.uint8:
            lines.append(f"  {name} (e8m0 byte) = {runs_text(records[name])}")
        else:
            lines.append(f"  {name} = {runs_text(values)}")
    return lines


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def case_text(space: Space, case: Case, instead: Mapping[str, str] = _NONE) -> str:
    """Every array of a case, in the order of the space; one line each, one for each field of blocks. ``instead`` has,
    by array, the line of what an array stands for, or nothing for one that is not shown.
    """
    lines: list[str] = []
    for spec in space.tensors:
        if spec.absent is not None and (spec.name not in case.arrays or (case[spec.name] == spec.absent).all()):
            continue
        array = case[spec.name]
        if spec.name in instead:
            lines += [instead[spec.name]] if instead[spec.name] else []
        elif spec.kind == "blocks":
            lines += blocks_text(spec, array)
        else:
            lines.append(array_text(spec.name, array))
    return "\n".join(line if len(line) <= 4 * WIDTH else line[: 4 * WIDTH] + " ..." for line in lines)
