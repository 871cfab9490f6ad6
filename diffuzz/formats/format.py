"""What a block format is: a layout, a decoding into arithmetic parts, and a quantiser where it has one.

A row of weights is cut into blocks of ``block_size`` numbers; each is stored in ``type_size`` bytes as small integer
codes that share a scale, and in some formats a minimum. The K formats divide a super-block of 256 into sub-blocks with
a small integer scale each.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, TypeAlias

import attrs
import numpy as np

from diffuzz.formats import bits
from diffuzz.formats.arrays import AnyArray, ArrayModule

if TYPE_CHECKING:
    from jaxtyping import Float, Float32, Int32, UInt8

# The logical fields of b blocks by name: scales float[b], sub-block scales int32[b, groups], codes int32[b, n].
Fields: TypeAlias = dict[str, np.ndarray]
# b blocks as one structured array [b], of the dtype ``Format.layout``.
Records: TypeAlias = np.ndarray


@attrs.frozen
class Parts:
    """A decoded batch of b blocks, with one entry for each of their n elements.

        value = f32(f32(scale * code) - minimum)

    scale        f32(d * sub_scale)
    code         signed: the format's offset is already subtracted
    minimum      f32(dmin * sub_minimum); q4_1 and q5_1 add their m, so theirs is -m
    d, dmin      the block's floating-point scales; for q4_1 and q5_1 dmin = -m
    sub_scale    1 where a format has no sub-blocks

    ``code`` and ``sub_scale`` are whole numbers, int32, but float32 in formats whose codes or scales stand for others
    (fp8, nf4, nvfp4_two_level). For a format without minimums ``minimum``, ``dmin`` and ``sub_minimum`` are None.
    Either all of them are, or none.
    """

    scale: Float32[AnyArray, "b n"]
    code: Int32[AnyArray, "b n"] | Float32[AnyArray, "b n"]
    minimum: Float32[AnyArray, "b n"]
    d: Float32[AnyArray, " b"]
    dmin: Float32[AnyArray, " b"]
    sub_scale: Int32[AnyArray, "b n"] | Float32[AnyArray, "b n"]
    sub_minimum: Int32[AnyArray, "b n"]


@attrs.frozen(eq=False)
class Format:
    """One block format. ``unpack`` gives the fields that the bytes store, ``pack`` is its inverse, and ``decode`` gives
    the numbers that the values are computed from.

    ``activation`` names the format that ggml quantises activations to before it multiplies them with these weights.
    ``half_fields`` names the f16 scale fields; without any, ``d`` is float32 (q8_K), bf16 in two bytes (bf16), a power
    of two in a byte (mxfp4), or not there (nvfp4). ``of_ggml`` is False for a format that ggml does not have.

    Some bytes are no block that a quantiser would write: a float8 code that is NaN, a byte of ternary digits for which
    another one stands, too. ``canonical`` replaces them, and the cases of a search have none of them.
    """

    name: str
    block_size: int
    layout: np.dtype[np.void]
    activation: str | None
    half_fields: tuple[str, ...]
    _decode: Callable[[UInt8[AnyArray, "b type_size"], ArrayModule], Parts]
    _unpack: Callable[[Records], Fields]
    _pack: Callable[[Fields], Records]
    _quantise: Callable[[Float32[np.ndarray, "b block_size"]], UInt8[np.ndarray, "b type_size"]] | None = None
    _canonical: Callable[[Records], Records] | None = attrs.field(default=None, kw_only=True)
    of_ggml: bool = attrs.field(default=True, kw_only=True)

    @property
    def type_size(self) -> int:
        """Bytes of one block."""
        return int(self.layout.itemsize)

    @property
    def scale_fields(self) -> tuple[str, ...]:
        """Names of the fields that hold floating-point scales, of 8, 16 or 32 bits."""
        return self.half_fields or (("d",) if "d" in (self.layout.names or ()) else ())

    def scales(self, blocks: UInt8[np.ndarray, "b type_size"]) -> dict[str, Float32[np.ndarray, " b"]]:
        """The floating-point scale fields of ``blocks``, by name."""
        records = np.ascontiguousarray(blocks).view(self.layout).reshape(-1)
        fields = self._unpack(records) if self._scattered else records
        return {name: _scale(fields[name]) for name in self.scale_fields}

    @property
    def _scattered(self) -> bool:
        """Whether the bits of a scale lie apart (iq1_m)."""
        return not set(self.scale_fields) <= set(self.layout.names or ())

    def with_scales(
        self, blocks: UInt8[np.ndarray, "b type_size"], scales: dict[str, Float[np.ndarray, " b"]]
    ) -> UInt8[np.ndarray, "b type_size"]:
        """``blocks`` with these numbers, by name, in their scale fields, rounded as ``stored_scale`` says."""
        records = np.ascontiguousarray(blocks).view(self.layout).reshape(-1).copy()
        if self._scattered:
            fields = self._unpack(records)
            records = self._pack(fields | {name: values.astype(fields[name].dtype) for name, values in scales.items()})
        else:
            for name, values in scales.items():
                records[name] = _stored(values, records[name].dtype)
        return records.view(np.uint8).reshape(blocks.shape)

    def stored_scale(self, values: Float[np.ndarray, " ..."]) -> Float[np.ndarray, " ..."]:
        """``values`` rounded to what a scale field can store: to float16, to float32, or down to a bf16 number or a
        power of two (both as float32).
        """
        kind = np.dtype(np.float16) if self._scattered else self.layout["d"]
        stored = _stored(values, kind)
        return _scale(stored) if kind.kind == "u" else stored

    @property
    def any_bytes(self) -> bool:
        """Whether every byte string is a block that a quantiser might write: ``canonical`` changes none."""
        return self._canonical is None

    def canonical(self, blocks: UInt8[np.ndarray, "b type_size"]) -> UInt8[np.ndarray, "b type_size"]:
        """``blocks`` without what no quantiser writes; the same array where every byte string is a block."""
        if self._canonical is None:
            return blocks
        records = self._canonical(np.ascontiguousarray(blocks).view(self.layout).reshape(-1).copy())
        return np.ascontiguousarray(records).view(np.uint8).reshape(blocks.shape)

    def decode(self, blocks: UInt8[AnyArray, "b type_size"], xp: ArrayModule = np) -> Parts:
        """The parts that the values of ``blocks`` are computed from, as arrays of ``xp``, numpy or jax.numpy.

        The bits are the same in both, except that XLA on a CPU replaces float32 subnormals by 0, which only a d that is
        no f16 number can be. Raises ValueError for another shape or dtype.
        """
        blocks = self._checked(np.ascontiguousarray(blocks) if xp is np else blocks)
        with np.errstate(all="ignore"):
            return self._decode(blocks, xp)

    def dequantize(self, blocks: UInt8[np.ndarray, "b type_size"]) -> Float32[np.ndarray, "b block_size"]:
        """The values of ``blocks``, ``f32(f32(scale * code) - minimum)``, bit-exact with ggml.

        Raises ValueError for another shape or dtype.
        """
        parts = self.decode(blocks)
        with np.errstate(all="ignore"):
            scaled = parts.scale * parts.code.astype(np.float32)
            return np.asarray(scaled if parts.minimum is None else scaled - parts.minimum)

    @property
    def quantize(self) -> Callable[[Float32[np.ndarray, "b block_size"]], UInt8[np.ndarray, "b type_size"]] | None:
        """The quantiser, or None if the format has none; the rule is that of ``quantise`` in the format's module.

        The function raises ValueError for another shape or dtype.
        """
        quantise = self._quantise
        if quantise is None:
            return None

        def checked(values: Float32[np.ndarray, "b block_size"]) -> UInt8[np.ndarray, "b type_size"]:
            values = np.ascontiguousarray(values)
            if values.dtype != np.float32 or values.ndim != 2 or values.shape[1] != self.block_size:
                raise ValueError(
                    f"values: {values.dtype}{list(values.shape)}, where float32[b, {self.block_size}] is needed"
                )
            if not len(values):
                return np.empty((0, self.type_size), np.uint8)
            with np.errstate(all="ignore"):
                return quantise(values)

        return checked

    def unpack(self, blocks: UInt8[np.ndarray, "b type_size"]) -> Fields:
        """The stored fields of ``blocks``: f16 scales as float16, sub-block scales and codes as int32.

        Raises ValueError for another shape or dtype.
        """
        return self._unpack(self._checked(np.ascontiguousarray(blocks)).view(self.layout).reshape(-1))

    def pack(self, fields: Fields) -> UInt8[np.ndarray, "b type_size"]:
        """Blocks with these fields; the inverse of ``unpack``.

        Raises ValueError for a missing or unknown field, and for one that the bytes cannot store: an array of another
        shape, a code or a sub-block scale out of range, a d that is not a float16 number.
        """
        extremes = _extremes(self)
        if set(fields) != set(extremes):
            raise ValueError(f"fields {sorted(fields)}: {self.name} has {sorted(extremes)}")
        rows = len(next(iter(fields.values())))
        for name, extreme in extremes.items():
            _check_field(f"field {name} of {self.name}", fields[name], rows, extreme)
        records = np.ascontiguousarray(self._pack(fields))
        return records.view(np.uint8).reshape(len(records), self.type_size)

    def field_at(self, byte: int) -> str:
        """Name of the stored field that holds a byte of a block: ``d``, or ``qs[3]`` in a field of several numbers.

        Raises ValueError for a byte outside the block.
        """
        for name, (dtype, offset) in ((name, field[:2]) for name, field in (self.layout.fields or {}).items()):
            if offset <= byte < offset + dtype.itemsize:
                return name if dtype.shape == () else f"{name}[{(byte - offset) // dtype.base.itemsize}]"
        raise ValueError(f"byte {byte}: a block of {self.name} has bytes 0..{self.type_size - 1}")

    def _checked(self, blocks: AnyArray) -> UInt8[AnyArray, "b type_size"]:
        if blocks.dtype != np.uint8 or blocks.ndim != 2 or blocks.shape[1] != self.type_size:
            raise ValueError(f"blocks: {blocks.dtype}{list(blocks.shape)}, where uint8[b, {self.type_size}] is needed")
        return blocks


def _scale(stored: np.ndarray) -> Float32[np.ndarray, " b"]:
    """What a scale field holds, as float32: one unsigned byte is an exponent, two are a bf16 number."""
    if stored.dtype.kind != "u":
        return stored.astype(np.float32)
    return np.asarray(bits.e8m0_to_float(stored) if stored.dtype.itemsize == 1 else bits.bfloat_to_float(stored))


def _stored(values: Float[np.ndarray, " ..."], kind: np.dtype) -> np.ndarray:
    """Numbers as a scale field of this type holds them; the inverse of ``_scale`` but for rounding."""
    if kind.kind != "u":
        return values.astype(kind)
    return bits.e8m0_below(values) if kind.itemsize == 1 else bits.bfloat_below(values)


@cache
def _extremes(fmt: Format) -> Fields:
    """Fields of blocks among which every integer field takes its least and its largest value."""
    # All bits clear or set for unsigned fields, 0x80 and 0x7F for int8, 0x8000 and 0x7FFF for int16.
    words = np.array([[0, 0], [255, 255], [128, 128], [127, 127], [0, 128], [255, 127]], np.uint8)
    return fmt.unpack(np.ascontiguousarray(np.tile(words, (fmt.type_size + 1) // 2)[:, : fmt.type_size]))


def _check_field(what: str, given: np.ndarray, rows: int, extreme: np.ndarray) -> None:
    """Raise ValueError unless ``given`` can be stored as a field that has the shape and range of ``extreme``."""
    shape = (rows, *extreme.shape[1:])
    if given.shape != shape:
        raise ValueError(f"{what}: shape {list(given.shape)}, where {list(shape)} is needed")
    if extreme.dtype.kind == "f":
        if given.dtype != extreme.dtype:
            with np.errstate(over="ignore", invalid="ignore"):
                kept = (given.astype(extreme.dtype) == given) | np.isnan(given)
            if not kept.all():
                raise ValueError(f"{what}: {given[~kept][0]}, which is no {extreme.dtype} number")
        return
    if given.dtype.kind not in "iu":
        raise ValueError(f"{what}: {given.dtype}, where integers are needed")
    low, high = extreme.min(), extreme.max()
    if given.size and (given.min() < low or given.max() > high):
        raise ValueError(f"{what}: {given[(given < low) | (given > high)][0]}, where {low}..{high} are stored")


def table(size: int, **fields: str | tuple[str, int]) -> np.dtype[np.void]:
    """A layout of packed fields, each of a NumPy type such as "<f2", or of a type and a count.

    Raises TypeError unless it has ``size`` bytes, so that a layout is checked where it is written down.
    """
    layout = np.dtype(list(fields.items()))
    if layout.itemsize != size:
        raise TypeError(f"layout of {layout.itemsize} bytes, where {size} are specified")
    return layout
