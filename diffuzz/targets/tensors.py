"""Tensors of an operation: what its cases hold, and what its functions are called with.

    x = tensor("b n", max_abs=1e4)            # dimensions by name; b is the batch, whose rows are independent cases
    q = tensor("b (g r) s d", max_abs=8)      # g and r are dimensions of the case, one axis for the function
    ids = tensor("b", dtype="int32", below="v")

A case holds float32, int32 or uint8 arrays (see diffuzz.cases.space). Functions get arrays of the dtype that is asked
for, cut to sizes that fit together (``sizes={"s": (1, "t")}``: at most t), with minus infinity for the low end of a
range where the tensor says so, and indices below the size of the dimension that they point into.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import TypeAlias, get_args

import attrs
import numpy as np

from diffuzz import formats
from diffuzz.cases.ranges import largest_of
from diffuzz.cases.space import Dim, Kind, TensorSpec
from diffuzz.formats.arrays import AnyArray, ArrayModule
from diffuzz.targets.parameter import Params

BATCH = "b"
# Ranges of dimensions for which nothing is said.
BATCH_SIZES, SIZES = (1, 5), (1, 1025)
# Elements of a case of the usual sizes: so many that loops of any width come round, and a search sees thousands.
USUAL_ELEMENTS = 4096
_DIMS = re.compile(r"\(\s*\w+(?:\s+\w+)*\s*\)|\w+")
_INTEGERS = {"int32": (-(2.0**31), 2.0**31 - 1), "bool": (0.0, 1.0)}

# The least size, or the parameter that it is; the largest, or the dimension that is at least as large; the step.
Sizes: TypeAlias = tuple[int | str, int | str, int]


@attrs.frozen
class Tensor:
    """An array that an operation takes; ``tensor`` makes one.

    axes             names of the dimensions of each axis; those of one axis are merged when a function is called
    low, high        the range of the elements; None is the end of what the dtype holds
    kind             what the numbers mean, for generators (see diffuzz.cases.space)
    format           block format: the function gets the dequantised values, a candidate the bytes
    dtype            "int32" or "bool"; None is the dtype that is asked of the operation
    minus_infinity   functions get -inf for elements at the low end
    below            name of the dimension into which int32 elements point
    """

    axes: tuple[tuple[str, ...], ...]
    low: float | None
    high: float | None
    kind: Kind
    format: str | None
    dtype: str | None
    minus_infinity: bool
    below: str | None

    @property
    def dims(self) -> tuple[str, ...]:
        """Names of the dimensions in order."""
        return tuple(name for axis in self.axes for name in axis)

    @property
    def is_float(self) -> bool:
        """Whether functions of the operation get floating-point numbers that may be drawn freely."""
        return self.dtype is None and self.format is None

    def range_in(self, dtype: str) -> tuple[float, float]:
        """The range of the elements where the operation's dtype is ``dtype``."""
        least, most = _INTEGERS.get(self.dtype or "", (-largest_of(dtype), largest_of(dtype)))
        return (
            max(least, least if self.low is None else self.low),
            min(most, most if self.high is None else self.high),
        )

    def spec(self, name: str, dims: Mapping[str, Dim], dtype: str, fmt: str | None = None) -> TensorSpec:
        """What the space of the operation's cases says of it; ``fmt`` is the block format that is asked for."""
        shape = tuple(dims[dim] for dim in self.dims)
        if self.format is not None:
            return TensorSpec(name, kind="blocks", shape=shape, format=fmt or self.format)
        low, high = self.range_in(dtype)
        holds = dtype if self.dtype is None else "float32"
        return TensorSpec(name, kind=self.kind, shape=shape, low=low, high=high, holds=holds)

    def text(self, name: str) -> str:
        """``x: dtype[b, n]``: the argument in words."""
        shape = ", ".join("*".join(axis) for axis in self.axes)
        kind = "uint8" if self.format else self.dtype or "dtype"
        return f"{name}: {kind}[{shape}{' in bytes' if self.format else ''}]"

    def given(
        self, array: AnyArray, sizes: Mapping[str, int], least: float, xp: ArrayModule = np, fmt: str | None = None
    ) -> AnyArray:
        """What functions are called with for ``array`` [cases, ...]: cut to ``sizes``, with -inf for ``least`` where
        the tensor says so, and its axes merged. Blocks stay bytes.
        """
        wanted = [sizes[dim] for dim in self.dims]
        if self.format is not None:
            block = formats.get(fmt or self.format)
            wanted[-1] = wanted[-1] // block.block_size * block.type_size
        array = array[(slice(None), *(slice(0, size) for size in wanted))]
        if self.below is not None:
            array = array % sizes[self.below]
        if self.minus_infinity:
            array = xp.where(array <= least, xp.asarray(-xp.inf, array.dtype), array)
        merged, place = [], 0
        for axis in self.axes:
            merged.append(math.prod(wanted[place : place + len(axis)]))
            place += len(axis)
        return array.reshape(array.shape[0], *merged)


