"""What people use instead: uniform numbers, Hypothesis, CMA-ES, differential evolution, nevergrad.

Each peer is a function ``rounds(objective, rng) -> Iterator[None]`` like an engine, so it evaluates through the same
Objective: the same screen (compiled for the number of rows that the peer hands in), the same confirmation, the same
clock. Perturbations are solved for everybody, so a peer searches what is perturbed and not the direction.

The three optimisers see points of [-1, 1]^k (see ``Encoding``), ascend the logarithm of the value and start anew, with
another seed and the other encoding of floats, whenever they have converged. CMA-ES doubles its population then.
"""

from __future__ import annotations

import importlib
import math
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import attrs
import numpy as np

from diffuzz import formats, sampling
from diffuzz.objective import Batch, Objective
from diffuzz.space import Space, TensorSpec

# Steepness of the logarithmic encoding: half of the points have magnitudes below high 2^-8.
STEEPNESS = 12.0
# More dimensions than these are for a diagonal covariance: a full one takes k^2 numbers for every sample.
LARGEST_FULL_COVARIANCE = 500
# Examples of one run of Hypothesis; the next begins with another seed.
EXAMPLES = 1000
# Populations, of which a batch costs hardly more than a point. Measured on eight targets, these reach most: CMA-ES's
# default of 4 + 3 ln k, or differential evolution with 512 members, find half as much.
CMA_POPULATION, DE_POPULATION = 256, 64
# Points that nevergrad is asked for before it is told their values. NGOpt's CMA fails with fewer in high dimensions.
NEVERGRAD_ROWS = 64
# What nevergrad is told that it may evaluate, a second of budget: what its ask and tell leave time for.
NEVERGRAD_PER_SECOND = 1000
# What test-backend-ops draws from, where it is not [-1, 1].
TOP = {"rmsnorm": 10.0, "swiglu": 150.0}
LARGEST_POSITION = 511
# Loss of a case without a value: above that of the least positive number.
NOTHING = 2000.0


@attrs.frozen
class Peer:
    """``rounds`` as an engine's; ``rows`` of its batches, the objective's own if None; ``module``, what it imports."""

    rounds: Callable[[Objective, np.random.Generator], Iterator[None]]
    rows: int | None = None
    module: str | None = None

    @property
    def package(self) -> str | None:
        """The package of ``module``."""
        return self.module and self.module.partition(".")[0]


# Encoding


@attrs.frozen
class Encoding:
    """Points of [-1, 1]^k as cases of a space: all of its tensors but the directions of perturbations, one after
    another.

    Floats are affine in u, or, ``logarithmic`` and with a range of both signs, high sinh(a u) / sinh(a), a = STEEPNESS;
    gains are affine in their logarithm. Positions and the integer fields of blocks are affine and rounded, the scales
    of blocks those of the logarithmic encoding up to the largest admissible one. Directions are all ones.
    """

    space: Space
    logarithmic: bool

    @property
    def size(self) -> int:
        """k."""
        return sum(_size(spec) for spec in self.space.tensors)

    def decode(self, points: np.ndarray) -> Batch:
        """The cases of ``points`` float64[b, k], which are clipped to [-1, 1]."""
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
                batch[spec.name] = sampling.clip(spec, self._floats(spec, part).reshape(shape))
        return batch

    def _floats(self, spec: TensorSpec, u: np.ndarray) -> np.ndarray:
        if spec.kind == "gain":
            return np.exp(_affine(u, math.log(spec.low), math.log(spec.high)))
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
    """Numbers of each field of one block, by name."""
    return {name: values.size for name, values in fmt.unpack(np.zeros((1, fmt.type_size), np.uint8)).items()}


def _affine(u: np.ndarray, low: float, high: float) -> np.ndarray:
    return low + (high - low) * (u + 1) / 2


def _both_signs(u: np.ndarray, high: float) -> np.ndarray:
    return high * np.sinh(STEEPNESS * u) / math.sinh(STEEPNESS)


