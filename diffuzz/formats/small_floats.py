"""Floats of 4 and 8 bits: tables of their values, and the code nearest to a number.

e2m1     sign, 2 bits of exponent (bias 1), 1 of mantissa: 0 0.5 1 1.5 2 3 4 6 (OCP microscaling)
e4m3     sign, 4 (bias 7), 3: up to 448, no infinities, NaN where all other bits are set (float8_e4m3fn)
e5m2     sign, 5 (bias 15), 2: up to 57344, infinities and NaN as in f16, of which it is the upper byte
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float, Float32, UInt8

SIGN = 128


def _magnitudes(exponent_bits: int, mantissa_bits: int, bias: int) -> Float32[np.ndarray, " codes"]:
    """Values of the codes without a sign bit, as if none of them were NaN or infinite."""
    code = np.arange(2 ** (exponent_bits + mantissa_bits))
    exponent, mantissa = code >> mantissa_bits, code & (2**mantissa_bits - 1)
    whole = np.where(exponent > 0, mantissa + 2**mantissa_bits, mantissa)
    return np.asarray(np.ldexp(whole, np.maximum(exponent, 1) - bias - mantissa_bits), np.float32)


E2M1 = _magnitudes(2, 1, 1)
# All finite magnitudes of the float8 kinds, by code.
E4M3, E5M2 = _magnitudes(4, 3, 7)[:127], _magnitudes(5, 2, 15)[:124]


def float8(magnitudes: Float32[np.ndarray, " finite"]) -> Float32[np.ndarray, " 256"]:
    """The values of all 256 codes of a kind: E4M3 or E5M2."""
    half = np.full(SIGN, np.nan, np.float32)
    half[: len(magnitudes)] = magnitudes
    if magnitudes is E5M2:
        half[len(magnitudes)] = np.inf
    return np.concatenate([half, -half])


def nearest(x: Float[np.ndarray, " ..."], magnitudes: Float32[np.ndarray, " finite"]) -> UInt8[np.ndarray, " ..."]:
    """The code, without a sign, of the value nearest to |x|, ties to the even one; the largest beyond it; 0 for NaN."""
    wide, size = magnitudes.astype(np.float64), np.abs(x.astype(np.float64))
    middle = (wide[:-1] + wide[1:]) / 2
    code = np.searchsorted(middle, np.nan_to_num(size, nan=0.0, posinf=np.inf))
    tie = (code < len(middle)) & (middle[np.minimum(code, len(middle) - 1)] == size)
    return np.asarray(code + (tie & (code % 2 == 1))).astype(np.uint8)


def signed(x: Float[np.ndarray, " ..."], magnitudes: Float32[np.ndarray, " finite"]) -> UInt8[np.ndarray, " ..."]:
    """The same with the sign bit, of eight bits, of x."""
    return np.where(np.signbit(x), nearest(x, magnitudes) | np.uint8(SIGN), nearest(x, magnitudes))
