"""Domains: what a user takes away from a space, because the kernel in question is not made for it.

    --fix n=4096                   one size, or one number
    --range positions=0:4095       from, to, both inclusive; either end may be left out
    --multiple k=64                only multiples

They are part of the parameters, as ``fix:n``, ``range:positions`` and ``multiple:k``, so that an entry of the corpus
has them, and every space of these parameters is narrowed by them.

The name is that of a dimension (``n``, ``k``, ``head_dim``), of an array of numbers (``x``, ``positions``), or
``scale``, the magnitude of the scales of block formats. A singular stands for its plural: ``position``. ``b`` is the
number of cases in one call of a function that takes several.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import attrs
import numpy as np

from diffuzz import formats
from diffuzz.cases.space import Dim, Space, TensorSpec

KINDS = ("fix", "range", "multiple")
# The number of cases in a call, and the magnitude of block scales: what is neither a dimension nor an array.
BATCH, SCALE = "b", "scale"
# Rows of a call that most calls have at most, and that some of them have.
USUAL_BATCH, LARGEST_BATCH = 1024, 2**16 + 1


class DomainError(ValueError):
    """A domain that there is not, or that leaves nothing; the message is one line."""


@attrs.frozen
class Restriction:
    """``low`` to ``high``, and only multiples of ``step``, of what is called ``name``; ``text`` is the option given."""

    name: str
    low: float
    high: float
    step: int
    text: str


def is_domain(key: str) -> bool:
    """Whether a parameter of this name is a restriction."""
    return key.partition(":")[0] in KINDS and ":" in key


def option(key: str, value: object) -> list[str]:
    """The words of a command line that give a parameter, be it a restriction or not."""
    kind, _, name = key.partition(":")
    return [f"--{kind}", f"{name}={value}"] if is_domain(key) else ["--param", f"{key}={value}"]


def parsed(key: str, value: object) -> int | float | str:
    """The value of the restriction ``key``, as it is kept. Raises DomainError."""
    kind, _, name = key.partition(":")
    text = f"--{kind} {name}={value}"
    if not name:
        raise DomainError(f"{text}: a name is needed, such as --{kind} {_EXAMPLES[kind]}")
    if kind == "fix":
        number = _number(text, value)
        return int(number) if number == int(number) else number
    if kind == "multiple":
        number = _number(text, value)
        if number != int(number) or number < 1:
            raise DomainError(f"{text}: a whole number of at least 1 is needed")
        return int(number)
    low, colon, high = str(value).partition(":")
    if not colon or not (low.strip() or high.strip()):
        raise DomainError(f"{text}: LOW:HIGH is needed, of which one may be left out, such as --range {name}=1:4096")
    ends = [_number(text, end) if end.strip() else None for end in (low, high)]
    if ends[0] is not None and ends[1] is not None and ends[0] > ends[1]:
        raise DomainError(f"{text}: it ends before it begins")
    return ":".join("" if end is None else _shortest(end) for end in ends)


_EXAMPLES = {"fix": "n=4096", "range": "positions=0:4095", "multiple": "k=64"}


def _number(text: str, value: object) -> float:
    try:
        number = float(str(value))
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise DomainError(f"{text}: a finite number is needed")
    return number


def _shortest(number: float) -> str:
    return str(int(number)) if number == int(number) and abs(number) < 2**53 else repr(number)


def restrictions(params: Mapping[str, Any]) -> list[Restriction]:
    """All restrictions among ``params``, which were parsed."""
    found = []
    for key, value in params.items():
        if not is_domain(key):
            continue
        kind, _, name = key.partition(":")
        low, high, step = -math.inf, math.inf, 1
        if kind == "fix":
            low = high = float(value)
        elif kind == "multiple":
            step = int(value)
        else:
            ends = str(value).split(":")
            low, high = (float(end) if end else default for end, default in zip(ends, (low, high), strict=True))
        found.append(Restriction(name, low, high, step, f"--{kind} {name}={value}"))
    return found


def names(space: Space, *, batched: bool) -> tuple[str, ...]:
    """What can be restricted in a space."""
    numbers = [spec.name for spec in space.tensors if spec.kind not in ("blocks", "direction")]
    scales = [SCALE] if space.of_kind("blocks") else []
    return (*(dim.name for dim in space.free), *numbers, *scales, *([BATCH] if batched else []))


def restricted(space: Space, params: Mapping[str, Any]) -> Space:
    """The part of ``space`` that the restrictions among ``params`` leave; those of the batch are of a space only if it
    has a dimension of that name.

    Raises DomainError, one line: there is nothing of that name, or nothing is left.
    """
    own = any(dim.name == BATCH for dim in space.dims)
    for one in restrictions(params):
        if one.name != BATCH or own:
            space = _restricted(space, one)
    return space


def batch(params: Mapping[str, Any]) -> Dim:
    """How many cases one call of a function may get. Raises DomainError if that is none."""
    dim = Dim(BATCH, USUAL_BATCH, largest=LARGEST_BATCH)
    for one in restrictions(params):
        if one.name == BATCH:
            dim = _narrower(dim, one)
    return dim


def _restricted(space: Space, one: Restriction) -> Space:
    wanted = {one.name, f"{one.name}s"}
    found = False

    def dim_of(dim: Dim) -> Dim:
        nonlocal found
        if dim.name not in wanted:
            return dim
        found = True
        return _narrower(dim, one)

    def spec_of(spec: TensorSpec) -> TensorSpec:
        nonlocal found
        spec = attrs.evolve(spec, shape=tuple(map(dim_of, spec.shape)))
        if spec.kind == "blocks":
            if one.name != SCALE:
                return spec
            found = True
            return _with_scales(spec, one)
        if spec.name not in wanted or spec.kind == "direction":
            return spec
        found = True
        return _with_numbers(spec, one)

    narrowed = Space(tuple(map(spec_of, space.tensors)))
    if not found:
        there = ", ".join(names(space, batched=False))
        raise DomainError(f"{one.text}: there is no {one.name} here, but {there}")
    return narrowed


def _narrower(dim: Dim, one: Restriction) -> Dim:
    """The sizes of ``dim`` that are left."""
    step = dim.step if dim.fixed else math.lcm(dim.step, one.step)
    # Neither end is infinite, because those of the dimension are not.
    low, high = math.ceil(max(dim.lowest, one.low)), math.floor(min(dim.highest, one.high))
    if dim.fixed:
        low, high = (dim.size, dim.size) if low <= dim.size <= high and dim.size % one.step == 0 else (1, 0)
    else:
        low, high = -(-low // step) * step, high // step * step
    if low > high:
        raise DomainError(f"nothing is left of {dim.text} with {one.text}")
    if low == high:
        return Dim(dim.name, low, fixed=True)
    size = min(max(dim.size // step * step, low), high)
    return Dim(dim.name, size, step=step, least=low, largest=high)


def _with_numbers(spec: TensorSpec, one: Restriction) -> TensorSpec:
    """The numbers of ``spec`` that are left."""
    if one.step != 1:
        raise DomainError(f"{one.text}: multiples of sizes can be asked for, and {spec.name} is an array of numbers")
    low, high = max(spec.low, one.low), min(spec.high, one.high)
    if spec.dtype == "int32":
        low, high = math.ceil(low), math.floor(high)
    if not low <= high:
        raise DomainError(f"nothing is left of {spec.name} in [{spec.low:g}, {spec.high:g}] with {one.text}")
    if spec.smallest_peak > max(abs(low), abs(high)):
        raise DomainError(f"{one.text}: max|{spec.name}| must be {spec.smallest_peak:g} at least")
    return attrs.evolve(spec, low=low, high=high)


def _with_scales(spec: TensorSpec, one: Restriction) -> TensorSpec:
    """The magnitudes of block scales that are left."""
    if one.step != 1:
        raise DomainError(f"{one.text}: multiples of sizes can be asked for, and scales are numbers")
    low, high = max(spec.smallest_scale, one.low), min(spec.largest_scale, one.high)
    if not low <= high:
        raise DomainError(
            f"nothing is left of scales in [{spec.smallest_scale:g}, {spec.largest_scale:g}] with {one.text}"
        )
    if formats.get(spec.format or "").half_fields:
        # Scales are rounded when they are stored, and must not be rounded out of what is left.
        low, high = _half(low, np.inf), _half(high, -np.inf)
    return attrs.evolve(spec, smallest_scale=low, largest_scale=high)


def _half(number: float, towards: float) -> float:
    """The nearest float16 number, or that beyond it in the direction ``towards``."""
    with np.errstate(over="ignore"):
        half = np.float16(number)
    inside = half >= number if towards > 0 else half <= number
    return float(half if inside else np.nextafter(half, np.float16(towards)))
