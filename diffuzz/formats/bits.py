"""Bit fields that several formats share. A function with an argument ``xp`` works on arrays of that module."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from diffuzz.formats.arrays import AnyArray, ArrayModule

if TYPE_CHECKING:
    from jaxtyping import Float, Float32, Int32, Integer, UInt8, UInt16


def half_to_float(
    low: UInt8[AnyArray, " ..."], high: UInt8[AnyArray, " ..."], xp: ArrayModule = np
) -> Float32[AnyArray, " ..."]:
    """The f16 numbers with these low and high bytes, as float32: exact, with subnormals, infinities and NaN.

    In JAX it is integer arithmetic, because the bytes of a traced array cannot be viewed as another dtype.
    """
    if xp is np:
        words = low.astype(np.uint16) | (high.astype(np.uint16) << np.uint16(8))
        with np.errstate(invalid="ignore"):
            return words.view(np.float16).astype(np.float32)
    bits = low.astype(xp.int32) | (high.astype(xp.int32) << 8)
    sign = xp.where((bits & 0x8000) != 0, xp.float32(-1), xp.float32(1))
    exponent, mantissa = (bits >> 10) & 31, bits & 0x3FF
    normal = xp.ldexp((mantissa | 0x400).astype(xp.float32), exponent - 25)
    subnormal = mantissa.astype(xp.float32) * xp.float32(2.0**-24)
    special = xp.where(mantissa == 0, xp.float32(np.inf), xp.float32(np.nan))
    magnitude = xp.where(exponent == 31, special, xp.where(exponent == 0, subnormal, normal))
    return (sign * magnitude).astype(xp.float32)


def half_at(blocks: UInt8[AnyArray, "b type_size"], offset: int, xp: ArrayModule) -> Float32[AnyArray, " b"]:
    """The f16 number at byte ``offset`` of each block, as float32."""
    return half_to_float(blocks[:, offset], blocks[:, offset + 1], xp)


def bfloat_at(blocks: UInt8[AnyArray, "b type_size"], offset: int, xp: ArrayModule) -> Float32[AnyArray, " b"]:
    """The bf16 number at byte ``offset`` of each block, as float32: exact, of which it is the upper half."""
    low, high = blocks[:, offset].astype(xp.uint32), blocks[:, offset + 1].astype(xp.uint32)
    words = (low | (high << 8)) << 16
    if xp is np:
        return np.ascontiguousarray(words).view(np.float32)
    from jax import lax

    return lax.bitcast_convert_type(words, xp.float32)


def single_at(blocks: UInt8[AnyArray, "b type_size"], offset: int, xp: ArrayModule) -> Float32[AnyArray, " b"]:
    """The float32 number at byte ``offset`` of each block."""
    if xp is np:
        return np.ascontiguousarray(blocks[:, offset : offset + 4]).view("<f4")[:, 0]
    from jax import lax

    return lax.bitcast_convert_type(blocks[:, offset : offset + 4], xp.float32)


def bfloat_to_float(words: UInt16[np.ndarray, " ..."]) -> Float32[np.ndarray, " ..."]:
    """The bf16 numbers with these bits, as float32."""
    return (words.astype(np.uint32) << np.uint32(16)).view(np.float32)


def bfloat_below(values: Float[np.ndarray, " ..."]) -> UInt16[np.ndarray, " ..."]:
    """The bits of the bf16 numbers that are nearest to the values and not above them in magnitude; NaN stays NaN.

    Down and not to the nearest, so that no number leaves a range whose end is not a bf16 number.
    """
    with np.errstate(over="ignore"):
        words = np.ascontiguousarray(values.astype(np.float32)).view(np.uint32).reshape(np.shape(values))
    upper = words >> np.uint32(16)
    lost = (words & np.uint32(0x7FFFFFFF) > 0x7F800000) & (upper & np.uint32(0x7F) == 0)
    return np.asarray(np.where(lost, upper | np.uint32(0x40), upper).astype(np.uint16))


def e8m0_to_float(byte: UInt8[AnyArray, " ..."], xp: ArrayModule = np) -> Float32[AnyArray, " ..."]:
    """``2^(byte - 128)``, ggml's reading of an exponent byte; the bytes 0 and 1 are subnormal numbers."""
    return xp.ldexp(xp.float32(1), byte.astype(xp.int32) - 128)


def e8m0_below(scale: Float[np.ndarray, " ..."]) -> UInt8[np.ndarray, " ..."]:
    """The byte of the largest power of two that is not above |scale|; 0 where there is none, and for NaN."""
    size = np.nan_to_num(np.abs(scale.astype(np.float64)), nan=0.0, posinf=2.0**127)
    return np.where(size == 0, 0, np.clip(np.frexp(size)[1] + 127, 0, 255)).astype(np.uint8)


