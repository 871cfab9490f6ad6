"""Searching over integers: which sizes are tried, and how a found one is made as small as it can be.

Kernels change their algorithm where a size passes a threshold or is no multiple of a width, and nobody says where. So
sizes are drawn from those on the edges of such things, of every magnitude up to the largest, within a budget of work;
and what is found is made smaller one integer after the other, by bisection, down to the threshold itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial

import numpy as np

from diffuzz.cases import sizes as known
from diffuzz.cases.space import Dim
from diffuzz.judging.properties.property import Numbers, Ranges
from diffuzz.judging.properties.subject import Sizes, nearest

# Widths of vectors and tiles, whose multiples and remainders are of interest.
WIDTHS = (8, 16, 32, 48, 64, 96, 128, 192, 256, 384, 512)
# Sizes of the dimensions that are not looked at, at most.
_BESIDE = 70
# Rounds through all integers while they are made smaller.
_ROUNDS = 4


@cache
def primes(largest: int) -> tuple[int, ...]:
    """The primes up to ``largest``."""
    sieve = np.ones(largest + 1, bool)
    sieve[:2] = False
    for number in range(2, math.isqrt(largest) + 1):
        if sieve[number]:
            sieve[number * number :: number] = False
    return tuple(int(number) for number in np.flatnonzero(sieve))


@cache
def interesting(dim: Dim) -> tuple[int, ...]:
    """Sizes that are worth a look, in order: small ones, powers of two and their neighbours, multiples of WIDTHS and
    what is left of them, primes, the sizes of models.
    """
    top = min(dim.highest, 2**17)
    found = {dim.lowest + step * dim.step for step in range(10)} | set(known.edges(dim))
    for width in WIDTHS:
        found |= {
            count * width + beside for count in (1, 2, 3, 5, 8, 13) for beside in (-1, 0, 1, width // 2, width // 2 + 1)
        }
    few = primes(top)
    found |= {few[int(len(few) * share) - 1] for share in np.linspace(0.02, 1, 40)} if few else set()
    found |= {size for size in known.of_models(dim) if size <= 8192}
    return tuple(sorted({size for size in found if size <= top and dim.admits(size)} | {dim.lowest, dim.highest}))


def work(sizes: Sizes) -> int:
    """The product of all sizes: the number of operations of most kernels, or more than that."""
    return math.prod(sizes.values())


def drawn(
    dims: Mapping[str, Dim], least: Sizes, rng: np.random.Generator, most: Callable[[], int]
) -> Iterator[dict[str, int]]:
    """Sizes without end, each of at most so much work: the usual ones, the largest, and then one dimension at a time,
    or all, of any magnitude.
    """
    floor = {name: max(dim.lowest, least.get(name, 0)) for name, dim in dims.items()}
    free = [name for name, dim in dims.items() if dim.lowest < dim.highest]
    # Those that are asked about have every other turn for themselves.
    own = [name for name in free if name in least] or free

    def fitted(sizes: Mapping[str, int], kept: str | None = None) -> dict[str, int]:
        found = {name: max(nearest(dims[name], sizes[name]), floor[name]) for name in dims}
        while work(found) > most():
            others = [name for name in found if name != kept and found[name] > floor[name]] or [
                name for name in found if found[name] > floor[name]
            ]
            if not others:
                break
            name = max(others, key=lambda one: found[one] / floor[one])
            found[name] = max(floor[name], nearest(dims[name], found[name] // 2))
        return found

    yield fitted({name: min(dim.size, _BESIDE) for name, dim in dims.items()})
    yield fitted({name: min(dim.highest, dim.lowest + 2**14 * dim.step) for name, dim in dims.items()})
    turn = 0
    while True:
        turn += 1
        if turn % 3 and free:
            name = own[turn // 3 % len(own)] if turn % 3 == 1 else free[int(rng.integers(len(free)))]
            sizes = {other: _any(dims[other], rng, _BESIDE) for other in dims}
            sizes[name] = _any(dims[name], rng, dims[name].highest)
            yield fitted(sizes, name)
        else:
            yield fitted({name: _any(dim, rng, dim.highest) for name, dim in dims.items()})


def _any(dim: Dim, rng: np.random.Generator, highest: int) -> int:
    """One of the interesting sizes, of any magnitude with the same probability."""
    sizes = interesting(dim)
    low, high = math.log2(dim.lowest), math.log2(max(dim.lowest, min(highest, dim.highest)) + 1)
    wanted = 2.0 ** rng.uniform(low, high)
    place = int(np.searchsorted(sizes, wanted))
    return sizes[min(place, len(sizes) - 1)]


def numbers(ranges: Ranges, rng: np.random.Generator) -> dict[str, int]:
    """An integer in each range: an end, near a power of two, or any, each with the same probability."""
    found = {}
    for name, (low, high) in ranges.items():
        power = low + (1 << int(rng.integers(0, max(1, (high - low).bit_length())))) + int(rng.integers(-1, 2))
        choices = (low, high, power, int(rng.integers(low, high + 1)))
        found[name] = min(max(choices[int(rng.integers(len(choices)))], low), high)
    return found


def smallest(low: int, step: int, now: int, shows: Callable[[int], bool]) -> int:
    """A small integer, ``low`` and so many steps, at which it ``shows``, where it does at ``now``: it does not one step
    below, unless it is ``low`` itself.

    Small ones and those beside powers of two are tried in order, and then what lies between the last at which it does
    not show and the first at which it does.
    """
    before = low - step
    tried = {low + count * step for count in range(4)}
    tried |= {
        low + ((1 << exponent) + beside) * step
        for exponent in range(2, max(2, ((now - low) // step).bit_length() + 1))
        for beside in (-1, 0)
    }
    for size in sorted(one for one in tried if one < now):
        if shows(size):
            now = size
            break
        before = size
    while now - before > step:
        middle = before + (now - before) // (2 * step) * step
        if middle <= before:
            break
        if shows(middle):
            now = middle
        else:
            before = middle
    return now


def smaller(
    dims: Mapping[str, Dim],
    least: Sizes,
    sizes: Sizes,
    given: Numbers,
    ranges: Callable[[Sizes], Ranges | None],
    shows: Callable[[Sizes, Numbers], bool],
) -> tuple[dict[str, int], dict[str, int]]:
    """Smaller sizes and integers with which it still ``shows``; ``shows`` may raise StopIteration to end it."""
    found, chosen = dict(sizes), dict(given)

    def inside(size: Sizes, numbers: Numbers) -> dict[str, int] | None:
        limits = ranges(size)
        if limits is None or set(limits) != set(numbers):
            return None
        return {name: min(max(one, limits[name][0]), limits[name][1]) for name, one in numbers.items()}

    def with_size(name: str, size: int) -> bool:
        changed = {**found, name: size}
        fit = inside(changed, chosen)
        return fit is not None and shows(changed, fit)

    def with_number(name: str, number: int) -> bool:
        return shows(found, {**chosen, name: number})

    for _ in range(_ROUNDS):
        before = (dict(found), dict(chosen))
        try:
            for name in sorted(found, key=lambda one: -found[one]):
                dim = dims[name]
                low = max(dim.lowest, least.get(name, 0))
                if dim.fixed or found[name] <= low:
                    continue
                found[name] = smallest(low, dim.step, found[name], partial(with_size, name))
                chosen = inside(found, chosen) or chosen
            for name in chosen:
                low = (ranges(found) or {name: (0, 0)})[name][0]
                if chosen[name] > low:
                    chosen[name] = smallest(low, 1, chosen[name], partial(with_number, name))
        except StopIteration:
            break
        if (found, chosen) == before:
            break
    return found, chosen


def covered(sizes: Sequence[int]) -> str:
    """``1 to 4096 (57 sizes)``, or the few that there are."""
    known_sizes = sorted(set(sizes))
    if len(known_sizes) <= 3:
        return ", ".join(map(str, known_sizes))
    return f"{known_sizes[0]} to {known_sizes[-1]} ({len(known_sizes)} sizes)"
