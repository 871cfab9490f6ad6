"""Logits, the inputs of softmax: ties, ends of the range, one spike, and normally distributed ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import numpy as np
from hypothesis import strategies as st

from diffuzz.cases.ranges import clip
from diffuzz.cases.space import TensorSpec

from .activations import LARGEST_FLOAT32

if TYPE_CHECKING:
    from jaxtyping import Float32


@attrs.frozen
class Logits:
    """Descriptor of n logits in [-max_abs, max_abs].

    ``ties`` are pairs (count, level): count elements at level, those of the next pair after them; all others are at
    ``rest``. A ``seed`` above 0 shuffles the elements; ``jitter`` times N(0, 1) is added.
    """

    n: int
    ties: tuple[tuple[int, float], ...]
    rest: float
    jitter: float
    seed: int
    max_abs: float

    def expand(self) -> Float32[np.ndarray, " n"]:
        """The logits."""
        rng = np.random.default_rng(self.seed)
        tied = np.concatenate([np.full(min(count, self.n), level) for count, level in self.ties])[: self.n]
        z = np.concatenate([tied, np.full(self.n - len(tied), self.rest)])
        if self.seed:
            z = rng.permutation(z)
        z = z + self.jitter * rng.standard_normal(self.n)
        spec = TensorSpec("z", kind="logits", shape=(), low=-self.max_abs, high=self.max_abs)
        clipped: Float32[np.ndarray, " n"] = clip(spec, z[None])[0]
        return clipped


def described_logits(n: int, *, max_abs: float = 10.0) -> st.SearchStrategy[Logits]:
    """Descriptors of logits, with the arguments of ``logits``."""
    if n < 1 or not 0 < max_abs <= LARGEST_FLOAT32:
        raise ValueError(f"n={n}, max_abs={max_abs}: n >= 1 and 0 < max_abs <= 3.4e38 are needed")
    ends = st.one_of(st.sampled_from([max_abs, -max_abs, 0.0]), st.floats(-max_abs, max_abs))
    count = st.one_of(st.integers(1, min(n, 4)), st.integers(1, n))
    tie = st.tuples(count, st.one_of(st.just(max_abs), ends))
    return st.builds(
        Logits,
        n=st.just(n),
        ties=st.lists(tie, min_size=1, max_size=3).map(tuple),
        rest=st.one_of(st.just(-max_abs), ends),
        jitter=st.one_of(st.just(0.0), st.integers(0, 30).map(lambda e: max_abs * 2.0**-e)),
        seed=st.integers(0, 2**32 - 1),
        max_abs=st.just(max_abs),
    )


def logits(n: int, *, max_abs: float = 10.0) -> st.SearchStrategy[np.ndarray]:
    """float32[n] in [-max_abs, max_abs]: one to three groups of tied elements, the others at one level, plus a jitter.

    Equal logits, one spike, logits at the ends of the range and Gaussian rows are special cases. Shrinks towards one
    logit at max_abs and the others at -max_abs. Raises ValueError unless n >= 1 and 0 < max_abs <= 3.4e38.
    """
    return described_logits(n, max_abs=max_abs).map(Logits.expand)
