"""Candidates: loading, errors of one line, values of what is wrong."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest

from diffuzz import targets
from diffuzz.cases.case import Case
from diffuzz.judging import examination
from diffuzz.judging.evidence import Judged
from diffuzz.judging.opening import CandidateError, parse, python_file
from diffuzz.judging.problem import Measurement, Problem, open_problem
from diffuzz.judging.question import Function, Judge
from diffuzz.judging.verdict import Verdict
from diffuzz.targets.contract import Contract
from diffuzz.targets.outcome import Arrays
from diffuzz.targets.parameter import Params
from diffuzz.targets.target import Target

SOFTMAX = targets.get("softmax")
CASE = Case({"z": np.array([1, 2, 3], np.float32)})


def _soft_max(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return np.asarray(e / e.sum(axis=1, keepdims=True))


def _problem(function: Function, target: Target = SOFTMAX, given: dict[str, Any] | None = None) -> Problem:
    return open_problem(target, given, Judge(function, name="mine.py:f"))


def _shown(measured: Measurement) -> Judged:
    assert isinstance(measured.evidence, Judged)
    return measured.evidence


def _file(folder: Path, text: str, name: str = "mine.py") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def load(specification: str) -> Function:
    """The function of a file."""
    return python_file.load(parse(specification))


def test_load(tmp_path: Path) -> None:
    """The function of a file, which may import what lies beside it and use its own module name."""
    _file(tmp_path, "FACTOR = 3\n", "helper_of_mine.py")
    path = _file(
        tmp_path,
        "import dataclasses\nfrom helper_of_mine import FACTOR\n"
        "@dataclasses.dataclass\nclass State:\n    x: 'int' = 1\n"
        "def f(x):\n    return FACTOR * x\n",
    )
    assert load(f"{path}:f")(2) == 6


@pytest.mark.parametrize(
    ("specification", "message"),
    [
        ("mine.py", "FILE.py:FUNCTION is needed"),
        (":f", "FILE.py:FUNCTION is needed"),
        ("mine.py:", "FILE.py:FUNCTION is needed"),
        ("mine.py:a b", "FILE.py:FUNCTION is needed"),
        ("missing.py:f", "there is no file missing.py"),
        (".:f", "there is no file ."),
    ],
)
def test_bad_specifications(specification: str, message: str) -> None:
    """One line that says what is needed."""
    with pytest.raises(CandidateError) as error:
        load(specification)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def g(x): return x\n", "has no function f"),
        ("f = 3\n", "has no function f, but the int of that name"),
        ("raise RuntimeError('first\\nsecond')\n", "fails to load: RuntimeError: first second"),
        ("import sys; sys.exit(3)\n", "fails to load: SystemExit: 3"),
        ("def f(x) return x\n", "fails to load: SyntaxError"),
        ("import a_module_that_is_not_there\n", "fails to load: ModuleNotFoundError"),
    ],
)
def test_files_that_do_not_load(tmp_path: Path, text: str, message: str) -> None:
    """One line with the reason."""
    with pytest.raises(CandidateError) as error:
        load(f"{_file(tmp_path, text)}:f")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_python(tmp_path: Path) -> None:
    """A file of another kind is named as such."""
    with pytest.raises(CandidateError, match=r"its name must end in \.py"):
        load(f"{_file(tmp_path, 'x', 'mine.txt')}:f")


def test_a_correct_candidate() -> None:
    """Within the bound: UNRESOLVED, since one input proves nothing; the evidence names all three voices."""
    problem = _problem(_soft_max)
    measured = problem.measured(CASE)
    shown = measured.evidence.as_dict()
    assert 0 <= measured.value <= 1
    assert measured.measure == "max |f - exact| / a-priori bound"
    assert problem.verdict(measured) is Verdict.UNRESOLVED
    expected = np.exp([1.0, 2, 3]) / np.exp([1.0, 2, 3]).sum()
    worst = int(shown["worst element"])
    assert shown["exact"] == pytest.approx(expected[worst], rel=1e-14)
    assert shown["candidate"] == pytest.approx(expected[worst], rel=1e-6)
    assert shown["reference"] == pytest.approx(expected[worst], rel=1e-6)
    assert shown["reference error / a-priori bound"] <= 1
    error = abs(shown["candidate"] - shown["exact"])
    assert measured.value == pytest.approx(error / shown["allowance"])


def test_a_wrong_candidate_that_ggml_would_not_see() -> None:
    """A relative error of 1e-5 is hundreds of roundings, but an NMSE of 1e-10, below ggml's limit of 1e-6."""
    problem = _problem(lambda z: _soft_max(z) * np.float32(1.00001))
    measured = problem.measured(CASE)
    shown = measured.evidence.as_dict()
    assert problem.verdict(measured) is Verdict.CONFIRMED
    assert shown["nmse"] == pytest.approx(1e-10, rel=0.1)
    assert (shown["ggml nmse limit"], shown["nmse"] < 1e-6) == (1e-6, True)
    assert examination.GGML_NMSE_LIMIT["matvec"] == 5e-4


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_infinitely_wrong(wrong: float) -> None:
    """A NaN or infinity where the exact result is finite has the value inf, without noise, and confirms."""

    def f(z: np.ndarray) -> np.ndarray:
        p = _soft_max(z)
        p[:, 1] = wrong
        return p

    problem = _problem(f)
    measured = problem.measured(CASE)
    assert (math.inf, 0.0, 1) == (measured.value, measured.noise, _shown(measured).element)
    assert _shown(measured).nmse == math.inf
    assert problem.verdict(measured) is Verdict.CONFIRMED


