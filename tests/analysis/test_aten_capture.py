"""What is captured of a function of torch tensors: in float64, with values that are read at each call."""

from __future__ import annotations

import functools
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diffuzz import assert_within_bound, tolerance
from diffuzz.analysis import AnalysisError, Arithmetic

torch = pytest.importorskip("torch", reason="needs PyTorch: pip install diffuzz-kernels[torch]")

from diffuzz.analysis import aten  # noqa: E402 - needs torch
from diffuzz.analysis.torch_graph.capture import capture  # noqa: E402

FLOAT32 = Arithmetic.of("float32")
HELD = torch.full((3,), 0.1)
LAYER = torch.nn.Linear(3, 2)


def values(function: Any, *inputs: Any) -> np.ndarray:
    result: np.ndarray = aten.evaluate(function, inputs)
    return result


def helper(x: Any) -> Any:
    return x * HELD


def test_constants_keep_their_digits() -> None:
    """0.1 is the Python number, not the float32 that torch would make of it; a float32 tensor is what it is."""
    x = torch.ones(3)
    assert (0.1 == values(lambda x: x * 0.1, x)).all()
    assert (0.1 == values(lambda x: x * torch.tensor(0.1), x)).all()
    assert (np.float32(0.1) == values(helper, x)).all()
    assert (np.float32(0.1) == values(lambda x: x.float() * 0.1, x).astype(np.float32)).all()


def test_sixteen_bits_are_exact() -> None:
    """Inputs, parameters and held tensors of bfloat16 and float16 are taken at their exact values."""
    third = torch.tensor([1 / 3])
    for dtype in (torch.bfloat16, torch.float16):
        x = third.to(dtype)
        assert float(x) ** 2 == values(lambda x: x * x, x)[0]
        assert float(x) * 3 == values(lambda y, x=x: y * x, torch.tensor([3.0]))[0]


