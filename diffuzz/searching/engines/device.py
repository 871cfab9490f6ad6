"""Evolution on the device: cases are drawn, changed, valued and chosen there, and only the best of them come back.

The engine ``evolution`` makes its children in NumPy, which keeps a GPU waiting. Here a round is one compiled program of
GENERATIONS generations: parents by rank, a change of some of their tensors, the target's screen with its worse
directions, and the best distinct cases of parents and children. What comes back is confirmed like everybody's.

A generation has as many children as keep the device busy: as many as elsewhere to begin with, then GROWTH times as many
with each program, up to MOST_ELEMENTS on an accelerator. The sizes follow from the device and not from the clock, so
equal seeds make equal cases. On a CPU they do not grow: its cache is what bounds them there.

Changes of numbers: a level, the value of another element, a factor, the other sign, a shift, small independent changes,
the neighbouring float, and those of another case; of one element, a run, a share or all. Changes of blocks: bytes,
bits, and those of another case or block; scales that leave their range make a case worth nothing. Positions, tokens
and tensors that are held come from other cases.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import numpy as np

from diffuzz import formats
from diffuzz.cases import draws, ranges
from diffuzz.cases.space import TensorSpec
from diffuzz.formats.arrays import AnyArray
from diffuzz.searching.objective import Batch, Objective
from diffuzz.searching.screen import configured_jax, traceable

POPULATION = 256
GENERATIONS = 8
GROWTH = 16
# Elements of the children of a generation: on an accelerator.
MOST_ELEMENTS = 2**24
# What an accelerator evaluates in the time in which a slow core does one element: the work of a search is counted in
# that of the core, and an engine that is faster gets more of them.
FASTER = 64
# Cases that come back from a round.
BROUGHT_BACK = 64
# Share of the tensors that are changed beside the one that is.
ALSO = 0.2

Arrays = dict[str, AnyArray]
# The population, its values from the largest, and the state of the random numbers, to the same after a round.
Program = Callable[[Arrays, AnyArray, AnyArray], tuple[Arrays, AnyArray, AnyArray]]


def rounds(objective: Objective, rng: np.random.Generator) -> Iterator[None]:
    """One program a round, for ever; ends at once where there is no screen."""
    if not objective.problem.has_screen:
        return
    jax = configured_jax()
    accelerated = jax.default_backend() != "cpu"
    rows, most = objective.rows, objective.rows
    if accelerated:
        most = max(rows, MOST_ELEMENTS // max(1, int(objective.space.elements * objective.problem.cost)))
    population, values = _first(objective, rng)
    with jax.enable_x64(True):
        key = jax.random.key(int(rng.integers(2**31)), impl="rbg")
    while True:
        program = compiled(jax, objective, rows)
        if program is None:
            return
        # A program is run a few times before it is replaced by a larger one.
        for _ in range(GROWTH) if rows < most else iter(int, 1):
            objective.stop_if_over()
            with jax.enable_x64(True):
                population, values, key = program(population, values, key)
                best = {name: np.asarray(array[:BROUGHT_BACK]) for name, array in population.items()}
            made = rows * GENERATIONS
            work = made * objective.space.elements * objective.problem.cost
            objective.charge(work / (FASTER if accelerated else 1), made)
            objective.refine(best)
            yield
        rows = min(rows * GROWTH, most)


def on_accelerators(objective: Objective, rng: np.random.Generator) -> Iterator[None]:
    """The rounds where JAX has a device of its own; none on a CPU, where ``evolution`` has more moves for its time."""
    if objective.screened and configured_jax().default_backend() != "cpu":
        yield from rounds(objective.for_engine("device"), rng)


def _first(objective: Objective, rng: np.random.Generator) -> tuple[Batch, np.ndarray]:
    """A population to begin with, of which nothing is known yet."""
    batch = draws.structured(objective.space, rng, POPULATION)
    elites = objective.elites
    kept = min(len(elites), POPULATION // 4)
    for name, array in batch.items():
        if kept:
            array[:kept] = elites.take(name, slice(kept))
    return batch, np.full(POPULATION, -np.inf)


def compiled(jax: ModuleType, objective: Objective, rows: int) -> Program | None:
    """The program of a round with so many children a generation; None if the problem has no screen."""
    screened = traceable(jax, objective.problem)
    if screened is None:
        return None
    xp, lax = jax.numpy, jax.lax
    tensors = [spec for spec in objective.space.tensors if spec.kind != "direction"] or list(objective.space.tensors)

    def valued(arrays: Arrays) -> tuple[AnyArray, Arrays]:
        values, changed = screened(arrays)
        arrays = {**arrays, **changed}
        good = xp.isfinite(values)
        for spec in objective.space.tensors:
            good &= _admissible(xp, spec, arrays[spec.name])
        return xp.where(good, values, -xp.inf), arrays

    def generation(state: tuple[Arrays, AnyArray, AnyArray], _: None) -> tuple[tuple[Arrays, AnyArray, AnyArray], None]:
        population, values, key = state
        key, *keys = jax.random.split(key, 3 + len(tensors))
        # The best about eight times as often as the median.
        ranks = (POPULATION * jax.random.uniform(keys[0], (2, rows)) ** 3).astype(int)
        parents, partners = ({name: array[rank] for name, array in population.items()} for rank in ranks)
        chosen = jax.random.uniform(keys[1], (len(tensors) + 1, rows))
        one = (chosen[-1] * len(tensors)).astype(int)
        children = dict(parents)
        for place, spec in enumerate(tensors):
            touched = (one == place) | (chosen[place] < ALSO)
            moved = _moved(jax, spec, parents[spec.name], partners[spec.name], keys[2 + place])
            children[spec.name] = xp.where(_wide(touched, moved), moved, parents[spec.name])
        found, children = valued(children)
        pooled = xp.concatenate([values, found])
        order = xp.argsort(-pooled, stable=True)
        ranked = pooled[order]
        # Equal values are nearly always equal cases.
        again = xp.concatenate([xp.zeros(1, bool), ranked[1:] == ranked[:-1]])
        kept = order[xp.argsort(xp.where(again, xp.inf, -ranked), stable=True)[:POPULATION]]
        both = {
            name: xp.concatenate([array, children[name].astype(array.dtype)])[kept]
            for name, array in population.items()
        }
        return (both, pooled[kept], key), None

    def program(population: Arrays, values: AnyArray, key: AnyArray) -> tuple[Arrays, AnyArray, AnyArray]:
        # What is not known yet is valued first; values of the screen alone lead, and none of them counts.
        known, arrays = valued(population)
        values = xp.where(xp.isneginf(values), known, values)
        order = xp.argsort(-values, stable=True)
        first = {name: arrays[name].astype(array.dtype)[order] for name, array in population.items()}
        state: tuple[Arrays, AnyArray, AnyArray]
        state, _ = lax.scan(generation, (first, values[order], key), None, length=GENERATIONS)
        return state

    made: Program = jax.jit(program)
    return made


def _wide(mask: AnyArray, like: AnyArray) -> AnyArray:
    return mask.reshape(-1, *[1] * (like.ndim - 1))


def _admissible(xp: Any, spec: TensorSpec, array: AnyArray) -> AnyArray:
    """bool[b]: which rows the space admits."""
    rows = array.shape[0]
    if spec.kind == "blocks":
        fmt = formats.get(spec.format or "")
        parts = fmt.decode(array.reshape(-1, fmt.type_size), xp)
        good = xp.ones(rows, bool)
        for scale in (parts.d, parts.dmin):
            if scale is not None:
                size = xp.abs(scale).reshape(rows, -1)
                good &= ((size <= spec.largest_scale) & (size >= spec.smallest_scale)).all(axis=1)
        return good
    flat = array.reshape(rows, -1)
    good = ((flat >= spec.low) & (flat <= spec.high)).all(axis=1)
    return good & (xp.abs(flat).max(axis=1) >= spec.smallest_peak) if spec.smallest_peak else good


def _moved(jax: ModuleType, spec: TensorSpec, x: AnyArray, other: AnyArray, key: AnyArray) -> AnyArray:
    """Each row changed in one way, in a subset of its elements."""
    xp, rows = jax.numpy, x.shape[0]
    flat, partner = x.reshape(rows, -1), other.reshape(rows, -1)
    keys = jax.random.split(key, 8)
    if spec.among is not None or spec.kind in ("positions", "tokens"):
        return other
    mask = _subset(jax, keys[0], rows, flat.shape[1])
    if spec.kind == "blocks":
        moved = _bytes(jax, spec, flat, partner, keys)
        return xp.where(mask, moved, flat).reshape(x.shape)
    kind, amount, sign = (jax.random.uniform(one, (rows, 1)) for one in jax.random.split(keys[1], 3))
    sign = xp.where(sign < 0.5, -1.0, 1.0)
    small = sign * xp.exp2(-1 - 23 * amount)
    away = (jax.random.uniform(keys[2], (rows, 1)) * flat.shape[1]).astype(int)
    another = xp.take_along_axis(flat, away, axis=1)
    wide = max(abs(spec.low), abs(spec.high))
    level = jax.random.uniform(keys[3], (rows, 1))
    levels = sign * wide * xp.where(level < 0.3, 1.0, xp.where(level < 0.4, 0.0, xp.exp2(-24 * (level - 0.4))))
    jitter = jax.random.uniform(keys[4], flat.shape, minval=-2.0, maxval=2.0)
    ways = [
        levels,
        another,
        another * (1 + small),
        flat * xp.exp2(xp.round(6 * amount - 3)),
        flat * (1 + small),
        flat * (1 + small * jitter),
        flat + small * wide,
        -flat,
        xp.nextafter(flat.astype(xp.float32), (sign * xp.inf).astype(xp.float32)),
        partner,
    ]
    place = (kind * len(ways)).astype(int)
    moved = xp.select([place == number for number in range(len(ways))], [way.astype(float) for way in ways])
    low, high = ranges.float32_range(spec)
    kept = xp.clip(xp.where(mask, moved, flat), float(low), float(high)).astype(xp.float32)
    if spec.holds not in ("float32", "float64"):
        kept = kept.astype(ranges.dtype_of(spec.holds)).astype(xp.float32)
    return kept.reshape(x.shape)


def _bytes(jax: ModuleType, spec: TensorSpec, flat: AnyArray, partner: AnyArray, keys: AnyArray) -> AnyArray:
    """Bytes at random, one bit of each, those of another case, or of another block of the row."""
    xp, rows = jax.numpy, flat.shape[0]
    fmt = formats.get(spec.format or "")
    blocks = flat.reshape(rows, -1, fmt.type_size)
    turned = xp.roll(blocks, 1, axis=1).reshape(flat.shape)
    if not fmt.any_bytes:
        # Not every byte string is a block.
        return xp.where(jax.random.uniform(keys[5], (rows, 1)) < 0.5, partner, turned)
    random = jax.random.bits(keys[5], flat.shape, "uint8")
    flipped = flat ^ (xp.uint8(1) << (random & 7))
    level = xp.broadcast_to(random[:, :1], flat.shape)
    kind = (jax.random.uniform(keys[6], (rows, 1)) * 5).astype(int)
    return xp.select([kind == number for number in range(4)], [random, flipped, level, partner], turned)


def _subset(jax: ModuleType, key: AnyArray, rows: int, n: int) -> AnyArray:
    """bool[rows, n]: one element, a run, a random share, or all of each row."""
    xp = jax.numpy
    keys = jax.random.split(key, 3)
    kind, a, b, share = jax.random.uniform(keys[0], (4, rows, 1))
    index = xp.arange(n)
    first, last = (n * xp.minimum(a, b)).astype(int), (n * xp.maximum(a, b)).astype(int)
    run = (index >= first) & (index <= last)
    some = jax.random.uniform(keys[1], (rows, n)) < share**3
    return xp.select([kind < 0.3, kind < 0.55, kind < 0.8], [index == first, run, some], xp.ones((rows, n), bool))
