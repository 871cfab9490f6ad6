"""Functions whose bits depend on the number of threads."""

from __future__ import annotations

import os
from itertools import pairwise

import numpy as np

from diffuzz.studies.properties import right
from diffuzz.studies.properties.right import Array


def _parts(x: np.ndarray, count: int) -> np.ndarray:
    edges = [x.shape[-1] * i // count for i in range(count + 1)]
    out = np.zeros(x.shape[:-1], np.float32)
    for begin, end in pairwise(edges):
        out = out + right.float32_total(x[..., begin:end])
    return out


def _threads() -> int:
    return int(os.environ.get("OMP_NUM_THREADS", "1"))


def split_sum(x: Array, eps: float) -> Array:
    """The sum of a row in as many parts as there are threads."""
    return right.rmsnorm(x, eps, lambda one: _parts(one, _threads()))


def long_rows_only(z: Array) -> Array:
    """The same of rows of 128 and more."""
    return right.softmax(z, lambda one: _parts(one, _threads() if one.shape[-1] >= 128 else 1))


def four_or_more(z: Array) -> Array:
    """From four threads on, in two parts."""
    return right.softmax(z, lambda one: _parts(one, 2 if _threads() >= 4 else 1))


def split_products(a: Array, b: Array) -> Array:
    """Products of matrices whose sums are split between threads."""
    count = min(int(os.environ.get("OPENBLAS_NUM_THREADS", "1")), a.shape[1])
    edges = [a.shape[1] * i // count for i in range(count + 1)]
    out = np.zeros((len(a), b.shape[1]), np.float32)
    for begin, end in pairwise(edges):
        out = out + right.matmul(a[:, begin:end], b[begin:end])
    return out


def by_parameter(z: Array, threads: int = 1) -> Array:
    """The number is a parameter."""
    return right.softmax(z, lambda one: _parts(one, threads))
