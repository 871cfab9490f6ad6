"""bf16: one number in 2 bytes, the upper half of a float32. A block is one weight, as in f16.

    field  width  meaning
    d      bf16   the weight

value = d; the code is 1 everywhere
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from diffuzz.formats import bits, parts
from diffuzz.formats.arrays import AnyArray, ArrayModule
from diffuzz.formats.format import Fields, Format, Parts, Records, table

if TYPE_CHECKING:
    from jaxtyping import Float32, UInt8

LAYOUT = table(2, d="<u2")


def decode(blocks: UInt8[AnyArray, "b 2"], xp: ArrayModule) -> Parts:
    """The weight is the scale of a code 1."""
    return parts.of_block(bits.bfloat_at(blocks, 0, xp), None, xp.ones((len(blocks), 1), xp.int32), xp)


def unpack(records: Records) -> Fields:
    """d as float32[b], bf16 numbers."""
    return {"d": bits.bfloat_to_float(records["d"])}


def pack(fields: Fields) -> Records:
    """Inverse of ``unpack``; a d that is no bf16 number is stored as the next one towards zero."""
    records = np.zeros(len(fields["d"]), LAYOUT)
    records["d"] = bits.bfloat_below(fields["d"])
    return records


def quantise(values: Float32[np.ndarray, "b 1"]) -> UInt8[np.ndarray, "b 2"]:
    """The nearest bf16 number, ties to even; infinite beyond the largest. ggml's bits, which make a NaN quiet."""
    words = values.view(np.uint32)[:, 0]
    nearest = (words.astype(np.uint64) + 0x7FFF + ((words >> 16) & 1)) >> 16
    records = np.zeros(len(values), LAYOUT)
    records["d"] = np.where(np.isnan(values[:, 0]), words >> 16 | 64, nearest)
    return records.view(np.uint8).reshape(len(values), -1)


FORMAT = Format("bf16", 1, LAYOUT, "bf16", (), decode, unpack, pack, quantise)
