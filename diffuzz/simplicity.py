"""How simple a case is to read, as a number: the cost that the minimiser lowers.

What a reader sees of a case is not its elements but its levels and runs: "10 x 2, -10 x 5" has two of each at any
length, and a vector of 256 equal numbers is simpler than one with three numbers among 253 zeros. So a case is read as
*parts*, sequences of numbers, one for each plain array and one for each field of the block formats (scales, mins,
quants), and each part costs

    runs + levels + magnitudes + sum of complexity(magnitude) + log2(elements) + log2(1 + others) / 8

Levels are the distinct numbers, magnitudes their distinct absolute values: "1, -1" is simpler than "1, 2"
(and "1" than "-1", by an eighth). The complexity of a
magnitude is how many digits it takes to write down, in bits, see ``complexity``. The next
term prefers small shapes, and the last few numbers beside the commonest: "1, 0 x 255" to "1 x 128, 0 x 128".
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import attrs
import numpy as np

from diffuzz import encoding, formats
from diffuzz.case import Case
from diffuzz.sampling import float32_range
from diffuzz.space import Space, TensorSpec

Values = dict[str, np.ndarray]

# log2(10): what one decimal digit is worth in bits.
_BITS_PER_DIGIT = 3.3219
# An exponent is read more easily than a significand: eight binary orders of magnitude cost as much as one bit.
_BITS_PER_EXPONENT = 1 / 8
# Between two cases that differ in a sign only, the positive one.
_MINUS = 1 / 8
# Between two cases of equal runs and levels, the one with fewer numbers that are not the commonest.
_OTHERS = 1 / 8


@attrs.frozen
class Part:
    """A sequence of numbers within a case: a plain array, or one field of all blocks of a ``blocks`` array.

    ``name`` is the array's, or ``array.field``. ``dims`` names the dimension that each axis runs along; None for the
    axis of a field that has fewer numbers than the blocks have elements. ``low`` and ``high`` are the least and the
    greatest admissible number, which a reader knows if they are the domain's or a code's (``known_ends``), and not if
    they are a float16's. ``block_shape`` is the shape of the field in one block.
    """

    name: str
    tensor: str
    dims: tuple[str | None, ...]
    dtype: np.dtype
    low: float
    high: float
    known_ends: bool = True
    format: str | None = None
    block_shape: tuple[int, ...] = ()

    def fit(self, values: np.ndarray) -> np.ndarray:
        """Any numbers as admissible ones: clipped, rounded for integers and stored scales, in the part's dtype."""
        if self.dtype.kind in "iu":
            values = np.rint(values)
        # Adding 0 makes a negative zero positive.
        values = np.clip(values, self.low, self.high) + 0.0
        if self.format is not None and self.dtype.kind == "f":
            return formats.get(self.format).stored_scale(values)
        return values.astype(self.dtype)


def parts_of(space: Space) -> tuple[Part, ...]:
    """The parts of the cases of a space, in the order of its tensors and of the fields of their formats."""
    parts: list[Part] = []
    for spec in space.tensors:
        if spec.kind == "blocks":
            parts += _fields(spec)
            continue
        dtype = np.dtype(spec.dtype)
        low, high = (spec.low, spec.high) if dtype.kind == "i" else float32_range(spec)
        parts.append(Part(spec.name, spec.name, tuple(dim.name for dim in spec.shape), dtype, float(low), float(high)))
    return tuple(parts)


def _fields(spec: TensorSpec) -> list[Part]:
    fmt = formats.get(spec.format or "")
    # One block for each byte value shows the shape of every field and the ends of every integer field.
    probe = fmt.unpack(np.repeat(np.arange(256, dtype=np.uint8)[:, None], fmt.type_size, axis=1))
    leading = tuple(dim.name for dim in spec.shape[:-1])
    parts = []
    for field, numbers in probe.items():
        block_shape = numbers.shape[1:]
        along = spec.shape[-1].name if int(np.prod(block_shape)) == fmt.block_size else None
        codes = numbers.dtype.kind in "iu"
        if codes:
            low, high = float(numbers.min()), float(numbers.max())
        else:
            high = float(min(spec.largest_scale, np.finfo(numbers.dtype).max))
            low = spec.smallest_scale or -high
        name = f"{spec.name}.{field}"
        dims = (*leading, along)
        parts.append(Part(name, spec.name, dims, numbers.dtype, low, high, codes, spec.format, block_shape))
    return parts


def split(parts: Sequence[Part], batch: Mapping[str, np.ndarray]) -> Values:
    """The numbers of each part of a batch, by name: array[rows, *axes], one axis for each of ``dims``."""
    values: Values = {}
    unpacked: dict[str, Mapping[str, np.ndarray]] = {}
    for part in parts:
        array = batch[part.tensor]
        if part.format is None:
            values[part.name] = array
            continue
        fmt = formats.get(part.format)
        if part.tensor not in unpacked:
            unpacked[part.tensor] = fmt.unpack(np.ascontiguousarray(array).reshape(-1, fmt.type_size))
        numbers = unpacked[part.tensor][part.name.removeprefix(f"{part.tensor}.")]
        values[part.name] = numbers.reshape(*array.shape[:-1], -1)
    return values


def join(parts: Sequence[Part], values: Values) -> dict[str, np.ndarray]:
    """The arrays that have these parts: the inverse of ``split``. ``values`` has all parts of an array, or none."""
    batch: dict[str, np.ndarray] = {}
    fields: dict[str, dict[str, np.ndarray]] = {}
    for part in parts:
        if part.name not in values:
            continue
        numbers = values[part.name]
        if part.format is None:
            batch[part.tensor] = np.ascontiguousarray(numbers)
            continue
        field = part.name.removeprefix(f"{part.tensor}.")
        fields.setdefault(part.tensor, {})[field] = np.ascontiguousarray(numbers).reshape(-1, *part.block_shape)
    for part in parts:
        if part.tensor in fields and part.tensor not in batch:
            fmt = formats.get(part.format or "")
            lead = values[part.name].shape[:-1]
            batch[part.tensor] = np.ascontiguousarray(fmt.pack(fields[part.tensor])).reshape(*lead, -1)
    return batch


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
    return runs + first.sum(axis=1) + _MINUS * minus + bits + np.log2(n) + _OTHERS * np.log2(1.0 + others)


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
