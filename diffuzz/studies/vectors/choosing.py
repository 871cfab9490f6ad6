"""Vectors that tell wrong implementations from right ones: the cases that kill the mutants of the operation.

The cases of a pool (see diffuzz.studies.vectors.pool) are tried in turn on every mutant that fewer than ENOUGH of them
killed, until all have that many, or the pool ends. Then the cases are chosen that kill most mutants for their bytes,
until each mutant that the pool kills is killed once; then twice, and so on up to ENOUGH times, because a mutant that
nobody has thought of is likely to be like one that somebody has. What is left of the number is filled up with others
that take few bytes, half of them of sizes that kernels treat differently. The order of all of this follows from the
seed, and no clock is looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import attrs
import numpy as np

from diffuzz import __version__, interruption
from diffuzz.cases import domain
from diffuzz.cases.ranges import dtype_of
from diffuzz.studies.mutants.mutants import Mutant, mutants
from diffuzz.studies.vectors.pool import SIZES, USUAL, pool
from diffuzz.targets.contract import Function, Result
from diffuzz.targets.parameter import Params
from diffuzz.targets.target import Target
from diffuzz.telling import Count, Phase, tell
from diffuzz.vectors import making
from diffuzz.vectors.vectors import LARGEST_FILE, VectorCase, Vectors, VectorsError, name_of

# How often each mutant should be killed.
ENOUGH = 3
# Cases of a file, and of the pool.
CASES, LARGEST_POOL = 64, 1000
# Bytes of a case that no mutant asks for.
LARGEST_OTHER = 24_000
# After so many cases it is enough if each mutant is killed once.
PATIENT = 160
# Bytes of one case, and what any case costs, in the header and for a reader.
LARGEST_CASE, OVERHEAD = 300_000, 1_500
# Products that are wrong for several matrices only.
OF_BATCHES = ("batched-matmul/first-matrix",)
# Relative distance from a right function's result of one that is not looked at more closely.
NEAR = 1e-4
# Parameters that change no formula: mutants for the default are wrong with any, too.
_ARITHMETIC = ("dtype", "compute", "accumulate", "flush")
_RANGES = ("max_abs", "masked", "tail")


@attrs.frozen(eq=False)
class Tried:
    """A case of the pool, its number there, the places of the mutants that it killed, and about its bytes in a file."""

    number: int
    case: VectorCase
    kills: frozenset[int]
    cost: int


@attrs.frozen(eq=False)
class Chosen:
    """The vectors, the mutants that they were chosen for, how many of them they kill, and the cases that were tried."""

    vectors: Vectors
    mutants: tuple[Mutant, ...]
    killed: int
    tried: tuple[Tried, ...]


def choose(
    target: Target,
    given: Mapping[str, object],
    *,
    cases: int = CASES,
    seed: int = 0,
    own: Sequence[Mutant] | None = None,
) -> Chosen:
    """Vectors of ``target`` with the ``given`` parameters: at most so many cases, in at most LARGEST_FILE bytes.

    They are chosen to kill the mutants ``own``, by default those of the target with these parameters. Raises
    ParameterError, VectorsError.
    """
    tell(Phase("choosing cases"))
    contract, p = making.opened(target, given)
    wrong = tuple(of_parameters(target, p) if own is None else own)
    ready = [adapted(mutant.function, p) for mutant in wrong]
    right = _right(target, p)
    counts, tried = np.zeros(len(wrong), int), []
    for number, batch in enumerate(pool(contract, target.name, p, seed, LARGEST_CASE // 2)):
        interruption.check()
        tell(Count(number, LARGEST_POOL))
        usual = number < USUAL
        done = counts.min(initial=ENOUGH) >= (1 if number >= PATIENT else ENOUGH)
        if number >= LARGEST_POOL or (done and number >= USUAL + SIZES):
            break
        arrays = making.in_one_call(contract, p, batch)
        active = [place for place in range(len(wrong)) if usual or counts[place] < ENOUGH]
        if number >= USUAL + SIZES and right is not None:
            question = making.asked(contract, p, arrays)
            like = returned(question, right)
            active = [place for place in active if not _alike(returned(question, ready[place]), like)]
            if not active:
                continue
        case = making.made(contract, p, arrays)
        cost = case.nbytes + OVERHEAD
        if cost > LARGEST_CASE or not _says_anything(case):
            continue
        kills = frozenset(place for place in active if killed(case, ready[place]))
        counts[list(kills)] += 1
        if kills or number < USUAL + SIZES:
            tried.append(Tried(number, case, kills, cost))
    vectors, taken = None, list[Tried]()
    size = LARGEST_FILE
    while vectors is None or len(vectors.packed()) > LARGEST_FILE:
        taken = cover(tried, frozenset(range(len(wrong))), cases, size)
        vectors = _of(target, p, taken, seed)
        # The header takes more where a call has many arguments.
        size -= OVERHEAD
    # A case may kill more than those that it was tried on.
    reached = {place for one in taken for place in one.kills}
    return Chosen(vectors, wrong, len(reached), tuple(tried))


def _of(target: Target, p: Params, chosen: Sequence[Tried], seed: int) -> Vectors:
    if not chosen:
        raise VectorsError(
            f"target {target.name} has no vectors with these parameters: nothing is fixed in a case that fits in a file"
        )
    return Vectors(
        target=target.name,
        params=p,
        signature=making.opened(target, p)[0].signature,
        diffuzz=__version__,
        seed=seed,
        cases={name_of(number): one.case for number, one in enumerate(chosen)},
    )


def cover(tried: Sequence[Tried], wrong: frozenset[int], cases: int, size: int = LARGEST_FILE) -> list[Tried]:
    """At most so many of the cases, of so many bytes, in the order of the pool: see the module's docstring."""
    chosen: list[Tried] = []
    left = size

    def take(one: Tried) -> None:
        nonlocal left
        chosen.append(one)
        left -= one.cost

    for often in range(1, ENOUGH + 1):
        while len(chosen) < cases:
            missing = {one for one in wrong if sum(one in each.kills for each in chosen) < often}
            gains = [
                (len(one.kills & missing) / max(one.cost, 4 * OVERHEAD), -place)
                for place, one in enumerate(tried)
                if one not in chosen and one.cost <= left and one.kills & missing
            ]
            if not gains:
                break
            take(tried[-max(gains)[1]])
    for one in _others(tried):
        if len(chosen) < cases and one.cost <= left and one not in chosen:
            take(one)
    return sorted(chosen, key=lambda one: one.number)


