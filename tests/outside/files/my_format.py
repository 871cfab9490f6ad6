"""t3_0: 32 weights in 14 bytes, 3.5 bits a weight.

    field  width     meaning
    d      f16       scale
    qs     12 bytes  code of element i in bits 3 i .. 3 i + 2, least significant first

value = d (code - 4)
"""

import numpy as np

from diffuzz.formats import bits, parts
from diffuzz.formats.format import Format, table

LAYOUT = table(14, d="<f2", qs=("u1", 12))


def codes_of(packed, xp):
    ones = (packed[:, :, None].astype(xp.int32) >> xp.arange(8, dtype=xp.int32)) & 1
    triples = ones.reshape(packed.shape[0], 32, 3)
    return triples[:, :, 0] + 2 * triples[:, :, 1] + 4 * triples[:, :, 2]


def decode(blocks, xp):
    return parts.of_block(bits.half_at(blocks, 0, xp), None, codes_of(blocks[:, 2:], xp) - 4, xp)


def unpack(records):
    return {"d": records["d"].copy(), "codes": codes_of(records["qs"], np)}


def pack(fields):
    records = np.zeros(len(fields["d"]), LAYOUT)
    ones = (fields["codes"][:, :, None].astype(np.uint8) >> np.arange(3, dtype=np.uint8)) & 1
    records["d"], records["qs"] = fields["d"], np.packbits(ones.reshape(len(ones), 96), axis=1, bitorder="little")
    return records


def quantise(values):
    """d = max|x| / 3, rounded up to f16; codes nearest to x / d."""
    peak = np.abs(values.astype(np.float64)).max(axis=1)
    d = (peak / 3).astype(np.float16)
    d = np.where(d < peak / 3, np.nextafter(d, np.float16(np.inf)), d)
    step = np.where((d > 0) & np.isfinite(d), d, 1).astype(np.float64)
    codes = np.where(d[:, None] > 0, np.clip(np.rint(values / step[:, None]), -4, 3), 0) + 4
    return pack({"d": d, "codes": codes.astype(np.int32)}).view(np.uint8).reshape(len(values), -1)


FORMAT = Format("t3_0", 32, LAYOUT, "q8_0", ("d",), decode, unpack, pack, quantise)