def test_a_conversion_of_the_users_own_is_kept() -> None:
    """A cast to bfloat16 rounds the value, and casts to the dtype of an input do nothing."""
    x = torch.tensor([1 / 3])
    assert float(x.bfloat16()) == values(lambda x: x.bfloat16().to(x.dtype), x)[0]
    assert float(x) == values(lambda x: x.to(x.dtype).type_as(x), x)[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_limits_are_those_of_the_dtype_of_the_call(dtype: Any) -> None:
    """torch.finfo(x.dtype) is the user's dtype, not that of the trace; RMSNorm's epsilon is float32's for 16 bits."""
    x = (torch.randn(4, 64, generator=torch.Generator().manual_seed(0)) * 2.0**-9).to(dtype)
    norm = torch.nn.RMSNorm(64).to(dtype)
    with torch.no_grad():
        assert_within_bound(norm(x), norm, x)
    limits = torch.finfo(dtype)
    assert limits.eps == values(lambda x: x * 0 + torch.finfo(x.dtype).eps, x)[0, 0]
    assert limits.tiny == values(lambda x: torch.full_like(x, torch.finfo(x.dtype).tiny), x)[0, 0]
    # Whole rows that are masked by the smallest number are uniform, not NaN.
    exact, _ = tolerance(lambda x: torch.softmax(x.masked_fill(x < 9, torch.finfo(x.dtype).min), 1), x)
    assert (1 / 64 == exact).all()
    assert isinstance(torch.finfo(torch.float64), torch.finfo)


@pytest.mark.parametrize(
    "function",
    [
        LAYER,
        LAYER.forward,
        lambda x: LAYER(x),
        lambda x, layer=LAYER: layer(x),
        functools.partial(torch.nn.functional.linear, weight=LAYER.weight, bias=LAYER.bias),
        torch.nn.Sequential(torch.nn.Identity(), LAYER),
    ],
    ids=["module", "method", "global", "default", "partial", "nested"],
)
def test_parameters_are_read_at_each_call(function: Any) -> None:
    """However a function holds on to a module, a step of training is seen without a new trace."""
    x = torch.ones(1, 3)
    before = LAYER.bias.detach().clone()
    first, graph = values(function, x), capture(function, (x,), {})
    try:
        with torch.no_grad():
            LAYER.bias += 1
        assert graph is capture(function, (x,), {})
        np.testing.assert_allclose(values(function, x) - first, (LAYER.bias - before).detach()[None], rtol=1e-6)
    finally:
        with torch.no_grad():
            LAYER.bias.copy_(before)


def test_settings_of_a_module_make_another_trace() -> None:
    """eval() after train(), a changed epsilon, a new parameter, another dtype: each is seen."""
    layer = torch.nn.BatchNorm1d(3)
    x = torch.tensor([[1.0, 2.0, 3.0], [2.0, 4.0, 8.0]])
    trained = values(layer, x)
    layer.eval()
    plain = values(layer, x)
    layer.eps = 3.0
    wider = values(layer, x)
    layer.weight = torch.nn.Parameter(torch.full((3,), 4.0))
    scaled = values(layer, x)
    assert not np.allclose(trained, plain)
    np.testing.assert_allclose(wider, plain * np.sqrt(1.00001) / 2, rtol=1e-12)
    np.testing.assert_allclose(scaled, 4 * wider, rtol=1e-12)
    np.testing.assert_allclose(values(layer.bfloat16(), x.bfloat16()), scaled, rtol=1e-12)


def test_a_new_value_of_a_closure_is_seen() -> None:
    """A variable that a function reads is looked at again in each call."""
    scale: Any = 2.0
    x = torch.ones(2)

    def function(x: Any) -> Any:
        return x * scale

    assert (2.0 == values(function, x)).all()
    scale = 3.0
    assert (3.0 == values(function, x)).all()
    scale = torch.tensor(4.0)
    assert (4.0 == values(function, x)).all()


def test_nothing_of_the_users_is_changed() -> None:
    """The module keeps its dtype, mode and statistics, the inputs their values, torch its default dtype."""
    layer = torch.nn.BatchNorm1d(3).bfloat16()
    x = torch.ones(4, 3, dtype=torch.bfloat16)
    state = {name: value.clone() for name, value in layer.state_dict().items()}

    def add(x: Any) -> Any:
        return x.add_(1)

    tolerance(layer, x)
    tolerance(add, x)
    assert layer.training
    assert torch.bfloat16 == layer.weight.dtype
    assert all(torch.equal(value, state[name]) for name, value in layer.state_dict().items())
    assert (x == 1).all()
    assert torch.float32 == torch.get_default_dtype()


def test_structures_of_arguments_and_results() -> None:
    """Lists, dicts, Python numbers and keywords go in; results come back in the structure that the function has."""

    def function(pair: Any, scale: float, *, named: Any) -> Any:
        return {"sum": pair[0] + scale * pair[1]["b"], "rest": (named, [pair[0]])}

    a, b, c = torch.ones(2), torch.full((2,), 2.0), torch.full((2,), 3.0)
    exact, estimates = aten.bound(function, [[a, {"b": b}], 0.5], FLOAT32, named=c)
    assert [2.0, 2.0] == exact["sum"].tolist()
    assert [3.0, 3.0] == exact["rest"][0].tolist()
    assert [1.0, 1.0] == exact["rest"][1][0].tolist()
    assert 3 == len(estimates)
    same, _ = aten.bound(lambda x, y: x - y, [a, a], FLOAT32)
    assert [0.0, 0.0] == same.tolist()


def unknown(x: Any) -> Any:
    y = x + 1
    return torch.linalg.svd(y)[1]


def branches(x: Any) -> Any:
    y = x * 2
    return y if y.sum() > 0 else -y


def draws(x: Any) -> Any:
    return x + torch.rand_like(x)


def wrong_shapes(x: Any) -> Any:
    return x @ x


def masked(x: Any) -> Any:
    return x[x > 0]


@pytest.mark.parametrize(
    ("function", "line", "said"),
    [
        (unknown, 2, "the operation aten._linalg_svd.default has no rule of error analysis"),
        (branches, 2, "branches on values of tensors"),
        (draws, 1, "random numbers have no exact value"),
        (wrong_shapes, 1, "a and b must have same reduction dim"),
        (masked, 1, "use torch.where"),
    ],
)
def test_what_cannot_be_analysed_is_one_line(
    function: Any, line: int, said: str, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """It says what and where in the user's code, and nothing else is printed."""
    with pytest.raises(AnalysisError, match=said) as caught:
        tolerance(function, torch.ones(2, 3))
    assert 1 == len(str(caught.value).splitlines())
    assert f"{__file__}:{function.__code__.co_firstlineno + line}" in str(caught.value)
    assert ("", "") == capfd.readouterr()
    assert [] == [record for record in caplog.records if record.levelname != "DEBUG"]


@pytest.mark.parametrize("given", [torch.ones(2, dtype=torch.complex64), torch.ones(2).to_sparse()])
def test_tensors_without_rules_are_one_line(given: Any) -> None:
    """Complex and sparse tensors are refused by name."""
    with pytest.raises(AnalysisError, match="no rules for tensors of"):
        tolerance(lambda x: x, given)


def test_in_a_test_suite() -> None:
    """assert_within_bound works with modules and functions, for float32 and 16 bits, and says how far outside it is."""
    torch.manual_seed(0)
    x, layer = torch.randn(4, 64), torch.nn.LayerNorm(64)
    with torch.no_grad():
        assert_within_bound(layer(x), layer, x)
        assert_within_bound(torch.softmax(x, 1), torch.softmax, x, dim=1)
        assert_within_bound(torch.topk(x, 3), torch.topk, x, k=3)
        with pytest.raises(AssertionError, match="256 of 256 elements are outside the bound"):
            assert_within_bound(layer(x) + 1e-3, layer, x)
        # In bfloat16 the same millistep is nothing, and one of 5 % is.
        narrow = torch.nn.LayerNorm(64).bfloat16()
        given = x.bfloat16()
        assert_within_bound(narrow(given), narrow, given)
        with pytest.raises(AssertionError, match="outside the bound"):
            assert_within_bound(narrow(given) * 1.05, narrow, given)


def test_whole_models_are_analysed() -> None:
    """Layers that users have: a recurrent one, an encoder layer, attention with heads."""
    x = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(0))
    encoder = torch.nn.TransformerEncoderLayer(16, 2, 32, batch_first=True).eval()
    heads = torch.nn.MultiheadAttention(16, 2, batch_first=True)
    with torch.no_grad():
        assert_within_bound(encoder(x), encoder, x)
        assert_within_bound(heads(x, x, x), heads, x, x, x)
        # Its results are nested: (output, (hidden, cell)).
        lstm = torch.nn.LSTM(16, 8)
        assert_within_bound(lstm(x), lstm, x)
        output, (hidden, cell) = lstm(x)
        with pytest.raises(AssertionError, match="result 3: element"):
            assert_within_bound((output, (hidden, cell + 1e-3)), lstm, x)


def test_importing_loads_no_torch(tmp_path: Path) -> None:
    """diffuzz and its analysis come without torch, and torch references without JAX."""
    code = "import sys; from diffuzz import tolerance; import diffuzz.analysis; print('torch' in sys.modules)"
    assert "False" == _printed(code, tmp_path)
    code = (
        "import sys, torch; from diffuzz import assert_within_bound; x = torch.ones(3);"
        "assert_within_bound(x.exp(), torch.exp, x); print('jax' in sys.modules)"
    )
    assert "False" == _printed(code, tmp_path)


def _printed(code: str, folder: Path) -> str:
    run = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True)
    return run.stdout.strip()
