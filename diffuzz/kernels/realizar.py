"""aprender's dequantisers, with the loops of its source: byte by byte, for all blocks at once.

It is a second implementation of every block format and shares nothing with ``diffuzz.formats`` but NumPy: fields are
read by byte offset, and the place of an element comes from the loops. Source: paiml/aprender,
crates/aprender-serve/src/quantize/dequant*.rs. For formats that have no loop there: q8_1 and q8_K are read like q8_0,
iq4_nl and mxfp4 like q4_0 with a table of levels. A format from elsewhere (see
diffuzz.registry) is restored from its parts, d and sub-scale apart.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from diffuzz import formats
from diffuzz.kernels import arguments

if TYPE_CHECKING:
    from jaxtyping import Float32, Int32, UInt8

    Data: TypeAlias = UInt8[np.ndarray, "b type_size"]
    Values: TypeAlias = Float32[np.ndarray, "b block_size"]
    # One number for each block.
    Numbers: TypeAlias = Float32[np.ndarray, " b"]
    Loop: TypeAlias = Callable[[Data], Values]

_F = np.float32


def dequantize(format: str, blocks: Data) -> Values:
    """The values of blocks, every operation rounded to float32. Raises ValueError for wrong arguments."""
    whole = arguments.blocks(format, blocks)
    if whole.shape[1] != 1:
        raise ValueError(f"blocks has rows of {whole.shape[1]} blocks: one block of {format} in each is needed")
    with np.errstate(all="ignore"):
        return _LOOPS[format](whole[:, 0]) if format in _LOOPS else _of_parts(format, whole[:, 0])


def _of_parts(format: str, data: Data) -> Values:
    parts = formats.get(format).decode(data)
    value = (parts.d[:, None] * parts.sub_scale.astype(_F)) * parts.code.astype(_F)
    if parts.minimum is None:
        return np.asarray(value)
    return np.asarray(value - parts.dmin[:, None] * parts.sub_minimum.astype(_F))


def _half(data: Data, offset: int) -> Numbers:
    return np.ascontiguousarray(data[:, offset : offset + 2]).view("<f2")[:, 0].astype(_F)


def _bytes(data: Data, start: int, count: int) -> Int32[np.ndarray, "count b"]:
    """The bytes at each position from ``start`` on."""
    return data[:, start : start + count].astype(np.int32).T


def _of_32(high_bits: bool, minimum: bool) -> Loop:
    offset = 0 if minimum else (16 if high_bits else 8)
    start = 4 if minimum else 2

    def loop(data: Data) -> Values:
        d = _half(data, 0)
        m = _half(data, 2) if minimum else None
        qh = _bytes(data, start, 4) if high_bits else None
        qs = _bytes(data, start + (4 if high_bits else 0), 16)
        result = np.zeros((len(data), 32), _F)
        for j in range(16):
            for place, nibble in ((j, qs[j] & 0x0F), (j + 16, qs[j] >> 4)):
                if qh is not None:
                    nibble = nibble | (((qh[place // 8] >> (place % 8)) & 1) << 4)
                value = d * (nibble - offset).astype(_F)
                result[:, place] = value if m is None else value + m
        return result

    return loop


def _of_levels(d: Callable[[Data], Numbers], start: int, level: Callable[[Int32[np.ndarray, " b"]], Numbers]) -> Loop:
    def loop(data: Data) -> Values:
        result = np.zeros((len(data), 32), _F)
        for j, byte in enumerate(_bytes(data, start, 16)):
            result[:, j] = d(data) * level(byte & 0x0F)
            result[:, j + 16] = d(data) * level(byte >> 4)
        return result

    return loop


def _non_linear(nibble: Int32[np.ndarray, " b"]) -> Numbers:
    below = np.array([127, 104, 83, 65, 49, 35, 22, 10], _F)
    above = np.array([1, 13, 25, 38, 53, 69, 89, 113], _F)
    level: Numbers = np.where(nibble < 8, -below[nibble & 7], above[nibble & 7])
    return level


def _e2m1(nibble: Int32[np.ndarray, " b"]) -> Numbers:
    """Twice the 4-bit float: one bit of sign, two of exponent, one of mantissa."""
    exponent, mantissa = (nibble >> 1) & 3, nibble & 1
    size = np.where(exponent == 0, mantissa, (2 + mantissa) << np.maximum(exponent - 1, 0))
    twice: Numbers = np.where(nibble & 8, -size, size).astype(_F)
    return twice


def _half_exponent(data: Data) -> Numbers:
    """Half of 2^(byte - 127), made of the bits of a float32: the exponent is one less, or the number subnormal."""
    byte = data[:, 0].astype(np.uint32)
    return np.where(byte < 2, np.uint32(0x00200000) << byte, (np.maximum(byte, 1) - 1) << 23).astype("<u4").view("<f4")


def _of_bytes(d: Callable[[Data], Numbers], start: int, count: int) -> Loop:
    def loop(data: Data) -> Values:
        result = np.zeros((len(data), count), _F)
        for j in range(count):
            result[:, j] = d(data) * np.ascontiguousarray(data[:, start + j]).view(np.int8).astype(_F)
        return result

    return loop


def _single(data: Data) -> Numbers:
    return np.ascontiguousarray(data[:, :4]).view("<f4")[:, 0].astype(_F)


def _scale_min(scales: Int32[np.ndarray, "12 b"], j: int) -> tuple[Numbers, Numbers]:
    """The 6-bit scale and minimum of sub-block j (``extract_scale_min`` of the source)."""
    if j < 4:
        return (scales[j] & 63).astype(_F), (scales[j + 4] & 63).astype(_F)
    scale = (scales[j + 4] & 0x0F) | ((scales[j - 4] >> 6) << 4)
    minimum = (scales[j + 4] >> 4) | ((scales[j] >> 6) << 4)
    return scale.astype(_F), minimum.astype(_F)


def _q2_k(data: Data) -> Values:
    scales, qs = _bytes(data, 0, 16), _bytes(data, 16, 64)
    d, dmin = _half(data, 80), _half(data, 82)
    result = np.zeros((len(data), 256), _F)
    place = 0
    for group in range(2):
        for shift in (0, 2, 4, 6):
            for half in range(2):
                scale = scales[place // 16]
                dl, ml = d * (scale & 0x0F).astype(_F), dmin * (scale >> 4).astype(_F)
                for i in range(16):
                    q = qs[32 * group + 16 * half + i]
                    result[:, place] = dl * ((q >> shift) & 3).astype(_F) - ml
                    place += 1
    return result


def _q3_k(data: Data) -> Values:
    hmask, qs, packed = _bytes(data, 0, 32), _bytes(data, 32, 64), _bytes(data, 96, 12)
    d = _half(data, 108)
    result = np.zeros((len(data), 256), _F)
    place = 0
    for group in range(2):
        for block in range(4):
            for half in range(2):
                j = place // 16
                low = packed[j % 8] & 0x0F if j < 8 else packed[j % 8] >> 4
                scale = low | (((packed[8 + j % 4] >> (2 * (j // 4))) & 3) << 4)
                dl = d * (scale.astype(_F) - _F(32))
                for i in range(16):
                    at = 16 * half + i
                    q = (qs[32 * group + at] >> (2 * block)) & 3
                    bit = (hmask[at] >> (4 * group + block)) & 1
                    result[:, place] = dl * (q - 4 * (1 - bit)).astype(_F)
                    place += 1
    return result


def _q4_k(data: Data) -> Values:
    d, dmin = _half(data, 0), _half(data, 2)
    scales, qs = _bytes(data, 4, 12), _bytes(data, 16, 128)
    result = np.zeros((len(data), 256), _F)
    place = 0
    for j in range(0, 256, 64):
        chunk = qs[j // 2 : j // 2 + 32]
        for sub, shift in ((j // 32, 0), (j // 32 + 1, 4)):
            scale, minimum = _scale_min(scales, sub)
            d1, m1 = d * scale, dmin * minimum
            for byte in chunk:
                result[:, place] = d1 * ((byte >> shift) & 0x0F).astype(_F) - m1
                place += 1
    return result


def _q5_k(data: Data) -> Values:
    d, dmin = _half(data, 0), _half(data, 2)
    scales, qh, qs = _bytes(data, 4, 12), _bytes(data, 16, 32), _bytes(data, 48, 128)
    result = np.zeros((len(data), 256), _F)
    for sub in range(8):
        scale, minimum = _scale_min(scales, sub)
        d1, m1 = d * scale, dmin * minimum
        for i in range(32):
            low = (qs[32 * (sub // 2) + i] >> (4 * (sub % 2))) & 0x0F
            result[:, 32 * sub + i] = d1 * (low | (((qh[i] >> sub) & 1) << 4)).astype(_F) - m1
    return result


def _q6_k(data: Data) -> Values:
    ql, qh, d = _bytes(data, 0, 128), _bytes(data, 128, 64), _half(data, 208)
    scales = np.ascontiguousarray(data[:, 192:208]).view(np.int8).astype(_F).T
    result = np.zeros((len(data), 256), _F)
    for half in range(2):
        for i in range(32):
            near, far, high = ql[64 * half + i], ql[64 * half + 32 + i], qh[32 * half + i]
            codes = (
                (near & 0x0F) | ((high & 3) << 4),
                (far & 0x0F) | (((high >> 2) & 3) << 4),
                (near >> 4) | (((high >> 4) & 3) << 4),
                (far >> 4) | ((high >> 6) << 4),
            )
            for quarter, code in enumerate(codes):
                scale = scales[8 * half + 2 * quarter + i // 16]
                result[:, 128 * half + 32 * quarter + i] = d * scale * (code - 32).astype(_F)
    return result


_LOOPS: dict[str, Loop] = {
    "q4_0": _of_32(high_bits=False, minimum=False),
    "q4_1": _of_32(high_bits=False, minimum=True),
    "q5_0": _of_32(high_bits=True, minimum=False),
    "q5_1": _of_32(high_bits=True, minimum=True),
    "q8_0": _of_bytes(lambda data: _half(data, 0), 2, 32),
    "q8_1": _of_bytes(lambda data: _half(data, 0), 4, 32),
    "q2_K": _q2_k,
    "q3_K": _q3_k,
    "q4_K": _q4_k,
    "q5_K": _q5_k,
    "q6_K": _q6_k,
    "q8_K": _of_bytes(_single, 4, 256),
    "iq4_nl": _of_levels(lambda data: _half(data, 0), 2, _non_linear),
    "mxfp4": _of_levels(_half_exponent, 1, _e2m1),
}
