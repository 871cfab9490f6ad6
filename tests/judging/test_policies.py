"""Policies: what a witness is explained by, and what by nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import attrs
import numpy as np
import pytest

from diffuzz import formats, targets
from diffuzz.cases.case import Case
from diffuzz.cli import main
from diffuzz.judging.policies import explaining
from diffuzz.judging.problem import open_problem
from diffuzz.judging.question import Claim, Judge
from diffuzz.studies.mutants import styles
from diffuzz.studies.mutants import wrong_dots as dots
from diffuzz.studies.mutants import wrong_rows as rows

F = np.float32
# One block of q4_0 of weights of 7, and one of weights of 0, whose stored codes are 8.
SEVENS = formats.get("q4_0").pack({"d": np.ones(1, np.float16), "codes": np.full((1, 32), 15, np.int32)})
ZEROS = formats.get("q4_0").pack({"d": np.ones(1, np.float16), "codes": np.full((1, 32), 8, np.int32)})


def _q8_k_away(values: np.ndarray) -> np.ndarray:
    return rows.quantiser("q8_K", levels=128, rounding=dots.round_half_away)(values)


def _halves(peak: float, count: int) -> np.ndarray:
    """A block whose scale is 1 for this peak, with exact halves."""
    return np.append(F(peak), (np.arange(count - 1) % 100 + 0.5)).astype(F)


def _block_sums(weights: np.ndarray, x: np.ndarray) -> np.ndarray:
    return dots.blocks_of_32("q4_0")(weights, x)


# (target, parameters, function, arrays, what explains it)
EXPLAINED = [
    ("swiglu", {}, rows.swiglu(gate=styles.sigmoid_rational), {"gate": [-18.5], "up": [1]},
     [{"policy": "tanh"}, {"policy": "clamp-18"}]),
    ("softmax", {}, rows.soft_max(exp=rows.exp_limited(-64)), {"z": [0, -100]}, [{"policy": "clamp-64"}]),
    ("rmsnorm", {}, rows.rms_norm(inverse=styles.eps_outside), {"x": [1e-3], "eps_exponent": [0]},
     [{"policy": "eps-outside"}]),
    ("quantize", {"format": "q8_0"}, rows.quantiser("q8_0", rounding=dots.round_half_away),
     {"values": _halves(127, 32)}, [{"ties": "any"}]),
    # Both a scale of -128 / max and the other rule for ties: neither alone explains it.
    ("quantize", {}, _q8_k_away, {"values": _halves(128, 256)}, [{"ties": "any", "policy": "saturate"}]),
    ("quantize", {}, _q8_k_away, {"values": np.append(F(128), np.arange(255) % 100)}, [{"policy": "saturate"}]),
    ("matvec", {"format": "q4_0"}, _block_sums,
     {"weights": np.tile(ZEROS, (1, 9)), "x": np.append(np.zeros(256), np.linspace(1, 2, 32))},
     [{"activation": "q8_1"}]),
    # A product with quantised activations, judged as one with float32 activations.
    ("matvec", {"format": "q4_0", "arithmetic": "apr"}, dots.matvec("q4_0"),
     {"weights": np.tile(SEVENS, (1, 9)), "x": np.append(np.zeros(256), np.linspace(1, 2, 32))},
     [{"arithmetic": "gguf"}]),
    ("swiglu", {}, rows.swiglu(gate=rows.gelu_sigmoid), {"gate": [1], "up": [1]}, []),
    ("softmax", {}, rows.soft_max(whole=lambda total: total * F(2)), {"z": [1, 2]}, []),
    ("quantize", {"format": "q8_0"}, rows.quantiser("q8_0", rounding=np.trunc),
     {"values": _halves(127, 32) + F(0.25) * (np.arange(32) > 0)}, []),
]  # fmt: skip


def _case(target: str, arrays: dict[str, object]) -> Case:
    dtypes = {"weights": np.uint8, "eps_exponent": np.int32}
    return Case({name: np.array(array).astype(dtypes.get(name, F)) for name, array in arrays.items()})


@pytest.mark.parametrize(("target", "given", "function", "arrays", "expected"), EXPLAINED, ids=lambda each: "")
def test_what_explains_a_case(
    target: str,
    given: dict[str, str],
    function: Callable[..., np.ndarray],
    arrays: dict[str, object],
    expected: list[dict[str, str]],
) -> None:
    """The choices that change the fewest parameters, all of them; none where a function is plainly wrong."""
    problem = open_problem(targets.get(target), given, Judge(function, name="f"))
    case = _case(target, arrays)
    measurement = problem.measured(case)
    assert measurement.value > problem.threshold
    assert [dict(policy) for policy in explaining(problem, case, measurement)] == expected


def test_nothing_is_explained_that_needs_no_explanation() -> None:
    """A right function, a failure, a mix-up of rows, a claim: no policy is named."""
    softmax, z = targets.get("softmax"), _case("softmax", {"z": [0, -100]})
    right = open_problem(softmax, {}, Judge(rows.soft_max(), name="f"))
    assert explaining(right, z, right.measured(z)) == ()
    clamped = open_problem(softmax, {}, Judge(rows.soft_max(exp=rows.exp_limited(-64)), name="f"))
    measured = clamped.measured(z)
    assert explaining(clamped, z, measured) != ()
    beside = attrs.evolve(measured, evidence=attrs.evolve(measured.evidence, alone=0.5))
    assert explaining(clamped, z, beside) == ()
    claim = open_problem(softmax, {"n": 2}, Claim())
    moved = Case({"z": np.array([0, -9], F), "z_direction": np.ones(2, F)})
    assert explaining(claim, moved, attrs.evolve(claim.measured(moved), value=1e9)) == ()
    with pytest.raises(TypeError, match="a function is judged under other parameters"):
        claim.under({"n": "3"})


def test_a_function_that_fails_when_it_is_asked_again() -> None:
    """What was found stays found: a function that raises, or has nothing to say, the second time has no policy."""
    calls = []

    def f(z: np.ndarray) -> np.ndarray:
        calls.append(len(z))
        if len(calls) > 3:
            raise OSError("no more")
        return rows.soft_max(exp=rows.exp_limited(-64))(z)

    problem = open_problem(targets.get("softmax"), {}, Judge(f, name="f"))
    case = _case("softmax", {"z": [0, -100]})
    measured = problem.measured(case)
    assert measured.value > 1
    assert explaining(problem, case, measured) == ()
    assert len(calls) == 4


CANDIDATE = """import numpy as np

