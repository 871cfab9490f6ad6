"""Operations: what a declaration means, and what is said of one that does not fit together."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from diffuzz import Bound, Judge, Verdict, open_problem, operation, search, targets, tensor
from diffuzz.cases import draws
from diffuzz.cases.case import Case, unstack
from diffuzz.cases.text import space_text
from diffuzz.cli import main
from diffuzz.targets import laws
from diffuzz.targets.operation import Operation
from diffuzz.targets.parameter import Parameter, ParameterError
from diffuzz.targets.tensors import Tensor

FILE = '''
import jax.numpy as jnp
import numpy as np
from diffuzz import operation, tensor

@operation(x=tensor("b n", max_abs=1e4), gain=tensor("n", low=-4, high=4), sizes={"n": (1, 200), "b": (1, 3)})
def layer_norm(x, gain, *, eps=1e-5):
    """LayerNorm with a gain."""
    mean = jnp.mean(x, axis=-1, keepdims=True)
    return (x - mean) / jnp.sqrt(jnp.mean((x - mean) ** 2, axis=-1, keepdims=True) + eps) * gain

def right(x, gain, *, eps):
    wide = x.astype(np.float64)
    mean = wide.mean(axis=-1, keepdims=True)
    return ((wide - mean) / np.sqrt(((wide - mean) ** 2).mean(axis=-1, keepdims=True) + eps) * gain).astype(x.dtype)

def biased(x, gain, *, eps):
    n = x.shape[-1]
    return right(x, gain, eps=eps) * np.float32(np.sqrt((n - 1) / n))
'''


def _calls(op: Operation, arrays: dict[str, Any], **given: object) -> dict[str, Any]:
    """What a function is called with for one case, by name."""
    contract = op.target.contract
    assert contract is not None
    params = op.target.contract_params(given)
    batch = Case({name: np.asarray(array) for name, array in arrays.items()}).batch()
    return contract.given(params, batch)


def test_a_file_is_a_target(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Listed, searched, minimised, saved and replayed like any built-in one, by the name of the file and its own."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_ops.py").write_text(FILE)
    name = "my_ops.py:layer_norm"
    assert main._run(["targets", name]) == 0
    assert "my_ops.layer_norm\n    LayerNorm with a gain" in capsys.readouterr().out
    judged = ["search", "--target", name, "--seed", "0", "--budget", "2s", "--corpus", "found", "--candidate"]
    assert main._run([*judged, "my_ops.py:right"]) == 0
    assert main._run([*judged, "my_ops.py:biased"]) == 1
    out = capsys.readouterr().out
    assert "CONFIRMED: my_ops.py:biased is wrong" in out
    assert "At element [0, 0]:" in out
    assert main._run(["replay", "found", "--target", name, "--candidate", "my_ops.py:biased"]) == 0


def test_the_claim_is_confirmed_or_open() -> None:
    """Without a bound nothing is falsified; with one it may be."""

    @operation(x=tensor("b n", max_abs=10), sizes={"n": (1, 8)})
    def doubled(x: Any) -> Any:
        return 2 * x

    @operation(x=tensor("b n", max_abs=10), sizes={"n": (1, 8)}, bound=lambda p: Bound(1.0, "linear", rounding=1e-9))
    def tripled(x: Any) -> Any:
        return 3 * x

    @operation(x=tensor("b n", max_abs=10), sizes={"n": (2, 8)})
    def difference(x: Any) -> Any:
        return x[:, 1:] - x[:, :-1]

    verdicts = [search(op.target, seconds=0.5, seed=0).verdict for op in (doubled, tripled, difference)]
    assert verdicts == [Verdict.UNRESOLVED, Verdict.FALSIFIED, Verdict.CONFIRMED]


def test_the_condition_number_of_a_case() -> None:
    """To first order: that of x^4 is 4, whatever the size of the move."""

    @operation(x=tensor("b n", low=1, high=9), sizes={"b": 1, "n": 1})
    def quartic(x: Any) -> Any:
        return x**4

    with open_problem(quartic.target, {"delta": 0.25}) as problem:
        case = Case({"x": np.full((1, 1), 3, np.float32), "x_direction": np.ones((1, 1), np.float32)})
        terms: Any = problem.measured(case).evidence
        assert terms.numbers["condition number"] == pytest.approx(4, rel=1e-3)
        assert problem.measured(case).value == pytest.approx((1.25**4 - 1) / 0.25)


def test_axes_are_merged_cut_and_filled() -> None:
    """(g r) is one axis; s is at most t; the low end is -inf; indices stay below their dimension."""

    @operation(
        q=tensor("b (g r) s", max_abs=4),
        mask=tensor("s t", low=-100, high=0, minus_infinity=True),
        ids=tensor("t", below="v"),
        table=tensor("v", max_abs=1),
        on=tensor("t", dtype="bool"),
        sizes={"s": (1, "t"), "t": (1, 9), "v": (1, 5)},
    )
    def mixed(q: Any, mask: Any, ids: Any, table: Any, on: Any) -> Any:
        return q.sum() + mask.sum() + table[ids].sum() + on.sum()

    q, mask = np.ones((2, 3, 2, 4), np.float32), np.full((4, 3), -100, np.float32)
    mask[0, 0] = -1
    given = _calls(
        mixed,
        {
            "q": q,
            "mask": mask,
            "ids": np.array([7, 1, 2], np.int32),
            "table": np.ones(5, np.float32),
            "on": np.array([1, 0, 1], np.int32),
        },
    )
    assert given["q"].shape == (2, 6, 3)
    np.testing.assert_array_equal(given["mask"][0], [-1, -np.inf, -np.inf])
    assert given["mask"].shape == (3, 3)
    np.testing.assert_array_equal(given["ids"], [2, 1, 2])
    assert given["on"].dtype == bool


def test_parameters_reach_the_function() -> None:
    """By keyword, those that choose the reference excepted; varied ones case by case; what they stand for resolved."""

    @operation(
        x=tensor("b n", max_abs=4),
        bias=tensor("n", max_abs=1),
        varied=("eps",),
        reference_only=("form",),
        resolved={"scale": lambda p, sizes: p["scale"] or float(sizes["n"])},
        parameters=(Parameter("form", "a", "a | b", choices=("a", "b")),),
    )
    def scaled(x: Any, *, bias: Any = None, eps: float = 1e-5, scale: float = 0.0, form: str = "a") -> Any:
        total = x * (scale or x.shape[-1]) + eps
        return (total if bias is None else total + bias) * (2 if form == "b" else 1)

    arrays = {"x": np.ones((1, 3), np.float32), "eps_exponent": np.array([2], np.int32)}
    given = _calls(scaled, arrays)
    assert given["scale"] == 3.0
    assert given["eps"] == pytest.approx(1e-3)
    assert set(given) == {"x", "scale", "eps"}
    assert set(_calls(scaled, arrays | {"bias": np.zeros(3, np.float32)}, bias=True)) == {"x", "scale", "eps", "bias"}

    def right(x: np.ndarray, *, bias: np.ndarray | None, eps: float, scale: float) -> np.ndarray:
        assert bias is None
        return np.asarray(x * np.float32(scale) + np.float32(eps))

    def hard_coded(x: np.ndarray, *, eps: float, scale: float) -> np.ndarray:
        return np.asarray(x * np.float32(scale) + np.float32(1e-5))

    assert search(scaled.target, {}, Judge(right), seconds=0.5, seed=0).verdict is Verdict.UNRESOLVED
    assert search(scaled.target, {}, Judge(hard_coded), seconds=0.5, seed=0).verdict is Verdict.CONFIRMED
    assert search(scaled.target, {"form": "b"}, Judge(right), seconds=0.5, seed=0).verdict is Verdict.CONFIRMED


def test_a_block_format_is_a_parameter() -> None:
    """The reference gets exact weights and a candidate the bytes; any format will do."""
    from diffuzz.kernels import exact

    @operation(w=tensor("m k", format="q4_0"), x=tensor("k", max_abs=10), sizes={"m": (1, 4), "k": (1, 512)})
    def product(w: Any, x: Any) -> Any:
        return w @ x

    for fmt in ("q4_0", "q6_K", "mxfp4"):

        def right(w: np.ndarray, x: np.ndarray, fmt: str = fmt) -> np.ndarray:
            return np.asarray((exact.dequantize(fmt, w).astype(np.float32) @ x).astype(np.float32))

        found = search(product.target, {"format": fmt}, Judge(right), seconds=0.5, seed=0)
        assert found.verdict is Verdict.UNRESOLVED
        assert found.value > 0
    wrong = search(
        product.target,
        {"format": "q6_K"},
        Judge(lambda w, x: right(w, x, "q6_K") * np.float32(1.001)),
        seconds=1,
        seed=0,
    )
    assert wrong.verdict is Verdict.CONFIRMED


def test_sizes_that_a_parameter_says() -> None:
    """The least size may be a parameter."""

    @operation(
        x=tensor("b n", max_abs=4), sizes={"n": ("k", 40)}, parameters=(Parameter("k", 4, "taken", low=1, high=40),)
    )
    def first(x: Any, *, k: int = 4) -> Any:
        return x[:, :k]

    contract = first.target.contract
    assert contract is not None
    for k in (4, 17):
        (n,) = [dim for dim in contract.space(first.target.contract_params({"k": k})).dims if dim.name == "n"]
        assert (n.lowest, n.highest) == (k, 40)


def test_two_results_one_of_them_wrong() -> None:
    """The report says which."""

    @operation(x=tensor("b n", max_abs=4), sizes={"n": (1, 9)})
    def both(x: Any) -> Any:
        return x + 1, x * 2

    found = search(both.target, {}, Judge(lambda x: (x + 1, x * np.float32(2.001))), seconds=0.5, seed=0)
    assert found.verdict is Verdict.CONFIRMED
    contract = both.target.contract
    assert contract is not None
    assert found.case is not None
    batch = found.case.batch()
    evidence: Any = found.measurement.evidence
    assert contract.place(found.params, batch, evidence.element).endswith("of result 2")


def test_an_operation_keeps_the_laws() -> None:
    """Those of every target."""

    @operation(x=tensor("b n", max_abs=100), gain=tensor("n", kind="gain", low=0.1, high=4), sizes={"n": (1, 40)})
    def mish(x: Any, gain: Any) -> Any:
        """Mish with a gain."""
        return x * jnp.tanh(jnp.logaddexp(x, 0.0)) * gain

    laws.check(mish.target)


@pytest.mark.parametrize(
    ("declare", "message"),
    [
        (lambda: tensor(""), "names of dimensions are needed"),
        (lambda: tensor("b, n"), "names of dimensions are needed"),
        (lambda: tensor("b n", max_abs=1, low=0), "give max_abs, or low and high"),
        (lambda: tensor("b n", max_abs=-1), "a positive number is needed"),
        (lambda: tensor("b n", low=2, high=1), "low=2 is above high=1"),
        (lambda: tensor("b n", dtype="int8"), "int32 or bool is needed"),
        (lambda: tensor("b n", format="q9_9"), "there is no format 'q9_9'"),
        (lambda: tensor("b n", kind="gain"), "a gain needs low > 0"),
        (lambda: operation(y=tensor("b n"))(_identity), "the function has no argument 'y'"),
        (lambda: operation()(_identity), "a tensor is needed for the argument 'x'"),
        (lambda: operation(x="b n")(_identity), r"a tensor\(...\) is needed"),
        (lambda: operation(x=tensor("b n"), sizes={"m": (1, 2)})(_identity), "no tensor has the dimension 'm'"),
        (lambda: operation(x=tensor("b n"), sizes={"n": (4, 2)})(_identity), "there is no such size"),
        (lambda: operation(x=tensor("b n"), sizes={"n": (1, "t")})(_identity), "there is no dimension 't'"),
        (lambda: operation(x=tensor("b n"), sizes={"n": 2.5})(_identity), r"\(least, largest\)"),
        (lambda: operation(x=tensor("b n"), varied=("eps",))(_identity), "there is no parameter 'eps'"),
        (lambda: operation(x=tensor("b n"), parameters=(Parameter("k", 1, "k"),))(_identity), "no parameter 'k' after"),
        (lambda: operation(x=tensor("b n", dtype="int32"))(_identity), "a tensor of floating-point numbers is needed"),
        (lambda: operation(x=tensor("b n"))(_with_none), "needs a default that is a number"),
    ],
)
def test_what_does_not_fit_together(declare: Callable[[], Any], message: str) -> None:
    """One line, that names the operation or the tensor."""
    with pytest.raises(ValueError, match=message) as said:
        declare()
    assert "\n" not in str(said.value)


def _identity(x: Any) -> Any:
    return x


def _with_none(x: Any, *, eps: Any = None) -> Any:
    return x


def test_a_function_that_cannot_be_traced() -> None:
    """One line, when it is searched."""

    @operation(x=tensor("b n", max_abs=4))
    def branches(x: Any) -> Any:
        return x if x[0, 0] > 0 else -x

    with pytest.raises(ValueError, match="branches: cannot be traced by JAX: TracerBoolConversionError") as said:
        search(branches.target, {}, Judge(lambda x: x), seconds=0.5, seed=0)
    assert "\n" not in str(said.value)


def test_unknown_values_of_parameters() -> None:
    """Those of a dtype are listed."""
    with pytest.raises(ParameterError, match="one of float32, bfloat16"):
        targets.get("layer_norm").contract_params({"dtype": "float31"})


def test_declarations_are_data() -> None:
    """A tensor is its declaration, and nothing more."""
    assert tensor("b (g r) d", max_abs=2) == Tensor(
        (("b",), ("g", "r"), ("d",)), -2.0, 2.0, "activations", None, None, False, None
    )
    batch = draws.structured(_space(), np.random.default_rng(0), 1)
    assert unstack(batch, 0)["x"].shape


def _space() -> Any:
    contract = targets.get("silu").contract
    assert contract is not None
    return contract.space(targets.get("silu").contract_params())


def _doubled(x: Any, *, k: int = 2) -> Any:
    return x * k


@pytest.mark.parametrize(
    ("declare", "words"),
    [
        (lambda: tensor(3), "dims=3: names of dimensions are needed"),  # type: ignore[arg-type]
        (lambda: tensor("b n", max_abs="big"), "max_abs='big': a number is needed"),  # type: ignore[arg-type]
        (lambda: tensor("b n", kind="odd"), "kind='odd': one of activations, "),  # type: ignore[arg-type]
        (lambda: tensor("b n", kind="blocks"), "blocks need a format"),
        (lambda: operation(x=tensor("b n"), sizes="n")(_doubled), "sizes='n': ranges by the names"),  # type: ignore[arg-type]
        (lambda: operation(x=tensor("b n"), forms=_doubled)(_doubled), "a tuple of functions is needed"),  # type: ignore[arg-type]
        (lambda: operation(x=tensor("b n"), bound=5)(_doubled), "bound=5: a function of the parameters"),  # type: ignore[arg-type]
        (lambda: operation(x=tensor("b n"), threshold="x")(_doubled), "threshold='x': a number is needed"),  # type: ignore[arg-type]
        (
            lambda: operation(x=tensor("b n"), parameters=(Parameter("k", 3, "factor"),))(_doubled),
            "the parameter 'k' has the default 2 in the function and 3 in parameters=",
        ),
        (
            lambda: operation(x=tensor("b n"))(lambda x, *, dtype="float32": x),
            "the parameter 'dtype' is one that every operation has",
        ),
    ],
)
def test_what_is_said_of_arguments_of_another_kind(declare: Callable[[], object], words: str) -> None:
    """One line, when it is declared and not when it is searched."""
    with pytest.raises(ValueError, match=re.escape(words)):
        declare()


def test_a_form_of_another_shape() -> None:
    """It is named, and not what NumPy says of adding the two."""
    op = operation(x=tensor("b n"), forms=(lambda x: x[:, :1],), name="shorter")(lambda x: x + 1)
    with pytest.raises(ValueError, match=r"^forms: one of them returns \[5, 1\], where "):
        search(op.target, {}, Judge(lambda x: x), seconds=0.5, seed=0)


def test_a_claim_of_integer_results() -> None:
    """There is no drift to amplify, which is said in words; a candidate can be judged."""
    op = operation(x=tensor("b n"), name="place")(lambda x: jnp.argmax(x, axis=-1))
    with pytest.raises(ValueError, match=r"^the results are integers or truth values, which have no drift: "):
        search(op.target, {}, seconds=0.5, seed=0)
    search(op.target, {}, Judge(lambda x: np.argmax(x, axis=-1)), seconds=0.5, seed=0)


def test_the_range_of_indices_in_whole_numbers() -> None:
    """A report has all their digits."""
    op = operation(x=tensor("b n"), ids=tensor("b", dtype="int32"), name="places")(lambda x, ids: x)
    contract = op.target.contract
    assert contract is not None
    said = space_text(contract.space(op.target.contract_params({})))
    assert said.endswith("ids[b<=5] int32 in [-2147483648, 2147483647]")
