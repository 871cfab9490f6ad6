"""Numbers rounded to a narrower format, with their errors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import ml_dtypes
import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float

UNIT = 2.0**-24
# Below it a float32 number may be flushed to zero.
FLUSHED = 2.0**-125
# Added to the size of a factor, it lets a bound in units of UNIT count what is flushed: UNIT * TINY = FLUSHED.
TINY = FLUSHED / UNIT
_DTYPES = {"f16": np.float16, "bf16": ml_dtypes.bfloat16, "e4m3": ml_dtypes.float8_e4m3fn}


def gamma(n: int) -> float:
    """n u / (1 - n u), the relative error of n roundings in float32."""
    return n * UNIT / (1 - n * UNIT)


def to(kind: str, x: Float[np.ndarray, " ..."]) -> Float[np.ndarray, " ..."]:
    """x rounded to f16, bf16, e4m3 or tf32 (to itself for f32), in its own dtype; through float32, as engines do."""
    x = np.asarray(x)
    if kind == "f32":
        return x
    with np.errstate(over="ignore"):
        if kind == "tf32":
            bits = np.ascontiguousarray(x, np.float32).view(np.int32)
            return ((bits + 0x1000) & ~0x1FFF).view(np.float32).astype(x.dtype)
        return x.astype(np.float32).astype(_DTYPES[kind]).astype(x.dtype)


def to_within(
    kind: str, x: Float[np.ndarray, " ..."], error: Float[np.ndarray, " ..."] | None
) -> tuple[Float[np.ndarray, " ..."], Float[np.ndarray, " ..."] | None]:
    """x rounded to f16 or bf16, where x is known to within ``error``, and how far off the rounded number may be: not at
    all if every number within the error is rounded to the same.
    """
    rounded = to(kind, x)
    if error is None or kind == "f32":
        return rounded, error
    with np.errstate(invalid="ignore"):
        low, high = to(kind, x - error), to(kind, x + error)
        return rounded, np.maximum(np.abs(high - rounded), np.abs(rounded - low))


def half_step(tap: np.ndarray) -> Float[np.ndarray, " ..."] | None:
    """How far the number that an array stores may be from the one that was computed: half the distance of its
    neighbours in f16 or bf16. None for float32 and float64, which store what was computed.
    """
    if tap.dtype == np.float16:
        bits, smallest = 11, 2.0**-24
    elif tap.dtype == ml_dtypes.bfloat16:
        bits, smallest = 8, 2.0**-133
    else:
        return None
    wide = tap.astype(np.float64)
    _, exponent = np.frexp(np.where(np.isfinite(wide), wide, 0.0))
    return np.where(np.isfinite(wide), np.maximum(np.ldexp(0.5, exponent - bits), smallest / 2), np.inf)
