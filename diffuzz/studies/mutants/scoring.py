"""The mutation score: which mutants a search kills, how soon, and what ggml's own tests say about them.

    wrong, controls = apart(score(seconds=10, seed=0))
    print(sum(row.killed for row in wrong), "of", len(wrong))

Each function is searched as ``search --target T --candidate F`` does, with only those parameters that its user has to
give. The search ends at the first value above the threshold, and that witness is minimised. A control is searched for
the whole budget. For comparison each row has the answers of test-quantize-fns and test-backend-ops
(diffuzz.studies.mutants.ggml_criteria), the latter for RUNS runs with different inputs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable

import attrs
import numpy as np

from diffuzz import interruption, targets
from diffuzz.cases import parts as case_parts
from diffuzz.cases.case import Case
from diffuzz.judging.evidence import Evidence, Judged
from diffuzz.judging.problem import open_problem
from diffuzz.judging.question import Judge
from diffuzz.minimising.minimise import minimise
from diffuzz.searching import engines
from diffuzz.searching.objective import WORK_PER_SECOND, Budget, BudgetSpentError, Found, Objective
from diffuzz.searching.reproduction import in_company
from diffuzz.studies.mutants import ggml_criteria
from diffuzz.studies.mutants.mutants import Mutant, mutants
from diffuzz.targets.parameter import Params
from diffuzz.telling import Phase, parts, tell

# Number of runs of test-backend-ops, whose inputs are random.
RUNS = 5
# Share of the value that a minimised witness has to keep: it must show that the function is wrong, not how wrong.
KEEP = 1e-6
# Seconds for minimising a witness.
MINIMISING = 5.0


@attrs.frozen
class Row:
    """What a search and ggml's criteria say about one function.

    name, target, params, wrong,   those of the mutant
    source, correct
    killed, value                  whether the search found a value above the threshold, and the largest value found
    seconds, evaluations           until the first value above the threshold; of the whole search if there was none
    runs, levels                   the size of the minimised witness, summed over its arrays and fields: runs of equal
                                   numbers, and distinct numbers
    named                          the implementation that the witness shows to be wrong
    fns                            whether test-quantize-fns fails; None if it does not test the operation
    ops                            how many of RUNS runs of test-backend-ops fail
    """

    name: str
    target: str
    params: Params
    wrong: str
    source: str
    correct: bool
    killed: bool
    value: float
    seconds: float
    evaluations: int
    runs: int | None
    levels: int | None
    named: str | None
    fns: bool | None
    ops: int


def score(
    seconds: float,
    seed: int,
    names: Iterable[str] | None = None,
    *,
    on_row: Callable[[Row], None] | None = None,
) -> list[Row]:
    """Search every mutant and control, or those of these ``names``, for at most ``seconds`` each.

    If the user interrupts, the finished rows are returned. ``on_row`` is called with each row. Raises ValueError for an
    unknown name.
    """
    rows: list[Row] = []
    for mutant in parts(named_mutants(names), "functions", lambda mutant: mutant.name):
        try:
            interruption.check()
            row = one(mutant, seconds, seed)
        except KeyboardInterrupt:
            break
        rows.append(row)
        if on_row:
            on_row(row)
    return rows


def named_mutants(names: Iterable[str] | None) -> list[Mutant]:
    """The mutants and controls of these names, or all. Raises ValueError for an unknown name."""
    known = {mutant.name: mutant for mutant in mutants()}
    chosen = list(known) if names is None else list(names)
    unknown = [name for name in chosen if name not in known]
    if unknown:
        raise ValueError(f"name={unknown[0]!r}: no mutant or control has this name")
    return [known[name] for name in chosen]


def one(mutant: Mutant, seconds: float, seed: int) -> Row:
    """The row of one mutant or control."""
    objective = searched(mutant, seconds, seed)
    found = witness(objective)
    case, evidence = (None, None) if found is None else _minimised(objective, found)
    best = found or objective.best
    runs, levels = (None, None) if case is None else _size(objective, case)
    rng = np.random.default_rng(seed)
    return Row(
        name=mutant.name,
        target=mutant.target,
        params=dict(mutant.params),
        wrong=mutant.wrong,
        source=mutant.source,
        correct=mutant.correct,
        killed=found is not None,
        value=best.value if best else 0.0,
        seconds=found.seconds if found else objective.seconds,
        evaluations=found.evaluations if found else objective.evaluations,
        runs=runs,
        levels=levels,
        named=evidence.wrong if isinstance(evidence, Judged) else None,
        fns=ggml_criteria.fns_kills(mutant),
        ops=sum(ggml_criteria.ops_kills(mutant, rng) for _ in range(RUNS)),
    )


def searched(mutant: Mutant, seconds: float, seed: int) -> Objective:
    """The search of ``diffuzz.searching.search`` for this function, until the first value above the threshold."""
    problem = open_problem(targets.get(mutant.target), mutant.params, Judge(mutant.function, name=mutant.name))
    objective = Objective(problem, Budget(seconds, seconds * WORK_PER_SECOND), enough=problem.threshold)
    tell(Phase("searching"))
    # A user's function runs in NumPy, so there is no screen to compile.
    with contextlib.suppress(BudgetSpentError):
        for _ in engines.get("auto")(objective, np.random.default_rng(seed)):
            pass
    return objective


def witness(objective: Objective) -> Found | None:
    """The case above the threshold that a search ended with, or None."""
    best = objective.best
    return best if best and _above(best, objective.problem.threshold) else None


def _above(found: Found, threshold: float) -> bool:
    return found.value - found.noise > threshold


def _minimised(objective: Objective, found: Found) -> tuple[Case, Evidence]:
    """The simplest case that still shows the function to be wrong, beside what it needs, and what it shows."""
    problem, company = objective.problem, found.company
    own = company is not None or found.chance is not None
    evaluate = in_company(problem, company, found.chance) if own else None
    made = minimise(problem, found.case, keep=KEEP, seconds=MINIMISING, evaluate=evaluate, apart=own)
    if made.interrupted:
        raise KeyboardInterrupt
    if company is None:
        return made.case, problem.explain(made.case)
    return made.case, problem.measured(made.case, company=company.fitted(made.case, problem.scalars)).evidence


def _size(objective: Objective, case: Case) -> tuple[int, int]:
    """(runs of equal numbers, distinct numbers) of a case, summed over arrays and fields."""
    parts = case_parts.parts_of(objective.space)
    values = case_parts.split(parts, case.batch())
    flat = [values[part.name].reshape(-1) for part in parts]
    return (
        sum(1 + int((numbers[1:] != numbers[:-1]).sum()) for numbers in flat),
        sum(len(np.unique(numbers)) for numbers in flat),
    )


def apart(rows: list[Row]) -> tuple[list[Row], list[Row]]:
    """(mutants, controls)."""
    return [row for row in rows if not row.correct], [row for row in rows if row.correct]
