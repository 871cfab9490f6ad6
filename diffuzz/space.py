"""Spaces: which cases are admissible.

A space is a declaration, not a generator: engines, strategies, the minimiser and the corpus all read the same one.

    Space(tensors=(
        TensorSpec("x", kind="activations", shape=(Dim("n", 256),), low=-12.0, high=12.0, smallest_peak=1e-3),
        TensorSpec("direction", kind="direction", shape=(Dim("n", 256),), low=-1.0, high=1.0),
    ))

The kind of a tensor says what its numbers are, so that a generator knows what to try:

    activations  float32, any sign; what a quantiser or a norm sees
    logits       float32; ties and the edges of the range matter
    gain         float32, positive (low > 0): drawn by exponent as much as by value
    direction    float32 in [-1, 1]: the shape of a perturbation, see diffuzz.perturb
    positions    int32 in [low, high]
    blocks       uint8: rows of quantised weights; shape is given in weights, the array holds the bytes of their blocks
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

import attrs
import numpy as np

from diffuzz import formats
from diffuzz.case import Case

Kind = Literal["activations", "logits", "gain", "direction", "positions", "blocks"]
_DTYPE: dict[str, str] = {"positions": "int32", "blocks": "uint8"}


class InadmissibleError(ValueError):
    """A case outside the space; the message names the array, the place and the rule."""


@attrs.frozen
class Dim:
    """A named dimension: at most ``size``, in multiples of ``step``; ``fixed`` if it must be exactly ``size``.

    Equal names have equal sizes within one case.
    """

    name: str
    size: int
    step: int = attrs.field(default=1, kw_only=True)
    fixed: bool = attrs.field(default=False, kw_only=True)

    def admits(self, size: int) -> bool:
        """Whether ``size`` is one of the sizes of this dimension."""
        if self.fixed:
            return size == self.size
        return self.step <= size <= self.size and size % self.step == 0


@attrs.frozen
class TensorSpec:
    """One named array of a case.

    ``low`` and ``high`` bound every element (inclusive). ``smallest_peak`` is the least admissible max|x|, which keeps
    zero vectors out of relative measures. ``format`` names the block format of ``blocks``; their scale fields must be
    finite, at most ``largest_scale`` in magnitude and, with a ``smallest_scale``, at least that. ``quantiser`` names
    the activation format that the kernel quantises this tensor to, and ``against`` the ``blocks`` tensor it is
    multiplied with: where the ties are, and which sign of an error hurts.
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

    @property
    def dtype(self) -> str:
        """``"float32"``, ``"int32"`` or ``"uint8"``, by kind."""
        return _DTYPE.get(self.kind, "float32")

    def array_shape(self, sizes: Mapping[str, int] | None = None) -> tuple[int, ...]:
        """Shape of the array for given dimension sizes (the largest ones by default); bytes for ``blocks``."""
        shape = [(sizes or {}).get(dim.name, dim.size) for dim in self.shape]
        if self.format is not None:
            fmt = formats.get(self.format)
            shape[-1] = shape[-1] // fmt.block_size * fmt.type_size
        return tuple(shape)

    def sizes(self, array: np.ndarray) -> dict[str, int]:
        """Dimension sizes that an array has. Raises InadmissibleError where the shape is not one of this tensor."""
        shape = list(array.shape)
        if self.format is not None and shape:
            fmt = formats.get(self.format)
            if shape[-1] % fmt.type_size:
                raise InadmissibleError(
                    f"{self.name}: rows of {shape[-1]} bytes are not whole {self.format} blocks of {fmt.type_size}"
                )
            shape[-1] = shape[-1] // fmt.type_size * fmt.block_size
        if len(shape) != len(self.shape) or not all(d.admits(s) for d, s in zip(self.shape, shape, strict=True)):
            wanted = ", ".join(
                f"{d.name}={d.size}"
                if d.fixed
                else f"{d.name}<={d.size}" + (f" in steps of {d.step}" if d.step > 1 else "")
                for d in self.shape
            )
            raise InadmissibleError(f"{self.name}: shape {tuple(array.shape)} does not fit ({wanted})")
        return {dim.name: size for dim, size in zip(self.shape, shape, strict=True)}

    def check(self, array: np.ndarray) -> None:
        """Raise InadmissibleError unless dtype and values are those of this tensor."""
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
        if self.smallest_peak and not np.abs(array).max(initial=0.0) >= np.float64(self.smallest_peak):
            raise InadmissibleError(f"{self.name}: max|{self.name}| is below {self.smallest_peak:g}")

    def _outside(self, array: np.ndarray) -> np.ndarray:
        # Against float64 ends: a Python float would be rounded to float32 first, and might let its neighbour in.
        return ~((array >= np.float64(self.low)) & (array <= np.float64(self.high)))

    def _check_blocks(self, array: np.ndarray) -> None:
        fmt = formats.get(self.format or "")
        scales = block_scales(fmt, array.reshape(-1, fmt.type_size))
        for field, values in scales.items():
            bad = ~self._admits_scales(values)
            if bad.any():
                least = f"{self.smallest_scale:g} <= " if self.smallest_scale else ""
                raise InadmissibleError(
                    f"{self.name}: {field} of block {int(np.argmax(bad))} is {values[bad][0]:g}, "
                    f"where {least}|{field}| <= {self.largest_scale:g} is needed"
                )

    def _admits_scales(self, values: np.ndarray) -> np.ndarray:
        size = np.abs(values)
        good = size <= self.largest_scale
        return good & (size >= self.smallest_scale) if self.smallest_scale else good


