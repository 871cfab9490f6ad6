"""Pairs: two implementations agree to the bit, to rounding, by policy, or not at all, and it is true what is said."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import attrs
import numpy as np
import pytest

from diffuzz import kernels, targets
from diffuzz.cases import draws
from diffuzz.cases.case import Case
from diffuzz.judging import pair
from diffuzz.judging.evidence import Agreement, Compared
from diffuzz.judging.pair import implementations
from diffuzz.judging.problem import open_problem
from diffuzz.judging.question import Compare, QuestionError
from diffuzz.searching import engines
from diffuzz.searching.objective import Budget, BudgetSpentError, Objective
from diffuzz.targets.outcome import Outcome

ABOUT = {name: targets.get(name) for name in targets.names() if targets.get(name).contract is not None}
# What needs no optional package.
BUILT_IN = ("apr", "apr:simd", "exact", "gguf", "ggml", "xla")


def _settings() -> list[tuple[str, dict[str, str]]]:
    settings: list[tuple[str, dict[str, str]]] = [(name, {}) for name in ABOUT]
    settings += [("matvec", {"format": name}) for name in ("q4_0", "q4_1", "q8_0", "q6_K")]
    return [*settings, ("matvec", {"arithmetic": "apr"}), ("rope", {"mode": "neox"}), ("quantize", {"format": "q8_0"})]


def searched(target: str, settings: dict[str, str], a: str, b: str, work: float = 2**22) -> tuple[float, Agreement]:
    """The largest value that a short search finds, and what it says."""
    problem = open_problem(targets.get(target), settings, Compare(a, b))
    objective = Objective(problem, Budget(60.0, work))
    with pytest.raises(BudgetSpentError):
        for _ in engines.get("auto")(objective, np.random.default_rng(0)):
            pass
    if objective.best is None:
        return 0.0, Agreement.BITS
    measured = problem.measured(objective.best.case)
    assert isinstance(measured.evidence, Compared)
    return measured.value, measured.evidence.agreement(measured.value)


@pytest.mark.parametrize(("target", "settings"), _settings(), ids=str)
def test_every_implementation_agrees_with_itself(target: str, settings: dict[str, str]) -> None:
    """A against A is 0 on every case, NaN and infinities included: the identity run."""
    params = targets.get(target).contract_params(settings)
    for name in implementations(targets.get(target), params):
        if name not in BUILT_IN:
            continue
        assert searched(target, settings, name, name, work=2**20) == (0.0, Agreement.BITS), name


@pytest.mark.parametrize(
    ("target", "settings", "a", "b", "expected"),
    [
        ("softmax", {}, "apr", "ggml", Agreement.ROUNDING),
        ("softmax", {}, "exact", "xla", Agreement.ROUNDING),
        ("rmsnorm", {}, "apr", "gguf", Agreement.ROUNDING),
        ("swiglu", {}, "apr", "ggml", Agreement.ROUNDING),
        ("rope", {}, "apr", "ggml", Agreement.ROUNDING),
        ("matvec", {"arithmetic": "apr"}, "apr", "apr:simd", Agreement.ROUNDING),
        ("matvec", {"format": "q8_0"}, "ggml", "xla", Agreement.ROUNDING),
        ("matvec", {"format": "q4_K"}, "ggml", "apr", Agreement.POLICY),
        ("matvec", {"format": "q5_1"}, "apr", "gguf", Agreement.BITS),
        ("dequantize", {}, "ggml", "apr", Agreement.BITS),
        ("dequantize", {"format": "q6_K"}, "apr", "xla", Agreement.BITS),
        ("dequantize", {"format": "q3_K"}, "ggml", "gguf-py", Agreement.BITS),
        # Another order of two products.
        ("dequantize", {"format": "nvfp4_two_level"}, "apr", "exact", Agreement.POLICY),
        # Theirs are zeros of different sign.
        ("dequantize", {"format": "q3_K"}, "exact", "ggml", Agreement.BITS),
        ("dequantize", {"format": "q6_K"}, "exact", "ggml", Agreement.BITS),
    ],
)
def test_who_agrees_with_whom(target: str, settings: dict[str, str], a: str, b: str, expected: Agreement) -> None:
    """Orders of sums and exp's bits are rounding, quantised activations are policy, dequantised weights are bits."""
    assert searched(target, settings, a, b)[1] is expected


@pytest.mark.parametrize("wrong", ["a", "b"])
def test_a_wrong_implementation_is_outside(monkeypatch: pytest.MonkeyPatch, wrong: str) -> None:
    """A softmax with a factor that no rounding explains is outside its bound, whichever of the two it is."""
    names = {"a": ("apr", "ggml"), "b": ("ggml", "apr")}[wrong]
    right = kernels.get("apr").soft_max
    monkeypatch.setattr(kernels.get("apr"), "soft_max", lambda x: right(x) * np.float32(1 + 2.0**-16))
    value, found = searched("softmax", {}, *names)
    assert found is Agreement.OUTSIDE
    assert value > 1