def tensor(
    dims: str,
    *,
    max_abs: float | None = None,
    low: float | None = None,
    high: float | None = None,
    kind: Kind | None = None,
    format: str | None = None,
    dtype: str | None = None,
    minus_infinity: bool = False,
    below: str | None = None,
) -> Tensor:
    """Declare an array of an operation.

    ``dims`` are the names of its dimensions; "b (g r) s d" merges g and r into one axis. Elements are in [-max_abs,
    max_abs] or [low, high], by default in all that the dtype holds. ``kind`` is what the numbers mean to generators:
    activations (the default), logits (ties and the ends of the range matter) or gain (positive). ``format`` is a block
    format: the function gets the dequantised values, a candidate the bytes. ``dtype`` is "int32" or "bool" for indices
    and masks. ``minus_infinity`` gives functions -inf for elements at the low end. ``below`` is the dimension that
    int32 elements point into.

    Raises ValueError, one line, for what does not fit together.
    """
    if not isinstance(dims, str):
        raise ValueError(f'dims={dims!r:.80}: names of dimensions are needed, such as tensor("b n")')
    for name, number in (("max_abs", max_abs), ("low", low), ("high", high)):
        if number is not None and (isinstance(number, bool) or not isinstance(number, (int, float))):
            raise ValueError(f"tensor({dims!r}): {name}={number!r:.80}: a number is needed")
    axes = tuple(tuple(part.strip("()").split()) for part in _DIMS.findall(dims))
    what = f"tensor({dims!r})"
    if not axes or "".join(_DIMS.findall(dims)).replace(" ", "") != dims.replace(" ", ""):
        raise ValueError(f'{what}: names of dimensions are needed, such as tensor("b n")')
    if max_abs is not None and not (low is None and high is None):
        raise ValueError(f"{what}: give max_abs, or low and high")
    if max_abs is not None:
        if not max_abs > 0:
            raise ValueError(f"{what}: max_abs={max_abs:g}: a positive number is needed")
        low, high = -float(max_abs), float(max_abs)
    if low is not None and high is not None and not low <= high:
        raise ValueError(f"{what}: low={low:g} is above high={high:g}")
    if dtype not in (None, "int32", "bool"):
        raise ValueError(f"{what}: dtype={dtype!r}: int32 or bool is needed; floats have the dtype of the operation")
    if format is not None and format not in formats.names():
        raise ValueError(f"{what}: there is no format {format!r} (formats: {', '.join(formats.names())})")
    if kind is not None and kind not in get_args(Kind):
        raise ValueError(f"{what}: kind={kind!r}: one of {', '.join(get_args(Kind))} is needed")
    if kind == "blocks" and format is None:
        raise ValueError(f"{what}: blocks need a format, such as q4_K")
    if kind == "positions" and dtype is None:
        dtype = "int32"
    if below is not None:
        dtype, low = "int32", 0.0
    meant: Kind = "blocks" if format else "positions" if dtype else kind or "activations"
    if kind is not None and kind != meant:
        raise ValueError(f"{what}: kind={kind!r} does not fit {'format' if format else 'dtype'}")
    if meant == "gain" and not (low is not None and low > 0):
        raise ValueError(f"{what}: a gain needs low > 0")
    return Tensor(axes, low, high, meant, format, dtype, minus_infinity, below)


