"""Decoders of block formats with one bug each, and dequantisers built from them.

A decoder is a function ``(format, blocks uint8[b, type_size]) -> Parts``, like ``Format.decode``. The decoders here
decode correctly and then replace the fields that their bug reads wrongly.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import attrs
import numpy as np

from diffuzz import formats
from diffuzz.formats import Parts, bits, iq4_nl, mxfp4

# (format, uint8[b, type_size]) -> Parts.
Decoder: TypeAlias = Callable[[str, np.ndarray], Parts]
# A function of one array whose result has the same shape.
Change: TypeAlias = Callable[[np.ndarray], np.ndarray]

SMALLEST_NORMAL_HALF = 2.0**-14
# The number that is subtracted from a stored code, by format.
OFFSETS = {"q4_0": 8, "q5_0": 16, "q3_K": 4, "q6_K": 32}
# Number of bytes whose low nibbles come before their high nibbles, by format.
NIBBLE_GROUPS = {"q4_0": 16, "q4_1": 16, "q5_0": 16, "q5_1": 16, "q4_K": 32, "q5_K": 32, "q6_K": 64, "iq4_nl": 16,
                 "mxfp4": 16}  # fmt: skip
# The tables of levels that codes are indices of, by format.
LEVELS = {"iq4_nl": np.array(iq4_nl.LEVELS), "mxfp4": np.array(mxfp4.LEVELS)}


def right(format: str, blocks: np.ndarray) -> Parts:
    """The decoder without a bug."""
    return formats.get(format).decode(blocks)


def changed(parts: Parts, **fields: np.ndarray) -> Parts:
    """The parts with these fields replaced, and with scale and minimum computed anew."""
    parts = attrs.evolve(parts, **fields)
    with np.errstate(all="ignore"):
        scale = parts.d[:, None] * parts.sub_scale.astype(np.float32)
        below = None if parts.dmin is None else parts.dmin[:, None] * parts.sub_minimum.astype(np.float32)
    return attrs.evolve(parts, scale=scale, minimum=below)


def dequantiser(format: str, decode: Decoder) -> Change:
    """``f(blocks uint8[b, type_size]) -> float32[b, block_size]``, by f32(f32(scale code) - minimum)."""

    def dequantize(blocks: np.ndarray) -> np.ndarray:
        parts = decode(format, blocks)
        with np.errstate(all="ignore"):
            scaled = parts.scale * parts.code.astype(np.float32)
            return np.asarray(scaled if parts.minimum is None else scaled - parts.minimum)

    return dequantize


def _coded(change: Callable[[str, np.ndarray], np.ndarray]) -> Decoder:
    """A decoder whose stored codes are changed by ``change(format, int32[b, n]) -> int32[b, n]``."""

    def decode(format: str, blocks: np.ndarray) -> Parts:
        parts, offset = right(format, blocks), OFFSETS.get(format, 0)
        if format in LEVELS:
            codes = change(format, formats.get(format).unpack(blocks)["codes"])
            return changed(parts, code=LEVELS[format][codes].astype(np.int32))
        return changed(parts, code=change(format, parts.code + offset) - offset)

    return decode


def _interleaved(format: str, codes: np.ndarray) -> np.ndarray:
    group = NIBBLE_GROUPS[format]
    low = (codes & 15).reshape(len(codes), -1, 2, group)
    return np.asarray(np.swapaxes(low, 2, 3).reshape(codes.shape) | (codes >> 4 << 4))


def _swapped(format: str, codes: np.ndarray) -> np.ndarray:
    group = NIBBLE_GROUPS[format]
    low = (codes & 15).reshape(len(codes), -1, 2, group)
    return np.asarray(low[:, :, ::-1].reshape(codes.shape) | (codes >> 4 << 4))


def _pairs_in_order(format: str, codes: np.ndarray) -> np.ndarray:
    """Byte i holds elements 4 i to 4 i + 3."""
    low = (codes & 3).reshape(len(codes), -1, 4, 32)
    return np.asarray(np.swapaxes(low, 2, 3).reshape(codes.shape) | (codes >> 2 << 2))


def _q5_k_layout(format: str, blocks: np.ndarray) -> Parts:
    parts = right(format, blocks)
    # Element l of sub-block s from bit l mod 8 of byte 4 s + l / 8.
    high = ((blocks[:, 16:48, None].astype(np.int32) >> np.arange(8)) & 1).reshape(len(blocks), 256)
    return changed(parts, code=_interleaved(format, parts.code & 15) | (high << 4))


def _scales_of(
    wrong: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]],
) -> Decoder:
    """q4_K and q5_K with scales and minimums from ``wrong(int32[b, 12])``, int32[b, 8] each."""

    def decode(format: str, blocks: np.ndarray) -> Parts:
        scales, minimums = wrong(blocks[:, 4:16].astype(np.int32))
        return changed(
            right(format, blocks),
            sub_scale=np.repeat(scales, 32, axis=1),
            sub_minimum=np.repeat(minimums, 32, axis=1),
        )

    return decode


def _contiguous(packed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Twelve bits for each sub-block, one sub-block after the other."""
    three = packed.reshape(len(packed), 4, 3)
    words = np.stack([three[..., 0] | (three[..., 1] & 15) << 8, three[..., 1] >> 4 | three[..., 2] << 4], axis=2)
    words = words.reshape(len(packed), 8)
    return words & 63, words >> 6


