"""Company and chance: how a wrong result is had again that a case does not show every time, alone.

A function of whole batches may mix up their rows: use the scale of the first, of the last or of the largest row for
all, or be wrong from the fifth row on. Then the witness is a case in its ``Company``, the rows that stand before and
after it. A function may also be wrong by chance: a race, random numbers, memory that nobody wrote to. Then the witness
says how often it was seen, its ``Chance``.

``standard`` is the company that every case is measured in. Batch A has the case in the middle, and no other row is like
it, whatever the distance: so the statistics of the first row, the last, the largest, the least, the mean, a neighbour
or one at some stride are those of another row. Batch B has it first and last, where loops begin and end.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from itertools import groupby
from typing import TYPE_CHECKING

import attrs
import numpy as np

from diffuzz.cases.case import Case
from diffuzz.cases.domain import LARGEST_BATCH
from diffuzz.cases.space import Space, TensorSpec
from diffuzz.targets.outcome import Arrays

if TYPE_CHECKING:
    from jaxtyping import Shaped

# Places of the case in the two batches of ``standard``.
PLACES: tuple[tuple[int, ...], tuple[int, ...]] = ((4,), (0, 4))
# A repetition misses what was seen at some rate with a probability below this one.
MISSED = 1e-3
# Share of calls from which on cases left to chance are minimised.
OFTEN = 0.3
# Different rows beside a case that an entry keeps, and rows in all.
MOST_DIFFERENT, MOST_COMPANY = 64, LARGEST_BATCH - 1
# Calls of a repetition at most.
MOST_CALLS = 2**14


@attrs.frozen
class Chance:
    """How often a result outside the bound was ``seen`` in so many ``calls`` with one case, in a fresh process."""

    seen: int
    calls: int

    def __attrs_post_init__(self) -> None:
        if not 1 <= self.seen <= self.calls:
            raise ValueError(f"seen {self.seen} times in {self.calls} calls: 1 <= seen <= calls is needed")

    @property
    def patience(self) -> int:
        """Calls after which what is seen at this rate p has shown with probability 0.999: (1 - p)^calls < MISSED;
        at most MOST_CALLS.
        """
        rate = self.seen / self.calls
        needed = 1 if rate == 1 else math.ceil(math.log(MISSED) / math.log1p(-rate))
        return min(needed, MOST_CALLS)

    @property
    def often(self) -> bool:
        """Whether it shows in so many calls that other cases can be tried until it does: 30 %."""
        return self.seen >= OFTEN * self.calls

    def __str__(self) -> str:
        return f"seen {times(self.seen)} in {_grouped(self.calls)} call{'s' if self.calls > 1 else ''}"


def times(count: int) -> str:
    """``once``, ``twice``, ``3 times``."""
    return {1: "once", 2: "twice"}.get(count, f"{_grouped(count)} times")


def _grouped(count: int) -> str:
    return f"{count:,}".replace(",", " ")


@attrs.frozen
class Company:
    """The cases, of the same shapes, that stand ``before`` and ``after`` a case in a batch. Equal neighbours are one
    object, of which there may be thousands: see ``runs``.
    """

    before: tuple[Case, ...]
    after: tuple[Case, ...]

    @property
    def rows(self) -> int:
        """How many rows there are beside the case."""
        return len(self.before) + len(self.after)

    def around(self, case: Arrays, scalars: Collection[str]) -> dict[str, np.ndarray]:
        """The batch in which the one ``case`` of a batch stands at row ``len(before)``. The others are cut to its
        shapes, and have its ``scalars``, so that all are in one call. Raises ValueError where one is too short.
        """

        def rows(name: str, side: tuple[Case, ...]) -> list[np.ndarray]:
            array, shape, found = case[name], case[name].shape[1:], []
            for count, other in runs(side):
                cut = array if name in scalars else other[name][tuple(slice(0, size) for size in shape)][None]
                if cut.shape != array.shape:
                    raise ValueError(f"company: {name} has the shape {other[name].shape}, where {shape} is needed")
                found.append(np.repeat(cut, count, axis=0))
            return found

        return {
            name: np.concatenate([*rows(name, self.before), array, *rows(name, self.after)])
            for name, array in case.items()
        }

    def fitted(self, case: Case, scalars: Collection[str]) -> Company:
        """The same, cut to the shapes of ``case``."""

        def cut(side: tuple[Case, ...]) -> tuple[Case, ...]:
            found: list[Case] = []
            for count, other in runs(side):
                batch = Company((other,), ()).around(case.batch(), scalars)
                found += [Case({name: array[0] for name, array in batch.items()})] * count
            return tuple(found)

        return Company(cut(self.before), cut(self.after))

    def completed(self, space: Space) -> Company:
        """The same, with the arrays that are absent from cases of ``space``."""

        def whole(side: tuple[Case, ...]) -> tuple[Case, ...]:
            return tuple(one for count, case in runs(side) for one in [space.completed(case.arrays)] * count)

        return Company(whole(self.before), whole(self.after))

    @property
    def different(self) -> int:
        """How many different rows there are, one for each of ``runs``."""
        return len(runs(self.before)) + len(runs(self.after))


def runs(side: tuple[Case, ...]) -> list[tuple[int, Case]]:
    """Each case of one side, and how often it stands there one after the other as the same object."""
    found: list[tuple[int, Case]] = []
    for _, same in groupby(side, key=id):
        cases = list(same)
        found.append((len(cases), cases[0]))
    return found


def of_rows(batch: Arrays, row: int, others: Collection[int]) -> Company:
    """The company of the rows ``others`` of a batch around its row ``row``."""

    def cases(chosen: list[int]) -> tuple[Case, ...]:
        return tuple(Case({name: array[i] for name, array in batch.items()}) for i in chosen)

    return Company(cases([i for i in sorted(others) if i < row]), cases([i for i in sorted(others) if i > row]))


def standard(
    space: Space, arrays: Arrays, scalars: Collection[str]
) -> tuple[Mapping[str, Shaped[np.ndarray, "8 ..."]], Mapping[str, Shaped[np.ndarray, "5 ..."]]]:
    """The two batches around a case, ``arrays`` of one row; the case is at PLACES. Beside it are rows of the largest
    numbers there are, of the least, of zeros, and of ordinary ones. Blocks are zeros beside it, other integers the
    number next to 0 that there is, and scalar arguments the case's own.
    """
    a: dict[str, np.ndarray] = {}
    b: dict[str, np.ndarray] = {}
    for name, array in arrays.items():
        high, low, zero, ordinary = (array,) * 4 if name in scalars else _kinds(space[name], array)
        a[name] = np.concatenate([high, low, zero, ordinary, array, ordinary, high, low])
        b[name] = np.concatenate([array, low, ordinary, high, array])
    return a, b


def _kinds(spec: TensorSpec, array: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Rows of the largest numbers, of the least, of zeros, and of ordinary ones."""
    zero = np.zeros_like(array)
    if spec.kind == "blocks":
        return (zero,) * 4
    zero = np.full_like(array, np.clip(0, spec.low, spec.high))
    if array.dtype.kind != "f":
        return (zero,) * 4
    numbers = (np.arange(array.size) * 7 % 11 - 4) / 4
    ordinary = np.clip(numbers, spec.low, spec.high).astype(array.dtype).reshape(array.shape)
    # A row of zeros is none of the admissible ones where a peak is needed.
    zero = ordinary if spec.smallest_peak else zero
    return np.full_like(array, spec.high), np.full_like(array, spec.low), zero, ordinary
