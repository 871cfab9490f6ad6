"""tq1_0: 256 ternary weights in 54 bytes, 1.6875 bits each: five digits of base 3 in a byte.

    field  width     meaning
    qs     48 bytes  digit n of byte l is element 32 n + l (bytes 0-31), or 160 + 16 n + l - 32 (bytes 32-47)
    qh     4 bytes   digit n, of four, of byte l is element 240 + 4 n + l
    d      f16       scale

A byte is a fraction byte / 256 in base 3, 0.t0 t1 t2 t3 t4: the first digit is that of the largest weight, and digit n
is floor(3 (byte 3^n mod 256) / 256). The byte of a number v of five digits is ceil(256 v / 243).

value = d (digit - 1)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from diffuzz.formats import bits, fit, parts
from diffuzz.formats.arrays import AnyArray, ArrayModule
from diffuzz.formats.format import Fields, Format, Parts, Records, table

if TYPE_CHECKING:
    from jaxtyping import Float32, Int32, Integer, UInt8

LAYOUT = table(54, qs=("u1", 48), qh=("u1", 4), d="<f2")
_POWERS = (1, 3, 9, 27, 81)
# (first byte, bytes, digits) of the three parts of a block, in the order of their elements.
_PARTS = ((0, 32, 5), (32, 16, 5), (48, 4, 4))


def _digits(raw: UInt8[AnyArray, "b 52"], xp: ArrayModule) -> Int32[AnyArray, "b 256"]:
    found = []
    for start, count, digits in _PARTS:
        value = bits.integers(raw[:, start : start + count], xp)[:, None, :]
        moved = (value * xp.asarray(_POWERS[:digits], xp.int32)[None, :, None]) & 255
        found.append(((3 * moved) >> 8).reshape(len(raw), digits * count))
    return xp.concatenate(found, axis=1)


def _bytes(digits: Integer[np.ndarray, "b 256"]) -> UInt8[np.ndarray, "b 52"]:
    found, first = [], 0
    for _, count, number in _PARTS:
        part = digits[:, first : first + number * count].reshape(len(digits), number, count)
        first += number * count
        value = (part * np.array(_POWERS[::-1][:number])[None, :, None]).sum(axis=1)
        found.append((value * 256 + 242) // 243)
    return np.concatenate(found, axis=1).astype(np.uint8)


def decode(blocks: UInt8[AnyArray, "b 54"], xp: ArrayModule) -> Parts:
    """Digits minus 1."""
    return parts.of_block(bits.half_at(blocks, 52, xp), None, _digits(blocks[:, :52], xp) - 1, xp)


def unpack(records: Records) -> Fields:
    """d float16[b]; codes int32[b, 256] in 0..2."""
    raw = np.concatenate([records["qs"], records["qh"]], axis=1)
    return {"d": records["d"].copy(), "codes": _digits(raw, np)}


def pack(fields: Fields) -> Records:
    """Inverse of ``unpack``: of the bytes that stand for the same digits, it writes the least."""
    records = np.zeros(len(fields["d"]), LAYOUT)
    raw = _bytes(fields["codes"])
    records["d"], records["qs"], records["qh"] = fields["d"], raw[:, :48], raw[:, 48:]
    return records


def canonical(records: Records) -> Records:
    """Only bytes that ``pack`` writes: 243 in qs, 81 in qh."""
    return pack(unpack(records))


def quantise(values: Float32[np.ndarray, "b 256"]) -> UInt8[np.ndarray, "b 54"]:
    """d = max|x|, digits by ``diffuzz.formats.fit.ternary``; the bits of ggml's reference quantiser."""
    return pack(fit.ternary(values)).view(np.uint8).reshape(len(values), -1)


FORMAT = Format("tq1_0", 256, LAYOUT, "q8_K", ("d",), decode, unpack, pack, quantise, canonical=canonical)
