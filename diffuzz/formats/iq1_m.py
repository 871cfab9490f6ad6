"""iq1_m: 256 weights in 56 bytes, 1.75 bits each: 16 sub-blocks of 16, each of two points of a grid of 2048.

    field   width     meaning
    qs      32 bytes  lower 8 bits of the number of a point of IQ1, one for each eight weights
    qh      16 bytes  a nibble for each point, the low one first: the upper three bits of its number, and in bit 3
                      whether it is moved by -1/8 and not by +1/8
    scales  4 words   of 16 bits: scales 4 i to 4 i + 3 of 3 bits, the first one lowest; the upper four bits of the
                      words are those of d, an f16 number, its lowest ones in the first word

value = f32(d (2 scale + 1)) (point +- 1/8)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from diffuzz.formats import bits, grid_fit, grids, parts
from diffuzz.formats.arrays import AnyArray, ArrayModule
from diffuzz.formats.format import Fields, Format, Parts, Records, table

if TYPE_CHECKING:
    from jaxtyping import Float32, Int32, UInt8

LAYOUT = table(56, qs=("u1", 32), qh=("u1", 16), scales=("u1", 8))


def _scales(words: Int32[AnyArray, "b 4"], xp: ArrayModule) -> Int32[AnyArray, "b 16"]:
    return ((words[:, :, None] >> (3 * xp.arange(4, dtype=xp.int32))) & 7).reshape(len(words), 16)


def _d(words: Int32[AnyArray, "b 4"]) -> tuple[AnyArray, AnyArray]:
    """(low byte, high byte) of d."""
    nibble = words >> 12
    return nibble[:, 0] | (nibble[:, 1] << 4), nibble[:, 2] | (nibble[:, 3] << 4)


def decode(blocks: UInt8[AnyArray, "b 56"], xp: ArrayModule) -> Parts:
    """Codes are eight times the moved coordinates, scales odd numbers, d an eighth of the stored one."""
    words, high = grids.words(blocks[:, 48:56], xp), bits.nibbles(blocks[:, 32:48], 1, xp)
    codes = grids.shifted(bits.integers(blocks[:, :32], xp) | ((high & 7) << 8), high >> 3, xp)
    d = bits.half_to_float(*_d(words), xp) * xp.float32(0.125)
    return parts.of_super_block(d, None, 2 * _scales(words, xp) + 1, None, codes, xp)


def unpack(records: Records) -> Fields:
    """d float16[b]; scales int32[b, 16] in 0..7; shifts int32[b, 32], 0 or 1; grid int32[b, 32] in 0..2047."""
    words, high = grids.words(records["scales"], np), bits.nibbles(records["qh"], 1, np)
    low_byte, high_byte = _d(words)
    d = (low_byte | (high_byte << 8)).astype(np.uint16).view(np.float16)
    grid = bits.integers(records["qs"], np) | ((high & 7) << 8)
    return {"d": d, "scales": _scales(words, np), "shifts": high >> 3, "grid": grid}


def pack(fields: Fields) -> Records:
    """Inverse of ``unpack``."""
    records = np.zeros(len(fields["d"]), LAYOUT)
    records["qs"] = fields["grid"] & 255
    records["qh"] = bits.pack_nibbles((fields["grid"] >> 8) | (fields["shifts"] << 3), 1)
    d = np.ascontiguousarray(fields["d"].astype(np.float16)).view(np.uint16).astype(np.int32)
    upper = ((d[:, None] >> (4 * np.arange(4))) & 15) << 12
    three = np.bitwise_or.reduce(fields["scales"].reshape(-1, 4, 4) << (3 * np.arange(4)), axis=2)
    records["scales"] = grids.raw_words(upper | three)
    return records


def quantise(values: Float32[np.ndarray, "b 256"]) -> UInt8[np.ndarray, "b 56"]:
    """Scales, points and moves by ``diffuzz.formats.grid_fit.shifted``."""
    return pack(grid_fit.shifted(values, grids.IQ1, 16, 32)).view(np.uint8).reshape(len(values), -1)


FORMAT = Format("iq1_m", 256, LAYOUT, "q8_K", ("d",), decode, unpack, pack, quantise)
