"""What people use instead: uniform numbers, Hypothesis, CMA-ES, differential evolution, nevergrad.

Each peer is a function ``rounds(objective, rng) -> Iterator[None]`` like an engine, so it evaluates through the same
Objective: with the same screen (compiled for the batch size of the peer), the same confirmation and the same clock.
Perturbations are solved for every competitor, so a peer searches the perturbed arrays and not the directions.

The three optimisers search points of [-1, 1]^k (see ``Encoding``) and maximise the logarithm of the value. Whenever one
has converged it starts again, with another seed and the other encoding of floats; CMA-ES also doubles its population.
"""

from __future__ import annotations

import importlib
import math
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import attrs
import numpy as np

from diffuzz import formats
from diffuzz.cases import ranges
from diffuzz.cases.space import Space, TensorSpec
from diffuzz.searching.objective import Batch, Objective

if TYPE_CHECKING:
    from jaxtyping import Float64, UInt8

# Steepness a of the logarithmic encoding: half of the points have magnitudes below 2^-8 of the largest.
STEEPNESS = 12.0
# Largest number k of dimensions with a full covariance, which takes k^2 numbers for every sample; above it, a diagonal
# one is used.
LARGEST_FULL_COVARIANCE = 500
# Examples in one run of Hypothesis; each run has another seed.
EXAMPLES = 1000
# Population sizes; a batch costs hardly more than one point. Measured on eight targets, these find the most: CMA-ES's
# default of 4 + 3 ln k, or differential evolution with 512 members, finds half as much.
CMA_POPULATION, DE_POPULATION = 256, 64
# Number of points that nevergrad is asked for at a time. The CMA of its NGOpt fails with fewer in high dimensions.
NEVERGRAD_ROWS = 64
# Evaluations per second of budget that nevergrad may plan with: what the time for its ask and tell allows.
NEVERGRAD_PER_SECOND = 1000
# Largest magnitude that test-backend-ops draws, for targets where it is not 1.
TOP = {"rmsnorm": 10.0, "swiglu": 150.0}
LARGEST_POSITION = 511
# Loss of a case with the value 0: above the loss of the smallest positive number.
NOTHING = 2000.0


@attrs.frozen
class Peer:
    """A competitor that is not one of our engines.

    ``rounds`` is like that of an engine. ``rows`` is the size of its batches; None stands for that of the objective.
    ``module`` is the module that it imports, if that may be missing.
    """

    rounds: Callable[[Objective, np.random.Generator], Iterator[None]]
    rows: int | None = None
    module: str | None = None

    @property
    def package(self) -> str | None:
        """The package of ``module``, or None."""
        return self.module and self.module.partition(".")[0]


# Encoding


@attrs.frozen
class Encoding:
    """Points u of [-1, 1]^k as cases of a space. A point has the numbers of all tensors except the directions of
    perturbations, one tensor after another.

    Floats are affine in u. If the encoding is ``logarithmic`` and the range has both signs, they are high sinh(a u) /
    sinh(a), a = STEEPNESS. Gains are affine in their logarithm. Positions and the integer fields of blocks are affine
    and rounded. The scales of blocks have the logarithmic encoding, up to the largest admissible scale. Directions are
    all ones.
    """

    space: Space
    logarithmic: bool

    @property
    def size(self) -> int:
        """The dimension k of the points."""
        return sum(_size(spec) for spec in self.space.tensors)

    def decode(self, points: Float64[np.ndarray, "b k"]) -> Batch:
        """The cases of ``points``, which are clipped to [-1, 1]."""
        points = np.clip(points, -1.0, 1.0)
        batch: Batch = {}
        start = 0
        for spec in self.space.tensors:
            part = points[:, start : start + _size(spec)]
            start += part.shape[1]
            shape = (len(points), *spec.array_shape())
            if spec.kind == "direction":
                batch[spec.name] = np.ones(shape, np.float32)
            elif spec.kind == "positions":
                batch[spec.name] = np.rint(_affine(part, spec.low, spec.high)).astype(np.int32).reshape(shape)
            elif spec.kind == "blocks":
                batch[spec.name] = _blocks(spec, part).reshape(shape)
            else:
                batch[spec.name] = ranges.clip(spec, self._floats(spec, part).reshape(shape))
        return batch

    def _floats(self, spec: TensorSpec, u: Float64[np.ndarray, "b size"]) -> Float64[np.ndarray, "b size"]:
        if spec.kind == "gain":
            return np.asarray(np.exp(_affine(u, math.log(spec.low), math.log(spec.high))))
        if self.logarithmic and spec.low < 0:
            return _both_signs(u, max(-spec.low, spec.high))
        return _affine(u, spec.low, spec.high)