def test_nothing_is_judged_where_nothing_is_promised() -> None:
    """A sum of squares that overflows float32 may give anything."""
    rmsnorm = targets.get("rmsnorm")
    problem = _problem(lambda x, eps: np.full_like(x, np.nan), rmsnorm, {"candidate_max_abs": 1e30})
    case = Case({"x": np.array([1e25, 1], np.float32), "eps_exponent": np.zeros(1, np.int32)})
    assert problem.measured(case).value == 0.0


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda z: z[:, :2], "returns float32[1, 2], where float32[1, 3] is needed"),
        (lambda z: z[0], "returns float32[3], where float32[1, 3] is needed"),
        (lambda z: z.astype(np.float64), "returns float64[1, 3], where float32[1, 3] is needed"),
        (lambda z: z.tolist(), "returns float64[1, 3]"),
        (lambda z: None, "returns object[]"),
        (lambda z: 1 / 0, "raises ZeroDivisionError: division by zero"),
        (lambda: 1, "raises TypeError"),
    ],
)
def test_results_that_cannot_be_judged(function: Function, message: str) -> None:
    """One line: the function, what it did, and the shapes it was called with."""
    with pytest.raises(CandidateError) as error:
        _problem(function).measured(CASE)
    assert f"candidate mine.py:f {message}" in str(error.value)
    assert "z float32[1, 3]" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_row_of_which_nothing_is_promised_may_raise(tmp_path: Path) -> None:
    """All logits masked: refused is as good as NaN; where anything is promised, an exception is a failure."""
    file = _file(
        tmp_path,
        "import numpy as np\n\n\ndef f(z):\n    if np.isinf(z).all(axis=1).any() or (z == 1).any():\n"
        "        raise ValueError('no')\n    e = np.exp(z - z.max(axis=1, keepdims=True))\n"
        "    return e / e.sum(axis=1, keepdims=True)\n",
    )
    with pytest.raises(CandidateError, match="raises ValueError: no"):
        open_problem(SOFTMAX, {}, Judge(f"{file}:f"))
    file.write_text(file.read_text().replace("(z == 1)", "(z == 2)"))
    with open_problem(SOFTMAX, {}, Judge(f"{file}:f")) as problem:
        masked, refused = np.full((2, 3), -120, np.float32), np.array([[0, 1, 2]], np.float32)
        assert np.isnan(problem.evaluate({"z": masked}).value).all()
        assert problem.evaluate({"z": refused}).value.tolist() == [np.inf]


