"""Positions in a sequence: small ones, powers of two and their neighbours, and those where float32 angles go wrong."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import strategies as st


def positions(shape: int | tuple[int, ...], *, low: int = 0, high: int = 131072) -> st.SearchStrategy[np.ndarray]:
    """int32 arrays of this shape with elements in [low, high]: one to four positions, repeated.

    Shrinks towards ``low`` everywhere. Raises ValueError unless low <= high, both in int32.
    """
    if not -(2**31) <= low <= high < 2**31:
        raise ValueError(f"low={low}, high={high}: -2^31 <= low <= high < 2^31 is needed")
    shape = (shape,) if isinstance(shape, int) else shape
    known = sorted({min(max(p, low), high) for e in range(31) for p in (0, 1, 2**e - 1, 2**e, 2**e + 1, high)})
    one = st.one_of(st.sampled_from(known), st.integers(low, high))
    few = st.lists(one, min_size=1, max_size=min(4, max(1, math.prod(shape))))
    return few.map(lambda values: np.resize(np.array(values, np.int32), shape))
