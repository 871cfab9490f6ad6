"""Screens: a target's value for a whole batch at once, compiled by JAX for whatever device there is.

A screen evaluates the same formula as the target's exact evaluation, in float64, and returns with the values the batch
with worse perturbations: the direction of a perturbation is solved, not searched. For y = f(x + D t), linearised at
t = 0 with Jacobian J, the worst t in the unit ball of the p-norm maximises ||J D t||_q. Boyd's power method (Higham,
Accuracy and Stability, algorithm 15.1) alternates

    t -> y = J D t -> g = the q-norm's dual of y -> z = D J^T g -> t = the p-norm's dual of z

and never decreases the ratio: signs for the maximum norm (componentwise), a unit vector for the 2-norm, the best column
for the 1-norm. Every direction that is proposed is one that the space admits.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np

from diffuzz import interruption
from diffuzz.cases.space import TensorSpec
from diffuzz.formats.arrays import AnyArray, ArrayModule
from diffuzz.judging.problem import Problem
from diffuzz.searching.objective import Batch, Screen
from diffuzz.targets.amplification import Amplification

POWER_ITERATIONS = 2
# Shorter steps of the solved direction, for functions that flatten out within the perturbation's budget.
STEPS = (1.0, 2.0**-5)


def compile_screen(problem: Problem, rows: int) -> Screen | None:
    """A function that starts to evaluate a batch of any number of rows, and returns one that waits for ``(values
    float64[b], batch)``; None if the problem has no screen.

    Compiled once for batches of ``rows``; fewer rows are padded, more are cut into several calls. Batches must not be
    written to while they are evaluated. Raises ImportError without jax.
    """
    if not problem.has_screen:
        return None
    jax = configured_jax()
    screened = traceable(jax, problem)
    if screened is None:
        return None
    compiled = jax.jit(screened)

    def start(batch: Batch) -> Callable[[], tuple[np.ndarray, Batch]]:
        batch = problem.solve(batch)
        total = len(next(iter(batch.values())))
        parts = [{name: array[i : i + rows] for name, array in batch.items()} for i in range(0, total, rows)]
        with jax.enable_x64(True):
            # Calls of compiled functions return at once; reading their results waits.
            running = [compiled({name: _pad(array, rows) for name, array in part.items()}) for part in parts]

        def finish() -> tuple[np.ndarray, Batch]:
            values = [np.asarray(best, np.float64) for best, _ in running]
            done = [
                part | {name: np.asarray(array)[: len(part[name])] for name, array in changed.items()}
                for part, (_, changed) in zip(parts, running, strict=True)
            ]
            if len(done) == 1:
                return values[0][:total], done[0]
            return np.concatenate(values)[:total], {name: np.concatenate([d[name] for d in done]) for name in batch}

        return finish

    return start


def traceable(jax: ModuleType, problem: Problem) -> Callable[[Batch], tuple[AnyArray, Batch]] | None:
    """What a screen compiles, a function of a batch: its values, and the directions that are worse than those in it.
    None if the problem has no screen.
    """
    value, amplification = problem.screen(), problem.amplification
    if value is None:
        return None

    def screened(arrays: dict[str, AnyArray]) -> tuple[AnyArray, dict[str, AnyArray]]:
        xp = jax.numpy
        best = value(arrays)
        changed: dict[str, AnyArray] = {}
        if amplification is not None:
            for directions in worst_directions(jax, amplification, problem, arrays):
                other = value({**arrays, **directions})
                better = other > best
                for name, direction in directions.items():
                    better &= _admits(xp, problem.space[name], direction)
                for name, direction in directions.items():
                    old = changed.get(name, arrays[name])
                    changed[name] = xp.where(better.reshape(-1, *[1] * (direction.ndim - 1)), direction, old)
                best = xp.where(better, other, best)
        return best, changed

    return screened


def configured_jax() -> ModuleType:
    """The jax module, with compiled programs kept in the user's cache folder from run to run, if there can be one.

    Raises ImportError, one line, if jax does not start.
    """
    with interruption.held():
        import jax

        from diffuzz.kernels import xla

        xla.start()
    folder = _cache_folder()
    settings = {
        "jax_compilation_cache_dir": None if folder is None else str(folder),
        "jax_persistent_cache_min_entry_size_bytes": -1,
        "jax_persistent_cache_min_compile_time_secs": 0.0,
    }
    for name, value in settings.items():
        jax.config.update(name, value)  # type: ignore[no-untyped-call]  # jax gives it no types
    return jax


def cache_place() -> Path | None:
    """Where compiled programs would be kept; None for a user without a home."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "diffuzz" / "xla"
    except RuntimeError:
        return None


