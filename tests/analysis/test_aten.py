"""The table of ATen operations: values are torch's own in float64, and torch's results in narrower types are inside."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from diffuzz.analysis import FORMATS, Arithmetic, Estimate, round_to

torch = pytest.importorskip("torch", reason="needs PyTorch: pip install diffuzz-kernels[torch]")
F = torch.nn.functional

from diffuzz.analysis import aten  # noqa: E402 - needs torch
from diffuzz.analysis.torch_graph import multiplying  # noqa: E402
from diffuzz.analysis.torch_graph.capture import array, capture  # noqa: E402
from diffuzz.analysis.torch_graph.elementwise import ELEMENTWISE  # noqa: E402
from diffuzz.analysis.torch_graph.moving import RANDOM  # noqa: E402
from diffuzz.analysis.torch_graph.walk import RULES  # noqa: E402


def normal(*shape: int, scale: float = 1.0, seed: int = 0) -> Any:
    """Float32 numbers around zero."""
    return torch.from_numpy((scale * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32))


def positive(*shape: int) -> Any:
    return normal(*shape).abs() + 0.05


def whole(*shape: int, below: int = 7, least: int = 0) -> Any:
    return torch.from_numpy(np.random.default_rng(1).integers(least, below, shape))


X, Y, P, N = normal(3, 8), normal(3, 8, seed=1), positive(3, 8), whole(3, 8)
# A function for each rule of the table and each way to call it that differs.
CASES: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
    "add": (lambda a, b: torch.add(a, b, alpha=3), (X, Y)),
    "add integers": (lambda a, b: torch.add(a, b, alpha=3), (N, N + 1)),
    "add broadcast": (lambda a, b: a + b[:, :1] + 1e-5, (X, Y)),
    "add integers and floats": (lambda a, n: a + n, (X, N)),
    "sub": (lambda a, b: torch.sub(a, b, alpha=0.3), (X, Y)),
    "rsub": (lambda a: 1 - a, (X,)),
    "mul": (lambda a, b: a * b * 0.1, (X, Y)),
    "square": (lambda a: a * a, (X,)),
    "mul truth": (lambda a, n: a * (n > 3), (X, N)),
    "div": (lambda a, b: a / b, (X, P)),
    "div integers": (lambda n: n / 7, (N,)),
    "div floor": (lambda a: torch.div(a, 0.3, rounding_mode="floor"), (X,)),
    "div floor integers": (lambda n: torch.div(n - 3, 2, rounding_mode="floor"), (N,)),
    "div trunc integers": (lambda n: torch.div(n - 3, 2, rounding_mode="trunc"), (N,)),
    "floor_divide": (lambda n: (n - 3) // 2, (N,)),
    "remainder": (lambda a: torch.remainder(a, 0.75), (X,)),
    "remainder integers": (lambda n: (n - 3) % 4, (N,)),
    "fmod": (lambda a: torch.fmod(a, 0.75), (X,)),
    "reciprocal": (torch.reciprocal, (P,)),
    "pow 2": (lambda a: a**2, (X,)),
    "pow 3": (lambda a: a**3, (X,)),
    "pow -2": (lambda a: a**-2, (P,)),
    "pow half": (lambda a: a**0.5, (P,)),
    "pow minus half": (lambda a: a**-0.5, (P,)),
    "pow real": (lambda a: a**1.7, (P,)),
    "pow tensors": (torch.pow, (P, X)),
    "pow of a number": (lambda a: 2.5**a, (X,)),
    "pow integers": (lambda n: n**3, (N,)),
    "abs": (torch.abs, (X,)),
    "neg": (torch.neg, (X,)),
    "sign": (torch.sign, (X,)),
    "floor": (lambda a: torch.floor(3 * a), (X,)),
    "ceil": (lambda a: torch.ceil(3 * a), (X,)),
    "trunc": (lambda a: torch.trunc(3 * a), (X,)),
    "round": (lambda a: torch.round(3 * a), (X,)),
    "round decimals": (lambda a: torch.round(a, decimals=1), (X,)),
    "frac": (torch.frac, (X,)),
    **{
        name: (getattr(torch, name), (P,))
        for name in ("sqrt", "rsqrt", "exp", "exp2", "expm1", "log", "log1p", "log2", "log10", "asinh", "atan")
    },
    **{name: (getattr(torch, name), (X,)) for name in ("tanh", "sigmoid", "sin", "cos", "sinh", "cosh", "erf", "erfc")},
    "asin": (lambda a: torch.asin(torch.tanh(a) * 0.9), (X,)),
    "acos": (lambda a: torch.acos(torch.tanh(a) * 0.9), (X,)),
    "atanh": (lambda a: torch.atanh(torch.tanh(a) * 0.9), (X,)),
    "erfinv": (lambda a: torch.erfinv(torch.tanh(a) * 0.9), (X,)),
    "tan": (torch.tan, (X,)),
    "atan2": (torch.atan2, (X, Y)),
    "lgamma": (torch.lgamma, (P,)),
    "digamma": (torch.digamma, (1 + P,)),
    "acosh": (lambda a: torch.acosh(1 + a), (P,)),
    "relu": (torch.relu, (X,)),
    "clamp": (lambda a: torch.clamp(a, -0.5, 0.3), (X,)),
    "clamp tensors": (lambda a, b: torch.clamp(a, min=b), (X, Y)),
    "clamp_max": (lambda a: a.clamp_max(0.1), (X,)),
    "maximum": (torch.maximum, (X, Y)),
    "minimum": (torch.minimum, (X, Y)),
    "where": (lambda a, b: torch.where(a > b, a, 2 * b), (X, Y)),
    "where near": (lambda a: torch.where(a * a > 0.5, a, -a), (X,)),
    "masked_fill": (lambda a, n: a.masked_fill(n > 3, float("-inf")), (X, N)),
    "isnan": (lambda a: torch.isnan(a / (a - a)), (X,)),
    "isinf": (lambda a, n: torch.isinf(a.masked_fill(n > 3, float("-inf"))), (X, N)),
    "nan_to_num": (lambda a: torch.nan_to_num(a), (X,)),
    "compare": (lambda a, b: (a < b) | (a >= b) & ~(a == b) ^ (a <= b), (X, Y)),
    "logical": (lambda n: torch.logical_and(n, n - 1) | torch.logical_xor(n, n > 2) | torch.logical_not(n), (N,)),
    "logical or": (lambda n: torch.logical_or(n > 5, n < 2), (N,)),
    "bits": (lambda n: (n & 5) | (n ^ 3) + ~n, (N,)),
    "sum": (lambda a: a.sum(), (X,)),
    "sum axis": (lambda a: a.sum(-1, keepdim=True), (X,)),
    "sum truth": (lambda n: (n > 2).sum(1), (N,)),
    "mean": (lambda a: a.mean((0, 1)), (X,)),
    "var": (lambda a: a.var(1), (X,)),
    "var population": (lambda a: a.var(1, unbiased=False, keepdim=True), (X,)),
    "std": (lambda a: a.std(), (X,)),
    "prod": (lambda a: a.prod(1), (X,)),
    "amax": (lambda a: a.amax((0, 1)), (X,)),
    "amin": (lambda a: a.amin(1, keepdim=True), (X,)),
    "any all": (lambda n: (n > 5).any(1) ^ (n < 6).all(1), (N,)),
    "norm": (lambda a: torch.linalg.vector_norm(a, dim=1), (X,)),
    "norm 1": (lambda a: torch.norm(a, p=1), (X,)),
    "logsumexp": (lambda a: torch.logsumexp(30 * a, 1), (X,)),
    "cumsum": (lambda a: torch.cumsum(a, 1), (X,)),
    "cumprod": (lambda a: torch.cumprod(a, 0), (X,)),
    "logcumsumexp": (lambda a: torch.logcumsumexp(a, 1), (X,)),
    "argmax": (lambda a: a.argmax(), (X,)),
    "argmin axis": (lambda a: a.argmin(1, keepdim=True), (X,)),
    "max axis": (lambda a: a.max(1)[0] + a.min(0)[0].sum(), (X,)),
    "max axis index": (lambda a: a.max(1)[1] - a.min(1)[1], (X,)),
    "max": (lambda a: a.max() - a.min(), (X,)),
    "sort": (lambda a: torch.sort(a, 1, descending=True)[0] + torch.sort(a, 0)[0], (X,)),
    "argsort": (lambda a: torch.argsort(a, 1, descending=True), (X,)),
    "topk": (lambda a: torch.topk(a, 3)[0] - torch.topk(a, 3, largest=False)[0], (X,)),
    "topk index": (lambda a: torch.topk(a, 3, 0)[1], (X,)),
    "gather of topk": (lambda a, b: torch.gather(b, 1, torch.topk(a, 3)[1]), (X, Y)),
    "gather of many": (lambda a: torch.gather(a, 1, torch.topk(a, 3)[1][:, None].expand(3, 2, 3)[:, 0]), (X,)),
    "view": (lambda a: a.view(4, 6).t().reshape(-1, 3), (X,)),
    "expand": (lambda a: a[:, None].expand(3, 2, 8), (X,)),
    "slices": (lambda a: a[1:, ::2].flip(1), (X,)),
    "roll": (lambda a: torch.roll(a, 3, 1), (X,)),
    "cat stack": (lambda a, b: torch.stack([torch.cat([a, b], 1), torch.cat([b, a], 1)]), (X, Y)),
    "split": (lambda a: torch.split(a, 3, 1)[1] + torch.chunk(a, 2, 1)[0][:, :3], (X,)),
    "unbind": (lambda a: a.unbind(0)[1], (X,)),
    "diagonal": (lambda a: torch.diagonal(a, 1), (X,)),
    "repeat": (lambda a: a.repeat(2, 1, 3), (X,)),
    "unfold": (lambda a: a.unfold(1, 3, 2), (X,)),
    "pad": (lambda a: F.pad(a, (1, -2, 2, 0), value=0.1), (X,)),
    "pad reflect": (lambda a: F.pad(a[None], (2, 3), mode="reflect"), (X,)),
    "pad replicate": (lambda a: F.pad(a[None], (2, 3), mode="replicate"), (X,)),
    "tril": (lambda a: torch.tril(a, -1) + torch.triu(a, 2), (X,)),
    "arange": (lambda a: a * torch.arange(8) + torch.arange(0.0, 0.8, 0.1), (X,)),
    "made": (lambda a: torch.full_like(a, 0.1) + torch.zeros(8) + torch.ones_like(a) * torch.eye(8)[:3], (X,)),
    "memory": (lambda a: torch.empty_like(a).copy_(a) + torch.empty(8).fill_(0.1) + torch.zeros(8).fill_(0.1), (X,)),
    "alias": (torch.ops.aten.alias, (X,)),
    "dropout": (lambda a: F.dropout(a, 0.5, training=False) + F.dropout(a, 0.0), (X,)),
    "convert": (lambda a: (3 * a).int() + a.bool(), (X,)),
    "write slices": (lambda a, b: torch.slice_scatter(a, b[:, :2], 1, 3, 5).select_scatter(b[0], 0, 1), (X, Y)),
    "assign": (lambda a, b: _assigned(a.clone(), b), (X, Y)),
    "mm": (torch.mm, (X, normal(8, 5))),
    "mv": (torch.mv, (X, normal(8))),
    "dot": (torch.dot, (X[0], Y[0])),
    "bmm": (torch.bmm, (normal(2, 3, 8), normal(2, 8, 5))),
    "addmm": (lambda c, a, b: torch.addmm(c, a, b, beta=0.5, alpha=2), (normal(3, 5), X, normal(8, 5))),
    "addmm rows": (torch.addmm, (normal(3, 5), X, normal(8, 5))),
    "baddbmm": (torch.baddbmm, (normal(2, 3, 5), normal(2, 3, 8), normal(2, 8, 5))),
    "linear": (F.linear, (X, normal(5, 8), normal(5))),
    "einsum": (lambda a, b: torch.einsum("bi,bj->ij", a, b), (X, Y)),
    "outer": (torch.outer, (X[0], Y[0])),
    "mm integers": (torch.mm, (N, N.T.contiguous())),
    "conv1d": (
        lambda x, w, b: F.conv1d(x, w, b, stride=2, padding=1, dilation=2),
        (normal(2, 4, 9), normal(6, 4, 3), normal(6)),
    ),
    "conv2d same": (lambda x, w: F.conv2d(x, w, padding="same", groups=2), (normal(2, 4, 6, 7), normal(6, 2, 3, 5))),
    "conv of one": (lambda x, w: F.conv2d(x, w), (normal(4, 6, 7), normal(6, 4, 3, 2))),
    "conv_transpose": (
        lambda x, w, b: F.conv_transpose2d(
            x, w, b, stride=(2, 3), padding=1, output_padding=1, groups=2, dilation=(1, 2)
        ),
        (normal(2, 4, 4, 5), normal(4, 3, 3, 2), normal(6)),
    ),
    "max_pool": (lambda x: F.max_pool2d(x, 3, stride=2, padding=1, ceil_mode=True), (normal(2, 3, 8, 9),)),
    "avg_pool": (
        lambda x: F.avg_pool2d(x, 3, stride=2, padding=1, ceil_mode=True, count_include_pad=False),
        (normal(2, 3, 8, 9),),
    ),
    "avg_pool ceil": (lambda x: F.avg_pool2d(x, 3, stride=2, padding=1, ceil_mode=True), (normal(2, 3, 8, 9),)),
    "pools 3d": (lambda x: F.avg_pool3d(x, 2, padding=1) + F.max_pool3d(x, 2, padding=1), (normal(1, 2, 4, 5, 6),)),
    "avg_pool divisor": (lambda x: F.avg_pool2d(x, 2, divisor_override=3), (normal(2, 3, 8, 9),)),
    "adaptive": (lambda x: F.adaptive_avg_pool2d(x, (3, 4)), (normal(2, 3, 8, 9),)),
    "interpolate": (lambda x: F.interpolate(x, scale_factor=2.0, mode="nearest"), (normal(1, 2, 4, 5),)),
    "bilinear": (lambda x: F.interpolate(x, size=(7, 9), mode="bilinear"), (normal(1, 2, 4, 5),)),
    "linear twice": (lambda x: F.interpolate(x, scale_factor=2.0, mode="linear"), (normal(3, 8, 9),)),
    "linear thirds": (lambda x: F.interpolate(x, scale_factor=1.3, mode="linear"), (normal(3, 8, 29),)),
    "trilinear": (
        lambda x: F.interpolate(x, size=(5, 3, 7), mode="trilinear", align_corners=True),
        (normal(1, 2, 4, 5, 6),),
    ),
    "pixel_shuffle": (lambda x: F.pixel_shuffle(x, 2), (normal(1, 8, 3, 3),)),
    "gather": (lambda a, n: torch.gather(a, 1, n[:2, :4]), (X, N)),
    "embedding": (lambda n, w: F.embedding(n, w), (N, normal(7, 4))),
    "index": (lambda a, n: a[n[:, 0] % 3, n[:, 1]], (X, N)),
    "index between": (lambda a, n: a[:, n[0]], (X, N)),
    "index_select": (lambda a, n: a.index_select(1, n[0]), (X, N)),
    "index_put": (lambda a, b: a.index_put((torch.tensor([2, 0]),), b[:2]), (X, Y)),
    "index_add": (lambda a, b: a.index_add(0, torch.tensor([1, 1, 0]), b), (X, Y)),
    "scatter": (lambda a, b: a.scatter(1, torch.tensor([[3, 0], [1, 2], [7, 4]]), b), (X, Y)),
    "scatter number": (lambda a: a.scatter(1, torch.tensor([[3, 0], [1, 2], [7, 4]]), 0.1), (X,)),
    "scatter_add": (lambda a, n, b: a.scatter_add(1, n, b), (X, N, Y)),
    "scatter_reduce prod": (lambda a, n, b: a.scatter_reduce(1, n, b, "prod"), (X, N, Y)),
    "scatter_reduce": (lambda a, n, b: a.scatter_reduce(1, n, b, "sum"), (X, N, Y)),
    "one_hot": (lambda n: F.one_hot(n, 7), (N,)),
    "softmax": (lambda a: torch.softmax(20 * a, 1), (X,)),
    "log_softmax": (lambda a: F.log_softmax(20 * a, 1), (X,)),
    "layer_norm": (lambda a, w, b: F.layer_norm(a, (8,), w, b), (X, Y[0], Y[1])),
    "rms_norm": (lambda a, w: F.rms_norm(a, (8,), w, 1e-6), (X, Y[0])),
    "group_norm": (lambda a, w, b: F.group_norm(a, 2, w, b), (normal(2, 4, 5), Y[0, :4], Y[1, :4])),
    "batch_norm": (lambda a, m, v: F.batch_norm(a, m, v), (X, Y[0], P[0])),
    "instance_norm": (F.instance_norm, (normal(2, 3, 9),)),
    "normalize": (F.normalize, (X,)),
    **{
        name: (getattr(F, name), (2 * X,))
        for name in (
            *("gelu", "silu", "mish", "elu", "selu", "celu", "leaky_relu", "softplus", "softsign", "logsigmoid"),
            *("hardtanh", "hardsigmoid", "hardswish", "tanhshrink", "softshrink", "hardshrink", "relu6"),
        )
    },
    "gelu tanh": (lambda a: F.gelu(a, approximate="tanh"), (X,)),
    "glu": (F.glu, (X,)),
    "prelu": (F.prelu, (X, Y[0, :1])),
    "attention": (lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True), (normal(2, 5, 8),) * 3),
    "attention masked": (
        lambda q, k, m: F.scaled_dot_product_attention(q, k, k, attn_mask=m > 2),
        (normal(2, 3, 8), normal(2, 3, 8, seed=2), whole(3, 3) + torch.eye(3).long() * 9),
    ),
    "mse": (F.mse_loss, (X, Y)),
    "l1": (F.l1_loss, (X, Y)),
    "huber": (lambda a, b: F.huber_loss(a, b, delta=0.5), (X, Y)),
    "cross_entropy": (lambda a, n: F.cross_entropy(a, n[:, 0], label_smoothing=0.1), (X, N)),
    "bce": (lambda a, n: F.binary_cross_entropy_with_logits(a, (n > 3).to(a.dtype)), (X, N)),
    "cosine": (lambda a, b: F.cosine_similarity(a, b), (X, Y)),
    "pairwise": (lambda a, b: F.pairwise_distance(a, b), (X, Y)),
    "kl": (lambda a, b: F.kl_div(a, b.softmax(1), reduction="sum"), (X, Y)),
}


def _assigned(a: Any, b: Any) -> Any:
    a[:, 2:4] = b[:, :2]
    a[1] += 1
    return a


def wide(tensor: Any) -> Any:
    return tensor.double() if tensor.is_floating_point() else tensor


def outside(estimate: Estimate, got: Any) -> np.ndarray:
    """Which elements of a tensor are not within the bound."""
    return np.asarray(estimate.ratios(array(got)) > 1)


FLOAT32 = Arithmetic.of("float32")
# Every operation of torch rounds its result to bfloat16; its sums on the CPU are accumulated in float32.
BFLOAT16 = Arithmetic.of("bfloat16", compute="bfloat16", accumulate="float32")
NAMES = tuple(CASES)
# Torch takes as long to export ten functions as one.
AT_A_TIME = 16


@functools.cache
def together(first: int) -> Callable[..., Any]:
    """A function of the inputs of some cases, one after the other, that returns their results."""
    cases = [CASES[name] for name in NAMES[first : first + AT_A_TIME]]

    def function(*inputs: Any) -> tuple[Any, ...]:
        rest = iter(inputs)
        return tuple(each(*(next(rest) for _ in given)) for each, given in cases)

    return function


def inputs_of(first: int, arithmetic: Arithmetic | None) -> list[Any]:
    given = [tensor for name in NAMES[first : first + AT_A_TIME] for tensor in CASES[name][1]]
    return [narrow(tensor) for tensor in given] if arithmetic is BFLOAT16 else given


def narrow(tensor: Any) -> Any:
    return tensor.bfloat16() if tensor.is_floating_point() else tensor


@functools.cache
def analysed(first: int, arithmetic: Arithmetic | None) -> Sequence[Any]:
    """The values of some cases, or their estimates."""
    function, inputs = together(first), inputs_of(first, arithmetic)
    return aten.evaluate(function, inputs) if arithmetic is None else aten.bound(function, inputs, arithmetic)[1]


def of_case(name: str, arithmetic: Arithmetic | None) -> Any:
    place = NAMES.index(name)
    return analysed(place - place % AT_A_TIME, arithmetic)[place % AT_A_TIME]


@pytest.mark.parametrize("name", CASES)
def test_values_are_torchs_in_float64(name: str) -> None:
    """The value is what torch computes in float64, in the same shape."""
    function, inputs = CASES[name]
    expected = array(_in_float64(function, inputs))
    value = of_case(name, None)
    assert expected.shape == value.shape
    assert expected.dtype == value.dtype
    np.testing.assert_allclose(value, expected, rtol=1e-12, atol=1e-14)


def _in_float64(function: Callable[..., Any], inputs: Sequence[Any]) -> Any:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        return function(*map(wide, inputs))
    finally:
        torch.set_default_dtype(before)


@pytest.mark.parametrize("arithmetic", [FLOAT32, BFLOAT16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("name", CASES)
def test_torchs_own_results_are_inside(name: str, arithmetic: Arithmetic) -> None:
    """In float32, and in bfloat16 where each operation rounds to it. Errors are numbers, and some promise is made."""
    function, inputs = CASES[name]
    given = [narrow(each) for each in inputs] if arithmetic is BFLOAT16 else inputs
    estimate = of_case(name, arithmetic)
    assert not np.isnan(estimate.errors()).any()
    assert np.isfinite(estimate.errors()).any()
    try:
        got = function(*given)
    except (NotImplementedError, RuntimeError) as error:
        if arithmetic is FLOAT32 or "not implemented" not in str(error):
            raise
        pytest.skip(f"torch has no kernel for it: {error}")
    assert not outside(estimate, got).any()


# What IEEE 754 rounds to nearest, and sums, which are as good here; functions of a library may be an ULP off.
NEAREST = (
    "add",
    "sub",
    "mul",
    "pow",
    "clamp",
    "where",
    "remainder",
    "fmod",
    "sum",
    "mean",
    "var_mean",
    "var",
    "mm",
    "bmm",
    "addmm",
    "baddbmm",
    "convolution",
)


class Simulated(torch.fx.Interpreter):  # type: ignore[misc]
    """Runs a graph in float64, and rounds each result to float32: to nearest, or for functions to either neighbour."""

    def __init__(self, module: Any, seed: int) -> None:
        super().__init__(module)
        self.rng = np.random.default_rng(seed)

    def run_node(self, node: Any) -> Any:
        result = super().run_node(node)
        name = ".".join(str(node.target).split(".")[:2])
        if name not in RULES or not isinstance(result, torch.Tensor) or not result.is_floating_point():
            return result
        nearest = result.float()
        if name not in ELEMENTWISE or name.removeprefix("aten.") in NEAREST:
            return nearest.double()
        towards = torch.where(nearest.double() < result, torch.inf, -torch.inf).float()
        other = torch.where(nearest.double() == result, nearest, torch.nextafter(nearest, towards))
        coins = torch.from_numpy(self.rng.integers(0, 2, tuple(result.shape)).astype(bool))
        return torch.where(coins, nearest, other).double()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("first", range(0, len(NAMES), AT_A_TIME))
def test_simulated_roundings_are_inside(first: int, seed: int) -> None:
    """An implementation that rounds each operation of the graph as it likes stays within the bound."""
    inputs = inputs_of(first, FLOAT32)
    captured = capture(together(first), inputs, {})
    run = Simulated(captured.module, seed)
    results: Any = run.run(*(torch.from_numpy(np.array(value)) for value in captured.values(inputs)))
    estimates = analysed(first, FLOAT32)
    for place, estimate in zip(captured.outputs, estimates, strict=True):
        name = NAMES[first + estimates.index(estimate)]
        assert not outside(estimate, results[place]).any(), name


@pytest.mark.parametrize("first", range(0, len(NAMES), AT_A_TIME))
def test_values_do_not_depend_on_whether_errors_are_asked_for(first: int) -> None:
    """evaluate and bound have the same bits."""
    for value, estimate in zip(analysed(first, None), analysed(first, FLOAT32), strict=True):
        np.testing.assert_array_equal(value, estimate.value)


def test_every_rule_is_met() -> None:
    """The cases above call every rule of the table, so none of them is untested."""
    met: set[str] = set()
    for first in range(0, len(NAMES), AT_A_TIME):
        for node in capture(together(first), inputs_of(first, None), {}).module.graph.nodes:
            if node.op == "call_function":
                met.add(".".join(str(node.target).split(".")[:2]))
    drawn = {f"aten.{name}" for name in RANDOM}  # which is another test
    assert drawn == set(RULES) - met


MOVED = ("relu", "neg", "slices", "max_pool", "gather", "cat stack", "pad reflect", "index_put")


@pytest.mark.parametrize("name", MOVED)
def test_what_only_moves_or_picks_is_exact(name: str) -> None:
    """No error at all."""
    assert not of_case(name, FLOAT32).errors().any()


@pytest.mark.parametrize("name", ["div", "reciprocal", "square", "exp", "sqrt", "tanh", "sigmoid"])
def test_what_is_rounded_once_has_some_ulp(name: str) -> None:
    """At least the half that rounding costs, at most the eight of the widest budget; 16 bits are outside."""
    estimate = of_case(name, FLOAT32)
    size = np.abs(estimate.value)
    assert (estimate.errors() >= 2.0**-24 * size).all()
    assert (estimate.errors() <= 8.1 * 2.0**-23 * size).all()
    wrong = round_to(FORMATS["bfloat16"], estimate.value)
    assert outside(estimate, torch.from_numpy(wrong.copy())).any()


def test_indices_that_rounding_may_change() -> None:
    """Of equal numbers either index is right, and an element read by such an index may be either; others are not."""
    scores, table = torch.tensor([[1.0, 3.0, 3.0, 0.0]]), torch.tensor([[10.0, 20.0, 40.0, 80.0]])

    def read(a: Any, b: Any) -> Any:
        index = torch.argmax(a + 0.1, dim=1, keepdim=True)
        return index, torch.gather(b, 1, index)

    _, (index, element) = aten.bound(read, [scores, table], FLOAT32)
    assert [False, True, True, False] == [bool(index.admits(np.array([[k]]))[0, 0]) for k in range(4)]
    assert 20.0 == element.value[0, 0]
    assert 20.0 == element.errors()[0, 0]


def test_a_bias_may_be_accumulated_or_added() -> None:
    """The bound of a linear layer covers a sum that starts with a large bias; that of a separate addition does not."""
    x, weight, bias = torch.full((1, 256), 1e-4), torch.full((1, 256), 1e-4), torch.tensor([1000.0])
    _, [together] = aten.bound(F.linear, [x, weight, bias], FLOAT32)
    _, [apart] = aten.bound(lambda x, w, b: x @ w.T + b, [x, weight, bias], FLOAT32)
    total = bias[0].clone()
    for left, right in zip(x[0], weight[0], strict=True):
        total = total + left * right
    assert not outside(together, total.reshape(1, 1)).any()
    assert together.errors().max() > 50 * apart.errors().max()


def test_zeros_of_a_transposed_convolution_are_no_terms() -> None:
    """With a stride as wide as the kernel each output is one product, which is rounded once."""
    x, weight = normal(1, 1, 5, 5), normal(1, 1, 3, 3)
    _, [estimate] = aten.bound(lambda x, w: F.conv_transpose2d(x, w, stride=3), [x, weight], FLOAT32)
    assert (estimate.errors() <= 1.1 * 2.0**-24 * np.abs(estimate.value)).all()


def test_a_convolution_in_pieces_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few rows of a batch at a time give what all of them give; no rows give none."""
    layer, x = torch.nn.Conv2d(4, 6, 3, groups=2), normal(3, 4, 5, 6)
    _, [whole_batch] = aten.bound(layer, [x], FLOAT32)
    monkeypatch.setattr(multiplying, "_PATCHES", 1)
    _, [in_pieces] = aten.bound(layer, [x], FLOAT32)
    np.testing.assert_array_equal(whole_batch.value, in_pieces.value)
    np.testing.assert_array_equal(whole_batch.errors(), in_pieces.errors())
    assert (0, 6, 3, 4) == aten.evaluate(layer, [x[:0]]).shape
