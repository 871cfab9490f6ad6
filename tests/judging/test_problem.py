"""Problems: the three questions of one target, what is bound once, and what is said of a case."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diffuzz import kernels, targets
from diffuzz.cases.case import Case
from diffuzz.cases.space import InadmissibleError
from diffuzz.judging.evidence import Compared, Judged, Terms
from diffuzz.judging.opening import CandidateError
from diffuzz.judging.pair import MissingKernelsError
from diffuzz.judging.problem import evaluate, open_problem
from diffuzz.judging.question import Claim, Compare, Judge, Question, QuestionError
from diffuzz.judging.verdict import Verdict
from diffuzz.targets.parameter import ParameterError

SOFTMAX, DOT = targets.get("softmax"), targets.get("dot-order")
Z = np.array([1, 2, 3], np.float32)
CASE = Case({"z": Z})
WRONG = "import numpy as np\n\n\ndef f(z):\n    return np.full_like(z, 1 / z.shape[1])\n"


def _right(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return np.asarray(e / e.sum(axis=1, keepdims=True))


def _wrong(z: np.ndarray) -> np.ndarray:
    return np.full_like(z, 1 / z.shape[1])


def _file(folder: Path) -> str:
    (folder / "mine.py").write_text(WRONG)
    return f"{folder}/mine.py:f"


# The three questions


def test_the_claim_of_a_target() -> None:
    """Everything is the target's own, with its parameters bound."""
    problem = open_problem(SOFTMAX, {"n": "3"})
    params = SOFTMAX.params({"n": 3})
    assert (problem.target, problem.params, problem.question) == (SOFTMAX, params, Claim())
    assert problem.space == SOFTMAX.space(params)
    assert (problem.measure, problem.claim) == (SOFTMAX.measure(params), SOFTMAX.claim)
    assert (problem.threshold, problem.bound) == (SOFTMAX.threshold(params), SOFTMAX.bound(params))
    assert (problem.tolerance, problem.cost) == (SOFTMAX.tolerance, SOFTMAX.cost)
    assert (problem.judges, problem.steady, problem.compiles, problem.has_screen) == (False, True, False, True)
    assert problem.amplification is SOFTMAX.question
    assert problem.screen() is not None
    case = Case({"z": Z, "z_direction": np.array([1, -1, -1], np.float32)})
    measured = problem.measured(case)
    assert isinstance(measured.evidence, Terms)
    drifts = measured.evidence.as_dict()
    assert measured.value == pytest.approx(drifts["output drift"] / drifts["input drift"], rel=1e-12)
    assert measured.value == problem.evaluate(case.batch()).value[0] == evaluate(SOFTMAX, {"n": 3}, case).value
    assert problem.explain(case) == measured.evidence
    assert problem.environment() == {}


def test_a_target_without_a_screen() -> None:
    """There is none, and nothing to solve for."""
    problem = open_problem(DOT, {"n": 8})
    assert (problem.has_screen, problem.screen(), problem.amplification) == (False, None, None)
    batch = {"x": np.ones((1, 8), np.float32)}
    assert problem.solve(batch) == batch


@pytest.mark.parametrize(("function", "verdict"), [(_right, Verdict.UNRESOLVED), (_wrong, Verdict.CONFIRMED)])
def test_a_function_is_judged(function: Any, verdict: Verdict) -> None:
    """By the contract, with its parameters, in its space; no bound, and the value of a row alone counts."""
    problem = open_problem(SOFTMAX, {"candidate_n": 20}, Judge(function))
    assert SOFTMAX.contract is not None
    params = SOFTMAX.contract_params({"candidate_n": 20})
    assert (problem.params, problem.space) == (params, SOFTMAX.contract.space(params))
    assert (problem.measure, problem.claim) == ("max |f - exact| / a-priori bound", f"{function.__name__} is wrong")
    assert (problem.threshold, problem.bound, problem.judges, problem.steady) == (1.0, None, True, False)
    assert (problem.has_screen, problem.amplification, problem.candidate, problem.passing) == (False, None, None, None)
    measured = problem.measured(CASE)
    assert problem.verdict(measured) is verdict
    assert isinstance(measured.evidence, Judged)
    assert measured.evidence.wrong == ("candidate" if verdict is Verdict.CONFIRMED else None)
    assert problem.explain(CASE) == measured.evidence


def test_a_function_of_a_file_has_a_process(tmp_path: Path) -> None:
    """It is started with the problem, called once, and ended with it."""
    name = _file(tmp_path)
    with open_problem(SOFTMAX, {}, Judge(name)) as problem:
        assert problem.candidate is not None
        assert problem.candidate._worker._process is not None
        assert problem.claim == f"{name} is wrong"
        assert problem.verdict(problem.measured(CASE)) is Verdict.CONFIRMED
    assert problem.candidate._worker._process is None


def test_a_result_that_is_fixed_has_no_tolerance() -> None:
    """One element that differs is one too many."""
    for question in (Judge(lambda blocks: blocks), Compare("ggml", "apr")):
        problem = open_problem(targets.get("dequantize"), {"format": "q8_0"}, question)
        assert (problem.threshold, problem.tolerance) == (0.0, 0.0)
    assert problem.measure == "elements whose bits differ"


def test_kernels_are_compared() -> None:
    """In the space of the contract, by what rounding allows."""
    problem = open_problem(SOFTMAX, {"candidate_n": 20}, Compare("exact", "apr"))
    assert problem.params == SOFTMAX.contract_params({"candidate_n": 20})
    assert (problem.threshold, problem.bound, problem.judges, problem.steady) == (1.0, None, True, True)
    assert problem.claim == "exact and apr differ by more than rounding"
    measured = problem.measured(CASE)
    found = measured.evidence
    assert isinstance(found, Compared)
    assert found.rounding is not None
    # One of them does not round.
    assert measured.value == pytest.approx(abs(found.a - found.b) / found.rounding)
    assert problem.explain(CASE) == found
    assert not problem.compiles
    assert open_problem(SOFTMAX, {}, Compare("exact", "xla")).compiles


