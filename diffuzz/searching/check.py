"""A whole search in one line of a test: ``check(my_kernel, "rmsnorm")``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from diffuzz import targets
from diffuzz.cases.text import case_text
from diffuzz.judging.evidence import Judged
from diffuzz.judging.question import Function, Judge
from diffuzz.judging.verdict import Verdict
from diffuzz.searching.search import search
from diffuzz.targets.operation import Operation
from diffuzz.targets.target import Target

if TYPE_CHECKING:
    from diffuzz.searching.result import SearchResult

# Takes a second to import, and is not needed where a test-suite does not use it.
_HYPOTHESIS = ("pbt",)


def check(
    implementation: Function | str,
    operation: Operation | Target | str,
    *,
    seconds: float = 5.0,
    seed: int = 0,
    params: Mapping[str, object] | None = None,
    arrays: str = "numpy",
    device: str = "cpu",
) -> None:
    """Search for an input on which ``implementation`` leaves the error bound of ``operation``.

    ``implementation`` is a function, called in this process, or a name such as ``FILE.py:FUNCTION``, called in one of
    its own, where a crash or a hang is a finding. ``operation`` is a target, an operation, or the name of one
    (``FILE.py:NAME``, too). ``params`` are its parameters, such as ``{"dtype": "bfloat16"}``. The same seed gives the
    same cases. ``arrays`` (numpy, torch, jax, dlpack) and ``device`` (cpu, cuda:0) say what a function of Python is
    called with (see diffuzz.judging.handing).

    Raises AssertionError with the minimised witness; ValueError, one line, for arguments that do not fit; ImportError,
    one line, for a package or a device that is not here.
    """
    judge = Judge(implementation, arrays=arrays, device=device)
    result = searched(judge, operation, seconds=seconds, seed=seed, params=params)
    if result.verdict is Verdict.CONFIRMED:
        raise AssertionError(witness_text(result))


def searched(
    judge: Judge,
    operation: Operation | Target | str,
    *,
    seconds: float,
    seed: int,
    params: Mapping[str, object] | None,
) -> SearchResult:
    """The search of ``check``. Raises ValueError, one line, for arguments that do not fit."""
    if isinstance(operation, Operation):
        operation = operation.target
    if not isinstance(operation, (Target, str)):
        raise ValueError(f"operation={operation!r:.80}: a target, an @operation, or the name of one is needed")
    target = operation if isinstance(operation, Target) else targets.get(targets.load(operation))
    return search(target, params, judge, seconds=seconds, seed=seed, without=_HYPOTHESIS)


def witness_text(result: SearchResult) -> str:
    """What is wrong, on which input, and the command or seed that finds it again."""
    found, target = result.measurement.evidence, result.target
    lines = [f"{result.candidate} is wrong: {_what(result, found)}" if isinstance(found, Judged) else "wrong"]
    lines.append(f"(target {target.name}, seed {result.seed}, {result.evaluations} evaluations)")
    if result.case is not None and target.contract is not None:
        instead = target.contract.instead(result.params, result.problem.space.filled(result.case.batch()))
        lines += ["", *(f"  {line}" for line in case_text(result.problem.space, result.case, instead).splitlines())]
    return "\n".join(lines)


def _what(result: SearchResult, found: Judged) -> str:
    if found.failure is not None:
        return f"it {found.failure}"
    where = f"element {found.element}"
    if result.case is not None and result.target.contract is not None:
        batch = result.problem.space.filled(result.case.batch())
        where = result.target.contract.place(result.params, batch, found.element)
    if found.allowance is None:
        return f"{where} is {found.candidate:.9g}, where {found.reference:.9g} is right"
    return (
        f"{where} is {found.candidate:.9g}, where {found.exact:.9g} is exact and an error of "
        f"{found.allowance:.3g} is allowed"
    )
