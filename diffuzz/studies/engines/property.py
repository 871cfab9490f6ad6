"""The peer Hypothesis: a property test that maximises the value with ``target()``, as experienced users would write it.

Vectors of up to ELEMENTWISE numbers are drawn number by number (``hypothesis.extra.numpy.arrays``). With longer ones
the optimiser would have hundreds of choices to change one at a time, at a tenth of the rate. So they are drawn as users
do: a family, a scale, a seed for ``np.random`` and a few single elements. Measured on rope, matvec, swiglu and
block-scale, this finds more (940 against 105, 0.0039 against 0.0017, 15.1 against 11.6, 39 against 3.8). Blocks are
quantised from such vectors, or they are random or equal bytes with scales drawn separately. The target is the logarithm
of the value, because values span many orders of magnitude. Cases are evaluated one at a time, by a screen for one row
if the problem has a screen, which solves the perturbation and is faster for most targets.
"""

from __future__ import annotations

import math
import tempfile
import warnings
from typing import TYPE_CHECKING

import numpy as np
from hypothesis import HealthCheck, Phase, Verbosity, given, seed, settings, target
from hypothesis import strategies as st
from hypothesis.configuration import set_hypothesis_home_dir
from hypothesis.errors import HypothesisWarning
from hypothesis.extra.numpy import arrays

from diffuzz import formats
from diffuzz.cases import draws, ranges
from diffuzz.cases.space import Space, TensorSpec
from diffuzz.searching.objective import BudgetSpentError, Objective

if TYPE_CHECKING:
    from jaxtyping import Float64

ELEMENTWISE = 16
FAMILIES = ("uniform", "normal", "constant", "signs", "levels", "spike", "sparse", "ramp")


class _Over(BaseException):
    """Ends a run at once. It is no Exception, which Hypothesis would take for a failure and replay."""


def climb(objective: Objective, number: int, examples: int) -> None:
    """One run of Hypothesis with the random seed ``number``. Raises BudgetSpentError where the objective does."""

    @seed(number)
    @settings(
        max_examples=examples,
        database=None,
        deadline=None,
        phases=(Phase.generate, Phase.target),
        suppress_health_check=list(HealthCheck),
        verbosity=Verbosity.quiet,
        print_blob=False,
    )
    @given(cases(objective.space))
    def test(case: dict[str, np.ndarray]) -> None:
        try:
            value = float(objective.evaluate({name: array[None] for name, array in case.items()})[0])
        except BudgetSpentError as error:
            raise _Over from error
        if value > 0 and math.isfinite(value):
            target(math.log2(value), label="log2 value")

    with warnings.catch_warnings(), tempfile.TemporaryDirectory(prefix="diffuzz-") as folder:
        warnings.simplefilter("ignore", HypothesisWarning)
        # Hypothesis stores constants of the source files that it sees, even without a database of examples.
        set_hypothesis_home_dir(folder)
        try:
            test()
        except _Over as over:
            raise BudgetSpentError(objective.stopped) from over
        finally:
            set_hypothesis_home_dir(None)


def cases(space: Space) -> st.SearchStrategy[dict[str, np.ndarray]]:
    """A strategy for the arrays of a case, by name."""
    return st.fixed_dictionaries({spec.name: _tensor(spec) for spec in space.tensors})


def _tensor(spec: TensorSpec) -> st.SearchStrategy[np.ndarray]:
    shape = spec.array_shape()
    if spec.kind == "blocks":
        return _blocks(spec)
    if spec.kind == "positions":
        return arrays(np.int32, shape, elements=st.integers(int(spec.low), int(spec.high)), fill=st.nothing())
    low, high = ranges.float32_range(spec)
    if math.prod(shape) <= ELEMENTWISE:
        numbers = arrays(np.float32, shape, elements=st.floats(float(low), float(high), width=32), fill=st.nothing())
    else:
        numbers = _vectors(math.prod(shape), float(low), float(high)).map(lambda x: x.reshape(shape))
    return numbers.map(lambda x: ranges.clip(spec, x[None])[0])


def _vectors(n: int, low: float, high: float) -> st.SearchStrategy[Float64[np.ndarray, " n"]]:
    """Vectors, nearly always in [low, high], from a family, a scale, a seed and a few single elements."""
    scale = st.one_of(st.just(1.0), st.floats(-20, 0).map(lambda e: 2.0**e))
    edits = st.lists(st.tuples(st.integers(0, n - 1), st.floats(low, high, width=32)), max_size=4)

    def expand(family: str, scale: float, number: int, edits: list[tuple[int, float]]) -> Float64[np.ndarray, " n"]:
        values = _family(family, n, np.random.default_rng(number)) * max(abs(low), abs(high)) * scale
        for index, value in edits:
            values[index] = value
        return values

    return st.builds(expand, st.sampled_from(FAMILIES), scale, st.integers(0, 2**32 - 1), edits)


def _family(family: str, n: int, rng: np.random.Generator) -> Float64[np.ndarray, " n"]:
    """One vector of a family of FAMILIES."""
    if family == "uniform":
        return rng.uniform(-1, 1, n)
    if family == "normal":
        return rng.standard_normal(n) / 4
    if family == "constant":
        return np.ones(n)
    if family == "signs":
        return rng.choice([-1.0, 1.0], n)
    if family == "levels":
        return rng.choice(rng.uniform(-1, 1, 3), n)
    if family == "spike":
        values = np.full(n, 2.0 ** -rng.uniform(0, 16))
        values[rng.integers(n)] = 1.0
        return values
    if family == "sparse":
        return np.where(rng.random(n) < 4 / n, rng.uniform(-1, 1, n), 0.0)
    return np.linspace(-1, 1, n)


def _blocks(spec: TensorSpec) -> st.SearchStrategy[np.ndarray]:
    """Blocks with random bytes, equal bytes or, if the format has a quantiser, quantised vectors."""
    fmt = formats.get(spec.format or "")
    shape = spec.array_shape()
    count = math.prod(shape) // fmt.type_size
    top = min(spec.largest_scale, 65504.0)
    size = st.one_of(st.just(0.0), st.just(1.0), st.floats(-top, top, width=16))
    scales = st.fixed_dictionaries(dict.fromkeys(fmt.scale_fields, size))

    def with_scales(raw: np.ndarray, scales: dict[str, float]) -> np.ndarray:
        values = {field: np.full(count, value) for field, value in scales.items()}
        return draws.with_scales(spec, raw, values).reshape(shape)

    drawn = st.integers(0, 2**32 - 1).map(
        lambda number: np.random.default_rng(number).integers(0, 256, (count, fmt.type_size), dtype=np.uint8)
    )
    alike = st.integers(0, 255).map(lambda byte: np.full((count, fmt.type_size), byte, np.uint8))
    made = [st.builds(with_scales, st.one_of(drawn, alike), scales)]
    if fmt.quantize is not None:
        quantise = fmt.quantize
        floats = _vectors(count * fmt.block_size, -1.0, 1.0)
        made.append(floats.map(lambda x: quantise(x.astype(np.float32).reshape(count, -1)).reshape(shape)))
    return st.one_of(made)
