"""Sums of known orders, written in NumPy without diffuzz: what fingerprints are tested on."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence

import numpy as np

F32, F64 = np.float32, np.float64
# Summands by their number, and sums of two or more as tuples of what they add.
Nested = int | tuple["Nested", ...]
Combine = Callable[[Sequence[Nested]], Nested]


def random_nested(n: int, rng: random.Random, *, at_once: bool = False) -> Nested:
    """A random tree of n summands, as nested tuples, in which some nodes add several at once."""
    items: list[Nested] = list(range(n))
    while len(items) > 1:
        count = min(len(items), rng.randint(3, 5)) if at_once and rng.random() < 0.3 else 2
        items.append(tuple(items.pop(rng.randrange(len(items))) for _ in range(count)))
    return items[0]


def total(nested: Nested, x: np.ndarray, add: Callable[..., np.ndarray] = np.add) -> np.ndarray:
    """The sum of the columns of x in the order of nested pairs."""
    stack, done = [(nested, False)], []
    while stack:
        node, ready = stack.pop()
        if isinstance(node, int):
            done.append(x[:, node])
        elif ready:
            parts = [done.pop() for _ in node]
            done.append(add(*reversed(parts)))
        else:
            stack.append((node, True))
            stack += [(child, False) for child in reversed(node)]
    return done[0]


def in_sequence(parts: Sequence[Nested]) -> Nested:
    """Nested pairs, one after the other."""
    found = parts[0]
    for part in parts[1:]:
        found = (found, part)
    return found


def halved(parts: Sequence[Nested]) -> Nested:
    """Nested pairs of halves."""
    return parts[0] if len(parts) == 1 else (halved(parts[: len(parts) // 2]), halved(parts[len(parts) // 2 :]))


def lanes(n: int, count: int, combine: Combine, *, tail: bool) -> Nested:
    """Lanes of summands ``count`` apart; what is left over is in them, or added after them."""
    end = n // count * count if tail else n
    parts = [in_sequence(range(lane, end, count)) for lane in range(min(count, end))]
    return in_sequence([combine(parts), *range(end, n)])


def blocks(n: int, size: int, combine: Combine) -> Nested:
    """Blocks of summands that lie together, each in sequence."""
    return combine([in_sequence(range(start, min(start + size, n))) for start in range(0, n, size)])


def exact_fma(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """a b + c in float32 with one rounding, by exact fractions of float64 and an error term."""
    product, addend = F64(a) * F64(b), F64(c)
    whole = product + addend
    virtual = whole - product
    error = (product - (whole - virtual)) + (addend - virtual)
    rounded = whole.astype(F32)
    # Where float64 has a tie of two float32 numbers, the error decides.
    up, down = np.nextafter(rounded, F32(np.inf)), np.nextafter(rounded, F32(-np.inf))
    tie_up = (error > 0) & (F64(rounded) + (F64(up) - F64(rounded)) / 2 == whole)
    tie_down = (error < 0) & (F64(rounded) - (F64(rounded) - F64(down)) / 2 == whole)
    return np.where(tie_up, up, np.where(tie_down, down, rounded))


def kahan(x: np.ndarray) -> np.ndarray:
    """Kahan's sum."""
    s, c = np.zeros(len(x), F32), np.zeros(len(x), F32)
    for i in range(x.shape[1]):
        y = x[:, i] - c
        t = s + y
        c, s = (t - s) - y, t
    return s


def exact(x: np.ndarray) -> np.ndarray:
    """The exact sum, rounded once."""
    return np.array([math.fsum(row) for row in x], F32)
