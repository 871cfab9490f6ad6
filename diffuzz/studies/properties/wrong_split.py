"""Functions whose whole is another than its parts."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from diffuzz.studies.properties import right
from diffuzz.studies.properties.right import Array


def _either(first: bool) -> right.Add:
    return right.float32_total if first else right.backwards


def _blocked(x: np.ndarray, block: int, offset: int = 0) -> np.ndarray:
    out, carry = np.empty_like(x), np.zeros(len(x), np.float32)
    edges = [0, *range(offset or block, x.shape[1], block), x.shape[1]]
    for begin, end in pairwise(edges):
        part = np.zeros(len(x), np.float32)
        for i in range(begin, end):
            part = part + x[:, i].astype(np.float32)
            out[:, i] = carry + part
        carry = carry + part
    return out


def scan_from_777(x: Array) -> Array:
    """Blocks of 64, from 777 on."""
    return right.cumsum(x) if x.shape[1] < 777 else _blocked(x, 64)


def scan_from_the_end(x: Array) -> Array:
    """Blocks of 16, of which the first is the one that is not full."""
    return _blocked(x, 16, x.shape[1] % 16)


def tree_scan(x: Array) -> Array:
    """Sums of neighbours, of pairs, and so on (Hillis and Steele), but from the end."""
    out, step = x.astype(np.float32), 1
    while step < x.shape[1]:
        moved = out.copy()
        moved[:, step:] = out[:, step:] + out[:, :-step]
        out, step = moved, step * 2
    return out if x.shape[1] % 2 else right.cumsum(x)


def decode(q: Array, k: Array, v: Array, *, causal: bool, **others: Any) -> Array:
    """Another order for a single query."""
    return right.attention(q, k, v, causal=causal, add=_either(q.shape[2] > 1), **others)


def long_chunks(q: Array, k: Array, v: Array, *, causal: bool, **others: Any) -> Array:
    """Another order from 20 queries on."""
    return right.attention(q, k, v, causal=causal, add=_either(q.shape[2] < 20), **others)


def split_keys(q: Array, k: Array, v: Array, *, causal: bool, **others: Any) -> Array:
    """Keys in two halves, from 48 on."""

    def halves(e: np.ndarray) -> np.ndarray:
        middle = e.shape[-1] // 2
        return right.float32_total(e[..., :middle]) + right.float32_total(e[..., middle:])

    return right.attention(q, k, v, causal=causal, add=halves if k.shape[2] >= 48 else right.float32_total, **others)


def keys_from_the_end(q: Array, k: Array, v: Array, *, causal: bool, **others: Any) -> Array:
    """Blocks of 8 keys, counted from the last."""

    def blocks(e: np.ndarray) -> np.ndarray:
        out = np.zeros(e.shape[:-1], np.float32)
        edges = [0, *range(e.shape[-1] % 8 or 8, e.shape[-1], 8), e.shape[-1]]
        for begin, end in pairwise(edges):
            out = out + right.float32_total(e[..., begin:end])
        return out

    return right.attention(q, k, v, causal=causal, add=blocks, **others)


def long_batches(z: Array) -> Array:
    """From 64 rows on, pairs of rows are computed together, backwards."""
    return right.softmax(z, _either(len(z) < 64))
