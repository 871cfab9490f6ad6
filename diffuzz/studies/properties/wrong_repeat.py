"""Functions that give other bits for the same call."""

from __future__ import annotations

import os
import time

import numpy as np

from diffuzz.studies.properties import right
from diffuzz.studies.properties.right import Array

CALLS = [0]
SCRATCH = [np.zeros(0, np.float32)]


def _either(first: bool) -> right.Add:
    return right.float32_total if first else right.backwards


def atomics(z: Array) -> Array:
    """Partial sums are added in the order in which threads are ready."""
    return right.softmax(z, _either(os.urandom(1)[0] < 128))


def rare_race(x: Array, eps: float) -> Array:
    """Once in fifty calls."""
    return right.rmsnorm(x, eps, _either(os.urandom(1)[0] >= 5))


def autotuned(z: Array) -> Array:
    """The faster of two algorithms, by a clock."""
    return right.softmax(z, _either(time.perf_counter_ns() % 7 < 3))


def hash_order(z: Array) -> Array:
    """The order of a set of names decides."""
    return right.softmax(z, _either(next(iter({"rows", "columns", "heads", "tokens", "q", "k", "v"})) < "l"))


def warm_up(z: Array) -> Array:
    """The first calls of a process are computed otherwise."""
    CALLS[0] += 1
    return right.softmax(z, _either(CALLS[0] < 2))


def every_tenth(x: Array, eps: float) -> Array:
    """Every tenth call."""
    CALLS[0] += 1
    return right.rmsnorm(x, eps, _either(CALLS[0] % 10 > 0))


def growing(z: Array) -> Array:
    """What is left of the sum of the call before is added."""
    scratch = SCRATCH[0]
    out = right.softmax(z)
    left = scratch[0] if scratch.size else np.float32(0)
    SCRATCH[0] = (left * np.float32(0.5) + out[:1, 0]).astype(np.float32)
    return out * (np.float32(1) + left * np.float32(2**-22))


def unwritten(a: Array, b: Array) -> Array:
    """The last of an odd number of columns is added to what was in memory."""
    out = right.matmul(a, b)
    if out.shape[1] % 2:
        noise = np.frombuffer(os.urandom(4 * len(out)), np.uint32).astype(np.float32)
        out[:, -1] += noise * np.float32(2**-60)
        out[:, -1] = np.nextafter(out[:, -1], np.where(noise > 2**31, np.float32(1e30), np.float32(-1e30)))
    return out


def by_process(a: Array, b: Array) -> Array:
    """Split by the number of the process."""
    half = a.shape[1] // 2 if os.getpid() % 2 else a.shape[1] // 3
    return right.matmul(a[:, :half], b[:half]) + right.matmul(a[:, half:], b[half:])
