"""What the formats gptq_* and awq_* are written with: groups of 4-bit codes with a scale and a zero point.

    field  width      meaning
    d      f16        scale of the group
    zero   1 byte     zero point in the low nibble; the high one is that of another output, and not of this block
    qs     size / 2   codes, as int32 words in little-endian order; nibble i of a word is element 8 w + order[i]

value = d (code - zero - one), exact in float32

A block is the group of one output: ``size`` weights that follow each other along the input. So a row of blocks is a row
of the weight matrix, and a tensor of the packages maps to it like this, for output o and group g of ``size`` inputs:

    gptq       scales f16[groups, out]; qzeros int32[groups, out / 8], output o in nibble o % 8 of word o // 8;
               qweight int32[in / 8, out], eight inputs in a word: column o, words g size / 8 on
    awq        scales f16[groups, out]; qzeros int32[groups, out / 8], qweight int32[in, out / 8], eight outputs in a
               word, output 8 w + order[i] in nibble i (AutoAWQ's GEMM layout). A block has its words along the
               input, in the same order: unpack the codes of a column, and pack eight of them into each word

A byte of qzeros holds the zero points of two outputs, so a kernel must mask one. ``one`` is 1 in gptq_g*: the original
AutoGPTQ stores the zero point minus 1, and its kernels add the 1 again (checkpoint_format gptq). gptq_v2_g* (GPTQModel)
and awq_* store it as it is. Of a stored 15 some kernels make 16 and some 0, so it is left out of
searches where ``one`` is 1. Sources: AutoGPTQ, qlinear_cuda.py; GPTQModel; AutoAWQ, gemm.py, packing_utils.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from diffuzz.formats import bits, parts
from diffuzz.formats.arrays import AnyArray, ArrayModule
from diffuzz.formats.format import Fields, Format, Parts, Records, table

if TYPE_CHECKING:
    from jaxtyping import Float32, Int32, UInt8

IN_ORDER = (0, 1, 2, 3, 4, 5, 6, 7)
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
TOP = 15


def made(name: str, size: int, order: tuple[int, ...] = IN_ORDER, one: int = 0) -> Format:
    """The format of groups of ``size`` codes in words of this order, with zero points that are ``one`` too small."""
    layout = table(3 + size // 2, d="<f2", zero="u1", qs=("u1", size // 2))
    nibble_of = tuple(order.index(element) for element in range(8))

    def codes(qs: UInt8[AnyArray, "b bytes"], xp: ArrayModule) -> Int32[AnyArray, "b size"]:
        words = bits.nibbles(qs, 1, xp).reshape(len(qs), size // 8, 8)
        return words[:, :, xp.asarray(nibble_of)].reshape(len(qs), size)

    def decode(blocks: UInt8[AnyArray, "b type_size"], xp: ArrayModule) -> Parts:
        """Codes minus their zero point."""
        zero = bits.integers(blocks[:, 2:3], xp) & TOP
        return parts.of_block(bits.half_at(blocks, 0, xp), None, codes(blocks[:, 3:], xp) - zero - one, xp)

    def unpack(records: Records) -> Fields:
        """d float16[b]; zeros int32[b] and others int32[b], of another output, in 0..15; codes int32[b, size]."""
        zero = bits.integers(records["zero"], np)
        found = {"d": records["d"].copy(), "zeros": zero & TOP, "others": zero >> 4}
        return found | {"codes": codes(records["qs"], np)}

    def pack(fields: Fields) -> Records:
        records = np.zeros(len(fields["d"]), layout)
        records["d"], records["zero"] = fields["d"], fields["zeros"] | (fields["others"] << 4)
        words = fields["codes"].reshape(-1, size // 8, 8)[:, :, list(order)]
        records["qs"] = bits.pack_nibbles(words.reshape(-1, size), 1)
        return records

    def canonical(records: Records) -> Records:
        """No zero point of 16, which the stored 15 might stand for."""
        records["zero"] = np.where(records["zero"] & TOP == TOP, records["zero"] - one, records["zero"])
        return records

    def quantise(values: Float32[np.ndarray, "b size"]) -> UInt8[np.ndarray, "b type_size"]:
        """From the least to the largest element, 0 among them: the zero point is a whole number beside 15 -least /
        (most - least), and d the least with which both ends are within reach, rounded up to f16. The error is at most d
        / 2. A block of zeros has d = 0 and codes equal to the zero point.
        """
        x = values.astype(np.float64)
        least, most = np.minimum(x.min(axis=1), 0), np.maximum(x.max(axis=1), 0)
        exact = -least / np.where(most > least, most - least, 1.0) * TOP
        # Of the two zero points around the exact one, that with the smaller scale; an end that is not 0 needs a code.
        lowest, highest = np.where(least < 0, max(one, 1), one), np.where(most > 0, TOP - 1, TOP)
        both = np.clip(np.stack([np.floor(exact), np.ceil(exact)]), lowest, highest)
        scales = np.maximum(most / np.maximum(TOP - both, 1), -least / np.maximum(both, 1))
        better = scales.argmin(axis=0)
        zero, needed = both[better, np.arange(len(x))], scales[better, np.arange(len(x))]
        d = needed.astype(np.float16)
        d = np.where(d < needed, np.nextafter(d, np.float16(np.inf)), d)
        step = np.where(np.isfinite(d), d, np.float16(65504)).astype(np.float64)[:, None]
        scaled = np.divide(x, step, out=np.zeros_like(x), where=step > 0)
        return pack(
            {
                "d": step[:, 0].astype(np.float16),
                "zeros": zero.astype(np.int32) - one,
                "others": np.zeros(len(x), np.int32),
                "codes": np.clip(np.rint(scaled) + zero[:, None], 0, TOP).astype(np.int32),
            }
        ).view(np.uint8).reshape(len(x), -1)  # fmt: skip

    return Format(
        name, size, layout, "f16", ("d",), decode, unpack, pack, quantise,
        canonical=canonical if one else None, of_ggml=False,
    )  # fmt: skip
