r"""Scan: every block of every tensor of a model, each multiplied with one activation on the APR and on the GGUF path.

The published claims look at one block: the first of one tensor, times the ramp. Here are all of them. For a block w, an
activation x as long as a block, and x^ = x as the GGUF path quantises it (ggml's quantiser for the tensor's format):

    A = w.x in float32 (APR)            B = w.x^ as ggml's fused product (GGUF)
    normalised drift   |A - B| / (||w||_1 max|x|)         never above max|x^ - x| / max|x|, which x alone decides
    relative drift     |A - B| / max(|A|, 1e-9)           as published; unbounded, since A may cancel

The norm of w is that of its terms |d sc q| + |dmin m|, as in the target matvec. Blocks are taken by float32 sums, many
at a time; the largest of a tensor are then computed again by the kernels, to the bit.

A block is an outlier by one of these reasons:

    non-finite       a scale, or a weight, is NaN or infinite: something is wrong with the file
    zero scale       all its codes mean nothing
    subnormal scale  its f16 scale has lost bits
    cancelling       its terms are CANCELLING times its weights or more: the minimum takes away what the codes say
    far              its largest weight is FAR times that of the tensor's median block or more
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Literal, TypeAlias

import attrs
import numpy as np

from diffuzz import formats, interruption
from diffuzz.kernels import apr, fused, ggml
from diffuzz.models.model import NUMBERS, Model, ModelError, Tensor
from diffuzz.telling import Phase, counted, tell

if TYPE_CHECKING:
    from jaxtyping import Bool, Float32, Int64, UInt8

Activation: TypeAlias = Callable[[int], "Float32[np.ndarray, ' n']"]
Reason: TypeAlias = Literal["non-finite", "zero scale", "subnormal scale", "cancelling", "far"]

CANCELLING, FAR = 32.0, 16.0
_LEAST_NORMAL_HALF = 2.0**-14
# The denominator of the published measure.
_LEAST = 1e-9
# Elements that are decoded at a time: with all temporary arrays they fit a cache, and a product of them is small enough
# for BLAS to start no threads.
_AT_ONCE = 2**15
# Blocks with the largest relative drifts that are computed again: where A nearly vanishes, their order is rounding.
_AGAIN = 8
# The tensors that are scanned at a time.
_THREADS = 4


@attrs.frozen(eq=False)
class Drifts:
    """Of each block of a tensor, in the file's order: drifts, sums and sizes; NaN in a block that is not finite."""

    normalised: Float32[np.ndarray, " blocks"]
    relative: Float32[np.ndarray, " blocks"]
    terms: Float32[np.ndarray, " blocks"]
    weights: Float32[np.ndarray, " blocks"]
    peak: Float32[np.ndarray, " blocks"]


@attrs.frozen
class Place:
    """A block, or an element of a tensor of plain numbers, of a row; and a value there."""

    row: int
    block: int
    value: float


@attrs.frozen
class Outlier:
    """Why blocks of a tensor are special, how many are, and the most special of them, which come first."""

    tensor: str
    reason: Reason
    count: int
    places: tuple[Place, ...]


@attrs.frozen
class Spread:
    """The values of a measure over the blocks of a tensor: the largest is computed by the kernels."""

    median: float
    mean: float
    largest: Place


@attrs.frozen
class Scanned:
    """What was seen of a tensor. Drifts are None in a tensor of plain numbers, and where no block is finite.

    ``bound`` is max|x^ - x| / max|x|, which no normalised drift exceeds but for rounding.
    """

    name: str
    format: str
    shape: tuple[int, ...]
    blocks: int
    normalised: Spread | None
    relative: Spread | None
    bound: float | None
    outliers: tuple[Outlier, ...]

    @property
    def finite(self) -> bool:
        """Whether all its weights are numbers."""
        return all(one.reason != "non-finite" for one in self.outliers)


def supported(tensor: Tensor) -> bool:
    """Whether blocks of the tensor's format can be multiplied on both paths, or are plain numbers."""
    if tensor.format in NUMBERS:
        return True
    return formats.REGISTRY.is_built_in(tensor.format) and formats.get(tensor.format).activation is not None