@pytest.mark.parametrize(
    ("target", "given", "function"),
    [
        ("rmsnorm", {"eps_exponent": [[2]]}, lambda x, eps: x / np.sqrt((x[:1] ** 2).mean() + np.float32(eps))),
        ("rope", {"base_exponent": [[1]], "positions": [[7]]}, lambda x, p, *_: x * np.float32(p[0] == 0)),
    ],
)
def test_a_case_stands_beside_others(target: str, given: dict[str, Any], function: Any) -> None:
    """Whatever its scalar arguments are: the first row's norm, or position, is another than its own."""
    seen: list[int] = []

    def counted(x: np.ndarray, *more: Any) -> np.ndarray:
        seen.append(len(x))
        return np.asarray(function(x, *more))

    problem = _problem(counted, targets.get(target))
    arrays = {name: np.array(value, np.int32)[0] for name, value in given.items()}
    x = np.full(problem.space["x"].array_shape(), 0.5, np.float32)
    measured = problem.measured(Case({"x": x, **arrays}))
    assert measured.value > problem.threshold
    assert seen == [1, 8, 5]


def test_candidates_get_copies() -> None:
    """A function that works in place changes neither the case nor the exact result."""

    def f(z: np.ndarray) -> np.ndarray:
        z -= z.max(axis=1, keepdims=True)
        np.exp(z, out=z)
        z /= z.sum(axis=1, keepdims=True)
        return z

    assert _problem(f).measured(CASE).value <= 1
    assert CASE["z"].tolist() == [1, 2, 3]


def test_targets_without_a_contract_take_no_candidate() -> None:
    """Two sums of one product are not one function."""
    with pytest.raises(CandidateError, match="target dot-order takes no candidate"):
        _problem(_soft_max, targets.get("dot-order"))


def _bits(accepts: Callable[[Params, Arrays, np.ndarray], np.ndarray] | None = None) -> Target:
    assert SOFTMAX.contract is not None
    contract = Contract(
        signature="f(z) -> z + 1",
        parameters=SOFTMAX.contract.parameters,
        space=SOFTMAX.contract.space,
        call=lambda p, f, arrays: f(arrays["z"]),
        run=lambda p, arrays, kernels: arrays["z"] + np.float32(1),
        kernels=lambda p: ("exact",),
        accepts=accepts,
    )
    return attrs.evolve(SOFTMAX, contract=contract)


def test_a_result_fixed_to_the_bit() -> None:
    """The value is the number of elements that differ, by one ULP or by NaN; zeros of either sign are one number."""
    target = _bits()
    batch = {"z": np.array([[1, 2, 3], [-1, 0, 1]], np.float32)}

    def value(function: Function) -> list[float]:
        found: list[float] = _problem(function, target).evaluate(batch).value.tolist()
        return found

    assert value(lambda z: z + np.float32(1)) == [0.0, 0.0]
    assert value(lambda z: -(-z - np.float32(1))) == [0.0, 0.0]
    assert value(lambda z: np.nextafter(z + np.float32(1), np.float32(9))) == [3.0, 3.0]
    assert value(lambda z: np.where(np.arange(3) == 1, np.nan, z + 1).astype(np.float32)) == [1.0, 1.0]
    fixed = _problem(lambda z: z + 1, target)
    assert (fixed.threshold, fixed.tolerance) == (0.0, 0.0)


def test_a_contract_may_say_what_is_right() -> None:
    """Elements that ``accepts`` allows are right, others are wrong, whatever the reference gives."""
    target = _bits(accepts=lambda p, arrays, result: result == arrays["z"])
    measured = _problem(lambda z: z + np.array([0, 0, 1], np.float32), target).measured(CASE)
    shown = measured.evidence.as_dict()
    assert (measured.value, shown["first element"], shown["candidate"], shown["reference"]) == (1.0, 2.0, 4.0, 4.0)
