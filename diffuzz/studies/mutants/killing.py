"""Which mutants the case of a corpus entry kills."""

from __future__ import annotations

from diffuzz import targets
from diffuzz.corpus.entry import Counterexample
from diffuzz.corpus.lost import Lost
from diffuzz.judging.opening import CandidateError
from diffuzz.judging.problem import open_problem
from diffuzz.judging.question import Judge
from diffuzz.studies.vectors.choosing import of_parameters


def killed_by(entry: Counterexample | Lost) -> frozenset[str]:
    """The names of the mutants of the entry's operation and parameters that its case shows to be wrong; none of an
    entry that judges no function.
    """
    if isinstance(entry, Lost) or not entry.judges:
        return frozenset()
    target, found = targets.get(entry.target), set()
    for mutant in of_parameters(target, entry.params):
        try:
            with open_problem(target, entry.params, Judge(mutant.function, name=mutant.name)) as problem:
                measured = problem.measured(entry.case, company=entry.company, explained=False)
        except (CandidateError, ValueError):
            # It takes no such call.
            continue
        if measured.value - measured.noise > problem.threshold:
            found.add(mutant.name)
    return frozenset(found)
