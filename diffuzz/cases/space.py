"""Spaces: which cases are admissible.

A space is a declaration and not a generator, so that engines, strategies, the minimiser and the corpus can share it.

    Space(tensors=(
        TensorSpec("x", kind="activations", shape=(Dim("n", 256),), low=-12.0, high=12.0, smallest_peak=1e-3),
        TensorSpec("direction", kind="direction", shape=(Dim("n", 256),), low=-1.0, high=1.0),
    ))

The kind of a tensor says what its numbers mean, so that generators know what to try:

    activations  float32, any sign; what a quantiser or a norm sees
    logits       float32; ties and the edges of the range matter
    gain         float32, positive (low > 0): drawn by exponent as much as by value
    direction    float32 in [-1, 1]: the shape of a perturbation, see diffuzz.targets.perturbations
    positions    int32 in [low, high]
    tokens       int32 in [0, high]: names, of which none is larger or simpler than another
    blocks       uint8: rows of quantised weights; the shape counts weights, the array holds the bytes of their blocks
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Literal, get_args

import attrs
import numpy as np

from diffuzz import formats
from diffuzz.cases import ranges
from diffuzz.cases.case import Case

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Float32, UInt8

Kind = Literal["activations", "logits", "gain", "direction", "positions", "tokens", "blocks"]
_DTYPE: dict[str, str] = {"positions": "int32", "tokens": "int32", "blocks": "uint8"}


class InadmissibleError(ValueError):
    """A case outside the space; the message names the array, the place and the rule."""


@attrs.frozen
class Dim:
    """A named dimension: a multiple of ``step``, ``least`` to ``largest``; or exactly ``size`` if it is ``fixed``.

    ``size`` is the one that batches have, except those of an engine that looks at others. By default it is the largest,
    too, and the least is one step. Dimensions of the same name have the same size within a case.
    """

    name: str
    size: int
    step: int = attrs.field(default=1, kw_only=True)
    fixed: bool = attrs.field(default=False, kw_only=True)
    least: int | None = attrs.field(default=None, kw_only=True)
    largest: int | None = attrs.field(default=None, kw_only=True)

    def __attrs_post_init__(self) -> None:
        """Raises ValueError, one line, if no size is admissible, or ``size`` is not."""
        if not self.admits(self.size):
            raise ValueError(f"dimension {self.name}: {self.size} is not {self.text}")

    @property
    def lowest(self) -> int:
        """The least admissible size."""
        if self.fixed:
            return self.size
        return self.step if self.least is None else -(-self.least // self.step) * self.step

    @property
    def highest(self) -> int:
        """The largest admissible size."""
        if self.fixed:
            return self.size
        return (self.size if self.largest is None else self.largest) // self.step * self.step

    def admits(self, size: int) -> bool:
        """Whether the dimension may have this size."""
        return self.lowest <= size <= self.highest and (self.fixed or size % self.step == 0)

    @property
    def text(self) -> str:
        """``n=64``, ``n<=256``, ``32<=n<=256 in steps of 32``: the admissible sizes."""
        if self.lowest == self.highest:
            return f"{self.name}={self.size}"
        least = f"{self.lowest}<=" if self.lowest > self.step else ""
        return f"{least}{self.name}<={self.highest}" + (f" in steps of {self.step}" if self.step > 1 else "")


@attrs.frozen(eq=False)
class Choices:
    """The only arrays that a tensor may be: ``arrays`` has a leading axis of them."""

    arrays: UInt8[np.ndarray, "choices ..."] = attrs.field(repr=False)

    def drawn(self, rng: np.random.Generator, rows: int) -> UInt8[np.ndarray, "rows ..."]:
        """One of them for each row."""
        drawn: UInt8[np.ndarray, "rows ..."] = self.arrays[rng.integers(0, len(self.arrays), rows)]
        return drawn


@attrs.frozen
class TensorSpec:
    """One named array of a case.

    low, high        bounds of every element, inclusive
    smallest_peak    the least admissible max|x|, which keeps zero vectors out of relative measures
    format           the block format of a tensor of kind ``blocks``
    largest_scale    bounds of the magnitude of the blocks' scale fields, which must be finite; a smallest_scale
    smallest_scale   of 0 is none
    quantiser        the format that the kernel quantises this tensor to, from which generators know where ties are
    against          the ``blocks`` tensor that this one is multiplied with, whose signs matter to generators
    holds            the dtype whose numbers the elements of a float32 array are: float32, or a narrower one
    absent           the number that all elements have in a case that was written down without this array: one that a
                     target has had for less long than there are entries of it
    among            the arrays that generators choose from and the minimiser leaves as they are, where a search holds
                     this tensor; None where it is searched, too
    """

    name: str
    kind: Kind = attrs.field(kw_only=True)
    shape: tuple[Dim, ...] = attrs.field(kw_only=True)
    low: float = attrs.field(default=0.0, kw_only=True)
    high: float = attrs.field(default=0.0, kw_only=True)
    smallest_peak: float = attrs.field(default=0.0, kw_only=True)
    format: str | None = attrs.field(default=None, kw_only=True)
    largest_scale: float = attrs.field(default=65504.0, kw_only=True)
    smallest_scale: float = attrs.field(default=0.0, kw_only=True)
    quantiser: str | None = attrs.field(default=None, kw_only=True)
    against: str | None = attrs.field(default=None, kw_only=True)
    holds: str = attrs.field(default="float32", kw_only=True)
    absent: float | None = attrs.field(default=None, kw_only=True)
    among: Choices | None = attrs.field(default=None, kw_only=True)

    def __attrs_post_init__(self) -> None:
        """Raises ValueError, one line, for a kind that there is not, a range that is empty, or an unknown dtype."""
        kinds = get_args(Kind)
        if self.kind not in kinds:
            raise ValueError(f"tensor {self.name}: kind={self.kind!r}: one of {', '.join(kinds)} is needed")
        if not self.low <= self.high:
            raise ValueError(f"tensor {self.name}: low={self.low:g} is above high={self.high:g}")
        if self.holds not in ranges.HELD:
            raise ValueError(f"tensor {self.name}: dtype {self.holds!r}: one of {', '.join(ranges.HELD)} is needed")

    @property
    def dtype(self) -> str:
        """Name of the dtype of this kind: float32, int32 or uint8."""
        return _DTYPE.get(self.kind, "float32")

    @property
    def numbers(self) -> str:
        """Name of the dtype whose numbers the elements are."""
        return self.holds if self.dtype == "float32" else self.dtype

    def array_shape(self, sizes: Mapping[str, int] | None = None) -> tuple[int, ...]:
        """Shape of the array if its dimensions have these sizes, by default those that batches have.

        The last axis of ``blocks`` counts bytes.
        """
        shape = [(sizes or {}).get(dim.name, dim.size) for dim in self.shape]
        if self.format is not None:
            fmt = formats.get(self.format)
            shape[-1] = shape[-1] // fmt.block_size * fmt.type_size
        return tuple(shape)

    def sizes(self, array: np.ndarray) -> dict[str, int]:
        """Sizes of the dimensions of an array, by name. Raises InadmissibleError if its shape is not admissible."""
        shape = list(array.shape)
        if self.format is not None and shape:
            fmt = formats.get(self.format)
            if shape[-1] % fmt.type_size:
                raise InadmissibleError(
                    f"{self.name}: rows of {shape[-1]} bytes are not whole {self.format} blocks of {fmt.type_size}"
                )
            shape[-1] = shape[-1] // fmt.type_size * fmt.block_size
        if len(shape) != len(self.shape) or not all(d.admits(s) for d, s in zip(self.shape, shape, strict=True)):
            wanted = ", ".join(d.text for d in self.shape)
            raise InadmissibleError(f"{self.name}: shape {tuple(array.shape)} does not fit ({wanted})")
        return {dim.name: size for dim, size in zip(self.shape, shape, strict=True)}

    def check(self, array: np.ndarray) -> None:
        """Raise InadmissibleError unless dtype and values of ``array`` are admissible."""
        if str(array.dtype) != self.dtype:
            raise InadmissibleError(f"{self.name}: dtype {array.dtype}, where {self.dtype} is needed")
        if self.kind == "blocks":
            self._check_blocks(array)
            return
        if self.dtype == "float32" and not np.isfinite(array).all():
            raise InadmissibleError(f"{self.name}: element {_first(~np.isfinite(array))} is not finite")
        outside = self._outside(array)
        if outside.any():
            where = _first(outside)
            raise InadmissibleError(
                f"{self.name}: element {where} is {array[where]}, outside [{self.low:g}, {self.high:g}]"
            )
        if (between := self._between(array)).any():
            where = _first(between)
            raise InadmissibleError(f"{self.name}: element {where} is {array[where]}, which is no {self.holds} number")
        if self.smallest_peak and not np.abs(array).max(initial=0.0) >= np.float64(self.smallest_peak):
            raise InadmissibleError(f"{self.name}: max|{self.name}| is below {self.smallest_peak:g}")

    def _between(self, array: np.ndarray) -> Bool[np.ndarray, " ..."]:
        """Elements that lie between two numbers of the dtype that the tensor holds."""
        if self.dtype != "float32":
            return np.zeros((), bool)
        return np.asarray(ranges.held(self.holds, array) != array)

    def _outside(self, array: np.ndarray) -> Bool[np.ndarray, " ..."]:
        # Compared with float64: NumPy would round a Python float to float32 first, which might admit its neighbour.
        return ~((array >= np.float64(self.low)) & (array <= np.float64(self.high)))

    def _check_blocks(self, array: np.ndarray) -> None:
        fmt = formats.get(self.format or "")
        blocks = array.reshape(-1, fmt.type_size)
        odd = (fmt.canonical(blocks) != blocks).any(axis=1)
        if odd.any():
            raise InadmissibleError(
                f"{self.name}: block {int(np.argmax(odd))} has bytes that stand for no number in {fmt.name}"
            )
        scales = block_scales(fmt, blocks)
        for field, values in scales.items():
            bad = ~self._admits_scales(values)
            if bad.any():
                least = f"{self.smallest_scale:g} <= " if self.smallest_scale else ""
                raise InadmissibleError(
                    f"{self.name}: {field} of block {int(np.argmax(bad))} is {values[bad][0]:g}, "
                    f"where {least}|{field}| <= {self.largest_scale:g} is needed"
                )

    def _admits_scales(self, values: Float[np.ndarray, " ..."]) -> Bool[np.ndarray, " ..."]:
        size = np.abs(values)
        good: Bool[np.ndarray, " ..."] = size <= self.largest_scale
        return good & (size >= self.smallest_scale) if self.smallest_scale else good


def block_scales(fmt: formats.Format, blocks: UInt8[np.ndarray, "b type_size"]) -> dict[str, Float32[np.ndarray, " b"]]:
    """The floating-point scale fields of blocks, by name."""
    return fmt.scales(blocks)


@attrs.frozen
class Space:
    """The admissible cases of a target: those that have all its tensors and no others, each of them admissible."""

    tensors: tuple[TensorSpec, ...]

    def __getitem__(self, name: str) -> TensorSpec:
        for spec in self.tensors:
            if spec.name == name:
                return spec
        raise KeyError(name)

    @property
    def dims(self) -> tuple[Dim, ...]:
        """The dimensions, each once, in order."""
        return tuple({dim.name: dim for spec in self.tensors for dim in spec.shape}.values())

    @property
    def free(self) -> tuple[Dim, ...]:
        """The dimensions that have more sizes than one."""
        return tuple(dim for dim in self.dims if dim.lowest < dim.highest)

    def of_kind(self, *kinds: Kind) -> tuple[TensorSpec, ...]:
        """The tensors of these kinds, in order."""
        return tuple(spec for spec in self.tensors if spec.kind in kinds)

    def resized(self, sizes: Mapping[str, int]) -> Space:
        """The cases of this space in which the dimensions named in ``sizes`` have at most these sizes, as batches have.

        Raises ValueError for a size that its dimension does not admit.
        """

        def resize(dim: Dim) -> Dim:
            size = sizes.get(dim.name, dim.size)
            if not dim.admits(size):
                raise ValueError(f"{dim.name}={size}: {dim.text} is needed")
            return attrs.evolve(dim, size=size, largest=None)

        return Space(tuple(attrs.evolve(spec, shape=tuple(map(resize, spec.shape))) for spec in self.tensors))

    def written(self, case: Case) -> Case:
        """``case`` as it is written down: without arrays that say no more than that they are absent."""
        arrays = dict(case.arrays)
        for spec in self.tensors:
            if spec.absent is not None and spec.name in arrays and (arrays[spec.name] == spec.absent).all():
                del arrays[spec.name]
        return Case(arrays)

    def completed(self, arrays: Mapping[str, np.ndarray]) -> Case:
        """The case of these arrays and those that are absent from them."""
        batch = self.filled({name: array[None] for name, array in arrays.items()})
        return Case({name: array[0] for name, array in batch.items()})

    def filled(self, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """A batch with the arrays that are absent from it."""
        rows = len(next(iter(batch.values())))
        missing = {
            spec.name: np.full((rows, *spec.array_shape()), spec.absent, spec.dtype)
            for spec in self.tensors
            if spec.absent is not None and spec.name not in batch
        }
        return {**batch, **missing}

    @property
    def elements(self) -> int:
        """Number of array elements of a case whose dimensions have the sizes that batches have."""
        return sum(int(np.prod(spec.array_shape())) for spec in self.tensors)

    def check_shapes(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Raise InadmissibleError unless these are the arrays of a case of the space, in admissible shapes."""
        _same_names(shapes, (spec.name for spec in self.tensors))
        for spec in self.tensors:
            # An array of any shape that takes no memory.
            spec.sizes(np.broadcast_to(np.uint8(0), shapes[spec.name]))

    def check(self, case: Case) -> None:
        """Raise InadmissibleError unless ``case`` is in the space; the message is one line."""
        there = [spec for spec in self.tensors if spec.absent is None or spec.name in case.arrays]
        _same_names(case.arrays, (spec.name for spec in there))
        sizes: dict[str, int] = {}
        for spec in there:
            for dim, size in spec.sizes(case[spec.name]).items():
                if sizes.setdefault(dim, size) != size:
                    raise InadmissibleError(
                        f"{spec.name}: {dim}={size}, but another array of the case has {dim}={sizes[dim]}"
                    )
            spec.check(case[spec.name])

    def admits(self, case: Case) -> bool:
        """Whether ``case`` is in the space."""
        try:
            self.check(case)
        except InadmissibleError:
            return False
        return True

    def admissible(self, batch: Mapping[str, np.ndarray]) -> Bool[np.ndarray, " b"]:
        """Which rows of a batch of admissible shapes have admissible values."""
        rows = len(next(iter(batch.values())))
        good = np.ones(rows, bool)
        for spec in self.tensors:
            array = batch[spec.name].reshape(rows, -1)
            if spec.kind == "blocks":
                fmt = formats.get(spec.format or "")
                blocks = array.reshape(-1, fmt.type_size)
                if (canonical := fmt.canonical(blocks)) is not blocks:
                    good &= (canonical == blocks).reshape(rows, -1).all(axis=1)
                for values in block_scales(fmt, blocks).values():
                    good &= spec._admits_scales(values).reshape(rows, -1).all(axis=1)
                continue
            # Nearly always all rows are inside, and the two extremes show that in a tenth of the time. NaN is outside.
            if array.size and not spec.low <= float(array.min()) <= float(array.max()) <= spec.high:
                good &= ~spec._outside(array).any(axis=1)
            if spec.holds not in ("float32", "float64"):
                good &= ~spec._between(array).any(axis=1)
            if spec.smallest_peak:
                good &= np.abs(array).max(axis=1) >= np.float64(spec.smallest_peak)
        return good


def _same_names(got: Iterable[str], wanted: Iterable[str]) -> None:
    got, wanted = set(got), set(wanted)
    if got != wanted:
        raise InadmissibleError(
            f"the case has arrays {sorted(got)}, where {sorted(wanted)} are needed"
            + (f" (missing: {sorted(wanted - got)})" if wanted - got else "")
        )


def _first(mask: np.ndarray) -> tuple[int, ...]:
    return tuple(int(i) for i in np.argwhere(mask)[0])
