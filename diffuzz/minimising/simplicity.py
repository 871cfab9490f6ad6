"""How simple a case is to read, as a number: the cost that the minimiser lowers.

What a reader sees of a case is not its elements but its levels and runs: "10 x 2, -10 x 5" has two of each at any
length, and a vector of 256 equal numbers is simpler than one with three numbers among 253 zeros. So a case is read as
its parts (see diffuzz.cases.parts), and each part costs

    runs + levels + magnitudes + sum of complexity(magnitude) + log2(elements) + log2(1 + others) / 8

Levels are the distinct numbers, magnitudes their distinct absolute values: "1, -1" is simpler than "1, 2"
(and "1" than "-1", by an eighth). The complexity of a
magnitude is how many digits it takes to write down, in bits, see ``complexity``. The next
term prefers small shapes, and the last few numbers beside the commonest: "1, 0 x 255" to "1 x 128, 0 x 128". A part
that is absent costs nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

import attrs
import numpy as np

from diffuzz.cases import encoding
from diffuzz.cases.case import Case
from diffuzz.cases.parts import Part, parts_of, split
from diffuzz.cases.space import Space

# log2(10): what one decimal digit is worth in bits.
_BITS_PER_DIGIT = 3.3219
# An exponent is read more easily than a significand: eight binary orders of magnitude cost as much as one bit.
_BITS_PER_EXPONENT = 1 / 8
# Between two cases that differ in a sign only, the positive one.
_MINUS = 1 / 8
# Between two cases of equal runs and levels, the one with fewer numbers that are not the commonest.
_OTHERS = 1 / 8


def complexity(magnitudes: np.ndarray, part: Part) -> np.ndarray:
    """Bits that it takes to write each of these magnitudes down: float64, same shape.

    0 for zero and 1 for an end of the part's range, which a reader knows. Otherwise the significant binary digits, or
    those of up to three significant decimal digits where they give the same number (0.1 has 24 binary digits and one
    decimal), whichever are fewer, and an eighth of the binary exponent's magnitude: 1 costs 1, 3 costs 2.1, 0.1 costs
    3.8 and 0.33333334 costs 24.2.
    """
    m = np.abs(magnitudes.astype(np.float64))
    _, exponent = np.frexp(m)
    bits = significant_bits(m).astype(np.float64)
    if part.dtype.kind == "f":
        order = np.floor(np.log10(np.where(m > 0, m, 1.0)))
        for count in (3, 2, 1):
            power = order - (count - 1)
            grid = 10.0 ** np.abs(power)
            steps = np.rint(np.where(power < 0, m * grid, m / grid))
            with np.errstate(over="ignore"):  # 66000 is not a float16
                written = np.where(power < 0, steps / grid, steps * grid).astype(part.dtype)
            bits = np.where(written == m.astype(part.dtype), np.minimum(bits, count * _BITS_PER_DIGIT), bits)
    bits = bits + np.abs(exponent - 1) * _BITS_PER_EXPONENT
    known = ((m == abs(part.low)) | (m == abs(part.high))) & part.known_ends
    return np.where(m == 0, 0.0, np.where(known, np.minimum(bits, 1.0), bits))


def part_cost(part: Part, values: np.ndarray) -> np.ndarray:
    """The cost of one part for every row of ``values`` [rows, ...]: float64[rows]."""
    flat = values.reshape(len(values), -1)
    rows, n = flat.shape
    if part.names:
        return np.full(rows, float(n))
    ordered = np.sort(flat, axis=1)
    first = np.ones(flat.shape, bool)
    first[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    owner, starts = np.nonzero(first)
    ends = np.append(starts[1:], 0)
    counts = np.where(ends > 0, ends, n) - starts
    rows_begin = np.flatnonzero(starts == 0)
    others = n - np.maximum.reduceat(counts, rows_begin)
    level = np.abs(ordered[first].astype(np.float64))
    # Levels are few and sorted by row; the same magnitude may occur with both signs.
    order = np.lexsort((level, owner))
    owner_, magnitude = owner[order], level[order]
    distinct = np.ones(len(magnitude), bool)
    distinct[1:] = (magnitude[1:] != magnitude[:-1]) | (owner_[1:] != owner_[:-1])
    bits = np.bincount(owner_[distinct], weights=1.0 + complexity(magnitude[distinct], part), minlength=rows)
    runs = 1 + (flat[:, 1:] != flat[:, :-1]).sum(axis=1)
    minus = (first & (ordered < 0)).sum(axis=1)
    if part.dtype.kind == "f":
        minus = minus + ((flat == 0) & np.signbit(flat)).any(axis=1)
    cost = runs + first.sum(axis=1) + _MINUS * minus + bits + np.log2(n) + _OTHERS * np.log2(1.0 + others)
    if part.absent is not None:
        cost = np.where((flat == part.absent).all(axis=1), 0.0, cost)
    return np.asarray(cost)


def case_cost(space: Space, arrays: Mapping[str, np.ndarray]) -> float:
    """The cost of one case: the sum over its parts."""
    parts = parts_of(space)
    values = split(parts, {name: np.asarray(array)[None] for name, array in arrays.items()})
    return float(sum(part_cost(part, values[part.name])[0] for part in parts))


@attrs.frozen
class Size:
    """How large a case is, in what can be counted of its parts (summed over them).

    ``elements``, the numbers that are not the commonest of their part; ``bits``, the significant binary digits of
    these; ``runs`` of equal numbers; ``levels``, distinct numbers; ``characters`` of its arrays in a corpus entry.
    """

    elements: int
    bits: int
    runs: int
    levels: int
    characters: int


def size_of(space: Space, case: Case) -> Size:
    """The size of a case of ``space``."""
    parts = parts_of(space)
    values = split(parts, case.batch())
    elements = bits = runs = levels = 0
    for part in parts:
        flat = values[part.name].reshape(-1)
        distinct, counts = np.unique(flat, return_counts=True)
        others = flat[flat != distinct[np.argmax(counts)]]
        elements += len(others)
        bits += int(significant_bits(others).sum())
        runs += 1 + int((flat[1:] != flat[:-1]).sum())
        levels += len(distinct)
    characters = sum(len(json.dumps(encoding.encode(array))) for array in case.arrays.values())
    return Size(elements, bits, runs, levels, characters)


def significant_bits(numbers: np.ndarray) -> np.ndarray:
    """Binary digits from the first to the last that is 1: int[...], 0 for zero, 1 for a power of two."""
    fraction, _ = np.frexp(np.abs(numbers.astype(np.float64)))
    # 32 binary digits hold every float32, float16 and int32.
    digits = np.ldexp(fraction, 32).astype(np.int64)
    last = np.log2(np.maximum(digits & -digits, 1))
    return np.where(digits > 0, 32 - last, 0).astype(int)
