"""Simulated implementations of every operation, held against its derived bound and against tables of tolerances.

    for row in measured(cases=20_000, seed=0):
        print(row.operation, row.arithmetic, row.found, row.outside)

A case is one result of an operation: an input that the operation's space admits, computed with roundings of one
simulated implementation (see diffuzz.analysis.simulated). ``found`` is the largest error over the derived bound. It is
at most 1 if the bound is sound, and near 1 if it is sharp.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import attrs
import numpy as np

from diffuzz import interruption, targets
from diffuzz.analysis import simulated
from diffuzz.analysis.arithmetic import Arithmetic
from diffuzz.analysis.estimate import Estimate
from diffuzz.analysis.jaxpr import Traced, bound
from diffuzz.cases import draws
from diffuzz.cases.space import Space
from diffuzz.studies.tolerances.tables import Table, tables
from diffuzz.targets.derived import Arguments, Derived, packed
from diffuzz.targets.parameter import Params
from diffuzz.targets.target import Target
from diffuzz.telling import parts

# dtype, compute, accumulate of the rows of each operation; None for the default.
ARITHMETICS: tuple[tuple[str, str | None, str | None], ...] = (
    ("float32", None, None),
    ("bfloat16", None, None),
    ("float16", None, None),
    ("bfloat16", "bfloat16", "float32"),
)
# Rows of a batch, and the largest size of a dimension and of a case: enough for sums, small enough for many cases.
_ROWS = 32
_LARGEST = 24
_ELEMENTS = 2048
# Implementations that are simulated on each batch: one to nearest, the others by chance.
_SIMULATED = 16
# Rows of the directed search, of which there is one for each operation and arithmetic in this many batches.
_DIRECTED_ROWS = 8
_DIRECTED_EVERY = 16


@attrs.define
class Tabled:
    """What a table makes of the cases: the median of its allowance over the bound, and how many of those cases of which
    all is promised it rejects.
    """

    name: str
    shares: list[np.ndarray] = attrs.field(factory=list, repr=False)
    cases: int = 0
    rejected: int = 0

    @property
    def share(self) -> float:
        """Median of allowed / bound; NaN where no bound is finite."""
        found = np.concatenate(self.shares) if self.shares else np.zeros(0)
        return float(np.median(found)) if found.size else np.nan


@attrs.define
class Row:
    """One operation in one arithmetic: cases and numbers that were compared, the largest error over the bound by chance
    (``found``) and directed (``directed``), results outside the bound, the share of numbers that nothing is promised
    of, and the tables.
    """

    operation: str
    arithmetic: str
    cases: int = 0
    numbers: int = 0
    found: float = 0.0
    directed: float = 0.0
    outside: int = 0
    unpromised: float = 0.0
    tables: list[Tabled] = attrs.field(factory=list)


def operations() -> list[str]:
    """Names of the targets whose bound is derived from a reference."""
    named = ((name, targets.get(name).contract) for name in targets.names())
    return [name for name, contract in named if contract is not None and contract.derived is not None]


def measured(
    names: Sequence[str] = (), *, cases: int = 20_000, seed: int = 0, on_row: Callable[[Row], None] | None = None
) -> list[Row]:
    """A row for each operation (all for none) and arithmetic. If the user interrupts, the finished rows are returned.

    Args:
        names: of operations.
        cases: simulated results, spread over all rows.
        seed: random seed.
        on_row: called with each row.

    Raises ValueError for a name that is no operation with a derived bound.
    """
    known = operations()
    for name in names:
        if name not in known:
            raise ValueError(f"{name} has no derived bound; choose from {', '.join(known)}")
    chosen = list(names) or known
    each = -(-cases // (len(chosen) * len(ARITHMETICS)))
    rows: list[Row] = []
    try:
        planned = [(name, number) for name in chosen for number in range(len(ARITHMETICS))]
        for name, number in parts(planned, "rows", lambda one: f"{one[0]} {ARITHMETICS[one[1]][0]}"):
            row = measure(targets.get(name), ARITHMETICS[number], each, np.random.default_rng([seed, number]))
            rows.append(row)
            if on_row is not None:
                on_row(row)
    except KeyboardInterrupt:
        pass
    return rows


def measure(target: Target, stated: tuple[str, str | None, str | None], cases: int, rng: np.random.Generator) -> Row:
    """One operation in one arithmetic, on at least so many cases."""
    contract = target.contract
    assert contract is not None
    assert contract.derived is not None
    dtype, compute, accumulate = stated
    given = {"dtype": dtype} | {name: one for name, one in (("compute", compute), ("accumulate", accumulate)) if one}
    params = target.contract_params(given)
    arithmetic = Arithmetic.of(dtype, compute, accumulate)
    row = Row(target.name, dtype if compute is None else f"{dtype} computed in {compute}")
    known = tables(target.name, dtype)
    row.tables = [Tabled(one.name) for one in known]
    promised = looked = 0
    for number, (traced, arguments) in enumerate(_batches(contract.derived, contract.space(params), params, rng)):
        interruption.check()
        estimates = bound(traced, arguments.arrays, arithmetic, constants=arguments.constants, errors=arguments.errors)
        _simulate(row, traced, arguments, arithmetic, estimates, known, rng)
        promised += sum(int(np.isfinite(one.errors()).sum()) for one in estimates)
        looked += sum(one.value.size for one in estimates)
        if number % _DIRECTED_EVERY == 0:
            few = arguments.part(slice(_DIRECTED_ROWS))
            _direct(row, trace_of(contract.derived, params, few), few, arithmetic, rng)
        if row.cases >= cases:
            break
    row.unpromised = 1 - promised / max(1, looked)
    return row


def trace_of(derived: Derived, params: Params, arguments: Arguments) -> Traced:
    """The reference, traced for these arguments."""
    return derived.traced(params, arguments)


def _batches(
    derived: Derived, space: Space, params: Params, rng: np.random.Generator
) -> Iterator[tuple[Traced, Arguments]]:
    """Batches of admissible cases without end, of sizes that change now and then."""
    sized = space
    for number in range(1_000_000_000):
        if number % 4 == 0:
            sized = _small(space, rng)
        draw = draws.structured if rng.random() < 0.5 else draws.scattered
        batch = sized.filled(draw(sized, rng, _ROWS))
        admissible = sized.admissible(batch)
        if not admissible.any():
            continue
        arrays = {name: array[admissible] for name, array in batch.items()}
        arguments = derived.arguments(params, arrays)
        yield trace_of(derived, params, arguments), arguments


def _small(space: Space, rng: np.random.Generator) -> Space:
    """The space in sizes by chance, as small as many cases need."""
    most = _LARGEST
    while True:
        sizes = {}
        for dim in space.free:
            steps = (max(min(dim.highest, most), dim.lowest) - dim.lowest) // dim.step
            sizes[dim.name] = dim.lowest + dim.step * int(rng.integers(steps + 1))
        sized = space.resized(sizes)
        if sized.elements <= _ELEMENTS or most == 1:
            return sized
        most = max(1, most // 2)


def _simulate(
    row: Row,
    traced: Traced,
    arguments: Arguments,
    arithmetic: Arithmetic,
    estimates: Sequence[Estimate],
    known: Sequence[Table],
    rng: np.random.Generator,
) -> None:
    """Implementations by chance on a batch."""
    floats = [place for place, one in enumerate(estimates) if one.value.dtype == np.float64]
    if floats:
        exact = packed([estimates[place].value for place in floats])
        error = packed([estimates[place].errors() for place in floats])
        for one, table in zip(row.tables, known, strict=True):
            one.shares.append(_shares(table, exact, error))
    for number in range(_SIMULATED):
        choose = simulated.nearest if number == 0 else simulated.randomly(rng)
        results = simulated.simulate(traced, arguments.arrays, arithmetic, choose, rng, arguments.constants)
        ratios = np.max([simulated.ratio(one, got) for one, got in zip(estimates, results, strict=True)], axis=0)
        row.cases += len(ratios)
        row.numbers += sum(got.size for got in results)
        row.found = max(row.found, float(ratios.max(initial=0.0)))
        row.outside += int((ratios > 1).sum())
        if floats:
            got = packed([results[place] for place in floats])
            sure = np.isfinite(error).all(axis=1)
            for one, table in zip(row.tables, known, strict=True):
                one.cases += int(sure.sum())
                one.rejected += int((table.rejects(exact, got) & sure).sum())


def _shares(table: Table, exact: np.ndarray, error: np.ndarray) -> np.ndarray:
    """What the table allows over what the bound does, where that is finite and not zero."""
    with np.errstate(all="ignore"):
        if table.nmse is not None:
            error = np.sqrt(np.square(error).mean(axis=1, keepdims=True))
        share = table.allowed(exact) / error
    return np.asarray(share[np.isfinite(error) & (error > 0)])


def _direct(row: Row, traced: Traced, arguments: Arguments, arithmetic: Arithmetic, rng: np.random.Generator) -> None:
    """Roundings that are turned until the error is as large as they can make it."""
    estimates = bound(traced, arguments.arrays, arithmetic, constants=arguments.constants, errors=arguments.errors)
    ratios, looked = simulated.adversarial(
        traced, arguments.arrays, arithmetic, estimates, rng, sweeps=1, constants=arguments.constants
    )
    row.cases += looked
    row.numbers += looked * sum(one.value[0].size for one in estimates)
    row.directed = max(row.directed, float(ratios.max(initial=0.0)))
    row.outside += int((ratios > 1).sum())
