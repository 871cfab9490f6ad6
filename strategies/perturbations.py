"""Directions of perturbations: t in [-1, 1]^n, which diffuzz.targets.perturbations turns into an admissible move."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import attrs
import numpy as np
from hypothesis import strategies as st

if TYPE_CHECKING:
    from jaxtyping import Float, Float32, Float64

SHAPES = ("all up", "all down", "alternating", "first half", "one coordinate", "prefix", "random signs", "gaussian")


@attrs.frozen
class Direction:
    """Descriptor of a direction of n elements, of which the largest has magnitude ``step``.

    ``place`` is the index of "one coordinate" and the last one of "prefix"; ``seed`` is for "random signs" and
    "gaussian".
    """

    n: int
    shape: str
    place: int
    seed: int
    step: float

    def expand(self) -> Float32[np.ndarray, " n"]:
        """The direction."""
        n, i = self.n, np.arange(self.n)
        rng = np.random.default_rng(self.seed)
        shapes: dict[str, Callable[[], Float64[np.ndarray, " n"]]] = {
            "all up": lambda: np.ones(n),
            "all down": lambda: -np.ones(n),
            "alternating": lambda: np.where(i % 2 == 0, 1.0, -1.0),
            "first half": lambda: np.where(i < n // 2, 1.0, -1.0),
            "one coordinate": lambda: (i == self.place) * 1.0,
            "prefix": lambda: np.where(i <= self.place, 1.0, -1.0),
            "random signs": lambda: np.where(rng.random(n) < 0.5, 1.0, -1.0),
            "gaussian": lambda: rng.standard_normal(n),
        }
        t = shapes[self.shape]()
        # The largest element is scaled to 1, so that the size of the move depends on ``step`` alone.
        return np.asarray(self.step * t / np.abs(t).max(), np.float32)


def described_directions(n: int) -> st.SearchStrategy[Direction]:
    """Descriptors of directions. Raises ValueError unless n >= 1."""
    if n < 1:
        raise ValueError(f"n={n}: at least 1 is needed")
    return st.builds(
        Direction,
        n=st.just(n),
        shape=st.sampled_from(SHAPES),
        place=st.integers(0, n - 1),
        seed=st.integers(0, 2**32 - 1),
        step=st.integers(0, 8).map(lambda e: 2.0**-e),
    )


def directions(n: int, *, like: np.ndarray | None = None) -> st.SearchStrategy[np.ndarray]:
    """float32[n] in [-1, 1], not zero; with ``like`` [n] also the signs of that array and their opposites.

    A direction whose largest element is below 1 makes a smaller step. Shrinks towards +1 everywhere. Raises ValueError
    unless n >= 1 and ``like`` has n elements.
    """
    shaped = described_directions(n).map(Direction.expand)
    if like is None:
        return shaped
    if np.shape(like) != (n,):
        raise ValueError(f"like: shape {np.shape(like)}, where ({n},) is needed")
    signs = signs_of(like)
    return st.one_of(shaped, st.sampled_from([signs, -signs]))


def signs_of(x: Float[np.ndarray, " ..."]) -> Float32[np.ndarray, " ..."]:
    """+1 where x >= 0, else -1."""
    return np.where(np.asarray(x) >= 0, 1, -1).astype(np.float32)