def _others(tried: Sequence[Tried]) -> list[Tried]:
    """Cases that cost little, of other sizes and of usual ones by turns."""
    small = [one for one in tried if one.cost <= LARGEST_OTHER]
    sizes, usual = ([one for one in small if (one.number < USUAL) is first] for first in (False, True))
    places = {id(one): place for kind in (sizes, usual) for place, one in enumerate(kind)}
    return sorted(small, key=lambda one: places[id(one)])


def _says_anything(case: VectorCase) -> bool:
    """Whether anything is promised of its result."""
    return any(bool((one.allowance < (255 if one.exact.dtype == np.uint8 else np.inf)).any()) for one in case.results)


def killed(case: VectorCase, function: Callable[..., object]) -> bool:
    """Whether a function is wrong on a case: what it returns is outside, or of another shape or dtype, or it raises."""
    got = returned(case, function)
    if got is None or len(got) != len(case.results):
        return True
    return any(
        not Result(expected.exact.shape, expected.dtype).admits(one) or bool((expected.ratios(one) > 1).any())
        for expected, one in zip(case.results, got, strict=True)
    )


def returned(case: VectorCase, function: Callable[..., object]) -> list[np.ndarray] | None:
    """What a function returns for a case; None if it raises."""
    positional, named = (
        {name: np.array(one) if isinstance(one, np.ndarray) else one for name, one in given.items()}
        for given in (case.positional, case.named)
    )
    try:
        with np.errstate(all="ignore"):
            got: object = function(*positional.values(), **named)
    except Exception:
        return None
    listed = list(got) if isinstance(got, tuple) or (isinstance(got, list) and len(case.results) > 1) else [got]
    return [np.array(one) for one in listed]


def of_parameters(target: Target, p: Params) -> list[Mutant]:
    """The mutants of a target with these parameters. Where there are none, those with other parameters, of the same
    format.
    """
    there_are = [mutant for mutant in functions() if mutant.target == target.name and not mutant.correct]
    own = [mutant for mutant in there_are if formula(target.contract_params(mutant.params)) == formula(p)]
    if own:
        return own
    return [one for one in there_are if target.contract_params(one.params).get("format") == p.get("format")]


def _right(target: Target, p: Params) -> Callable[..., object] | None:
    """A right function with these parameters, if there is one that takes everything."""
    for one in functions():
        general = one.correct and one.target == target.name and not any(map(domain.is_domain, one.params))
        if general and formula(target.contract_params(one.params)) == formula(p):
            return adapted(one.function, p)
    return None


def _alike(got: list[np.ndarray] | None, right: list[np.ndarray] | None) -> bool:
    """Whether results are so near to those of a right function that a closer look is not worth its time."""
    if got is None or right is None or len(got) != len(right):
        return False
    return all(
        one.shape == other.shape and np.allclose(one, other, rtol=NEAR, atol=0, equal_nan=True)
        for one, other in zip((one.astype(np.float64) for one in got), right, strict=True)
    )


def functions() -> tuple[Mutant, ...]:
    """All mutants and controls; and those of batched_matmul as products of two matrices, for matmul has none itself."""
    alone = [
        attrs.evolve(one, name=f"{one.name}/alone", target="matmul", function=_alone(one.function))
        for one in mutants()
        if one.target == "batched_matmul" and one.name not in OF_BATCHES
    ]
    return (*mutants(), *alone)


def _alone(function: Function) -> Function:
    return lambda a, b: np.asarray(function(a[None], b[None]))[0]


def formula(p: Params) -> dict[str, object]:
    """The parameters that say what is computed, and not of which numbers."""
    return {
        name: value
        for name, value in p.items()
        if name not in (*_ARITHMETIC, *_RANGES) and not domain.is_domain(name) and not name.startswith("candidate_")
    }


def adapted(function: Function, p: Params) -> Callable[..., object]:
    """A function of float32 for another dtype: its arguments are converted, and so are its results."""
    dtype = p.get("dtype", "float32")
    if dtype == "float32":
        return function

    def narrow(one: object) -> object:
        array = np.asarray(one)
        return array.astype(dtype_of(dtype)) if array.dtype.kind == "f" else array

    def wide(one: object) -> object:
        return one.astype(np.float32) if isinstance(one, np.ndarray) and one.dtype == dtype_of(dtype) else one

    def f(*positional: object, **named: object) -> object:
        got: object = function(*map(wide, positional), **{name: wide(one) for name, one in named.items()})
        return tuple(map(narrow, got)) if isinstance(got, tuple) else narrow(got)

    return f
