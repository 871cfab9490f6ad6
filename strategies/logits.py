"""Logits: what softmax sees. Ties, saturated ends, one spike, and the usual bells."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from strategies.activations import bounded


def _expand(n: int, tied: int, top: float, bottom: float, jitter: float, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    z = np.full(n, bottom)
    z[rng.permutation(n)[:tied] if seed else np.arange(tied)] = top
    return z + jitter * rng.standard_normal(n)


def logits(n: int, *, max_abs: float = 10.0) -> st.SearchStrategy[np.ndarray]:
    """float32[n] within [-max_abs, max_abs]: some elements tied at one level, the others at another, and a jitter.

    Equal logits, one spike, saturation and plain Gaussian rows are all special cases. Shrinks towards one logit at
    max_abs and the others at -max_abs. Raises ValueError unless n >= 1 and max_abs > 0.
    """
    if n < 1 or not 0 < max_abs < np.inf:
        raise ValueError(f"n={n}, max_abs={max_abs}: n >= 1 and a positive finite max_abs are needed")
    ends = st.one_of(st.sampled_from([max_abs, -max_abs, 0.0]), st.floats(-max_abs, max_abs))
    return st.builds(
        _expand,
        n=st.just(n),
        tied=st.one_of(st.integers(1, min(n, 4)), st.integers(1, n)),
        top=st.one_of(st.just(max_abs), ends),
        bottom=st.one_of(st.just(-max_abs), ends),
        jitter=st.one_of(st.just(0.0), st.integers(0, 30).map(lambda e: max_abs * 2.0**-e)),
        seed=st.integers(0, 2**32 - 1),
    ).map(lambda z: bounded(z, -max_abs, max_abs))