def block_scales(fmt: formats.Format, blocks: np.ndarray) -> dict[str, np.ndarray]:
    """The floating-point scale fields of ``uint8[b, type_size]`` blocks, as float32[b] by field name."""
    return fmt.scales(blocks)


@attrs.frozen
class Space:
    """The admissible cases of a target: its tensors, all of them present, each within its own rules."""

    tensors: tuple[TensorSpec, ...]

    def __getitem__(self, name: str) -> TensorSpec:
        for spec in self.tensors:
            if spec.name == name:
                return spec
        raise KeyError(name)

    def of_kind(self, *kinds: Kind) -> tuple[TensorSpec, ...]:
        """The tensors of these kinds, in order."""
        return tuple(spec for spec in self.tensors if spec.kind in kinds)

    def resized(self, sizes: Mapping[str, int]) -> Space:
        """The cases of this space in which the dimensions named in ``sizes`` have these sizes, or less.

        Raises ValueError for a size that its dimension does not admit.
        """

        def resize(dim: Dim) -> Dim:
            size = sizes.get(dim.name, dim.size)
            if not dim.admits(size):
                raise ValueError(f"{dim.name}={size}: at most {dim.size} in steps of {dim.step} is needed")
            return attrs.evolve(dim, size=size)

        return Space(tuple(attrs.evolve(spec, shape=tuple(map(resize, spec.shape))) for spec in self.tensors))

    @property
    def elements(self) -> int:
        """Number of array elements of the largest case."""
        return sum(int(np.prod(spec.array_shape())) for spec in self.tensors)

    def check(self, case: Case) -> None:
        """Raise InadmissibleError, one line, unless ``case`` is in the space."""
        _same_names(case.arrays, (spec.name for spec in self.tensors))
        sizes: dict[str, int] = {}
        for spec in self.tensors:
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

    def admissible(self, batch: Mapping[str, np.ndarray]) -> np.ndarray:
        """bool[b]: which rows of a batch (of admissible shapes) have admissible values."""
        rows = len(next(iter(batch.values())))
        good = np.ones(rows, bool)
        for spec in self.tensors:
            array = batch[spec.name].reshape(rows, -1)
            if spec.kind == "blocks":
                fmt = formats.get(spec.format or "")
                for values in block_scales(fmt, array.reshape(-1, fmt.type_size)).values():
                    good &= spec._admits_scales(values).reshape(rows, -1).all(axis=1)
                continue
            # Nearly always all rows are inside; the two extremes tell in a tenth of the time. NaN is not inside.
            if array.size and not spec.low <= float(array.min()) <= float(array.max()) <= spec.high:
                good &= ~spec._outside(array).any(axis=1)
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
