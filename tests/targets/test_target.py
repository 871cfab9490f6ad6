"""Targets: parameters are parsed and checked, amplification is measured as it is defined."""

from __future__ import annotations

import math

import numpy as np
import pytest

from diffuzz import targets
from diffuzz.cases import draws
from diffuzz.cases.case import Case
from diffuzz.cases.space import InadmissibleError
from diffuzz.judging.problem import evaluate
from diffuzz.registry import UnknownNameError
from diffuzz.targets.outcome import Bound
from diffuzz.targets.parameter import Parameter, ParameterError


@pytest.mark.parametrize(
    ("parameter", "text", "expected"),
    [
        (Parameter("n", 7, "", low=2, high=9), "8", 8),
        (Parameter("n", 7, ""), 8.0, 8),
        (Parameter("x", 1.0, ""), "1e-3", 1e-3),
        (Parameter("x", 1.0, ""), 3, 3.0),
        (Parameter("gain", False, ""), "true", True),
        (Parameter("gain", False, ""), "False", False),
        (Parameter("mode", "neox", "", choices=("neox", "norm")), "norm", "norm"),
    ],
)
def test_parameters_are_parsed_as_the_type_of_their_default(
    parameter: Parameter, text: object, expected: object
) -> None:
    """Text and numbers become an int, float, bool or str."""
    value = parameter.parse(text)
    assert expected == value
    assert type(expected) is type(value)


@pytest.mark.parametrize(
    ("parameter", "text", "message"),
    [
        (Parameter("n", 7, ""), "7.5", "n=7.5: a whole number is needed"),
        (Parameter("n", 7, ""), "many", "n=many: a whole number is needed"),
        (Parameter("n", 7, ""), math.inf, "n=inf: a whole number is needed"),
        (Parameter("n", 7, "", low=2, high=9), "1", "n=1 is out of range: 2 <= n <= 9"),
        (Parameter("n", 7, "", low=2), "1", "2 <= n <= inf"),
        (Parameter("x", 1.0, "", low=0.0), "nan", "x=nan is out of range"),
        (Parameter("x", 1.0, ""), "inf", "x=inf is out of range"),
        (Parameter("x", 1.0, ""), None, "x=None: a number is needed"),
        (Parameter("gain", False, ""), "yes", "gain=yes: true or false is needed"),
        (Parameter("mode", "neox", "", choices=("neox", "norm")), "neo", "mode=neo: one of neox, norm is needed"),
    ],
)
def test_bad_parameters_are_one_clear_line(parameter: Parameter, text: object, message: str) -> None:
    """The error names the parameter, the value and what would be right."""
    with pytest.raises(ParameterError) as error:
        parameter.parse(text)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_unknown_parameters_are_rejected_with_a_hint() -> None:
    """A misspelt name is an error that suggests the right one."""
    with pytest.raises(ParameterError, match=r"no parameter 'max_bas' .*did you mean max_abs"):
        targets.get("softmax").params({"max_bas": 3})


def test_params_fill_in_defaults() -> None:
    """Parameters that are not given have their defaults, and cannot be changed afterwards."""
    params = targets.get("softmax").params({"n": "9"})
    assert (params["n"], params["max_abs"]) == (9, 10.0)
    with pytest.raises(TypeError):
        params["n"] = 3  # type: ignore[index]


def test_unknown_targets_are_rejected_with_a_hint() -> None:
    """A misspelt target is an error that suggests the right one."""
    with pytest.raises(UnknownNameError, match="did you mean softmax"):
        targets.get("soft-max")


