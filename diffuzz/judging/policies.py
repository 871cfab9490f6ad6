"""Policies: which other choice of its contract would explain what a judged function did on one case.

A contract leaves some things to its user: whether activations are quantised and to what, how ties are rounded, where
exponents are clamped. These are parameters with choices. A function that was found to be wrong under one choice may
have been written for another, so its case is measured once more under each of them.

That a case is within the bound of another choice says nothing about other cases: a search under that choice may find
one. So a report tells its reader to try it, and does not call the function right.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import TypeAlias

from diffuzz.cases.case import Case
from diffuzz.cases.space import InadmissibleError
from diffuzz.judging.evidence import Judged
from diffuzz.judging.opening import CandidateError
from diffuzz.judging.problem import Measurement, Problem
from diffuzz.judging.question import Judge
from diffuzz.targets.parameter import Parameter, ParameterError

# Names of the parameters that are choices of an implementation. The others are about its domain or its operation.
CHOICES = ("policy", "activation", "ties", "arithmetic")
# Values of parameters by name, which differ from those that the function was judged with.
Policy: TypeAlias = Mapping[str, str]


def explaining(problem: Problem, case: Case, measurement: Measurement) -> tuple[Policy, ...]:
    """The policies under which ``case``, whose ``measurement`` is above the threshold, is not: those of them that
    change the fewest parameters.

    Empty if there is none, if the question judges no function, or if the function failed on the case (it crashed, or
    hung, and would again) or mixed up the rows of a batch.
    """
    found = measurement.evidence
    above = measurement.value - measurement.noise > problem.threshold
    if not (isinstance(problem.question, Judge) and isinstance(found, Judged) and above):
        return ()
    if found.failure is not None or found.alone is not None:
        return ()
    try:
        for policies in _by_size(problem):
            explained = tuple(policy for policy in policies if _is_within(problem, policy, case))
            if explained:
                return explained
    except CandidateError:
        # It is what it was found to be; that it cannot be asked once more must not hide that.
        pass
    return ()


def _by_size(problem: Problem) -> Iterator[list[Policy]]:
    """Policies that change one parameter, two parameters and so on."""
    contract = problem.target.contract
    declared = () if contract is None else contract.parameters
    others = [(one.name, _others(one, problem)) for one in declared if one.name in CHOICES]
    for count in range(1, len(others) + 1):
        yield [
            dict(zip((name for name, _ in chosen), values, strict=True))
            for chosen in itertools.combinations(others, count)
            for values in itertools.product(*(options for _, options in chosen))
        ]


def _others(parameter: Parameter, problem: Problem) -> tuple[str, ...]:
    return tuple(option for option in parameter.options if option != problem.params[parameter.name])


def _is_within(problem: Problem, policy: Policy, case: Case) -> bool:
    """Whether the function keeps the bound of this policy on the case; False where the policy does not apply to it.

    Raises CandidateError if the function fails on it now, so that one that hangs is not asked for each policy.
    """
    try:
        other = problem.under(policy)
        other.space.check(case)
    except (ParameterError, InadmissibleError):
        return False
    outcome = other.evaluate(case.batch())
    if outcome.failures is not None and outcome.failures.any():
        raise CandidateError("it failed on a case that it had a result of")
    return not outcome.value[0] - outcome.noise[0] > problem.threshold