def scanned(model: Model, activation: Activation, *, only: str | None = None, most: int = 1) -> Iterator[Scanned]:
    """All tensors of ``model``, or the one called ``only``, in the file's order; those not :func:`supported` are left
    out. ``activation(n)`` is the x of blocks of n weights, and ``most`` how many places an outlier has.

    Tensors are read one after another, a few at a time, and of each only some blocks are decoded at a time. Raises
    ModelError if there is no tensor called ``only``, KeyboardInterrupt.
    """
    if only is not None and only not in model.tensors:
        raise ModelError(f"it has no tensor {only}")
    wanted = [tensor for name, tensor in model.tensors.items() if only in (None, name) and supported(tensor)]
    tell(Phase("scanning tensors"))
    with ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as pool:
        try:
            futures = [pool.submit(scanned_tensor, tensor, activation, most) for tensor in wanted]
            for future in counted(futures):
                interruption.check()
                yield future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def scanned_tensor(tensor: Tensor, activation: Activation, most: int = 1) -> Scanned:
    """One tensor, which is supported."""
    if tensor.format in NUMBERS:
        return _plain(tensor, most)
    fmt = formats.get(tensor.format)
    blocks = _blocks(tensor)
    x = activation(_together(fmt))
    seen = drifts(tensor, x)
    finite = np.isfinite(seen.normalised)
    bound = float(np.abs(fused.seen(fmt.activation or "", x[None])[0][0] - x).max() / np.abs(x).max())
    spreads = _spreads(tensor, blocks, x, seen, finite) if finite.any() else (None, None)
    return Scanned(
        name=tensor.name,
        format=tensor.format,
        shape=tensor.shape,
        blocks=len(blocks),
        normalised=spreads[0],
        relative=spreads[1],
        bound=bound,
        outliers=tuple(_outliers(tensor, blocks, seen, most)),
    )


