"""How many of the mutants the exported vectors kill, and whether they flag a control.

The vectors of each target and parameters that the mutants have are chosen, written and read back, and every function
is called with each of their cases. That they kill the mutants that they were chosen for is no surprise; so ``held_out``
says how many of one half of the mutants those cases kill that are chosen for the other half, for both halves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import attrs

from diffuzz import interruption, targets
from diffuzz.judging.opening import CandidateError
from diffuzz.models import arrays_file
from diffuzz.studies.mutants.mutants import Mutant
from diffuzz.studies.vectors.choosing import CASES, Chosen, adapted, choose, cover, functions, killed
from diffuzz.telling import parts
from diffuzz.vectors.vectors import Vectors, VectorsError, unpacked

# Share of the mutants of a target that its vectors have to kill.
MARK = 0.9


@attrs.frozen
class Row:
    """What the vectors of a target with some parameters see.

    params      those that are not the default
    refused     why there are no vectors, or nothing; such mutants are not counted
    mutants     how many there are; ``alive`` are the names of those that no case kills
    held_out    how many mutants the cases kill that were chosen for the others
    controls    how many there are; ``flagged`` are the names of those that a case calls wrong
    cases       how many there are in the file, of ``nbytes`` bytes
    """

    target: str
    params: Mapping[str, object]
    refused: str = ""
    mutants: int = 0
    alive: tuple[str, ...] = ()
    held_out: int = 0
    controls: int = 0
    flagged: tuple[str, ...] = ()
    cases: int = 0
    nbytes: int = 0

    @property
    def killed(self) -> int:
        """How many mutants a case kills."""
        return self.mutants - len(self.alive)


def score(
    names: Iterable[str] | None = None,
    *,
    cases: int = CASES,
    seed: int = 0,
    on_row: Callable[[Row], None] | None = None,
) -> list[Row]:
    """The rows of these targets, or of all that have mutants. If the user interrupts, those that are finished.

    Raises ValueError for a target without mutants.
    """
    rows: list[Row] = []
    for group in parts(groups(names), "files", lambda group: group[0].target):
        try:
            interruption.check()
            row = one(group, cases, seed)
        except KeyboardInterrupt:
            break
        rows.append(row)
        if on_row:
            on_row(row)
    return rows


def groups(names: Iterable[str] | None = None) -> list[list[Mutant]]:
    """The mutants and controls of these targets, those with the same parameters together."""
    found: dict[tuple[str, str], list[Mutant]] = {}
    for mutant in functions():
        p = targets.get(mutant.target).contract_params(mutant.params)
        found.setdefault((mutant.target, repr(sorted(p.items()))), []).append(mutant)
    there_are = list(dict.fromkeys(name for name, _ in found))
    chosen = there_are if names is None else list(names)
    for name in chosen:
        if name not in there_are:
            raise ValueError(f"target={name!r}: it has no mutants; these have: {', '.join(there_are)}")
    return [group for name in chosen for (own, _), group in found.items() if own == name]


def one(group: list[Mutant], cases: int, seed: int) -> Row:
    """The row of one group."""
    target, params = targets.get(group[0].target), dict(group[0].params)
    wrong, right = ([one for one in group if one.correct is correct] for correct in (False, True))
    try:
        chosen = choose(target, params, cases=cases, seed=seed, own=wrong)
    except (VectorsError, CandidateError) as error:
        return Row(target.name, params, refused=str(error), mutants=len(wrong), controls=len(right))
    content = chosen.vectors.packed()
    vectors = unpacked(*arrays_file.unpacked(content))
    return Row(
        target=target.name,
        params=params,
        mutants=len(wrong),
        alive=tuple(one.name for one in wrong if not _kills(vectors, one)),
        held_out=_held_out(chosen, cases),
        controls=len(right),
        flagged=tuple(one.name for one in right if _kills(vectors, one)),
        cases=len(vectors.cases),
        nbytes=len(content),
    )


def _kills(vectors: Vectors, mutant: Mutant) -> bool:
    function = adapted(mutant.function, vectors.params)
    return any(killed(case, function) for case in vectors.cases.values())


def _held_out(chosen: Chosen, cases: int) -> int:
    """How many mutants of each half the cases kill that are chosen for the other half."""
    places, count = range(len(chosen.mutants)), 0
    for half in (0, 1):
        kept = cover(chosen.tried, frozenset(place for place in places if place % 2 == half), cases)
        for place in places:
            if place % 2 != half:
                function = adapted(chosen.mutants[place].function, chosen.vectors.params)
                count += any(place in one.kills or killed(one.case, function) for one in kept)
    return count


def of_target(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """The rows of each target that has vectors."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        if not row.refused:
            found.setdefault(row.target, []).append(row)
    return found
