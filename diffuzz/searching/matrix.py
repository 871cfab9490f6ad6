"""The matrix of a target: every pair of the implementations of its operation, searched and judged.

    for cell in matrix(targets.get("matvec"), {"format": "q5_0"}, seconds=5, seed=0):
        cell.a, cell.b, cell.value, cell.agreement

Values are those of diffuzz.judging.pair: the largest |A - B| in units of what rounding allows, or the number of
elements that differ where the result is fixed to the bit. The column of ``exact`` is each implementation's own error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from pathlib import Path

import attrs

from diffuzz import interruption, kernels
from diffuzz.judging.evidence import Agreement
from diffuzz.judging.pair import MissingKernelsError, check_known, implementations
from diffuzz.judging.question import CANDIDATE, Compare, Judge, QuestionError
from diffuzz.searching.result import SearchResult
from diffuzz.searching.search import search
from diffuzz.targets.target import Target
from diffuzz.telling import parts


@attrs.frozen
class Cell:
    """One pair: the largest value that was found, how the two agree as far as was seen, the search, and its entry."""

    a: str
    b: str
    value: float
    agreement: Agreement
    result: SearchResult
    witness: Path | None

    @property
    def numbers(self) -> dict[str, float]:
        """The numbers at the worst element, by name."""
        return self.result.measurement.evidence.as_dict()


def names(
    target: Target, given: Mapping[str, object], chosen: Sequence[str] = (), candidate: Judge | None = None
) -> tuple[list[str], list[str]]:
    """(implementations that are here, what to do for those that are not); ``chosen`` instead of all of them. A
    ``candidate`` is one of them in any case.

    Raises QuestionError if there are fewer than two to compare, ImportError for a chosen one that is not here.
    """
    params = target.contract_params(given) if target.contract else target.params(given)
    known = implementations(target, params)
    if not known:
        raise QuestionError(f"target {target.name} compares no kernels: its claim is about the arithmetic")
    own = [] if candidate is None else [CANDIDATE]
    for name in chosen:
        if chosen.count(name) > 1:
            raise QuestionError(f"kernels {name}: the same implementation twice; two different ones are needed")
        if name in own:
            continue
        check_known(target, params, name)
        # A library that is not there is known before anything is searched.
        kernels.get(name)
    wanted = [name for name in chosen or known if name not in own]
    here = [*(name for name in wanted if not kernels.missing(name)), *own]
    if len(here) < 2:
        raise QuestionError(f"target {target.name} has only {', '.join(here)} here: two are needed")
    return here, [remedy for name in wanted if (remedy := kernels.missing(name))]


def pairs(
    target: Target, given: Mapping[str, object], chosen: Sequence[str] = (), candidate: Judge | None = None
) -> list[tuple[str, str]]:
    """The pairs that are searched. Raises as ``names`` does."""
    return list(combinations(names(target, given, chosen, candidate)[0], 2))


def matrix(
    target: Target,
    given: Mapping[str, object],
    *,
    seconds: float,
    seed: int,
    chosen: Sequence[str] = (),
    library: str | None = None,
    candidate: Judge | None = None,
    save: Callable[[SearchResult], Path | None] | None = None,
    on_cell: Callable[[Cell], None] | None = None,
    on_missing: Callable[[str], None] | None = None,
) -> list[Cell]:
    """Search every pair for ``seconds``; the pairs that are finished if the user interrupts. Witnesses of pairs that
    disagree by more than rounding are saved with ``save``, if it is given. A pair of which one has no such operation,
    as a library in a folder may not, is left out, and ``on_missing`` called with what is missing. Raises as ``names``
    and ``diffuzz.search`` do.
    """
    cells: list[Cell] = []
    for a, b in parts(pairs(target, given, chosen, candidate), "pairs", ", ".join):
        asked = Compare(a, b, library, candidate=candidate if CANDIDATE in (a, b) else None)
        try:
            interruption.check()
            result = search(target, given, asked, seconds=seconds, seed=seed, largest=True, minimise_best=False)
        except MissingKernelsError as error:
            if on_missing:
                on_missing(str(error))
            continue
        except KeyboardInterrupt:
            break
        if result.interrupted:
            # How the two agree is as far as was seen in the whole time, or it is not said.
            break
        how = result.agreement
        if how is None:
            raise TypeError("a search that compares two implementations says how they agree, unless it is interrupted")
        path = None
        if save is not None and result.case is not None and how in (Agreement.POLICY, Agreement.OUTSIDE):
            path = save(result)
        cells.append(Cell(a, b, result.value, how, result, path))
        if on_cell:
            on_cell(cells[-1])
    return cells


def outside(cells: Sequence[Cell]) -> bool:
    """Whether any pair disagrees by more than both contracts allow."""
    return any(cell.agreement is Agreement.OUTSIDE for cell in cells)
