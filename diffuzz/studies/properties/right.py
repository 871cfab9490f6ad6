"""Functions that keep all properties: each number comes of its own row alone, by the same operations in the same order.

They are the controls of ``bench properties``, and what its mutants are made of. Operations on whole arrays are those on
single numbers, element by element; sums are added up one term after the other, in float64.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

Array: TypeAlias = np.ndarray
# Sums over the last axis.
Add: TypeAlias = Callable[[Array], Array]


def total(x: np.ndarray) -> np.ndarray:
    """The sums over the last axis, one term after the other."""
    out = np.zeros(x.shape[:-1], np.float64)
    for i in range(x.shape[-1]):
        out = out + x[..., i]
    return out


def backwards(x: np.ndarray) -> np.ndarray:
    """The same from the end, in float32: other bits, and as good."""
    out = np.zeros(x.shape[:-1], np.float32)
    for i in range(x.shape[-1] - 1, -1, -1):
        out = out + x[..., i].astype(np.float32)
    return out


def float32_total(x: np.ndarray) -> np.ndarray:
    """The sums over the last axis from its beginning, in float32."""
    out = np.zeros(x.shape[:-1], np.float32)
    for i in range(x.shape[-1]):
        out = out + x[..., i].astype(np.float32)
    return out


def softmax(z: Array, add: Add = total) -> Array:
    """Softmax of each row."""
    wide = np.array(z, np.float64, order="C")
    e = np.exp(wide - wide.max(axis=-1, keepdims=True))
    return (e / add(e)[..., None]).astype(z.dtype)


def rmsnorm(x: Array, eps: float, add: Add = total) -> Array:
    """RMSNorm of each row."""
    wide = np.array(x, np.float64, order="C")
    return (wide / np.sqrt(add(wide * wide)[..., None] / x.shape[-1] + eps)).astype(x.dtype)


def layer_norm(x: Array, gain: Array, bias: Array, *, eps: float) -> Array:
    """LayerNorm of each row."""
    wide = np.array(x, np.float64, order="C")
    off = wide - total(wide)[..., None] / x.shape[-1]
    return (off / np.sqrt(total(off * off)[..., None] / x.shape[-1] + eps) * gain + bias).astype(x.dtype)


def matmul(a: Array, b: Array) -> Array:
    """Product of two matrices."""
    wide, other = np.array(a, np.float64, order="C"), np.array(b, np.float64, order="C")
    out = np.zeros((a.shape[0], b.shape[1]))
    for k in range(a.shape[1]):
        out = out + wide[:, k, None] * other[k]
    return out.astype(a.dtype)


def cumsum(x: Array) -> Array:
    """Running sums of each row."""
    out, wide = np.empty(x.shape, np.float64), np.array(x, np.float64, order="C")
    now = np.zeros(len(x))
    for i in range(x.shape[-1]):
        now = now + wide[:, i]
        out[:, i] = now
    return out.astype(x.dtype)


def sums(x: Array) -> Array:
    """The sum of each row."""
    return total(np.array(x, np.float64, order="C")).astype(x.dtype)


def mean_square(x: Array) -> Array:
    """The mean square of each row."""
    wide = np.array(x, np.float64, order="C")
    return (total(wide * wide) / x.shape[-1]).astype(x.dtype)


def swiglu(gate: Array, up: Array) -> Array:
    """silu(gate) up."""
    wide = np.array(gate, np.float64, order="C")
    return (wide / (1 + _exp(-wide)) * np.array(up, np.float64, order="C")).astype(gate.dtype)


def _exp(x: np.ndarray) -> np.ndarray:
    # Of a contiguous array, whose ends may be computed otherwise than its middle: so each number in a row of eight.
    flat = np.zeros((x.size, 8))
    flat[:, 0] = x.reshape(-1)
    with np.errstate(over="ignore"):
        return np.asarray(np.exp(flat)[:, 0].reshape(x.shape))


def attention(q: Array, k: Array, v: Array, *, causal: bool, add: Add = total, **others: Any) -> Array:
    """Attention of the last s of t positions, without what models add to it."""
    h, s, d = q.shape[1:]
    group, t = h // k.shape[1], k.shape[2]
    wide, keys, values = (np.array(one, np.float64, order="C") for one in (q, k, v))
    out = np.zeros(q.shape)
    for head in range(h):
        own, theirs = wide[:, head], keys[:, head // group]
        score = np.zeros((len(q), s, t))
        for i in range(d):
            score = score + own[:, :, i, None] * theirs[:, None, :, i]
        score = score * others.get("scale", d**-0.5)
        if causal:
            score = np.where(np.arange(t) <= np.arange(s)[:, None] + t - s, score, -np.inf)
        e = _exp(score - score.max(axis=-1, keepdims=True))
        weight = add(e)
        y = np.zeros((len(q), s, d))
        for i in range(t):
            y = y + e[:, :, i, None] * values[:, head // group, None, i]
        out[:, head] = y / weight[..., None]
    return out.astype(q.dtype)


def add_rmsnorm(x: Array, residual: Array, gain: Array, *, eps: float) -> tuple[Array, Array]:
    """RMSNorm of a sum with a gain, and the sum."""
    both = np.array(x, np.float64, order="C") + residual
    return (both / np.sqrt(total(both * both)[..., None] / x.shape[-1] + eps) * gain).astype(x.dtype), both.astype(
        x.dtype
    )


def embedding(table: Array, ids: Array) -> Array:
    """Rows of a table."""
    return np.array(table[ids])


def rope(x: Array, positions: Array, base: float, mode: str) -> Array:
    """Rotary position embedding."""
    half = x.shape[-1] // 2
    out = np.array(x, np.float64, order="C")
    for i in range(half):
        angle = positions.astype(np.float64) * float(base) ** (-2.0 * i / x.shape[-1])
        cos, sin = np.array([(np.cos(one), np.sin(one)) for one in angle]).reshape(-1, 2).T
        one, other = (2 * i, 2 * i + 1) if mode == "norm" else (i, i + half)
        a, b = np.array(x[:, :, one], np.float64), np.array(x[:, :, other], np.float64)
        out[:, :, one] = a * cos[:, None] - b * sin[:, None]
        out[:, :, other] = a * sin[:, None] + b * cos[:, None]
    return out.astype(x.dtype)


def refusing(z: Array) -> Array:
    """Softmax that takes contiguous arrays only."""
    if not z.flags.c_contiguous:
        raise ValueError("a contiguous array is needed")
    return softmax(z)


def padded(z: Array) -> Array:
    """Softmax of rows in tiles of 8, of which the last is filled up with zeros."""
    whole = np.zeros((-(-len(z) // 8) * 8, z.shape[1]), z.dtype)
    whole[: len(z)] = z
    return softmax(whole)[: len(z)]


def in_tiles(a: Array, b: Array) -> Array:
    """A product of matrices in tiles of 16 columns."""
    return np.concatenate([matmul(a, b[:, i : i + 16]) for i in range(0, b.shape[1], 16)], axis=1)


def causal_attention(q: Array, k: Array, v: Array, *, causal: bool, **others: Any) -> Array:
    """Attention in which no query sees a key after it."""
    return attention(q, k, v, causal=causal, **others)


def with_scratch(z: Array, kept: dict[tuple[int, ...], Array] = {}) -> Array:  # noqa: B006, state that is left as it should be
    """Softmax with memory that is kept from one call to the next, and written to before it is read."""
    scratch = kept.setdefault(z.shape, np.empty(z.shape))
    scratch[...] = z
    return softmax(scratch).astype(z.dtype)
