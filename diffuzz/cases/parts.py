"""Parts: a case as sequences of numbers, which is how people and the minimiser read it.

A plain array is one part; a ``blocks`` array has one for each field of its format (scales, minimums, codes).

    parts = parts_of(space)
    values = split(parts, batch)          # {"x": float32[b, n], "weights.d": float16[b, ...], ...}
    join(parts, values)                   # the arrays again
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs
import numpy as np

from diffuzz import formats
from diffuzz.cases.ranges import float32_range, held
from diffuzz.cases.space import Space, TensorSpec

Values = dict[str, np.ndarray]


@attrs.frozen
class Part:
    """A sequence of numbers within a case: a plain array, or one field of all blocks of a ``blocks`` array.

    ``name`` is the array's, or ``array.field``. ``dims`` names the dimension that each axis runs along; None for the
    axis of a field that has fewer numbers than the blocks have elements. ``low`` and ``high`` are the least and the
    greatest admissible number, which a reader knows if they are the domain's or a code's (``known_ends``), and not if
    they are a float16's. ``block_shape`` is the shape of the field in one block.
    ``absent`` is the number that all of them have where a reader does not see the part at all. Numbers that are
    ``names`` stand for something: how many they are is all that is simple about them.
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
    absent: float | None = None
    holds: str = "float32"
    names: bool = False

    def fit(self, values: np.ndarray) -> np.ndarray:
        """Any numbers as admissible ones: clipped, rounded for integers and stored scales, in the part's dtype."""
        if self.dtype.kind in "iu":
            values = np.rint(values)
        # Adding 0 makes a negative zero positive.
        values = np.clip(values, self.low, self.high) + 0.0
        if self.format is not None and self.dtype.kind == "f":
            return formats.get(self.format).stored_scale(values)
        return held(self.holds, values.astype(np.float32)) if self.dtype == np.float32 else values.astype(self.dtype)


def parts_of(space: Space) -> tuple[Part, ...]:
    """The parts of the cases of a space, in the order of its tensors and of the fields of their formats; those that are
    held have none.
    """
    parts: list[Part] = []
    for spec in space.tensors:
        if spec.among is not None:
            continue
        if spec.kind == "blocks":
            parts += _fields(spec)
            continue
        dtype = np.dtype(spec.dtype)
        low, high = (spec.low, spec.high) if dtype.kind == "i" else float32_range(spec)
        dims = tuple(dim.name for dim in spec.shape)
        of_names = spec.kind == "tokens"
        parts.append(
            Part(
                spec.name,
                spec.name,
                dims,
                dtype,
                float(low),
                float(high),
                absent=spec.absent,
                holds=spec.holds,
                names=of_names,
            )
        )
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