def test_a_candidate_among_the_kernels(tmp_path: Path) -> None:
    """It has a process, and a value may depend on its batch."""
    question = Compare("candidate", "ggml", candidate=Judge(_file(tmp_path)))
    with open_problem(SOFTMAX, {}, question) as problem:
        assert (problem.steady, problem.candidate is None) == (False, False)
        assert problem.verdict(problem.measured(CASE)) is Verdict.CONFIRMED
    assert problem.candidate is not None
    assert problem.candidate._worker._process is None


@pytest.mark.skipif(kernels.missing("libggml") is not None, reason="ggml is not installed")
def test_a_library_says_what_it_is() -> None:
    """Under the name that an entry has for it."""
    assert set(open_problem(SOFTMAX, {}, Compare("libggml", "exact")).environment()) == {"libggml"}


@pytest.mark.parametrize(
    ("question", "error", "message"),
    [
        (Judge("nowhere.py:f"), CandidateError, "there is no file nowhere.py"),
        (Compare("apr", "nobody"), QuestionError, "has no kernels 'nobody'"),
        (Compare("apr", "candidate"), QuestionError, "kernels candidate: give --candidate"),
        (Compare("apr", "ggml", candidate=Judge("nowhere.py:f")), QuestionError, "name candidate as one of them"),
        (Compare("apr", "candidate", candidate=Judge(_right)), QuestionError, "FILE.py:FUNCTION is needed"),
    ],
)
def test_questions_that_cannot_be_asked(question: Question, error: type[Exception], message: str) -> None:
    """One line."""
    with pytest.raises(error, match=message) as raised:
        open_problem(SOFTMAX, {}, question)
    assert "\n" not in str(raised.value)


def test_questions_to_a_target_without_a_contract() -> None:
    """Neither can be asked."""
    with pytest.raises(CandidateError, match="target dot-order takes no candidate"):
        open_problem(DOT, {}, Judge(_right))
    with pytest.raises(QuestionError, match="target dot-order compares no kernels"):
        open_problem(DOT, {}, Compare("apr", "ggml"))


def test_kernels_that_are_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """What to do to have them."""
    monkeypatch.setattr("diffuzz.kernels.missing", lambda name: f"no {name}" if name == "apr" else None)
    with pytest.raises(MissingKernelsError, match=r"^no apr$"):
        open_problem(SOFTMAX, {}, Compare("apr", "ggml"))


# Parameters and thresholds


@pytest.mark.parametrize("question", [None, Judge(_right), Compare("apr", "ggml")], ids=["claim", "judge", "compare"])
@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"m": 3}, "target softmax has no parameter 'm'"),
        ({"n": 0}, "n=0 is out of range"),
        ({"candidate_n": "many"}, "candidate_n=many: a whole number is needed"),
    ],
)
def test_bad_parameters(question: Question | None, given: dict[str, Any], message: str) -> None:
    """Those that play no part in a question are checked all the same."""
    with pytest.raises(ParameterError, match=message):
        open_problem(SOFTMAX, given, question)


def test_parameters_of_the_other_question_are_left_out() -> None:
    """One list for a target; each question has its own, and cannot change them."""
    given = {"n": 5, "candidate_n": 20}
    own, judged = open_problem(SOFTMAX, given), open_problem(SOFTMAX, given, Judge(_right))
    assert (own.params["n"], "candidate_n" in own.params) == (5, False)
    assert (judged.params["candidate_n"], "n" in judged.params) == (20, False)
    for problem in (own, judged):
        with pytest.raises(TypeError):
            problem.params["n"] = 3  # type: ignore[index]
        assert open_problem(SOFTMAX, problem.params, problem.question).params == problem.params


@pytest.mark.parametrize("question", [None, Judge(_wrong), Compare("exact", "apr")], ids=["claim", "judge", "compare"])
def test_a_threshold_of_the_user(question: Question | None) -> None:
    """It decides the verdict, and nothing else changes."""
    case = CASE if question else Case({"z": Z, "z_direction": np.array([1, -1, -1], np.float32)})
    usual = open_problem(SOFTMAX, {} if question else {"n": 3}, question)
    measured = usual.measured(case)
    assert measured.value > 0
    for factor, confirmed in ((0.5, True), (2.0, False)):
        problem = open_problem(SOFTMAX, usual.params, question, threshold=measured.value * factor)
        again = problem.measured(case)
        assert problem.threshold == measured.value * factor
        assert (again.value, again.evidence) == (measured.value, measured.evidence)
        assert (problem.verdict(again) is Verdict.CONFIRMED) is confirmed
    assert open_problem(SOFTMAX, {"n": 3}, threshold=0.0).threshold == 0.0


def test_a_case_outside_the_space() -> None:
    """It has no value, and shows nothing."""
    problem = open_problem(SOFTMAX, {}, Judge(_right))
    for ask in (problem.measured, problem.explain):
        with pytest.raises(InadmissibleError, match="outside"):
            ask(Case({"z": np.array([1e9], np.float32)}))


def test_without_constructions() -> None:
    """A search may be made without what the target knows; all else stays."""
    problem = open_problem(DOT, {"n": 8})
    made = problem.starts(np.random.default_rng(0), 3)
    assert made is not None
    assert problem.space.admissible(made).all()
    blind = problem.without_starts()
    assert blind.starts(np.random.default_rng(0), 3) is None
    assert (blind.params, blind.bound, blind.space) == (problem.params, problem.bound, problem.space)
