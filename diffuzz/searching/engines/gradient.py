"""Gradient ascent: Adam on the logarithm of the value, many restarts at once, in JAX.

Every real-valued tensor is a bounded function of free variables, x = middle + half tanh(u) (gains: the same in their
logarithm), so each step stays in the box and can come as close to its faces as the extremes ask. The perturbation is
not ascended but solved inside each step. Good on smooth targets, where it needs a handful of rounds; on the sawtooth of
a quantiser it climbs each tooth and no further. Codes, scales and positions stay as they were drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from types import ModuleType
from typing import TypeAlias

import numpy as np

from diffuzz.cases import draws, ranges
from diffuzz.cases.space import Space, TensorSpec
from diffuzz.formats.arrays import AnyArray, ArrayModule
from diffuzz.judging.problem import Screen
from diffuzz.searching.objective import Batch, Objective
from diffuzz.searching.screen import configured_jax, worst_directions
from diffuzz.searching.state import kept_of

AnyArrays: TypeAlias = dict[str, AnyArray]
# Adam's: the free variables, the means of their slopes and of the squares of these, and the number of steps.
State: TypeAlias = tuple[AnyArrays, AnyArrays, AnyArrays, AnyArray]
# A run of STEPS steps: state and fixed arrays to the next state, and the arrays that were reached.
Ascent: TypeAlias = Callable[[State, AnyArrays], tuple[State, AnyArrays]]

RESTARTS = 64
STEPS = 24
ROUNDS_PER_START = 6
RATE = 0.15
# Adam (Kingma and Ba 2015), section 2: the authors' defaults.
BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-8


def rounds(objective: Objective, rng: np.random.Generator) -> Iterator[None]:
    """One run of STEPS steps for RESTARTS cases a round; ends at once where there is nothing to differentiate, or no
    derivative (JAX has none for the neighbour of a float).
    """
    ascended = objective.space.of_kind("activations", "logits", "gain")
    screen = objective.problem.screen() if ascended else None
    if screen is None:
        return
    jax = configured_jax()
    restarts = int(np.clip(2**18 / (objective.space.elements * objective.problem.cost), 8, RESTARTS))
    ascend = jax.jit(_ascent(jax, objective, screen, ascended))
    if not _differentiable(jax, ascend, objective.space, ascended, restarts):
        return
    known, _ = objective.recalled("gradient")
    turns = objective.before.of("gradient").note("rounds", 1)
    done = 0
    while True:
        batch, state = _starts(objective, rng, restarts), None
        if known and turns is not None:
            # The ascents of the search before go on, from where they were.
            for name, array in batch.items():
                array[: len(known[name])] = known[name][:restarts]
            done = int(np.clip(turns[0], 0, ROUNDS_PER_START - 1))
            known = {}
        while done < ROUNDS_PER_START:
            with jax.enable_x64(True):
                if state is None:
                    free = {s.name: _to_free(s, batch[s.name]) for s in ascended}
                    nothing = {name: np.zeros_like(u) for name, u in free.items()}
                    state = (free, nothing, nothing, np.zeros(()))
                state, reached = jax.device_get(ascend(state, batch))
            evaluations = restarts * STEPS
            objective.charge(evaluations * objective.space.elements * objective.problem.cost, evaluations)
            batch = batch | {s.name: ranges.clip(s, reached[s.name]) for s in ascended}
            done += 1
            objective.keep("gradient", partial(kept_of, batch, None, {"rounds": np.array([float(done)])}))
            _, batch = objective.refine(batch)
            yield
        done = 0


def _differentiable(
    jax: ModuleType, ascend: Ascent, space: Space, ascended: tuple[TensorSpec, ...], restarts: int
) -> bool:
    shapes = {spec.name: jax.ShapeDtypeStruct((restarts, *spec.array_shape()), spec.dtype) for spec in space.tensors}
    free = {spec.name: jax.ShapeDtypeStruct((restarts, *spec.array_shape()), "float64") for spec in ascended}
    try:
        with jax.enable_x64(True):
            jax.eval_shape(ascend, (free, free, free, jax.ShapeDtypeStruct((), "float64")), shapes)
    except NotImplementedError:
        return False
    return True


def _starts(objective: Objective, rng: np.random.Generator, restarts: int) -> Batch:
    batch = draws.structured(objective.space, rng, restarts)
    plain = draws.uniform(objective.space, rng, restarts)
    half = rng.random(restarts) < 0.3
    for name, array in batch.items():
        array[half] = plain[name][half]
    kept = min(restarts // 4, len(objective.elites))
    for name, array in batch.items():
        if kept:
            array[:kept] = objective.elites.take(name, slice(kept))
    return batch


def _to_free(spec: TensorSpec, x: np.ndarray) -> np.ndarray:
    low, high = _ends(spec)
    wide = np.log(x.astype(np.float64)) if spec.kind == "gain" else x.astype(np.float64)
    middle, half = (low + high) / 2, max((high - low) / 2, 1e-300)
    # A start on a face of the box would have no gradient: keep a little inside.
    return np.arctanh(np.clip((wide - middle) / half, -0.995, 0.995))


def _from_free(xp: ArrayModule, spec: TensorSpec, u: AnyArray) -> AnyArray:
    low, high = _ends(spec)
    value = (low + high) / 2 + (high - low) / 2 * xp.tanh(u)
    return xp.exp(value) if spec.kind == "gain" else value


def _ends(spec: TensorSpec) -> tuple[float, float]:
    return (float(np.log(spec.low)), float(np.log(spec.high))) if spec.kind == "gain" else (spec.low, spec.high)


def _ascent(jax: ModuleType, objective: Objective, screen: Screen, ascended: tuple[TensorSpec, ...]) -> Ascent:
    xp, problem = jax.numpy, objective.problem

    def loss(free: AnyArrays, fixed: AnyArrays) -> AnyArray:
        arrays = dict(fixed) | {s.name: _from_free(xp, s, free[s.name]) for s in ascended}
        if problem.amplification is not None:
            solved = worst_directions(jax, problem.amplification, problem, jax.lax.stop_gradient(arrays))[0]
            arrays |= jax.lax.stop_gradient(solved)
        return xp.log(screen(arrays) + 1e-30).sum()

    slope = jax.grad(loss)

    def run(state: State, fixed: AnyArrays) -> tuple[State, AnyArrays]:
        def step(state: State, _: None) -> tuple[State, None]:
            free, first, second, count = state
            g = jax.tree.map(lambda a: xp.where(xp.isfinite(a), a, 0.0), slope(free, fixed))
            count = count + 1
            first = jax.tree.map(lambda m, a: BETA_1 * m + (1 - BETA_1) * a, first, g)
            second = jax.tree.map(lambda v, a: BETA_2 * v + (1 - BETA_2) * a * a, second, g)
            free = jax.tree.map(
                lambda u, m, v: u
                + RATE * (m / (1 - BETA_1**count)) / (xp.sqrt(v / (1 - BETA_2**count)) + EPSILON),
                free, first, second,
            )  # fmt: skip
            return (free, first, second, count), None

        state, _ = jax.lax.scan(step, state, None, length=STEPS)
        return state, {s.name: _from_free(xp, s, state[0][s.name]) for s in ascended}

    return run