def _cache_folder() -> Path | None:
    """Where compiled programs are kept; None where nothing can be, of which jax would warn at every turn."""
    folder = cache_place()
    try:
        if folder is None:
            return None
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        # A file in its place, a disk that is read-only.
        return None
    return folder if os.access(folder, os.R_OK | os.W_OK | os.X_OK) else None


def _pad(array: np.ndarray, rows: int) -> np.ndarray:
    missing = rows - len(array)
    return array if not missing else np.concatenate([array, np.repeat(array[-1:], missing, axis=0)])


def worst_directions(
    jax: ModuleType, question: Amplification, problem: Problem, arrays: dict[str, AnyArray]
) -> list[dict[str, AnyArray]]:
    """Directions, by array name, in which the linearised function moves most, at several lengths."""
    from diffuzz.kernels import xla

    params = problem.params
    xp, names, model = jax.numpy, question.inputs(params), params["perturbation"]
    base = {name: arrays[name].astype(float) for name in names}
    sizes = {name: _size(xp, model, base[name]) for name in names}

    def output(steps: dict[str, AnyArray]) -> AnyArray:
        moved = {name: base[name] + sizes[name] * steps[name] for name in names}
        return question.function(params, {**arrays, **moved}, xla)[0]

    zero = {name: xp.zeros_like(base[name]) for name in names}
    _, pull_back = jax.vjp(output, zero)
    t = {name: _unit(xp, model, arrays[f"{name}_direction"].astype(float)) for name in names}
    for _ in range(POWER_ITERATIONS):
        _, y = jax.jvp(output, (zero,), (t,))
        (z,) = pull_back(y if question.norm == 2 else xp.where(y >= 0, 1.0, -1.0))
        t = {name: _unit(xp, model, z[name]) for name in names}
    steps = STEPS[:1] if model == "componentwise" else STEPS
    return [
        {
            f"{name}_direction": (sign * _shortened(xp, problem.space[f"{name}_direction"], t[name], step)).astype(
                xp.float32
            )
            for name in names
        }
        for step in steps
        for sign in (1.0, -1.0)
    ]


def _shortened(xp: ArrayModule, spec: TensorSpec, t: AnyArray, step: float) -> AnyArray:
    """``step`` times t, or so much of t that its largest element is the least that is admissible: a unit vector of many
    elements has none that is large.
    """
    peak = xp.abs(t.reshape(t.shape[0], -1)).max(axis=1).reshape(-1, *[1] * (t.ndim - 1))
    # A little above, since the result is rounded to float32.
    least = spec.smallest_peak * (1 + 2.0**-20) / xp.where(peak > 0, peak, 1.0)
    return xp.maximum(step, xp.minimum(least, 1.0)) * t


def _admits(xp: ArrayModule, spec: TensorSpec, array: AnyArray) -> AnyArray:
    """bool[b]: which rows the space admits, as ``Space.admissible`` says; NaN is outside."""
    flat = array.reshape(array.shape[0], -1)
    inside = ((flat >= spec.low) & (flat <= spec.high)).all(axis=1)
    return inside & (xp.abs(flat).max(axis=1) >= spec.smallest_peak)


def _size(xp: ArrayModule, model: str, x: AnyArray) -> AnyArray:
    if model == "componentwise":
        return xp.abs(x)
    flat = xp.abs(x.reshape(x.shape[0], -1))
    size = flat.sum(axis=1) if model == "l1" else xp.sqrt((flat**2).sum(axis=1))
    return size.reshape(-1, *[1] * (x.ndim - 1))


def _unit(xp: ArrayModule, model: str, z: AnyArray) -> AnyArray:
    """The t of unit p-norm with the largest inner product with z."""
    if model == "componentwise":
        return xp.where(z >= 0, 1.0, -1.0)
    flat = z.reshape(z.shape[0], -1)
    if model == "l1":
        index = xp.argmax(xp.abs(flat), axis=1)
        column = xp.arange(flat.shape[1])[None, :] == index[:, None]
        return xp.where(column, xp.where(flat >= 0, 1.0, -1.0), 0.0).reshape(z.shape)
    # Scaled by the largest element: a product of tiny gradients must not vanish when squared.
    peak = xp.abs(flat).max(axis=1, keepdims=True)
    flat = flat / xp.where(peak > 0, peak, 1.0)
    length = xp.sqrt((flat**2).sum(axis=1, keepdims=True))
    return (flat / xp.where(length > 0, length, 1.0)).reshape(z.shape)