def _size(spec: TensorSpec) -> int:
    if spec.kind == "direction":
        return 0
    if spec.kind != "blocks":
        return math.prod(spec.array_shape())
    fmt = formats.get(spec.format or "")
    return math.prod(spec.array_shape()) // fmt.type_size * sum(_fields(fmt).values())


def _fields(fmt: formats.Format) -> dict[str, int]:
    """How many numbers each field of one block has, by name."""
    return {name: values.size for name, values in fmt.unpack(np.zeros((1, fmt.type_size), np.uint8)).items()}


def _affine(u: Float64[np.ndarray, " ..."], low: float, high: float) -> Float64[np.ndarray, " ..."]:
    return np.asarray(low + (high - low) * (u + 1) / 2)


def _both_signs(u: Float64[np.ndarray, " ..."], high: float) -> Float64[np.ndarray, " ..."]:
    return np.asarray(high * np.sinh(STEEPNESS * u) / math.sinh(STEEPNESS))


def _blocks(spec: TensorSpec, u: Float64[np.ndarray, "b size"]) -> UInt8[np.ndarray, "blocks type_size"]:
    """The blocks of all cases. A row of ``u`` has the fields of the blocks of one case, block after block."""
    fmt = formats.get(spec.format or "")
    sizes = _fields(fmt)
    u = u.reshape(-1, sum(sizes.values()))
    # Pairs of bytes whose bits are all clear or all set, or that are at an end of a signed range of bytes or of words.
    words = np.array([[0, 0], [255, 255], [128, 128], [127, 127], [0, 128], [255, 127]], np.uint8)
    extremes = fmt.unpack(np.tile(words, fmt.type_size // 2))
    fields, start = {}, 0
    for name, size in sizes.items():
        extreme, part = extremes[name], u[:, start : start + size].reshape(-1, *extremes[name].shape[1:])
        start += size
        if extreme.dtype.kind == "f":
            top = min(spec.largest_scale, 65504.0)
            fields[name] = np.clip(_both_signs(part, top), -top, top).astype(extreme.dtype)
        else:
            fields[name] = np.rint(_affine(part, int(extreme.min()), int(extreme.max()))).astype(extreme.dtype)
    return fmt.pack(fields)


def _loss(objective: Objective, batch: Batch) -> Float64[np.ndarray, " b"]:
    """-log2 of the values, which optimisers minimise."""
    values = objective.evaluate(batch)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(-np.nan_to_num(np.log2(np.maximum(values, 0.0)), neginf=-NOTHING, posinf=NOTHING))


def _restarts(objective: Objective) -> Iterator[tuple[int, Encoding]]:
    """Numbers from 0 on, with the affine and the logarithmic encoding in turn."""
    number = 0
    while True:
        yield number, Encoding(objective.space, logarithmic=number % 2 == 1)
        number += 1


# Uniform numbers


def _uniform(objective: Objective, rng: np.random.Generator) -> Iterator[None]:
    """Inputs as test-backend-ops draws them, one batch in each round.

    Floats are uniform in [-1, 1] ([-10, 10] for RMS_NORM, [-150, 150] for SWIGLU), but within the range of the space.
    Blocks are quantised from uniform floats, and positions are below 512.
    """
    top = TOP.get(objective.problem.target.name, 1.0)
    while True:
        objective.evaluate(
            {spec.name: _as_ggml_draws(spec, rng, objective.rows, top) for spec in objective.space.tensors}
        )
        yield


def _as_ggml_draws(spec: TensorSpec, rng: np.random.Generator, rows: int, top: float) -> np.ndarray:
    """``rows`` arrays of one tensor; floats are uniform in [-top, top]."""
    shape = (rows, *spec.array_shape())
    if spec.kind == "positions":
        last = max(int(spec.low), min(int(spec.high), LARGEST_POSITION))
        return rng.integers(int(spec.low), last + 1, shape).astype(np.int32)
    if spec.kind == "direction":
        return ranges.clip(spec, rng.uniform(-1, 1, shape))
    if spec.kind == "blocks":
        fmt = formats.get(spec.format or "")
        if fmt.quantize is None:
            raise ValueError(f"format {fmt.name} has no quantiser to draw blocks with")
        values = rng.uniform(-1, 1, (math.prod(shape) // fmt.type_size, fmt.block_size))
        return fmt.quantize(values.astype(np.float32)).reshape(shape)
    low, high = max(-top, spec.low), min(top, spec.high)
    return ranges.clip(spec, rng.uniform(min(low, high), high, shape))


# Optimisers


def _cma(objective: Objective, rng: np.random.Generator) -> Iterator[None]:
    """CMA-ES with restarts of growing population (IPOP, Auger and Hansen 2005), one run in each round.

    Points outside the box are clipped to its faces. Extremes are at the faces, where the transformed bounds of pycma
    find less.
    """
    cma = importlib.import_module("cma")
    for number, encoding in _restarts(objective):
        k = encoding.size
        options = {
            "popsize": CMA_POPULATION * 2 ** (number // 2),
            "seed": int(rng.integers(1, 2**31)),
            "CMA_diagonal": k > LARGEST_FULL_COVARIANCE,
            "maxfevals": np.inf,
            "maxiter": np.inf,
            "verbose": -9,
        }
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            strategy = cma.CMAEvolutionStrategy(rng.uniform(-0.8, 0.8, k), 0.5, options)
            while not strategy.stop():
                points = strategy.ask()
                strategy.tell(points, list(_loss(objective, encoding.decode(np.array(points)))))
        yield


def _de(objective: Objective, rng: np.random.Generator) -> Iterator[None]:
    """scipy's differential evolution, a whole population in each batch, one run in each round."""
    scipy = importlib.import_module("scipy.optimize")
    for _, encoding in _restarts(objective):
        k = encoding.size

        def loss(columns: np.ndarray, encoding: Encoding = encoding) -> np.ndarray:
            return _loss(objective, encoding.decode(columns.reshape(len(columns), -1).T))

        scipy.differential_evolution(
            loss,
            [(-1.0, 1.0)] * k,
            strategy="currenttobest1bin",
            init=rng.uniform(-1, 1, (DE_POPULATION, k)),
            maxiter=10**9,
            rng=np.random.default_rng(rng.integers(2**63)),
            polish=False,
            updating="deferred",
            vectorized=True,
        )
        yield


def _nevergrad(objective: Objective, rng: np.random.Generator) -> Iterator[None]:
    """nevergrad's NGOpt, which chooses an optimiser by dimension, parallelism and planned number of evaluations."""
    nevergrad = importlib.import_module("nevergrad")
    planned = max(100, int(objective.budget.seconds * NEVERGRAD_PER_SECOND))
    for _, encoding in _restarts(objective):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            box = nevergrad.p.Array(init=np.zeros(encoding.size)).set_bounds(-1.0, 1.0)
            box.random_state.seed(int(rng.integers(2**31)))
            optimiser = nevergrad.optimizers.NGOpt(box, budget=planned, num_workers=NEVERGRAD_ROWS)
            for _ in range(0, planned, NEVERGRAD_ROWS):
                asked = [optimiser.ask() for _ in range(NEVERGRAD_ROWS)]
                losses = _loss(objective, encoding.decode(np.array([point.value for point in asked])))
                for point, loss in zip(asked, losses, strict=True):
                    optimiser.tell(point, float(loss))
        yield


# Hypothesis


def _hypothesis(objective: Objective, rng: np.random.Generator) -> Iterator[None]:
    """Hypothesis as an experienced user would apply it (see the module property), one run of EXAMPLES in each round."""
    from diffuzz.studies.engines.property import climb

    while True:
        climb(objective, int(rng.integers(2**63)), EXAMPLES)
        yield


PEERS: dict[str, Peer] = {
    "uniform": Peer(_uniform),
    "hypothesis": Peer(_hypothesis, rows=1, module="diffuzz.studies.engines.property"),
    "cma": Peer(_cma, rows=CMA_POPULATION, module="cma"),
    "de": Peer(_de, rows=DE_POPULATION, module="scipy.optimize"),
    "nevergrad": Peer(_nevergrad, rows=NEVERGRAD_ROWS, module="nevergrad"),
}