@pytest.mark.parametrize("name", ["rmsnorm", "rope"])
def test_scalars_are_what_a_function_is_called_with(name: str) -> None:
    """Each stands for an array of one number; its value, the number that the function gets, is printed in full."""
    contract = targets.get(name).contract
    assert contract is not None
    params = targets.get(name).contract_params()
    batch = draws.structured(contract.space(params), np.random.default_rng(0), 1)
    got: list[object] = []

    def function(*arguments: object) -> np.ndarray:
        got.extend(arguments)
        return contract.reference(params, batch)

    for scalar in contract.scalars:
        spec = contract.space(params)[scalar.array]
        assert int(np.prod(spec.array_shape())) == 1
        for number in range(int(spec.low), int(spec.high) + 1):
            batch[scalar.array] = np.full_like(batch[scalar.array], number)
            got.clear()
            contract.call(params, function, batch)
            value = float(scalar.of(params, batch)[0])
            assert value in [argument for argument in got if isinstance(argument, float)]
            shown = contract.instead(params, batch)[scalar.array]
            assert shown.startswith(f"{scalar.name} = ")
            assert float(shown.removeprefix(f"{scalar.name} = ")) == value


@pytest.mark.parametrize("name", targets.names())
def test_every_target_is_complete(name: str) -> None:
    """Found by its name, with defaults that make a space, a measure in words, a finite threshold, a bound or None."""
    target = targets.get(name)
    params = target.params()
    assert name == target.name
    assert target.space(params).tensors
    assert target.measure(params)
    assert math.isfinite(target.threshold(params))
    bound = target.bound(params)
    assert bound is None or (bound.value >= 0 and bound.because)


@pytest.mark.parametrize("name", [name for name in targets.names() if targets.get(name).starts is not None])
def test_starts_are_admissible(name: str) -> None:
    """Constructions are cases of the space, of the largest shapes, in the number asked for."""
    target = targets.get(name)
    assert target.starts is not None
    params = target.params()
    batch = target.starts(params, np.random.default_rng(0), 5)
    space = target.space(params)
    assert {spec.name: (5, *spec.array_shape()) for spec in space.tensors} == {k: v.shape for k, v in batch.items()}
    assert space.admissible(batch).all()


def test_evaluate_checks_the_case() -> None:
    """A case outside the space has no value."""
    softmax = targets.get("softmax")
    case = Case({"z": np.array([11, 0], np.float32), "z_direction": np.ones(2, np.float32)})
    with pytest.raises(InadmissibleError, match=r"element \(0,\) is 11.0, outside \[-10, 10\]"):
        evaluate(softmax, softmax.params(), case)


def test_amplification_is_output_drift_over_input_drift() -> None:
    """Two logits at zero, one moved by 2^-10 of 1 in 2: checked against the closed form."""
    softmax = targets.get("softmax")
    params = softmax.params({"n": 2, "delta": 2.0**-10})
    z, t = np.array([1, 1], np.float32), np.array([1, 0], np.float32)
    measured = evaluate(softmax, params, Case({"z": z, "z_direction": t}))
    step = 2.0**-10 * 2
    out = 2 * (1 / (1 + math.exp(-step)) - 0.5)
    assert measured.value == pytest.approx(out / 2.0**-10, rel=1e-12)
    assert measured.evidence.as_dict()["output drift"] == pytest.approx(out, rel=1e-12)
    assert measured.evidence.as_dict()["input drift"] == pytest.approx(2.0**-10, rel=1e-12)
    assert measured.noise < 1e-10
    assert "l1 drift of z" in measured.measure


def test_nothing_divides_by_a_zero_scale() -> None:
    """A row whose output is zero has the value 0, not NaN."""
    swiglu = targets.get("swiglu")
    gate, up = np.array([0, 1], np.float32), np.array([1, 0], np.float32)
    case = Case({"gate": gate, "up": up, "gate_direction": np.ones(2, np.float32)})
    measured = evaluate(swiglu, swiglu.params({"n": 2}), case)
    assert (measured.value, measured.noise) == (0.0, 0.0)


def test_bound_ceiling() -> None:
    """The ceiling is the value with the relative float32 rounding on top."""
    assert Bound(2.0, "because", rounding=0.25).ceiling == 2.5
    assert Bound(2.0, "because").ceiling == 2.0
