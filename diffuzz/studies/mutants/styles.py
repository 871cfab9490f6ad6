"""Correct functions that compute in other ways than the references. They must never be called wrong."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from diffuzz import formats
from diffuzz.formats import mxfp4
from diffuzz.kernels import fused

Array = np.ndarray
_F = np.float32
_LOG2_E = _F(1.4426950408889634)


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


def scaled_soft_max(z: Array) -> Array:
    """Softmax in base two: the logits are multiplied with log2 e, and rounded, before the maximum is subtracted."""
    with np.errstate(all="ignore"):
        t = z * _LOG2_E
        e = np.exp2(t - t.max(axis=1, keepdims=True))
        return np.asarray(e / e.sum(axis=1, keepdims=True))


def scaled_log_soft_max(z: Array) -> Array:
    """The same, with the logarithm of the sum subtracted from the exponent."""
    with np.errstate(all="ignore"):
        t = z * _LOG2_E
        top = t.max(axis=1, keepdims=True)
        return np.asarray(np.exp2(t - (top + np.log2(np.exp2(t - top).sum(axis=1, keepdims=True)))))


def flash_soft_max(z: Array) -> Array:
    """Softmax in base two in one pass over blocks of 16 logits, with the scaling fused into the subtraction of the
    running maximum, as FlashAttention-2 has it.
    """

    def powers(logits: Array, top: Array) -> Array:
        # Exact in float64 up to the rounding of a float32 fma.
        wide = logits.astype(np.float64) * _LOG2_E - (top * _LOG2_E).astype(np.float64)
        return np.asarray(np.exp2(wide.astype(np.float32)))

    top, total = np.full((len(z), 1), _F(-np.inf)), np.zeros((len(z), 1), np.float32)
    with np.errstate(all="ignore"):
        for i in range(0, z.shape[1], 16):
            block = z[:, i : i + 16]
            new = np.maximum(top, block.max(axis=1, keepdims=True))
            shift = np.where(new > -np.inf, new, _F(0))
            old = np.exp2(np.where(top > -np.inf, top - shift, _F(-np.inf)) * _LOG2_E)
            total = total * old + powers(block, shift).sum(axis=1, keepdims=True)
            top = new
        return np.asarray(powers(z, np.where(top > -np.inf, top, _F(0))) / total)


def sigmoid_ending(x: Array) -> Array:
    """The sigmoid of x clamped to at least -87, against overflow."""
    return np.asarray(_F(1) / (_F(1) + np.exp(-np.maximum(x, _F(-87)))))


def sigmoid_flushed(x: Array) -> Array:
    """The sigmoid as e / (1 + e) for x < 0, with an exponential that is 0 below 2^-125.5."""
    e = np.where(np.abs(x) > _F(86.9), _F(0), np.exp(-np.abs(x)))
    return np.asarray(np.where(x < 0, e, _F(1)) / (_F(1) + e))


def sigmoid_rational(x: Array) -> Array:
    """ONNX Runtime's logistic function (its logistic.cpp): an odd rational function of x clamped to +-18, plus 1/2."""
    numerator = (4.37031012579801e-11, 1.15627324459942e-07, 6.08574864600143e-05, 8.51377133304701e-03,
                 0.248287947061529)  # fmt: skip
    denominator = (6.10247389755681e-13, 5.76102136993427e-09, 6.29106785017040e-06, 1.70198817374094e-03,
                   0.116817656904453, 0.993151921023180)  # fmt: skip
    clamped = np.clip(x, _F(-18), _F(18))
    square = clamped * clamped
    p, q = np.zeros_like(x), np.zeros_like(x)
    for coefficient in numerator:
        p = p * square + _F(coefficient)
    for coefficient in denominator:
        q = q * square + _F(coefficient)
    return np.asarray(np.clip(clamped * p / q + _F(0.5), _F(0), _F(1)))


def eps_outside(mean: Array, eps: float) -> Array:
    """The reciprocal of ``sqrt(mean) + eps``."""
    return np.asarray(_F(1) / (np.sqrt(mean) + _F(eps)))


def offset_matvec(format: str) -> Callable[[Array, Array], Array]:
    """A product with codes stored from 0 on: ``sum (c + offset) d x - offset sum d x``, two float32 folds, of which the
    second begins at the end.
    """
    fmt, offset = formats.get(format), _F(fused.offset(format))

    def f(weights: Array, x: Array) -> Array:
        parts = fmt.decode(np.ascontiguousarray(weights).reshape(-1, fmt.type_size))
        scale, code = (array.reshape(len(weights), -1) for array in (parts.scale, parts.code))
        with np.errstate(all="ignore"):
            stored = np.add.accumulate((code.astype(np.float32) + offset) * scale * x, axis=1)[:, -1]
            apart = np.add.accumulate((scale * x)[:, ::-1], axis=1)[:, -1]
            return np.asarray(stored - offset * apart)

    return f


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
