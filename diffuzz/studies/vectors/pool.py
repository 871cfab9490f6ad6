"""The cases that vectors are chosen from: structured ones of small and usual sizes, and then one of each size that is
worth a look, as a search has them (see diffuzz.searching.engines.shapes). They follow from the seed alone.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator

import numpy as np

from diffuzz.cases import domain, draws, sizes
from diffuzz.cases.draws import Batch
from diffuzz.cases.space import Dim, Space, TensorSpec
from diffuzz.targets.contract import Contract
from diffuzz.targets.parameter import Params

# Cases of small and usual sizes, before those of other sizes.
USUAL = 48
# Cases of other sizes that come first, before both kinds come by turns.
SIZES = 72
# Sizes below this are small ones: they cost little in a file.
SMALL = 40
# Rows of a call of usual cases, and of one row of a size worth a look.
ROWS, MANY = (1, 3, 5, 8), (5, 1, 2)
# Different numbers or cases of a batch of long runs, and elements of the shorter runs.
SHORT, LONGEST_RUN = 6, 40
# Every other case of so many bytes comes in runs, too.
SPARSE = 4096
# Cases of a size that there is no room for otherwise.
TRIES = 3
# More cases in a call come in runs; elements along a large dimension and another, and in all.
STRETCHED, MOST_ELEMENTS, MOST_STRETCHED = 4096, 2**20, 2**22
# The smallest sizes that are all looked at.
SMALLEST = 256


def pool(contract: Contract, name: str, p: Params, seed: int, largest: int) -> Iterator[Batch]:
    """Batches, each for one call of the function, whose arrays have at most ``largest`` bytes."""
    rng = np.random.default_rng([seed, zlib.crc32(f"{name}{sorted(p.items())}".encode())])
    space = contract.space(p)
    rows = domain.batch(p) if contract.batched else Dim(domain.BATCH, 1, fixed=True)

    def usual(number: int) -> Iterator[Batch]:
        sized = space.resized({dim.name: _usual(dim, rng, number) for dim in space.free})
        count = _admitted(rows, ROWS[number % len(ROWS)])
        yield from _fitting(contract, p, sized, rng, count, number, largest)

    for number in range(USUAL):
        yield from usual(number)
    for number, (dim, size) in enumerate(_deck([*space.free, *([] if rows.fixed else [rows])], rng)):
        if number >= SIZES:
            # What these sizes and numbers have not shown may take other numbers, or other sizes.
            yield from usual(number)
        of_rows = dim is rows
        chosen = {} if of_rows else {dim.name: size}
        others = [other for other in space.free if other.name not in chosen]
        sized = space.resized(chosen | {other.name: _small(other, rng) for other in others})
        count = size if of_rows else _admitted(rows, MANY[number % len(MANY)])
        if _bytes(sized) * count > largest:
            sized = space.resized(chosen | {other.name: other.lowest for other in others})
            count = size if of_rows else _admitted(rows, 1)
        fits = _bytes(sized) * count <= largest and not (of_rows and size > STRETCHED)
        if fits and (_bytes(sized) * count <= SPARSE or rng.random() < 0.5):
            yield from _fitting(contract, p, sized, rng, count, 2 * int(rng.integers(0, 2)), largest)
            continue
        for _ in range(1 if fits else TRIES):
            few = {other.name: _few(other, size, rng) for other in others}
            if _elements(space.resized(chosen | few)) * (size if of_rows else 1) <= MOST_STRETCHED:
                yield from _stretched(contract, p, space.resized(chosen | few), rng, dim, size, of_rows=of_rows)


def _deck(dims: list[Dim], rng: np.random.Generator) -> Iterator[tuple[Dim, int]]:
    """Each size worth a look of each dimension, by turns: those at powers of two and those that models have, and then
    the others, in a random order.
    """
    decks = []
    for dim in dims:
        early = {*sizes.edges(dim), *(() if dim.name == domain.BATCH else sizes.of_models(dim))}
        late = {*sizes.multiples(dim), *sizes.small(dim, 1, SMALLEST)} - early
        order = [size for part in (late, early) for size in rng.permutation(sorted(part)).tolist()]
        decks.append([(dim, int(size)) for size in order])
    while any(decks):
        for deck in decks:
            if deck:
                yield deck.pop()


def _usual(dim: Dim, rng: np.random.Generator, number: int) -> int:
    """Its usual size in every sixth case, else a small one."""
    return dim.size if number % 6 == 5 else _small(dim, rng)


def _small(dim: Dim, rng: np.random.Generator) -> int:
    steps = max(0, (min(dim.size, max(SMALL, dim.lowest + 3 * dim.step)) - dim.lowest) // dim.step)
    return dim.lowest + int(rng.integers(0, steps + 1)) * dim.step


def _admitted(dim: Dim, count: int) -> int:
    """The number of rows in a call that is next to ``count``."""
    stepped = -(-count // dim.step) * dim.step if not dim.fixed else dim.size
    return int(np.clip(stepped, dim.lowest, dim.highest))


def _bytes(space: Space) -> int:
    """Bytes of the arrays of a case, about."""
    return sum(int(np.prod(spec.array_shape())) * np.dtype(spec.dtype).itemsize for spec in space.tensors)


def _elements(space: Space) -> int:
    """Elements of the arrays of a case, those of blocks too."""
    return sum(math.prod(dim.size for dim in spec.shape) for spec in space.tensors)


def _fitting(
    contract: Contract, p: Params, space: Space, rng: np.random.Generator, rows: int, number: int, largest: int
) -> Iterator[Batch]:
    """A batch of this shape, unless it is too large or not admissible; scalar arguments are those of the first row."""
    if _bytes(space) * rows > largest:
        rows = 1
    batch = space.filled(_draw(contract, p, space, rng, rows, number))
    for scalar in contract.scalars:
        batch[scalar.array] = np.repeat(batch[scalar.array][:1], rows, axis=0)
    with np.errstate(all="ignore"):
        good = space.admissible(batch)
    batch = {name: np.ascontiguousarray(array[good]) for name, array in batch.items()}
    left = int(good.sum())
    if left == rows or (left and contract.batched and domain.batch(p).admits(left)):
        yield batch


def _stretched(
    contract: Contract, p: Params, space: Space, rng: np.random.Generator, dim: Dim, size: int, *, of_rows: bool
) -> Iterator[Batch]:
    """A batch in which a few numbers, blocks or cases come in long runs along one dimension: a file has room for sizes
    that it has no room for otherwise.
    """
    step = 1 if of_rows else dim.step
    units = min(max(int(rng.integers(2, SHORT + 1)), -(-dim.lowest // step)), size // step)
    small = space if of_rows else space.resized({dim.name: units * step})
    # One run is as long as there is room, the others are up to a few vectors. The last is a short one.
    lengths = 1 + rng.integers(0, LONGEST_RUN, units) * (rng.random(units) < 0.5)
    lengths = np.where(lengths.sum() > size // step, 1, lengths)
    lengths[int(rng.integers(0, max(1, units - 1)))] += size // step - lengths.sum()
    places = np.repeat(np.arange(units), lengths)
    rows = units if of_rows else 1
    for batch in _fitting(contract, p, small, rng, rows, 0, 2**30):
        if of_rows:
            if _rows(batch) == rows:
                yield {name: array[places] for name, array in batch.items()}
            continue
        yield {spec.name: _along(batch[spec.name], spec, dim.name, units, places) for spec in small.tensors}


def _along(array: np.ndarray, spec: TensorSpec, dim: str, units: int, places: np.ndarray) -> np.ndarray:
    """An array of which so many equal parts along a dimension are taken at these places."""
    for axis, own in enumerate(spec.shape, 1):
        if own.name == dim:
            before, after = array.shape[:axis], array.shape[axis + 1 :]
            taken = np.take(array.reshape(*before, units, -1, *after), places, axis)
            array = np.ascontiguousarray(taken.reshape(*before, -1, *after))
    return array


def _few(dim: Dim, beside: int, rng: np.random.Generator) -> int:
    """A size beside a large one: two or three steps, or one where that makes too many elements."""
    steps = int(rng.integers(1, 3)) if beside * (dim.lowest + 2 * dim.step) <= MOST_ELEMENTS else 0
    size = dim.lowest + steps * dim.step
    return size if dim.admits(size) else dim.lowest


def _rows(batch: Batch) -> int:
    return len(next(iter(batch.values())))


def _draw(contract: Contract, p: Params, space: Space, rng: np.random.Generator, rows: int, number: int) -> Batch:
    """Rows of a kind that the number says; every other one, the first of them included, shows in even cases what
    happens to the end of a row.
    """
    batch = draws.structured(space, rng, rows) if number % 4 != 3 else draws.scattered(space, rng, rows)
    if number % 2:
        return batch
    made = _starts(contract, p, space, rng, rows) if rng.random() < 0.5 else None
    made = draws.loud_ends(space, rng, batch) if made is None else made
    every_other = np.arange(rows) % 2 == 0
    return {
        name: np.where(every_other.reshape(-1, *[1] * (array.ndim - 1)), made.get(name, array), array)
        for name, array in batch.items()
    }


def _starts(contract: Contract, p: Params, space: Space, rng: np.random.Generator, rows: int) -> Batch | None:
    """Constructions of this shape that the target knows; None if there are none."""
    if contract.starts is None:
        return None
    sized = {f"fix:{dim.name}": dim.size for dim in space.dims if not dim.fixed}
    made = contract.starts(dict(p) | sized, rng, max(rows, 4))
    shapes = {spec.name: spec.array_shape() for spec in space.tensors}
    if made is None or any(array.shape[1:] != shapes[name] for name, array in made.items()):
        return None
    # The first of them are the sharpest, and each of the next is another.
    first = int(rng.integers(0, max(rows, 4) - rows + 1))
    return {name: array[first : first + rows] for name, array in made.items()}
