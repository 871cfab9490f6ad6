"""Softmax, RMSNorm, SwiGLU, RoPE and quantisers: one correct form of each, with a switch for each bug.

The functions that are made have the signatures of the targets' contracts. Without a switch they are correct.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from diffuzz import formats
from diffuzz.formats import q8_k
from diffuzz.studies.mutants.wrong_blocks import to_bfloat

Array: TypeAlias = np.ndarray
Change: TypeAlias = Callable[[Array], Array]
# The type of the numbers that a function computes with.
Float: TypeAlias = type[np.float32] | type[np.float64]


def same(x: Array) -> Array:
    """No change."""
    return x


def half(x: Array) -> Array:
    """``x`` rounded to f16 and converted back to float32."""
    return x.astype(np.float16).astype(np.float32)


def bfloat(x: Array) -> Array:
    """``x`` truncated to bf16."""
    return to_bfloat(x)


def tail_lost(width: int) -> Change:
    """A function that keeps only whole vectors of ``width`` elements along the last axis, and at least one element."""
    return lambda x: x[..., : max(x.shape[-1] - x.shape[-1] % width, 1)]


def pairwise(x: Array) -> Array:
    """Pairwise sums along the last axis, in the dtype of x. The axis is kept, with length 1."""
    while x.shape[-1] > 1:
        if x.shape[-1] % 2:
            x = np.concatenate([x, np.zeros((*x.shape[:-1], 1), x.dtype)], axis=-1)
        x = x[..., ::2] + x[..., 1::2]
    return x


def fold(x: Array) -> Array:
    """A left fold along the last axis. The axis is kept, with length 1."""
    return np.add.accumulate(x, axis=-1)[..., -1:]


def backwards(x: Array) -> Array:
    """A fold along the last axis, from the last element to the first. The axis is kept, with length 1."""
    return fold(x[..., ::-1])


def soft_max(
    *,
    peak: Change = lambda z: z.max(axis=1, keepdims=True),
    exp: Change = np.exp,
    total: Change = fold,
    whole: Change = same,
    dtype: Float = np.float32,
) -> Callable[[Array], Array]:
    """``e / sum e`` with e = exp(z - peak); ``total`` sums e, ``whole`` changes the sum."""

    def f(z: Array) -> Array:
        with np.errstate(all="ignore"):
            wide = z.astype(dtype)
            e = exp(wide - peak(wide))
            return (e / whole(total(e))).astype(np.float32)

    return f


def log_soft_max(
    *,
    peak: Change = lambda z: z.max(axis=1, keepdims=True),
    log: Change = np.log,
    joined: bool = True,
) -> Callable[[Array], Array]:
    """``exp(z - (peak + log(sum)))`` or, if not ``joined``, ``exp((z - peak) - log(sum))``."""

    def f(z: Array) -> Array:
        with np.errstate(all="ignore"):
            top = peak(z)
            whole = log(np.exp(z - top).sum(axis=1, keepdims=True))
            exponent = z - (top + whole) if joined else (z - top) - whole
            return np.asarray(np.exp(exponent).astype(np.float32))

    return f


def online_soft_max(rescaled: bool = True, guarded: bool = True) -> Callable[[Array], Array]:
    """Softmax in one pass with a running maximum; the sum is rescaled when the maximum changes, unless ``rescaled`` is
    False.

    Without ``guarded``, a row that begins with two masked logits computes exp(-inf - -inf), which is NaN.
    """

    def f(z: Array) -> Array:
        top, total = z[:, :1], np.ones((len(z), 1), np.float32)
        with np.errstate(all="ignore"):
            for i in range(1, z.shape[1]):
                new = np.maximum(top, z[:, i : i + 1])
                shift = np.where(new > -np.inf, new, np.float32(0)) if guarded else new
                total = total * (np.exp(top - shift) if rescaled else np.float32(1)) + np.exp(z[:, i : i + 1] - shift)
                top = new
            return np.asarray((np.exp(z - top) / total).astype(np.float32))

    return f


def exp_clamped(least: float) -> Change:
    """exp, with 0 for arguments below ``least``."""
    return lambda x: np.where(x < least, 0, np.exp(x)).astype(x.dtype)


def exp_limited(least: float) -> Change:
    """exp of the argument, or of ``least`` if that is larger."""
    return lambda x: np.exp(np.maximum(x, np.float32(least)))


def exp_base_two(log2e: float) -> Change:
    """2^(x log2 e) with this constant for log2 e."""
    return lambda x: np.exp2(x * np.float32(log2e)).astype(np.float32)


def exp_schraudolph(x: Array) -> Array:
    """exp by writing to the bits of the exponent, with an error of 3 %."""
    bits = np.clip(x * np.float32(12102203.2) + np.float32(1064866805), 0, 2.1e9)
    return np.asarray(bits.astype(np.int32).view(np.float32))


def rms_norm(
    *,
    value: Change = same,
    square: Change = lambda x: x * x,
    total: Change = fold,
    count: Callable[[int], float] = float,
    eps_of: Callable[[float], float] = lambda eps: eps,
    inverse: Callable[[Array, float], Array] | None = None,
    dtype: Float = np.float32,
) -> Callable[[Array, float], Array]:
    """``x / sqrt(total(x^2) / n + eps)``; ``inverse(mean, eps)``, if given, replaces the reciprocal root."""

    def f(x: Array, eps: float) -> Array:
        with np.errstate(all="ignore"):
            wide = value(x.astype(dtype))
            mean = total(square(wide)) / dtype(count(x.shape[1]))
            used = eps_of(eps)
            root = inverse(mean, used) if inverse else dtype(1) / np.sqrt(mean + dtype(used))
            return (wide * root).astype(np.float32)

    return f


def rough_root(mean: Array, eps: float) -> Array:
    """The reciprocal root to 12 bits, as rsqrtps has it, without a Newton step."""
    return (np.ascontiguousarray(1 / np.sqrt(mean + np.float32(eps))).view(np.uint32) & np.uint32(0xFFFFF000)).view(
        np.float32
    )


def sigmoid(x: Array) -> Array:
    """``1 / (1 + e^-x)`` in the dtype of x."""
    return np.asarray(1 / (1 + np.exp(-x)))


def sigmoid_newton(x: Array) -> Array:
    """The sigmoid with its reciprocal refined by r (2 - d r), which is 0 times infinity if e^-x overflows."""
    d = 1 + np.exp(-x)
    r = (1 / d).astype(np.float32)
    return np.asarray(r * (2 - d * r))


def sigmoid_growing(x: Array) -> Array:
    """``e^x / (1 + e^x)``, which is infinity over infinity for large x."""
    e = np.exp(x)
    return np.asarray(e / (1 + e))


def sigmoid_clamped(x: Array) -> Array:
    """The sigmoid, with 0 for x < -20."""
    return np.where(x < -20, np.float32(0), sigmoid(x))


def sigmoid_limited(x: Array) -> Array:
    """The sigmoid of x clamped to +-10 against overflow."""
    return sigmoid(np.clip(x, -10, 10))


def sigmoid_tanh(x: Array) -> Array:
    """``(1 + tanh(x / 2)) / 2``, which cancels for x < -10."""
    return (1 + np.tanh(x / 2)) / 2


def gelu_sigmoid(x: Array) -> Array:
    """The tanh form of GELU in place of the sigmoid of SiLU."""
    return np.asarray((1 + np.tanh(np.float32(0.7978845608) * (x + np.float32(0.044715) * x**3))) / 2)


def swiglu(
    *,
    gate: Callable[[Array], Array] = sigmoid,
    arguments: Callable[[Array, Array], tuple[Array, Array]] = lambda g, u: (g, u),
    result: Change = same,
    whole: int = 1,
    dtype: Float = np.float32,
) -> Callable[[Array, Array], Array]:
    """``g S(g) u``; elements after the last whole vector of ``whole`` elements are not multiplied by u."""

    def f(g: Array, u: Array) -> Array:
        with np.errstate(all="ignore"):
            one, other = arguments(g.astype(dtype), u.astype(dtype))
            y = result(one * gate(one) * other)
            n = y.shape[-1] - y.shape[-1] % whole
            y[..., n:] = (one * gate(one))[..., n:]
            return y.astype(np.float32)

    return f


def rope(
    *,
    mode_of: Callable[[str], str] = lambda mode: mode,
    position: Callable[[Array], Array] = same,
    base_of: Callable[[float], float] = lambda base: base,
    exponent: Callable[[Array, int], Array] = lambda i, d: 2 * i / d,
    angle: Change = same,
    table: Change = same,
    sign: float = 1.0,
    pairs: Callable[[int], int] = lambda count: count,
    heads: int = 2**31,
    dtype: Float = np.float32,
) -> Callable[[Array, Array, float, str], Array]:
    """RoPE: pair i is turned by the angle ``position base^-exponent(i, d)``.

    Only ``pairs(d / 2)`` pairs of the first ``heads`` heads are turned. ``angle`` and ``table`` change the angles and
    their cosines and sines.
    """

    def f(x: Array, positions: Array, base: float, mode: str) -> Array:
        d = x.shape[2]
        i = np.arange(d // 2)
        frequency: Array = (base_of(base) ** -exponent(i, d).astype(np.float64)).astype(dtype)
        whole: Array = position(positions).astype(dtype)[:, None]
        theta = angle(whole * frequency)[:, None, :]
        cos, sin = table(np.cos(theta)), np.asarray(table(np.sin(theta)) * dtype(sign))
        kept = pairs(d // 2)
        y: Array = x.astype(dtype)
        first, second = (
            (slice(0, 2 * kept, 2), slice(1, 2 * kept, 2))
            if mode_of(mode) == "norm"
            else (slice(0, kept), slice(d // 2, d // 2 + kept))
        )
        a, b = y[..., first].copy(), y[..., second].copy()
        y[..., first] = a * cos[..., :kept] - b * sin[..., :kept]
        y[..., second] = a * sin[..., :kept] + b * cos[..., :kept]
        return np.concatenate([y[:, :heads], x[:, heads:]], axis=1).astype(np.float32)

    return f


def quantiser(
    format: str,
    *,
    rounding: Callable[[Array], Array] = np.rint,
    levels: int = 127,
    peak: Change = lambda x: np.abs(x).max(axis=1),
    scale: Change = same,
    wrap: bool = False,
    guarded: bool = True,
    code_sums: Callable[[Array], Array] = same,
    fields: Callable[[dict[str, Array]], dict[str, Array]] = lambda fields: fields,
) -> Callable[[Array], Array]:
    """The quantiser of an activation format, by quotients in float64; correct without a switch.

    ``scale`` changes the stored d, ``code_sums`` the stored sums of codes, and ``fields`` all that is stored. Without
    ``guarded`` a block of zeros is divided by 0, and the result is converted as x86 does.
    """
    fmt = formats.get(format)

    def f(values: Array) -> Array:
        if not len(values):
            return np.empty((0, fmt.type_size), np.uint8)
        with np.errstate(all="ignore"):
            if format == "q8_K":
                d, signed = q8_k.quantise_ggml(values, levels=levels)[0], _signed_peak(values, peak) / -levels
            else:
                d = peak(values) / np.float32(levels)
                signed = d.astype(np.float64)
            unit = np.where(signed == 0, 1.0, signed) if guarded else signed
            codes = rounding(values.astype(np.float64) / unit[:, None])
            codes = np.where(np.isfinite(codes), codes, -128).astype(np.int64)
            codes = (codes + 128) % 256 - 128 if wrap else np.clip(codes, -128, 127)
            packed: dict[str, Array] = {"codes": codes.astype(np.int32)}
            if format == "q8_K":
                packed["d"] = scale(np.where(signed == 0, np.float32(0), d))
                packed["bsums"] = code_sums(codes.reshape(len(codes), 16, 16).sum(axis=2)).astype(np.int32)
            else:
                packed["d"] = scale(d).astype(np.float16)
            if format == "q8_1":
                total = code_sums(codes.sum(axis=1)).astype(np.float32)
                packed["s"] = (d * total).astype(np.float16)
            return fmt.pack(fields(packed))

    return f


def _signed_peak(values: Array, peak: Change) -> Array:
    """float64[b]: ``peak`` of each row, with the sign of the element of largest magnitude."""
    first = np.abs(values).argmax(axis=1)
    sign = np.sign(values[np.arange(len(values)), first])
    return np.asarray(sign * peak(values).astype(np.float64))
