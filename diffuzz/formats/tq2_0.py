"""tq2_0: 256 ternary weights in 66 bytes, 2.0625 bits each.

    field  width     meaning
    qs     64 bytes  of each 32 bytes the lowest pairs of bits are 32 elements, the next pairs the next 32, and so on
    d      f16       scale

value = d (code - 1); a code 3, which no quantiser writes, is 2 d
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from diffuzz.formats import bits, fit, parts
from diffuzz.formats.arrays import AnyArray, ArrayModule
from diffuzz.formats.format import Fields, Format, Parts, Records, table

if TYPE_CHECKING:
    from jaxtyping import Float32, UInt8

LAYOUT = table(66, qs=("u1", 64), d="<f2")


def decode(blocks: UInt8[AnyArray, "b 66"], xp: ArrayModule) -> Parts:
    """Codes minus 1."""
    return parts.of_block(bits.half_at(blocks, 64, xp), None, bits.pairs_of_bits(blocks[:, :64], xp) - 1, xp)


def unpack(records: Records) -> Fields:
    """d float16[b]; codes int32[b, 256] in 0..3."""
    return {"d": records["d"].copy(), "codes": bits.pairs_of_bits(records["qs"], np)}


def pack(fields: Fields) -> Records:
    """Inverse of ``unpack``."""
    records = np.zeros(len(fields["d"]), LAYOUT)
    records["d"], records["qs"] = fields["d"], bits.pack_pairs_of_bits(fields["codes"])
    return records


def quantise(values: Float32[np.ndarray, "b 256"]) -> UInt8[np.ndarray, "b 66"]:
    """d = max|x|, codes by ``diffuzz.formats.fit.ternary``; the bits of ggml's reference quantiser."""
    return pack(fit.ternary(values)).view(np.uint8).reshape(len(values), -1)


FORMAT = Format("tq2_0", 256, LAYOUT, "q8_K", ("d",), decode, unpack, pack, quantise)
