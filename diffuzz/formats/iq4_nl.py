"""iq4_nl: 32 weights in 18 bytes, 4.5 bits a weight; its 16 levels are closer together near zero.

    field  width     meaning
    d      f16       scale
    qs     16 bytes  byte i: code of element i in the low nibble, of element i + 16 in the high one

value = d LEVELS[code]; no level is 0
"""

from __future__ import annotations

from typing import Any

import numpy as np

from diffuzz.formats import bits, parts
from diffuzz.formats.format import Fields, Format, Parts, table
from diffuzz.formats.rounding import first_largest

LAYOUT = table(18, d="<f2", qs=("u1", 16))
LEVELS = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)


def decode(blocks: Any, xp: Any) -> Parts:
    """The levels of the codes."""
    codes = bits.nibbles(blocks[:, 2:18], 16, xp)
    return parts.of_block(bits.half_at(blocks, 0, xp), None, xp.asarray(LEVELS, xp.int32)[codes], xp)


def unpack(records: np.ndarray) -> Fields:
    """d as float16[b], codes int32[b, 32] in 0..15."""
    return {"d": records["d"].copy(), "codes": bits.nibbles(records["qs"], 16, np)}


def pack(fields: Fields) -> np.ndarray:
    """Inverse of ``unpack``."""
    records = np.zeros(len(fields["d"]), LAYOUT)
    records["d"], records["qs"] = fields["d"], bits.pack_nibbles(fields["codes"], 16)
    return records


def quantise(values: np.ndarray) -> np.ndarray:
    """The value of largest magnitude, with its sign, becomes -127; ggml's own search for d gives other bytes.

    d = f16(m / -127), and the level nearest to x / d. The error is at most 14 |d|, where x / d is beyond the last
    level, plus 127 times the f16 rounding of d.
    """
    d = (first_largest(values, np) / np.float32(-127)).astype(np.float16)
    wide = d.astype(np.float64)[:, None]
    scaled = np.divide(values, wide, out=np.zeros(values.shape), where=wide != 0)
    edges = (np.array(LEVELS[1:]) + np.array(LEVELS[:-1])) / 2
    codes = np.searchsorted(edges, scaled).astype(np.int32)
    return pack({"d": d, "codes": codes}).view(np.uint8).reshape(len(values), -1)


FORMAT = Format("iq4_nl", 32, LAYOUT, "q8_0", ("d",), decode, unpack, pack, quantise)