def _blocks(spec: TensorSpec, u: np.ndarray) -> np.ndarray:
    """Blocks uint8[b, type_size] from the fields of all blocks of a row, block after block."""
    fmt = formats.get(spec.format or "")
    sizes = _fields(fmt)
    u = u.reshape(-1, sum(sizes.values()))
    # Bytes and words that are all clear, all set, or at an end of a signed range.
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


def _loss(objective: Objective, batch: Batch) -> np.ndarray:
    """-log2 of the values, which are to be as large as they can."""
    values = objective.evaluate(batch)
    with np.errstate(divide="ignore", invalid="ignore"):
        return -np.nan_to_num(np.log2(np.maximum(values, 0.0)), neginf=-NOTHING, posinf=NOTHING)


def _restarts(objective: Objective) -> Iterator[tuple[int, Encoding]]:
    """Counts, with affine and logarithmic encodings in turn."""
    number = 0
    while True:
        yield number, Encoding(objective.space, logarithmic=number % 2 == 1)
        number += 1


# Uniform numbers


def _uniform(objective: Objective, rng: np.random.Generator) -> Iterator[None]:
    """test-backend-ops' inputs, one batch a round: floats uniform in [-1, 1] (RMS_NORM: 10, SWIGLU: 150, or the end of
    the range), blocks quantised from such, positions below 512.
    """
    top = TOP.get(objective.target.name, 1.0)
    while True:
        objective.evaluate(
            {spec.name: _as_ggml_draws(spec, rng, objective.rows, top) for spec in objective.space.tensors}
        )
        yield


def _as_ggml_draws(spec: TensorSpec, rng: np.random.Generator, rows: int, top: float) -> np.ndarray:
    shape = (rows, *spec.array_shape())
    if spec.kind == "positions":
        last = max(int(spec.low), min(int(spec.high), LARGEST_POSITION))
        return rng.integers(int(spec.low), last + 1, shape).astype(np.int32)
    if spec.kind == "direction":
        return sampling.clip(spec, rng.uniform(-1, 1, shape))
    if spec.kind == "blocks":
        fmt = formats.get(spec.format or "")
        if fmt.quantize is None:
            raise ValueError(f"format {fmt.name} has no quantiser to draw blocks with")
        values = rng.uniform(-1, 1, (math.prod(shape) // fmt.type_size, fmt.block_size))
        return fmt.quantize(values.astype(np.float32)).reshape(shape)
    low, high = max(-top, spec.low), min(top, spec.high)
    return sampling.clip(spec, rng.uniform(min(low, high), high, shape))


# Optimisers


def _cma(objective: Objective, rng: np.random.Generator) -> Iterator[None]:
    """CMA-ES with restarts of growing population (IPOP, Auger and Hansen 2005), one run a round.

    Points outside the box stand for its faces: extremes are at the faces, where pycma's transformed bounds find less.
    """
    cma: Any = importlib.import_module("cma")
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
    """scipy's differential evolution, whole populations at once, one run a round."""
    scipy: Any = importlib.import_module("scipy.optimize")
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
    """nevergrad's NGOpt, which picks an optimiser by dimension, parallelism and the evaluations it is told it has."""
    nevergrad: Any = importlib.import_module("nevergrad")
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
    """Hypothesis, as a good user would write it, one run of EXAMPLES examples a round. See diffuzz.bench.property."""
    from diffuzz.bench.property import climb

    while True:
        climb(objective, int(rng.integers(2**63)), EXAMPLES)
        yield


PEERS: dict[str, Peer] = {
    "uniform": Peer(_uniform),
    "hypothesis": Peer(_hypothesis, rows=1, module="diffuzz.bench.property"),
    "cma": Peer(_cma, rows=CMA_POPULATION, module="cma"),
    "de": Peer(_de, rows=DE_POPULATION, module="scipy.optimize"),
    "nevergrad": Peer(_nevergrad, rows=NEVERGRAD_ROWS, module="nevergrad"),
}