def integers(array: UInt8[AnyArray, " ..."], xp: ArrayModule) -> Int32[AnyArray, " ..."]:
    """Bytes as int32, 0..255."""
    return array.astype(xp.int32)


def signed(array: UInt8[AnyArray, " ..."], xp: ArrayModule) -> Int32[AnyArray, " ..."]:
    """Bytes that hold int8, as int32, -128..127."""
    value = array.astype(xp.int32)
    return xp.where(value > 127, value - 256, value)


def nibbles(array: UInt8[AnyArray, "b k"], group: int, xp: ArrayModule) -> Int32[AnyArray, "b 2*k"]:
    """Codes of four bits: for each ``group`` bytes first all low nibbles, then all high ones."""
    rows, width = array.shape
    value = integers(array, xp).reshape(rows, width // group, group)
    return xp.stack([value & 15, value >> 4], axis=2).reshape(rows, 2 * width)


def pack_nibbles(codes: Integer[np.ndarray, "b 2*k"], group: int) -> UInt8[np.ndarray, "b k"]:
    """Inverse of ``nibbles``."""
    rows, width = codes.shape
    value = codes.astype(np.uint8).reshape(rows, width // (2 * group), 2, group)
    return ((value[:, :, 0] & 15) | (value[:, :, 1] << 4)).reshape(rows, width // 2)


def pairs_of_bits(array: UInt8[AnyArray, "b 32*h"], xp: ArrayModule) -> Int32[AnyArray, "b 128*h"]:
    """Codes of two bits: for each 32 bytes first all lowest pairs of bits, then all next ones, and so on."""
    rows, width = array.shape
    value = integers(array, xp).reshape(rows, width // 32, 1, 32)
    return ((value >> (2 * xp.arange(4, dtype=xp.int32)[None, None, :, None])) & 3).reshape(rows, 4 * width)


def pack_pairs_of_bits(codes: Integer[np.ndarray, "b 128*h"]) -> UInt8[np.ndarray, "b 32*h"]:
    """Inverse of ``pairs_of_bits``."""
    rows, width = codes.shape
    value = codes.astype(np.uint8).reshape(rows, width // 128, 4, 32)
    shifted = value << (2 * np.arange(4, dtype=np.uint8))[None, None, :, None]
    packed: UInt8[np.ndarray, "b h 32"] = np.bitwise_or.reduce(shifted, axis=2)
    return packed.reshape(rows, width // 4)


def planes(array: UInt8[AnyArray, "b 32"], xp: ArrayModule) -> Int32[AnyArray, "b 256"]:
    """Codes of one bit: bit j of byte l belongs to element 32 j + l."""
    value = integers(array, xp)[:, None, :]
    return ((value >> xp.arange(8, dtype=xp.int32)[None, :, None]) & 1).reshape(len(array), 256)


def pack_planes(bits: Integer[np.ndarray, "b 256"]) -> UInt8[np.ndarray, "b 32"]:
    """Inverse of ``planes``."""
    value = bits.astype(np.uint8).reshape(len(bits), 8, 32) << np.arange(8, dtype=np.uint8)[None, :, None]
    packed: UInt8[np.ndarray, "b 32"] = np.bitwise_or.reduce(value, axis=1)
    return packed


def six_bit_pairs(
    array: UInt8[AnyArray, "b 12"], xp: ArrayModule
) -> tuple[Int32[AnyArray, "b 8"], Int32[AnyArray, "b 8"]]:
    """(scales, minimums) of q4_K and q5_K: eight of each, of 6 bits, in 12 bytes.

    The low six bits of bytes 0-3 are scales 0-3, those of bytes 4-7 minimums 0-3. Scales 4-7 have their upper two bits
    in the top of bytes 0-3 and their lower four in the low nibbles of bytes 8-11; minimums 4-7 have them in the top of
    bytes 4-7 and in the high nibbles of bytes 8-11.
    """
    value = integers(array, xp)
    first, second, third = value[:, 0:4], value[:, 4:8], value[:, 8:12]
    scales = xp.concatenate([first & 63, (third & 15) | ((first >> 6) << 4)], axis=1)
    minimums = xp.concatenate([second & 63, (third >> 4) | ((second >> 6) << 4)], axis=1)
    return scales, minimums


def pack_six_bit_pairs(
    scales: Integer[np.ndarray, "b 8"], minimums: Integer[np.ndarray, "b 8"]
) -> UInt8[np.ndarray, "b 12"]:
    """Inverse of ``six_bit_pairs``."""
    s, m = scales.astype(np.uint8), minimums.astype(np.uint8)
    first = (s[:, :4] & 63) | ((s[:, 4:] >> 4) << 6)
    second = (m[:, :4] & 63) | ((m[:, 4:] >> 4) << 6)
    return np.concatenate([first, second, (s[:, 4:] & 15) | ((m[:, 4:] & 15) << 4)], axis=1)
