"""Bit fields that several formats share; every function takes and gives arrays of numpy or jax.numpy."""

from __future__ import annotations

from typing import Any

import numpy as np


def half_to_float(low: Any, high: Any, xp: Any = np) -> Any:
    """float32 of the f16 whose bytes are ``low`` and ``high``; exact, subnormals, infinities and NaN included.

    In integer arithmetic, because an array that JAX traces has no view of other dtype across its bytes.
    """
    bits = low.astype(xp.int32) | (high.astype(xp.int32) << 8)
    sign = xp.where((bits & 0x8000) != 0, xp.float32(-1), xp.float32(1))
    exponent, mantissa = (bits >> 10) & 31, bits & 0x3FF
    normal = xp.ldexp((mantissa | 0x400).astype(xp.float32), exponent - 25)
    subnormal = mantissa.astype(xp.float32) * xp.float32(2.0**-24)
    special = xp.where(mantissa == 0, xp.float32(np.inf), xp.float32(np.nan))
    magnitude = xp.where(exponent == 31, special, xp.where(exponent == 0, subnormal, normal))
    return (sign * magnitude).astype(xp.float32)


def half_at(blocks: Any, offset: int, xp: Any) -> Any:
    """The f16 at a byte offset of each block, float32[b]."""
    return half_to_float(blocks[:, offset], blocks[:, offset + 1], xp)


def e8m0_to_float(byte: Any, xp: Any = np) -> Any:
    """float32 of an exponent byte in ggml's convention: 2^(byte - 128), the subnormal 2^-128 and 2^-127 included."""
    return xp.ldexp(xp.float32(1), byte.astype(xp.int32) - 128)


def e8m0_below(scale: np.ndarray) -> np.ndarray:
    """uint8: the byte of the largest power of two not above |scale|; 0 for what is below all of them, and for NaN."""
    size = np.nan_to_num(np.abs(scale.astype(np.float64)), nan=0.0, posinf=2.0**127)
    return np.where(size == 0, 0, np.clip(np.frexp(size)[1] + 127, 0, 255)).astype(np.uint8)


def integers(array: Any, xp: Any) -> Any:
    """int32 of unsigned bytes."""
    return array.astype(xp.int32)


def signed(array: Any, xp: Any) -> Any:
    """int32 of bytes that hold int8."""
    value = array.astype(xp.int32)
    return xp.where(value > 127, value - 256, value)


def nibbles(array: Any, group: int, xp: Any) -> Any:
    """[b, k] bytes to [b, 2 k] codes: of each ``group`` bytes first all low nibbles, then all high ones."""
    rows, width = array.shape
    value = integers(array, xp).reshape(rows, width // group, group)
    return xp.stack([value & 15, value >> 4], axis=2).reshape(rows, 2 * width)


def pack_nibbles(codes: np.ndarray, group: int) -> np.ndarray:
    """Inverse of ``nibbles``: uint8[b, k]."""
    rows, width = codes.shape
    value = codes.astype(np.uint8).reshape(rows, width // (2 * group), 2, group)
    return ((value[:, :, 0] & 15) | (value[:, :, 1] << 4)).reshape(rows, width // 2)


def pairs_of_bits(array: Any, xp: Any) -> Any:
    """[b, 32 h] bytes to [b, 128 h] codes of two bits: of each 32 bytes first all lowest pairs, then the next, and so
    on.
    """
    rows, width = array.shape
    value = integers(array, xp).reshape(rows, width // 32, 1, 32)
    return ((value >> (2 * xp.arange(4, dtype=xp.int32)[None, None, :, None])) & 3).reshape(rows, 4 * width)


def pack_pairs_of_bits(codes: np.ndarray) -> np.ndarray:
    """Inverse of ``pairs_of_bits``: uint8[b, 32 h]."""
    rows, width = codes.shape
    value = codes.astype(np.uint8).reshape(rows, width // 128, 4, 32)
    shifted = value << (2 * np.arange(4, dtype=np.uint8))[None, None, :, None]
    return np.bitwise_or.reduce(shifted, axis=2).reshape(rows, width // 4)


def planes(array: Any, xp: Any) -> Any:
    """[b, 32] bytes to [b, 256] bits: bit j of byte l belongs to element 32 j + l."""
    value = integers(array, xp)[:, None, :]
    return ((value >> xp.arange(8, dtype=xp.int32)[None, :, None]) & 1).reshape(len(array), 256)


def pack_planes(bits: np.ndarray) -> np.ndarray:
    """Inverse of ``planes``: uint8[b, 32]."""
    value = bits.astype(np.uint8).reshape(len(bits), 8, 32) << np.arange(8, dtype=np.uint8)[None, :, None]
    return np.bitwise_or.reduce(value, axis=1)


def six_bit_pairs(array: Any, xp: Any) -> tuple[Any, Any]:
    """The 12 bytes of q4_K and q5_K to eight 6-bit scales and eight 6-bit minimums, int32[b, 8] each.

    Bytes 0-3 and 4-7 hold scales and minimums 0-3 in their low six bits, and in their top two bits the upper bits of
    scales and minimums 4-7, whose lower bits are the nibbles of bytes 8-11.
    """
    value = integers(array, xp)
    first, second, third = value[:, 0:4], value[:, 4:8], value[:, 8:12]
    scales = xp.concatenate([first & 63, (third & 15) | ((first >> 6) << 4)], axis=1)
    minimums = xp.concatenate([second & 63, (third >> 4) | ((second >> 6) << 4)], axis=1)
    return scales, minimums


def pack_six_bit_pairs(scales: np.ndarray, minimums: np.ndarray) -> np.ndarray:
    """Inverse of ``six_bit_pairs``: uint8[b, 12]."""
    s, m = scales.astype(np.uint8), minimums.astype(np.uint8)
    first = (s[:, :4] & 63) | ((s[:, 4:] >> 4) << 6)
    second = (m[:, :4] & 63) | ((m[:, 4:] >> 4) << 6)
    return np.concatenate([first, second, (s[:, 4:] & 15) | ((m[:, 4:] & 15) << 4)], axis=1)