def _outcome(a: list[float], b: list[float]) -> Outcome:
    """The outcome of softmax for results made up."""
    target = ABOUT["softmax"]
    assert target.contract is not None
    contract = attrs.evolve(
        target.contract,
        run=lambda p, arrays, k: np.array([a if k is kernels.get("apr") else b], np.float64),
        allowance=lambda p, arrays: np.array([[1.0, 1.0, np.inf]]),
    )
    problem = open_problem(attrs.evolve(target, contract=contract), {}, Compare("apr", "ggml"))
    return problem.evaluate({"z": np.zeros((1, 3), np.float32)})


@pytest.mark.parametrize(
    ("a", "b", "value"),
    [
        ([1.0, 2.0, 3.0], [1.0, 2.0, 3.0], 0.0),
        ([1.0, 2.0, 3.0], [1.0, 3.0, 3.0], 0.5),
        ([1.0, 2.0, 3.0], [1.0, 2.0, 9.0], 0.0),
        ([np.nan, 2.0, 3.0], [np.nan, 2.0, 3.0], 0.0),
        ([np.inf, 2.0, 3.0], [1.0, 2.0, 3.0], np.inf),
        ([-np.inf, 2.0, 3.0], [-np.inf, 2.0, 3.0], 0.0),
    ],
)
def test_value_by_hand(a: list[float], b: list[float], value: float) -> None:
    """|A - B| over twice the rounding; nothing is promised where the allowance is infinite; NaN equals NaN."""
    # The made-up exact result is B's.
    assert _outcome(a, b).value.tolist() == [value]


@pytest.mark.parametrize("format", ["q8_0", "q8_1"])
def test_both_zeros_are_one_number_and_so_is_every_nan(format: str) -> None:
    """Fixed results are compared as those of candidates are; the exact one is shown at the first that differs."""
    one = np.zeros((1, 32), np.float32)
    other = -one
    one[0, 3], other[0, 3] = np.nan, -np.nan
    one[0, 7] = 0.5
    contract = ABOUT["dequantize"].contract
    assert contract is not None
    sides = [pair._Side(result, {}, frozenset()) for result in (one, other)]
    block = np.zeros((1, {"q8_0": 34, "q8_1": 36}[format]), np.uint8)
    params = ABOUT["dequantize"].contract_params({"format": format})
    examined = pair._differing(contract, params, {"blocks": block}, *sides)
    assert examined.outcome.value.tolist() == [1.0]
    found = examined.explain(1.0, 0)
    assert (found.element, found.a, found.b, found.exact) == (7, 0.5, 0.0, 0.0)


@pytest.mark.parametrize(
    ("target", "a", "b", "message"),
    [
        ("dot-order", "apr", "ggml", "target dot-order compares no kernels"),
        ("softmax", "apr", "cuda", "target softmax has no kernels 'cuda' here .it has apr, exact"),
        ("swiglu", "gguf", "apr", "target swiglu has no kernels 'gguf'"),
    ],
)
def test_pairs_that_there_are_not(target: str, a: str, b: str, message: str) -> None:
    """One line that names what there is."""
    with pytest.raises(QuestionError, match=message):
        open_problem(targets.get(target), {}, Compare(a, b))


def test_ties_are_policy() -> None:
    """Quantisers that round halves otherwise differ in bits, and a choice explains it; a wrong one it does not."""
    if kernels.missing("gguf-py"):
        pytest.skip("gguf is not installed")
    # Steps of one: halves are ties, and everybody has the scale 1.
    x = np.append(np.float32(127), np.arange(31, dtype=np.float32) + 0.5)
    problem = open_problem(targets.get("quantize"), {"format": "q8_0"}, Compare("ggml", "gguf-py"))
    measured = problem.measured(Case({"values": x}))
    found = measured.evidence
    assert isinstance(found, Compared)
    assert found.unexplained is not None
    assert 1 <= measured.value <= 16
    assert found.agreement(measured.value) is Agreement.POLICY
    assert attrs.evolve(found, unexplained=(found.unexplained[0], 1.0)).agreement(3.0) is Agreement.OUTSIDE
    assert Compared(element=0, a=1.0, b=2.0).agreement(3.0) is Agreement.OUTSIDE


@pytest.mark.parametrize("name", ["swiglu", "quantize", "dequantize", "matvec"])
def test_kernels_that_work_in_place(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Kernels from outside may overwrite their arguments: the case stays what it is, and the other side gets it."""
    module = ModuleType("in_place")

    def in_place(operation: str) -> Callable[..., np.ndarray]:
        def called(*arguments: object) -> np.ndarray:
            result = np.array(getattr(kernels.get("ggml"), operation)(*arguments))
            for array in arguments:
                if isinstance(array, np.ndarray):
                    array[...] = 0
            return result

        return called

    for operation in ("swiglu", "quantize", "dequantize", "vec_dot", "vec_dot_rows"):
        setattr(module, operation, in_place(operation))
    monkeypatch.setitem(kernels.REGISTRY._found, "in_place", module)
    with open_problem(ABOUT[name], {}, Compare("in_place", "ggml")) as problem:
        batch = draws.structured(problem.space, np.random.default_rng(0), 8)
        before = {key: array.copy() for key, array in batch.items()}
        assert not problem.evaluate(batch).value.any()
    for key, array in before.items():
        np.testing.assert_array_equal(batch[key], array)
