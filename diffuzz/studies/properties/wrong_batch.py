"""Functions whose rows know of each other."""

from __future__ import annotations

from typing import Any

import numpy as np

from diffuzz.studies.properties import right
from diffuzz.studies.properties.right import Array


def _either(first: bool) -> right.Add:
    return right.float32_total if first else right.backwards


def one_row(x: Array, eps: float) -> Array:
    """Another order of the sum for one row: gemv and gemm."""
    return right.rmsnorm(x, eps, _either(len(x) == 1))


def last_tile(z: Array) -> Array:
    """Rows of a tile of 8 that is not full."""
    whole = len(z) // 8 * 8
    parts = [right.softmax(z[:whole], right.float32_total), right.softmax(z[whole:], right.backwards)]
    return np.concatenate(parts)


def from_38_rows(z: Array) -> Array:
    """From 38 rows on."""
    return right.softmax(z, _either(len(z) < 38))


def many_long_rows(x: Array, eps: float) -> Array:
    """At 1000 columns and more, and more than two rows."""
    return right.rmsnorm(x, eps, _either(x.shape[1] < 1000 or len(x) < 3))


def from_200_rows(x: Array, eps: float) -> Array:
    """From 200 rows on."""
    return right.rmsnorm(x, eps, _either(len(x) < 200))


def first_maximum(z: Array) -> Array:
    """The maximum of the first row for all."""
    wide = z.astype(np.float64)
    e = np.exp(np.minimum(wide - wide[:1].max(axis=-1, keepdims=True), 700))
    with np.errstate(all="ignore"):
        return (e / e.sum(axis=-1, keepdims=True)).astype(z.dtype)


def first_variance(x: Array, gain: Array, bias: Array, *, eps: float) -> Array:
    """The variance of the first row for all rows but the last."""
    out = right.layer_norm(x, gain, bias, eps=eps)
    if len(x) > 2:
        wide = x.astype(np.float64)
        out[:-1] = (wide[:-1] - wide[:-1].mean(-1, keepdims=True)) / np.sqrt(wide[0].var() + eps) * gain + bias
    return out


def last_row(z: Array) -> Array:
    """The last row of several."""
    out = right.softmax(z, right.float32_total)
    if len(z) > 1:
        out[-1] = right.softmax(z[-1:], right.backwards)[0]
    return out


def first_row(x: Array, eps: float) -> Array:
    """The first row of more than four."""
    out = right.rmsnorm(x, eps, right.float32_total)
    if len(x) > 4:
        out[0] = right.rmsnorm(x[:1], eps, right.backwards)[0]
    return out


def ragged_columns(a: Array, b: Array) -> Array:
    """Columns that fill no tile of 16 have their products added backwards."""
    whole = b.shape[1] // 16 * 16
    return np.concatenate([_product(a, b[:, :whole], False), _product(a, b[:, whole:], True)], axis=1)


def ragged_rows(a: Array, b: Array) -> Array:
    """Rows beyond the last whole tile of 6, of more than 6."""
    whole = len(a) // 6 * 6 if len(a) > 6 else len(a)
    return np.concatenate([_product(a[:whole], b, False), _product(a[whole:], b, True)])


def ten_tokens(a: Array, b: Array) -> Array:
    """From 10 rows on, beside 129 columns or more."""
    return _product(a, b, len(a) >= 10 and b.shape[1] > 128)


def _product(a: np.ndarray, b: np.ndarray, backwards: bool) -> np.ndarray:
    order = range(a.shape[1] - 1, -1, -1) if backwards else range(a.shape[1])
    out = np.zeros((len(a), b.shape[1]), np.float32)
    for k in order:
        out = out + a[:, k, None] * b[k]
    return out


def batch_scale(z: Array) -> Array:
    """Logits are rounded to a grid that the largest of the batch gives."""
    grid = np.float32(max(float(np.abs(z[np.isfinite(z)]).max(initial=1e-30)), 1e-30) * 2.0**-22)
    return right.softmax(np.round(z.astype(np.float64) / grid) * grid).astype(z.dtype)


def neighbour(x: Array, eps: float) -> Array:
    """The row before is added, far below its last digit but for large ones."""
    out = right.rmsnorm(x, eps)
    out[1:] += out[:-1] * np.float32(2**-23)
    return out


def many_heads(q: Array, k: Array, v: Array, *, causal: bool, **others: Any) -> Array:
    """Another order from three query heads for one of the keys."""
    return right.attention(q, k, v, causal=causal, add=_either(q.shape[1] // k.shape[1] < 3), **others)


def many_prompts(q: Array, k: Array, v: Array, *, causal: bool, **others: Any) -> Array:
    """Another order from three prompts on."""
    return right.attention(q, k, v, causal=causal, add=_either(len(q) < 3), **others)


def heads_of_rope(x: Array, positions: Array, base: float, mode: str) -> Array:
    """From five heads on, in float32."""
    out = right.rope(x, positions, base, mode)
    return np.nextafter(out, np.float32(0)) if x.shape[1] > 4 else out


def from_ten_rows(x: Array, gain: Array, bias: Array, *, eps: float) -> Array:
    """From ten rows on, rounded up: more rows than a search for values has."""
    out = right.layer_norm(x, gain, bias, eps=eps)
    return np.nextafter(out, np.float32(1e30)) if len(x) >= 10 else out
