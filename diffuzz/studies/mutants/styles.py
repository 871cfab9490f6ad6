"""Correct functions that compute in other ways than the references. They must never be called wrong."""

from __future__ import annotations

import numpy as np

from diffuzz import formats
from diffuzz.formats import mxfp4

Array = np.ndarray
_F = np.float32


def kahan(x: Array) -> Array:
    """A compensated (Kahan) float32 sum along the last axis. The axis is kept, with length 1."""
    total, lost = np.zeros_like(x[..., :1]), np.zeros_like(x[..., :1])
    for i in range(x.shape[-1]):
        term = x[..., i : i + 1] - lost
        new = total + term
        lost = (new - total) - term
        total = new
    return total


def exp_split(x: Array) -> Array:
    """2^(x log2 e) with log2 e as the sum of two float32 numbers, computed separately for whole part and fraction."""
    with np.errstate(all="ignore"):
        high, low = _F(1.4423828125), _F(0.0003122284)
        turns = x * high + x * low
        whole = np.rint(np.maximum(turns, _F(-200)))
        # The product with the short constant is exact where the exponent is not too long.
        fraction = (x * high - whole) + x * low
        return np.where(turns < -149, _F(0), np.ldexp(np.exp2(fraction), whole.astype(np.int32))).astype(np.float32)


def newton_root(mean: Array, eps: float) -> Array:
    """The reciprocal root by rsqrtps, to 12 bits, and one Newton step."""
    v = (mean + _F(eps)).astype(np.float32)
    rough = np.ascontiguousarray(1 / np.sqrt(v)).view(np.uint32) & np.uint32(0xFFFFF000)
    r = (rough + np.uint32(0x800)).view(np.float32)
    return r * (_F(1.5) - (_F(0.5) * v * r) * r)


def complex_rope(x: Array, positions: Array, base: float, mode: str) -> Array:
    """RoPE as a product of complex64 numbers."""
    d = x.shape[2]
    frequency = _F(1) / np.power(_F(base), np.arange(0, d, 2).astype(np.float32) / _F(d))
    turn = np.exp(1j * (positions.astype(np.float32)[:, None] * frequency).astype(np.float64)).astype(np.complex64)
    first, second = (slice(0, None, 2), slice(1, None, 2)) if mode == "norm" else (slice(d // 2), slice(d // 2, None))
    turned = (x[..., first] + 1j * x[..., second]).astype(np.complex64) * turn[:, None, :]
    y = np.empty_like(x)
    y[..., first], y[..., second] = turned.real, turned.imag
    return y


def two_sided_swiglu(gate: Array, up: Array) -> Array:
    """SwiGLU by exp(-|g|), which never overflows."""
    with np.errstate(all="ignore"):
        e = np.exp(-np.abs(gate))
        return np.asarray(gate * np.where(gate >= 0, _F(1), e) / (_F(1) + e) * up)


def table_q4_k(blocks: Array) -> Array:
    """The dequantiser of q4_K by a table of the sixteen values of each sub-block."""
    fields = formats.get("q4_K").unpack(blocks)
    scale = fields["d"].astype(np.float32)[:, None] * fields["scales"].astype(np.float32)
    minimum = fields["dmin"].astype(np.float32)[:, None] * fields["minimums"].astype(np.float32)
    values = scale[:, :, None] * np.arange(16, dtype=np.float32) - minimum[:, :, None]
    return np.take_along_axis(values, fields["codes"].reshape(len(blocks), 8, 32), axis=2).reshape(len(blocks), 256)


def table_mxfp4(blocks: Array) -> Array:
    """The dequantiser of mxfp4 as OCP specifies it: a table of e2m1 numbers scaled by ldexp, and NaN for byte 255."""
    levels = np.array(mxfp4.LEVELS, np.float32) / 2
    codes = np.concatenate([blocks[:, 1:] & 15, blocks[:, 1:] >> 4], axis=1)
    with np.errstate(over="ignore"):
        y = np.ldexp(levels[codes], blocks[:, :1].astype(np.int32) - 127)
    return np.where(blocks[:, :1] == mxfp4.NAN, _F(np.nan), y).astype(np.float32)
