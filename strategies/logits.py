"""Logits: what softmax sees. Ties, saturated ends, one spike, and the usual bells."""

from __future__ import annotations

import attrs
import numpy as np
from hypothesis import strategies as st

from diffuzz.sampling import clip
from diffuzz.space import TensorSpec
from strategies.activations import LARGEST_FLOAT32


@attrs.frozen
class Logits:
    """Descriptor of n logits in [-max_abs, max_abs].

    ``ties`` are (count, level) pairs: the first count elements are tied at level, the next pair follows them, what is
    left is at ``rest``. A ``seed`` above 0 shuffles them; ``jitter`` times N(0, 1) is added.
    """

    n: int
    ties: tuple[tuple[int, float], ...]
    rest: float
    jitter: float
    seed: int
    max_abs: float

    def expand(self) -> np.ndarray:
        """The logits: float32[n]."""
        rng = np.random.default_rng(self.seed)
        tied = np.concatenate([np.full(min(count, self.n), level) for count, level in self.ties])[: self.n]
        z = np.concatenate([tied, np.full(self.n - len(tied), self.rest)])
        if self.seed:
            z = rng.permutation(z)
        z = z + self.jitter * rng.standard_normal(self.n)
        return clip(TensorSpec("z", kind="logits", shape=(), low=-self.max_abs, high=self.max_abs), z[None])[0]


def described_logits(n: int, *, max_abs: float = 10.0) -> st.SearchStrategy[Logits]:
    """Descriptors of logits; see ``logits``."""
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
    """float32[n] within [-max_abs, max_abs]: one to three groups of tied elements, the others at one level, a jitter.

    Equal logits, one spike, saturation and plain Gaussian rows are all special cases. Shrinks towards one logit at
    max_abs and the others at -max_abs. Raises ValueError unless n >= 1 and 0 < max_abs <= 3.4e38.
    """
    return described_logits(n, max_abs=max_abs).map(Logits.expand)