def _without_high_bits(packed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    scales, minimums = bits.six_bit_pairs(packed, np)
    upper = np.arange(8) >= 4
    return np.where(upper, scales & 15, scales), np.where(upper, minimums & 15, minimums)


def _upper_nibbles_exchanged(packed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    scales, minimums = bits.six_bit_pairs(packed, np)
    upper = np.arange(8) >= 4
    return (
        np.where(upper, scales >> 4 << 4 | minimums & 15, scales),
        np.where(upper, minimums >> 4 << 4 | scales & 15, minimums),
    )


def _minimum_high_bits_of_scale(packed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    scales, minimums = bits.six_bit_pairs(packed, np)
    return scales, np.where(np.arange(8) >= 4, minimums & 15 | scales >> 4 << 4, minimums)


def _q3_k_scales(wrong: Change) -> Decoder:
    """q3_K with the scales int32[b, 16] that ``wrong`` makes of the stored ones."""

    def decode(format: str, blocks: np.ndarray) -> Parts:
        parts = right(format, blocks)
        stored = parts.sub_scale[:, ::16] + 32
        return changed(parts, sub_scale=np.repeat(wrong(stored), 16, axis=1))

    return decode


def _with(**changes: Change) -> Decoder:
    """A decoder that replaces fields of Parts by a function of the correct ones."""

    def decode(format: str, blocks: np.ndarray) -> Parts:
        parts = right(format, blocks)
        return changed(parts, **{name: change(getattr(parts, name)) for name, change in changes.items()})

    return decode


def flushed(d: np.ndarray) -> np.ndarray:
    """Scales, with those that are subnormal f16 numbers replaced by 0."""
    return np.where(np.abs(d) < SMALLEST_NORMAL_HALF, np.float32(0), d).astype(np.float32)


def to_bfloat(d: np.ndarray) -> np.ndarray:
    """float32 with the lower 16 bits cut off."""
    return (np.ascontiguousarray(d, np.float32).view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)


def _subnormal_as_normal(d: np.ndarray) -> np.ndarray:
    """The mantissa of a subnormal f16 read with the hidden bit of a normal one."""
    small = (np.abs(d) < SMALLEST_NORMAL_HALF) & (d != 0)
    return np.where(small, np.copysign(np.abs(d) / 2 + 2.0**-15, d), d).astype(np.float32)


def _exchanged_scales(format: str, blocks: np.ndarray) -> Parts:
    parts = right(format, blocks)
    return changed(parts, d=parts.dmin, dmin=parts.d)


def _nibble_scales_exchanged(format: str, blocks: np.ndarray) -> Parts:
    parts = right(format, blocks)
    return changed(parts, sub_scale=parts.sub_minimum, sub_minimum=parts.sub_scale)


def _fifth_bit_of_first_half(format: str, codes: np.ndarray) -> np.ndarray:
    high = codes >> 4
    high[:, 16:] = high[:, :16]
    return codes & 15 | high << 4


def _next_scale(format: str, blocks: np.ndarray) -> Parts:
    """The last sub-block with the scale of the one before it."""
    parts = right(format, blocks)
    scale = parts.sub_scale.copy()
    scale[:, -16:] = scale[:, -33:-32]
    return changed(parts, sub_scale=scale)


# The wrong decoders by name. The mutants say for which formats they are meant.
WRONG: dict[str, Decoder] = {
    "scale12-contiguous": _scales_of(_contiguous),
    "scale12-high-bits": _scales_of(_without_high_bits),
    "scale12-nibbles": _scales_of(_upper_nibbles_exchanged),
    "scale12-min-bits": _scales_of(_minimum_high_bits_of_scale),
    "nibble-interleave": _coded(_interleaved),
    "nibble-swap": _coded(_swapped),
    "q5k-layout": _q5_k_layout,
    "q6k-combine": _coded(lambda _, codes: (codes & 15) + 4 * (codes >> 4)),
    "pairs-in-order": _coded(_pairs_in_order),
    "fifth-bit-lost": _coded(lambda _, codes: codes & 15),
    "fifth-bit-first-half": _coded(_fifth_bit_of_first_half),
    "hmask-inverted": _coded(lambda _, codes: codes ^ 4),
    "scale6-high-bits": _q3_k_scales(lambda stored: (stored & 15) - 32),
    "scale6-no-offset": _q3_k_scales(lambda stored: stored),
    "scale6-pairs": _q3_k_scales(lambda stored: (stored & 15 | np.roll(stored >> 4, 4, axis=1) << 4) - 32),
    "scale8-unsigned": _with(sub_scale=lambda scale: scale & 255),
    "code-unsigned": _with(code=lambda code: code & 255),
    "code-saturated": _with(code=lambda code: np.maximum(code, -127)),
    "offset-by-one": _with(code=lambda code: code + 1),
    "header-without-minimum": _with(dmin=np.zeros_like),
    "minimum-sign": _with(dmin=np.negative),
    "d-and-dmin": _exchanged_scales,
    "scale-and-minimum": _nibble_scales_exchanged,
    "last-scale": _next_scale,
    "f16-flush": _with(d=flushed),
    "f16-flush-minimum": _with(dmin=flushed),
    "f16-subnormal-normal": _with(d=_subnormal_as_normal),
    "f16-sign": _with(d=np.abs),
    "f16-as-bf16": _with(d=to_bfloat),
    "level-next": _coded(lambda _, codes: np.minimum(codes + 1, 15)),
    "level-sign": _coded(lambda _, codes: codes & 7),
    "levels-evenly": lambda format, blocks: changed(
        right(format, blocks), code=formats.get(format).unpack(blocks)["codes"] - 8
    ),
    "exponent-by-one": _with(d=lambda d: 2 * d),
    "exponent-as-f16": lambda format, blocks: changed(right(format, blocks), d=bits.half_at(blocks, 0, np)),
    "exponent-flush": _with(d=lambda d: np.where(d < np.finfo(np.float32).tiny, np.float32(0), d)),
}
