"""f16: one number in 2 bytes. A block is one weight, so that rows of any length are rows of whole blocks.

    field  width  meaning
    d      f16    the weight

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

LAYOUT = table(2, d="<f2")


def decode(blocks: UInt8[AnyArray, "b 2"], xp: ArrayModule) -> Parts:
    """The weight is the scale of a code 1."""
    return parts.of_block(bits.half_at(blocks, 0, xp), None, xp.ones((len(blocks), 1), xp.int32), xp)


def unpack(records: Records) -> Fields:
    """d as float16[b]."""
    return {"d": records["d"].copy()}


def pack(fields: Fields) -> Records:
    """Inverse of ``unpack``."""
    records = np.zeros(len(fields["d"]), LAYOUT)
    records["d"] = fields["d"]
    return records


def quantise(values: Float32[np.ndarray, "b 1"]) -> UInt8[np.ndarray, "b 2"]:
    """The nearest f16 number, ties to even; infinite from 65520 on. ggml's bits, but for the payload of a NaN."""
    return pack({"d": values[:, 0].astype(np.float16)}).view(np.uint8).reshape(len(values), -1)


FORMAT = Format("f16", 1, LAYOUT, "f16", ("d",), decode, unpack, pack, quantise)
