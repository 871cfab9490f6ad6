"""Directions of perturbations: the shape t in [-1, 1]^n that diffuzz.perturb turns into an admissible move."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

SHAPES = ("all up", "all down", "alternating", "first half", "one coordinate", "prefix", "random signs", "gaussian")


def _expand(n: int, shape: str, place: int, seed: int, step: float) -> np.ndarray:
    i = np.arange(n)
    rng = np.random.default_rng(seed)
    t = {
        "all up": lambda: np.ones(n),
        "all down": lambda: -np.ones(n),
        "alternating": lambda: np.where(i % 2 == 0, 1.0, -1.0),
        "first half": lambda: np.where(i < n // 2, 1.0, -1.0),
        "one coordinate": lambda: (i == place) * 1.0,
        "prefix": lambda: np.where(i <= place, 1.0, -1.0),
        "random signs": lambda: np.where(rng.random(n) < 0.5, 1.0, -1.0),
        "gaussian": lambda: rng.standard_normal(n),
    }[shape]()
    # Of length 1 in its largest element, so that ``step`` alone says how far the move goes.
    return np.asarray(step * t / np.abs(t).max(), np.float32)


def directions(n: int, *, like: np.ndarray | None = None) -> st.SearchStrategy[np.ndarray]:
    """float32[n] in [-1, 1], not zero. With ``like`` [n] also its signs, and the opposite ones.

    A direction shorter than 1 makes a smaller step. Shrinks towards +1 everywhere. Raises ValueError unless n >= 1.
    """
    if n < 1:
        raise ValueError(f"n={n}: at least 1 is needed")
    shaped = st.builds(
        _expand,
        n=st.just(n),
        shape=st.sampled_from(SHAPES),
        place=st.integers(0, n - 1),
        seed=st.integers(0, 2**32 - 1),
        step=st.integers(0, 8).map(lambda e: 2.0**-e),
    )
    if like is None:
        return shaped
    signs = np.where(np.asarray(like) >= 0, 1, -1).astype(np.float32)
    return st.one_of(shaped, st.sampled_from([signs, -signs]))