def drifts(tensor: Tensor, x: Float32[np.ndarray, " n"]) -> Drifts:
    """The drifts of all blocks of a tensor with ``x``, by float32 sums; see the module's docstring."""
    fmt, blocks = formats.get(tensor.format), _blocks(tensor)
    made = Drifts(*(np.empty(len(blocks), np.float32) for _ in attrs.fields(Drifts)))
    step = max(1, _AT_ONCE // fmt.block_size)
    rounded, shares = (part[0] for part in fused.seen(fmt.activation or "", x[None]))
    # Columns: what A is multiplied with, and what A - B is.
    with_codes, with_constants = (
        np.stack([x, (x - quantised).astype(np.float32)], axis=1) for quantised in (rounded, shares)
    )
    peak = np.abs(x).max()
    for start in range(0, len(blocks), step):
        some = slice(start, start + step)
        _drifts(fmt, blocks[some], with_codes, with_constants, peak, made, some)
    return made


def _drifts(
    fmt: formats.Format,
    blocks: UInt8[np.ndarray, "b type_size"],
    with_codes: Float32[np.ndarray, "n 2"],
    with_constants: Float32[np.ndarray, "n 2"],
    peak: np.float32,
    made: Drifts,
    some: slice,
) -> None:
    parts = fmt.decode(blocks)
    with np.errstate(all="ignore"):
        code = parts.scale * parts.code.astype(np.float32)
        sums = code @ with_codes
        weights, terms = code, np.abs(code)
        if parts.minimum is not None:
            sums -= parts.minimum @ with_constants
            weights = code - parts.minimum
            terms += np.abs(parts.minimum)
        total = terms.sum(axis=1)
        if fmt.name == "q6_K":
            # Its offsets are terms of their own.
            total = fused.terms(fmt.name, blocks).sum(axis=1).astype(np.float32)
        np.abs(weights, out=terms)
        a, drift = np.abs(sums[:, 0]), np.abs(sums[:, 1])
        made.terms[some], made.weights[some], made.peak[some] = total, terms.sum(axis=1), terms.max(axis=1)
        made.normalised[some] = np.where(total == 0, np.float32(0), drift / (total * peak))
        made.relative[some] = drift / np.maximum(a, np.float32(_LEAST))


def _together(fmt: formats.Format) -> int:
    """Weights of a block, and whole blocks of activations."""
    size = formats.get(fmt.activation or "").block_size
    if fmt.block_size % size:
        raise ModelError(f"blocks of {fmt.name} are no whole blocks of {fmt.activation}")
    return fmt.block_size


def _blocks(tensor: Tensor) -> UInt8[np.ndarray, "blocks type_size"]:
    return tensor.data.reshape(-1, formats.get(tensor.format).type_size)


def _spreads(
    tensor: Tensor,
    blocks: UInt8[np.ndarray, "b type_size"],
    x: Float32[np.ndarray, " n"],
    seen: Drifts,
    finite: Bool[np.ndarray, " b"],
) -> tuple[Spread, Spread]:
    """The spread of both drifts. The largest are looked for by float32 sums, and computed by the kernels."""
    where = np.flatnonzero(finite)
    normalised, relative = seen.normalised[where], seen.relative[where]
    again = np.concatenate([where[[normalised.argmax()]], where[_largest(relative, _AGAIN)]])
    rows = np.repeat(x[None], len(again), axis=0)
    a = apr.vec_dot_rows(tensor.format, blocks[again], rows).astype(np.float64)
    b = ggml.vec_dot_rows(tensor.format, blocks[again], rows).astype(np.float64)
    whole = fused.terms(tensor.format, blocks[again]).sum(axis=1) * np.abs(x).max()
    exact = np.abs(a - b) / np.where(whole > 0, whole, 1.0)
    published = np.abs(a - b) / np.maximum(np.abs(a), _LEAST)
    worst = 1 + int(published[1:].argmax())
    return (
        _spread(normalised, _place(tensor, int(again[0]), float(exact[0]))),
        _spread(relative, _place(tensor, int(again[worst]), float(published[worst]))),
    )


def _spread(values: Float32[np.ndarray, " b"], largest: Place) -> Spread:
    return Spread(float(np.median(values)), float(values.mean(dtype=np.float64)), largest)


def _largest(values: np.ndarray, count: int) -> Int64[np.ndarray, " count"]:
    """Where the largest values are, the largest first, and of equal ones the first."""
    if len(values) > count:
        some = np.flatnonzero(values >= np.partition(values, len(values) - count)[len(values) - count])
    else:
        some = np.arange(len(values))
    return some[np.argsort(-values[some], kind="stable")][:count]


def _outliers(tensor: Tensor, blocks: UInt8[np.ndarray, "b type_size"], seen: Drifts, most: int) -> Iterator[Outlier]:
    fmt = formats.get(tensor.format)
    scales = fmt.scales(blocks)
    broken = ~np.isfinite(seen.terms)
    for values in scales.values():
        broken |= ~np.isfinite(values)
    found: list[tuple[Reason, Bool[np.ndarray, " b"], np.ndarray]] = [
        ("non-finite", broken, next(iter(scales.values()), seen.terms))
    ]
    if "d" in scales:
        size = np.abs(scales["d"])
        found.append(("zero scale", size == 0, scales["d"]))
        if "d" in fmt.half_fields:
            found.append(("subnormal scale", (size > 0) & (size < _LEAST_NORMAL_HALF), scales["d"]))
    with np.errstate(all="ignore"):
        lost = np.where(seen.weights > 0, seen.terms / seen.weights, np.where(seen.terms > 0, np.inf, 0.0))
        middle = np.median(seen.peak[~broken]) if not broken.all() else 0.0
        far = seen.peak / middle if middle > 0 else np.zeros_like(seen.peak)
    if fmt.decode(blocks[:1]).minimum is not None:
        found.append(("cancelling", ~broken & (lost >= CANCELLING), lost))
    found.append(("far", ~broken & (far >= FAR), far))
    for reason, which, values in found:
        if which.any():
            yield _outlier(tensor, reason, which, values, most)


def _outlier(tensor: Tensor, reason: Reason, which: Bool[np.ndarray, " b"], values: np.ndarray, most: int) -> Outlier:
    """The blocks ``which`` are special by these values: the largest first, of scales the least, NaN in order."""
    where = np.flatnonzero(which)
    special = np.abs(values[where].astype(np.float64))
    special = -special if reason in ("zero scale", "subnormal scale") else special
    first = where[_largest(np.nan_to_num(special, nan=np.inf), most)]
    return Outlier(tensor.name, reason, len(where), tuple(_place(tensor, int(i), float(values[i])) for i in first))


def _place(tensor: Tensor, block: int, value: float) -> Place:
    in_row = max(1, tensor.row_bytes // formats.get(tensor.format).type_size)
    return Place(block // in_row, block % in_row, value)


def _plain(tensor: Tensor, most: int) -> Scanned:
    """A tensor of plain numbers: are they finite?"""
    step = max(1, 2**20 // max(tensor.columns, 1))
    places: list[Place] = []
    count = 0
    for start in range(0, tensor.rows if tensor.columns else 0, step):
        values = np.atleast_2d(tensor.values(slice(start, start + step)))
        rows, columns = np.nonzero(~np.isfinite(values))
        count += len(rows)
        for row, column in zip(rows[: most - len(places)], columns, strict=False):
            places.append(Place(start + int(row), int(column), float(values[row, column])))
    broken = (Outlier(tensor.name, "non-finite", count, tuple(places)),) if count else ()
    return Scanned(tensor.name, tensor.format, tensor.shape, 0, None, None, None, broken)