def checked_sizes(
    tensors: Mapping[str, Tensor],
    sizes: Mapping[str, object],
    parameters: Collection[str] = (),
    usual: Mapping[str, int] = MappingProxyType({}),
) -> dict[str, Sizes]:
    """The ranges of all dimensions of ``tensors``; the least may be one of ``parameters``.

    Raises ValueError, one line, for a range that is none, or a ``usual`` size that is outside of one.
    """
    names = dict.fromkeys(dim for one in tensors.values() for dim in one.dims)
    for name in (*sizes, *usual):
        if name not in names:
            raise ValueError(f"sizes: no tensor has the dimension {name!r} (dimensions: {', '.join(names)})")
    found: dict[str, Sizes] = {}
    for name in names:
        given = sizes.get(name, BATCH_SIZES if name == BATCH else SIZES)
        ends = (given, given) if isinstance(given, int) else given
        if not isinstance(ends, (tuple, list)) or len(ends) not in (2, 3):
            raise ValueError(f"sizes: {name}={given!r}: (least, largest) or (least, largest, step) is needed")
        low, high, step = (*ends, 1) if len(ends) == 2 else ends
        if isinstance(high, str) and high not in names:
            raise ValueError(f"sizes: {name}={given!r}: there is no dimension {high!r}")
        if isinstance(low, str) and low not in parameters:
            raise ValueError(f"sizes: {name}={given!r}: there is no parameter {low!r}")
        if not isinstance(low, (int, str)) or not isinstance(high, (int, str)) or not isinstance(step, int):
            raise ValueError(f"sizes: {name}={given!r}: whole numbers are needed")
        least = 1 if isinstance(low, str) else low
        if least < 1 or step < 1 or (isinstance(high, int) and -(-least // step) * step > high):
            raise ValueError(f"sizes: {name}={given!r}: there is no such size")
        found[name] = (low, high, step)
    for name, (_, high, _) in found.items():
        if isinstance(high, str) and isinstance(found[high][1], str):
            raise ValueError(f"sizes: {name} ends at {high}, which ends at another dimension")
    for name, size in usual.items():
        low, high, step = found[name]
        if size % step or (isinstance(low, int) and size < low) or (isinstance(high, int) and size > high):
            raise ValueError(f"usual: {name}={size}: a size in {found[name]} is needed")
    for name, one in tensors.items():
        if one.below is not None and one.below not in names:
            raise ValueError(f"tensor {name}: there is no dimension {one.below!r} that it could point into")
    return found


def dims_of(
    tensors: Mapping[str, Tensor],
    sizes: Mapping[str, Sizes],
    multiples: Mapping[str, int],
    p: Params,
    preferred: Mapping[str, int] = MappingProxyType({}),
) -> dict[str, Dim]:
    """The dimensions, with the sizes that most batches have; ``multiples`` are those that block formats ask for.

    Where ``preferred`` has no usual size, it is found: the largest is halved until a case is small enough.
    """
    steps = {name: math.lcm(step, multiples.get(name, 1)) for name, (_, _, step) in sizes.items()}
    least = {name: int(p[low]) if isinstance(low, str) else low for name, (low, _, _) in sizes.items()}
    lowest = {name: -(-low // steps[name]) * steps[name] for name, low in least.items()}
    highest = {}
    for name, (_, high, _) in sizes.items():
        most = high if isinstance(high, int) else sizes[high][1]
        highest[name] = max(int(most) // steps[name] * steps[name], lowest[name])
    usual = highest | {name: -(-preferred[name] // steps[name]) * steps[name] for name in preferred if name in highest}
    usual = {name: min(max(size, lowest[name]), highest[name]) for name, size in usual.items()}
    halved = [name for name in usual if name not in preferred]

    def elements() -> int:
        return sum(math.prod(usual[dim] for dim in one.dims) for one in tensors.values())

    while halved and elements() > USUAL_ELEMENTS:
        name = max(halved, key=lambda one: (usual[one] / lowest[one], usual[one]))
        half = max(usual[name] // 2 // steps[name] * steps[name], lowest[name])
        if half == usual[name]:
            break
        usual[name] = half
    for name, size in usual.items():
        # An odd size, which no width of vectors divides.
        if name in halved and steps[name] == 1 and size > 2 and size | 1 <= highest[name]:
            usual[name] = size | 1
    return {
        name: Dim(name, size, fixed=True)
        if lowest[name] == highest[name]
        else Dim(name, size, step=steps[name], least=lowest[name], largest=highest[name])
        for name, size in usual.items()
    }
