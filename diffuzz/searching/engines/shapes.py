"""Other shapes than the usual one: sizes of models, edges of powers of two, and small sizes, none of which divides by
the width of a vector.

A dimension has a usual size, which the batches of the other engines have, and a range of others. This engine deals
these, dimension by dimension: first the largest, then the sizes of diffuzz.cases.sizes and the SMALL smallest ones,
each once, then random ones for ever. It evaluates a structured batch (see diffuzz.cases.draws) of each shape, with as
many rows as cost no more than a call costs anyway. Every other row, the first of them included, shows what happens to
the end of a row: it is a construction that the target knows, or has its largest numbers last. Where a function takes a
whole batch at once, the number of its rows is one more such dimension. A sum of three terms has a sharper bound than
one of three hundred, and the tails of loops are code of their own.

Where a candidate compiles for each shape, few are dealt, and when its time for that is over, only those again.

This engine serves the exact evaluation of implementations only. Where a search is for the largest value of a formula,
the largest shape has it, and every shape would be compiled anew.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator

import attrs
import numpy as np

from diffuzz.cases import domain, draws, sizes
from diffuzz.cases.draws import Batch
from diffuzz.cases.space import Dim, Space
from diffuzz.searching.objective import LEAST_WORK_PER_CALL, WORK_PER_SECOND, Objective

SHAPES_PER_ROUND, COMPILED_PER_ROUND = 8, 1
LEAST_ROWS, MOST_ROWS = 4, 128
# The smallest sizes, which are dealt in two decks, so that the first of them come early.
SMALLEST, SMALL = 32, 256
# Sizes above LARGE take as long as dozens of others, and come somewhat later.
LARGE, LATE = 2**15, 0.3
# Whole tiles of cases in a call.
MOST_TILES = 1056
# Elements of a batch, if it has more than one row; of a batch with many rows, which has short ones, and of one whose
# rows are as short as SHORT. One of a single element shows little: the softmax of that is 1.
MOST_ELEMENTS, USUAL_IN_BATCH, MOST_IN_BATCH, SHORT = 2**17, 2**17, 2**19, 3
# Numbers of cases in a call that come early.
FEW = 3
# Of so many dimensions all sizes worth a look are looked at within a search.
FEW_DIMENSIONS = 3
# Where in its deck the largest number of short rows comes again: only the last of them is beyond a counter of 16 bits.
AGAIN = (0.35, 0.65, 0.95)


def rounds(objective: Objective, rng: np.random.Generator) -> Iterator[None]:
    """SHAPES_PER_ROUND batches a round, for ever, or COMPILED_PER_ROUND where each shape is compiled; ends at once
    where there is one shape, or a compiled screen.
    """
    rows = objective.problem.batch
    dims = [*objective.space.free, *([] if rows is None or rows.lowest == rows.highest else [rows])]
    if objective.screened or not dims:
        return
    least = objective.space.resized({dim.name: dim.lowest for dim in objective.space.free}).elements
    again = AGAIN if rows is not None and least * rows.highest <= MOST_IN_BATCH else ()
    compiled, turn = objective.problem.compiles, 0
    # Sizes and numbers of rows that were compiled.
    seen: list[tuple[dict[str, int], int]] = []
    dealers = [_Dealer(dim, rng, compiled, again if dim is rows and not compiled else ()) for dim in dims]
    for dealer in dealers:
        dealer.leave_out(objective.dealt.get(dealer.dim.name, ()))
    while True:
        for _ in range(COMPILED_PER_ROUND if compiled else SHAPES_PER_ROUND):
            if objective.warm and seen:
                chosen, count = seen[turn % len(seen)]
                _evaluate(objective, draws.structured(objective.space.resized(chosen), rng, count))
                turn += 1
                continue
            dealer = _next(dealers, turn)
            turn += 1
            if rows is not None and dealer.dim is rows:
                # A function that takes long for each case would not come to an end.
                batch = _many(objective, max(min(dealer.deal(), objective.most_rows), rows.lowest), rng)
            else:
                batch = _ended(objective, _space(objective.space, dealer, rng), rng)
            if compiled:
                seen.append(_shape_of(objective.space, batch))
            _evaluate(objective, batch)
            objective.deal(dealer.dim.name, dealer.last)
        if not any(dealer.deck for dealer in dealers):
            objective.has_swept()
        yield


def _evaluate(objective: Objective, batch: Batch) -> None:
    """Evaluate a batch of a new shape. Where that is compiled, the time that it takes counts as work."""
    work, began = objective.work, objective.seconds
    try:
        objective.evaluate(batch)
    finally:
        if objective.problem.compiles:
            took = (objective.seconds - began) * WORK_PER_SECOND
            objective.charge(max(0.0, took - (objective.work - work)))


@attrs.define
class _Dealer:
    """The sizes of one dimension, each of the deck once, and then random ones. Where shapes are ``compiled``, there is
    time for few of them, and none for the largest.
    """

    dim: Dim
    rng: np.random.Generator
    compiled: bool
    # Places of the deck where the largest size comes again.
    again: tuple[float, ...]
    # Places and sizes, from the end.
    deck: list[tuple[float, int]] = attrs.field(init=False)
    # Sizes of the whole deck.
    dealt_with: int = attrs.field(init=False)
    # The size that was dealt last.
    last: int = attrs.field(init=False, default=0)

    def __attrs_post_init__(self) -> None:
        dim = self.dim
        # Each suit is shuffled and spread over a part of the deck.
        suits = [(sizes.edges(dim), 0.0, 1.0)]
        if dim.name == domain.BATCH:
            suits.append(([size for size in sizes.multiples(dim) if size <= MOST_TILES], 0.5, 1.5))
        else:
            suits += [
                (sizes.multiples(dim), 0.5, 1.5),
                (sizes.small(dim, 1, SMALLEST), 0.0, 0.3),
                (sizes.of_models(dim), 0.0, 1.0),
                (sizes.small(dim, SMALLEST + 1, SMALL), 1.0, 2.0),
            ]
        places: dict[int, float] = {}
        for suit, begin, end in suits:
            for size, place in zip(suit, self.rng.permutation(len(suit)), strict=True):
                places[size] = min(begin + (end - begin) * (place + 0.5) / len(suit), places.get(size, math.inf))
        if dim.name == domain.BATCH:
            # Few cases, an odd number of them too, are code of their own.
            places |= {size: 0.01 * size for size in sizes.small(dim, 1, FEW)}
        elif not self.compiled:
            places |= {size: place + LATE for size, place in places.items() if size > LARGE}
        if not self.compiled:
            # The largest early: what is wrong from some size on is wrong there.
            places[dim.highest] = 0.05 if dim.name == domain.BATCH else -1.0
        cards = [(place, size) for size, place in places.items()]
        cards += [(place, dim.highest) for place in self.again]
        self.deck = sorted(cards, reverse=True)
        self.dealt_with = len(self.deck)

    def leave_out(self, sizes: Collection[int]) -> None:
        """Take sizes out of the deck that an earlier search has looked at."""
        self.deck = [card for card in self.deck if card[1] not in sizes]

    def deal(self) -> int:
        """The next of the deck; when it is empty a power of two, one less or more than that, or any, the small ones
        more often.
        """
        self.last = self.deck.pop()[1] if self.deck else self._random()
        return self.last

    def _random(self) -> int:
        dim, rng = self.dim, self.rng
        most, kind = dim.highest // dim.step, rng.random()
        if kind < 1 / 4:
            steps = int(rng.integers(1, min(most, SMALL) + 1))
        elif kind < 1 / 2:
            steps = (1 << int(rng.integers(0, most.bit_length()))) + int(rng.integers(-1, 2))
        else:
            steps = int(np.exp(rng.uniform(0, np.log(most + 1))))
        return int(np.clip(steps * dim.step, dim.lowest, dim.highest))


def _next(dealers: list[_Dealer], turn: int) -> _Dealer:
    """The one whose deck is the fullest, in proportion; of many dimensions the one whose next size has the first place,
    because their decks take longer than a search lasts. In turn when all decks are empty.
    """
    dealing = [dealer for dealer in dealers if dealer.deck]
    if not dealing:
        return dealers[turn % len(dealers)]
    if len(dealers) <= FEW_DIMENSIONS:
        return max(dealing, key=lambda dealer: len(dealer.deck) / dealer.dealt_with)
    return min(dealing, key=lambda dealer: dealer.deck[-1][0])


def _space(space: Space, dealer: _Dealer, rng: np.random.Generator) -> Space:
    """The space with the next size of one dimension; the others have small sizes, or their usual ones where the whole
    is small enough.
    """
    chosen = {dealer.dim.name: dealer.deal()}
    others = [dim for dim in space.free if dim is not dealer.dim]
    for dim in others:
        steps = rng.integers(0, (dim.size - dim.lowest) // dim.step + 1)
        chosen[dim.name] = dim.size if rng.random() < 1 / 2 else int(dim.lowest + steps * dim.step)
    made = space.resized(chosen)
    if made.elements * LEAST_ROWS > MOST_ELEMENTS:
        made = space.resized(chosen | {dim.name: dim.lowest for dim in others})
    return made


def _shape_of(space: Space, batch: Batch) -> tuple[dict[str, int], int]:
    """The sizes of the dimensions of a batch, and its number of rows."""
    chosen: dict[str, int] = {}
    for spec in space.tensors:
        if spec.name in batch:
            chosen |= spec.sizes(batch[spec.name][0])
    return chosen, len(next(iter(batch.values())))


def _rows(space: Space, objective: Objective) -> int:
    rows = LEAST_WORK_PER_CALL / (space.elements * objective.problem.cost)
    return int(np.clip(rows, min(LEAST_ROWS, max(1, MOST_ELEMENTS // space.elements)), MOST_ROWS))


def _ended(objective: Objective, space: Space, rng: np.random.Generator) -> Batch:
    """A batch of this shape, of which every other row shows what happens to the end of a row."""
    rows = _rows(space, objective)
    batch = draws.structured(space, rng, rows)
    made = objective.problem.starts(rng, rows, {dim.name: dim.size for dim in space.dims if not dim.fixed})
    made = draws.loud_ends(space, rng, batch) if made is None else made
    every_other = np.arange(rows) % 2 == 0
    return {
        name: np.where(every_other.reshape(-1, *[1] * (array.ndim - 1)), made.get(name, array), array)
        for name, array in batch.items()
    }


def _many(objective: Objective, rows: int, rng: np.random.Generator) -> Batch:
    """A batch of so many rows, all with the scalar arguments of the first, so that one call gets them all."""
    space, chosen = objective.space, {}
    most = max(SHORT, USUAL_IN_BATCH // rows)
    for dim in space.free:
        steps = rng.integers(0, max(0, min(dim.size, most) - dim.lowest) // dim.step + 1)
        chosen[dim.name] = int(dim.lowest + steps * dim.step)
    made = space.resized(chosen)
    if made.elements * rows > MOST_IN_BATCH:
        made = space.resized({dim.name: dim.lowest for dim in space.free})
    return objective.in_one_call(draws.structured(made, rng, rows))
