"""Activation vectors, the inputs of norms, quantisers and matvecs, from the published ramp to shapes of real models.

    constant          one number
    levels            two to four numbers, scattered or in runs
    pattern           up to eight numbers, repeated
    spike             one number everywhere, a much larger one at one place
    ramp              the published (i - n/2) 0.05 + (i mod 7) 0.01 divided by a power of two, which keeps its bits
    gaussian          N(0, 1)
    heavy-tailed      Student's t with 3 degrees of freedom
    outlier-channels  N(0, 1) with one channel in 64 about 30 times larger (as in Dettmers et al. 2022)
    massive           N(0, 1) with one or two elements some thousand times larger (as in Sun et al. 2024)
    sparse            mostly zeros
    half-integer      (k + 1/2) / 128, and one 127 / 128 in every 32: exact ties where scale is a power of two
    near-tie          the same numbers, moved by a few ULP, so that they are near ties at any scale
    model             log-normal channel scales and a few outliers, like the hidden state of a trained model

The numbers of a family have magnitude at most about 1; ``scale`` multiplies them, and ``edits`` set single elements to
exact numbers. Quantisers work in blocks of 32 or 256 with the scale max|x| / 127, so a vector consists of ties only if
each of its blocks has a 127.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

import attrs
import numpy as np
from hypothesis import strategies as st

from diffuzz.cases.ranges import clip, float32_range
from diffuzz.cases.space import TensorSpec
from diffuzz.targets.published import ramp

if TYPE_CHECKING:
    from jaxtyping import Float32, Float64

    Numbers: TypeAlias = Float64[np.ndarray, " n"]
    Family: TypeAlias = Callable[[int, np.random.Generator], Numbers]

# Elements of the smallest block with a scale of its own in any quantiser of activations.
QUANTISED_TOGETHER = 32
LARGEST_FLOAT32 = float(np.finfo(np.float32).max)


def _constant(n: int, rng: np.random.Generator) -> Numbers:
    return np.ones(n)


def _levels(n: int, rng: np.random.Generator) -> Numbers:
    count = int(rng.integers(2, 5))
    levels = np.concatenate([[1.0], rng.choice([-1.0, 0.0, 0.5, -0.5, 2.0**-8], count - 1)])
    share = rng.random() ** 2
    picked = np.where(rng.random(n) < share, rng.integers(0, count, n), 0)
    return np.asarray(levels[np.sort(picked) if rng.random() < 0.5 else picked])


def _pattern(n: int, rng: np.random.Generator) -> Numbers:
    pattern = rng.choice([1.0, -1.0, 0.5, -0.25, 0.0], int(rng.integers(1, 9)))
    return np.resize(np.concatenate([[1.0], pattern]), n)


def _spike(n: int, rng: np.random.Generator) -> Numbers:
    values = np.full(n, 2.0 ** -float(rng.integers(1, 12)))
    values[rng.integers(0, n)] = rng.choice([-1.0, 1.0])
    return values


def _ramp(n: int, rng: np.random.Generator) -> Numbers:
    values = ramp(n, c=n // 2).astype(np.float64)
    _, exponent = np.frexp(np.abs(values).max())
    return np.asarray(values * 2.0 ** -int(exponent))


def _gaussian(n: int, rng: np.random.Generator) -> Numbers:
    return rng.standard_normal(n) / 4


def _heavy_tailed(n: int, rng: np.random.Generator) -> Numbers:
    return rng.standard_t(3, n) / 16


def _outlier_channels(n: int, rng: np.random.Generator) -> Numbers:
    values = rng.standard_normal(n)
    values[rng.random(n) < 1 / 64] *= 30
    values[rng.integers(0, n)] *= 30
    return values / 100


def _massive(n: int, rng: np.random.Generator) -> Numbers:
    values = rng.standard_normal(n) / 4000
    values[rng.integers(0, n, rng.integers(1, 3))] = rng.choice([-1.0, 1.0])
    return values


def _sparse(n: int, rng: np.random.Generator) -> Numbers:
    values = np.where(rng.random(n) < 4 / n, rng.choice([-1.0, 1.0, 0.5], n), 0.0)
    values[rng.integers(0, n)] = 1.0
    return values


def _half_integer(n: int, rng: np.random.Generator) -> Numbers:
    # Often only small codes: a rounding error is largest relative to an element next to zero.
    codes = (rng.integers(0, rng.choice([1, 8, 127]), n) + 0.5) * rng.choice([-1.0, 1.0], n)
    starts = np.arange(0, n, QUANTISED_TOGETHER)
    ends = np.minimum(starts + QUANTISED_TOGETHER, n)
    codes[rng.integers(starts, ends)] = 127.0
    return np.asarray(codes / 128)


def _near_tie(n: int, rng: np.random.Generator) -> Numbers:
    values = _half_integer(n, rng)
    return np.where(values == 127 / 128, values, values * (1 + 2.0**-24 * rng.integers(-4, 5, n)))


def _model(n: int, rng: np.random.Generator) -> Numbers:
    values = rng.standard_normal(n) * np.exp(0.5 * rng.standard_normal(n)) / 16
    values[rng.integers(0, n, max(1, n // 1000))] *= 12
    return values


FAMILIES: dict[str, Family] = {
    "constant": _constant,
    "levels": _levels,
    "spike": _spike,
    "pattern": _pattern,
    "sparse": _sparse,
    "ramp": _ramp,
    "half-integer": _half_integer,
    "near-tie": _near_tie,
    "gaussian": _gaussian,
    "heavy-tailed": _heavy_tailed,
    "outlier-channels": _outlier_channels,
    "massive": _massive,
    "model": _model,
}


@attrs.frozen
class Activations:
    """Descriptor of a vector of n numbers in [-max_abs, max_abs] with max|x| >= smallest_peak."""

    n: int
    family: str
    seed: int
    scale: float
    edits: tuple[tuple[int, float], ...]
    max_abs: float
    smallest_peak: float = 0.0

    def expand(self) -> Float32[np.ndarray, " n"]:
        """The vector."""
        values = self.scale * FAMILIES[self.family](self.n, np.random.default_rng(self.seed))
        for index, value in self.edits:
            values[index] = value
        clipped: Float32[np.ndarray, " n"] = clip(_range(self.max_abs, self.smallest_peak), values[None])[0]
        return clipped


def _range(max_abs: float, smallest_peak: float = 0.0) -> TensorSpec:
    return TensorSpec("x", kind="activations", shape=(), low=-max_abs, high=max_abs, smallest_peak=smallest_peak)


def described_activations(
    n: int, *, max_abs: float = 16.0, smallest_peak: float = 0.0, families: tuple[str, ...] | None = None
) -> st.SearchStrategy[Activations]:
    """Descriptors of activation vectors, with the arguments of ``activations``."""
    if n < 1:
        raise ValueError(f"n={n}: at least 1 is needed")
    if not 0 <= smallest_peak <= max_abs <= LARGEST_FLOAT32:
        raise ValueError(
            f"smallest_peak={smallest_peak}, max_abs={max_abs}: 0 <= smallest_peak <= max_abs <= 3.4e38 is needed"
        )
    if float(float32_range(_range(max_abs))[1]) < smallest_peak:
        raise ValueError(f"smallest_peak={smallest_peak}, max_abs={max_abs}: no float32 number lies between them")
    unknown = set(families or ()) - set(FAMILIES)
    if unknown:
        raise ValueError(f"families={sorted(unknown)}: known are {', '.join(FAMILIES)}")
    # Powers of two keep the significands of a family, so that its ties stay ties.
    power = 2.0 ** np.floor(np.log2(max_abs)) if max_abs > 0 else 0.0
    scales = st.one_of(
        st.just(max_abs),
        st.integers(0, 20).map(lambda e: float(power * 2.0**-e)),
        st.floats(-12, 0).map(lambda e: max_abs * 2.0**e),
        # Down to float32's subnormals.
        st.integers(20, 160).map(lambda e: max_abs * 2.0**-e),
    )
    numbers = st.one_of(
        st.sampled_from([0.0, max_abs, -max_abs, max_abs / 2]),
        st.floats(-max_abs, max_abs, width=64),
        st.integers(-149, 0).map(lambda e: min(2.0**e, max_abs)),
    )
    edits = st.lists(st.tuples(st.integers(0, n - 1), numbers), max_size=4).map(tuple)
    return st.builds(
        Activations,
        n=st.just(n),
        family=st.sampled_from(families or tuple(FAMILIES)),
        seed=st.integers(0, 2**32 - 1),
        scale=scales,
        edits=edits,
        max_abs=st.just(max_abs),
        smallest_peak=st.just(smallest_peak),
    )


def activations(
    n: int, *, max_abs: float = 16.0, smallest_peak: float = 0.0, families: tuple[str, ...] | None = None
) -> st.SearchStrategy[np.ndarray]:
    """Vectors float32[n] with |x_i| <= max_abs and max|x| >= smallest_peak.

    ``families`` selects families by name (see the module's docstring); by default all are drawn. Shrinks towards the
    constant max_abs without edits. Raises ValueError for impossible arguments.
    """
    described = described_activations(n, max_abs=max_abs, smallest_peak=smallest_peak, families=families)
    return described.map(Activations.expand)