def tanh(gate, up):
    return gate * np.float32(0.5) * (np.float32(1) + np.tanh(gate / 2)) * up

def crashing(gate, up):
    if (gate < -15).any():
        raise ValueError("too small")
    return gate / (np.float32(1) + np.exp(-gate)) * up
"""


def _searched(capsys: pytest.CaptureFixture[str], function: str, *more: str) -> tuple[int, str]:
    Path("mine.py").write_text(CANDIDATE)
    question = ("--target", "swiglu", "--candidate", f"mine.py:{function}", "--no-save", "--seed", "0", "--first")
    code = main._run(["search", *question, "--budget", "20s", "--param", "candidate_n=3", *more])
    return code, capsys.readouterr().out


@pytest.mark.usefixtures("_in_a_folder")
def test_the_report_says_what_to_try(capsys: pytest.CaptureFixture[str]) -> None:
    """The option to give and what it means, and that this is about one case; under the option nothing is found."""
    code, out = _searched(capsys, "tanh")
    lines = [line.strip() for line in out.splitlines()]
    first = lines.index(
        "On this case it is within the bound of another choice. If that is what it is meant to compute, try:"
    )
    assert lines[first + 1] == ("--param policy=tanh  (a sigmoid that cancels there, as (1 + tanh(gate/2)) / 2 does)")
    assert lines[first + 2].startswith("--param policy=clamp-18  (such a sigmoid")
    assert lines[first + 3] == "Other cases may still show it to be wrong."
    assert code == 1
    code, out = _searched(capsys, "tanh", "--json")
    assert json.loads(out)["within_policies"] == [{"policy": "tanh"}, {"policy": "clamp-18"}]
    code, out = _searched(capsys, "tanh", "--param", "policy=tanh", "--budget", "1s")
    assert (code, "within the bound of another choice" in out) == (0, False)


@pytest.mark.usefixtures("_in_a_folder")
def test_a_failure_is_not_called_again(capsys: pytest.CaptureFixture[str]) -> None:
    """A function that raises on its witness has no policy."""
    code, out = _searched(capsys, "crashing", "--json")
    found = json.loads(out)
    assert (code, found["value"], found["within_policies"]) == (1, "inf", [])


@pytest.fixture
def _in_a_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
