"""What a search found out."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from diffuzz.cases.case import Case
from diffuzz.judging.company import Chance, Company
from diffuzz.judging.evidence import Agreement, Compared, Judged
from diffuzz.judging.policies import Policy
from diffuzz.judging.problem import Measurement, Problem
from diffuzz.judging.question import Compare
from diffuzz.judging.verdict import Verdict
from diffuzz.searching.coverage import Coverage
from diffuzz.searching.objective import Found, Unsteady
from diffuzz.searching.state import State
from diffuzz.targets.outcome import Bound
from diffuzz.targets.parameter import Params
from diffuzz.targets.target import Target


@attrs.frozen
class SearchResult:
    """``case`` is None only if nothing admissible had a value above zero; ``seconds`` is all the time that it took,
    loading a candidate included. ``stopped`` says what ended it: bound reached, witness, work, clock, ideas or
    interrupted. ``first`` says whether it was to stop at its first witness, and ``default_threshold`` whether the
    threshold is the question's own. ``unminimised`` says why the case is the one that was found, and not a simpler one,
    where minimising it failed.
    """

    problem: Problem
    engine: str
    seed: int
    budget_s: float
    evaluations: int
    seconds: float
    stopped: str
    verdict: Verdict
    measurement: Measurement
    case: Case | None
    history: tuple[Found, ...]
    coverage: Coverage = attrs.field(factory=Coverage)
    libraries: Mapping[str, str] = attrs.field(factory=dict)
    first: bool = False
    default_threshold: bool = True
    # The rows beside which the case has its value, if it needs any; how often it was seen, if not every time; and what
    # was seen and did not come again.
    company: Company | None = None
    chance: Chance | None = None
    unsteady: Unsteady | None = None
    # By the user: the search, or only minimising.
    interrupted: bool = False
    # By the clock: then another run may find a simpler case, or one less simple.
    minimising_timed_out: bool = False
    # Under which the case of a judged function would not be above the threshold.
    policies: tuple[Policy, ...] = ()
    unminimised: str | None = None
    # The share of the numbers of all cases that were judged: of the others the arithmetic promises nothing.
    judged: float | None = None
    # What the next search of the same question begins with; what the best case of the one before has in this one; and
    # the work of this one, in seconds of a slow core.
    state: State = attrs.field(factory=State)
    kept: float | None = None
    work_s: float = 0.0

    @property
    def target(self) -> Target:
        """What was searched."""
        return self.problem.target

    @property
    def params(self) -> Params:
        """The parameters of the question."""
        return self.problem.params

    @property
    def threshold(self) -> float:
        """T of the claim "value > T"."""
        return self.problem.threshold

    @property
    def bound(self) -> Bound | None:
        """What no value exceeds, where that is proven."""
        return self.problem.bound

    @property
    def candidate(self) -> str | None:
        """The candidate that took part, if one did."""
        judged = self.problem.judge
        return None if judged is None else judged.name

    @property
    def kernels(self) -> tuple[str, str] | None:
        """The two implementations that were compared, if the question was that."""
        asked = self.problem.question
        return asked.recorded if isinstance(asked, Compare) else None

    @property
    def agreement(self) -> Agreement | None:
        """How the two implementations that were compared agree, as far as was seen; None if the question was another,
        or an interrupt left no time to look at the case.
        """
        if not isinstance(self.problem.question, Compare):
            return None
        if self.value == 0:
            return Agreement.BITS
        found = self.measurement.evidence
        return found.agreement(self.value) if isinstance(found, Compared) else None

    @property
    def value(self) -> float:
        """The largest value found (of the minimised witness)."""
        return self.measurement.value

    @property
    def largest(self) -> float:
        """The largest value before minimising, which keeps nearly all of it (and sometimes finds more)."""
        return self.history[-1].value if self.history else 0.0

    @property
    def replays(self) -> bool:
        """Whether there is a case, and it has its value again: in its company, and by its chance, if it has those."""
        return self.case is not None and not (self.unsteady is not None and self.case is self.unsteady.found.case)

    @property
    def efficiency(self) -> float | None:
        """Share of the bound that the witness reaches, or None without a bound above zero."""
        if self.bound is None or not self.bound.value > 0:
            return None
        return self.value / self.bound.value

    @property
    def failure(self) -> str | None:
        """How the candidate, or which of the two kernels and how, failed on the case; None if none did."""
        found = self.measurement.evidence
        if isinstance(found, Judged):
            return None if found.failure is None else str(found.failure)
        if isinstance(found, Compared) and isinstance(self.problem.question, Compare):
            asked = self.problem.question
            named = zip((asked.a, asked.b), found.failures, strict=True)
            said = [f"{self._title(name)} {failure}" for name, failure in named if failure is not None]
            return said[-1] if said else None
        return None

    @property
    def wrote(self) -> tuple[str, ...]:
        """The last lines of what it wrote to standard output and error on that case."""
        found = self.measurement.evidence
        failures = (
            (found.failure,) if isinstance(found, Judged) else found.failures if isinstance(found, Compared) else ()
        )
        return next((failure.wrote for failure in reversed(failures) if failure is not None), ())

    def _title(self, name: str) -> str:
        return self.candidate or name if name == "candidate" else name

    @property
    def passing(self) -> str | None:
        """A failure of the candidate that did not come again."""
        return self.problem.passing

    @property
    def skips(self) -> int:
        """How many cases the candidate said are not for it."""
        return self.problem.skips[0]

    @property
    def skipping(self) -> str | None:
        """Why it said so the last time."""
        return self.problem.skips[1]
