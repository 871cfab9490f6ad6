"""Products, norms, softmax and quantised weights: kernels of known arithmetic, of diffuzz and of others."""

from __future__ import annotations

import importlib.util
import random
from collections.abc import Callable

import ml_dtypes
import numpy as np
import pytest
from planted import F32, F64, Nested, exact_fma, halved, in_sequence, lanes, random_nested, total

from diffuzz.fingerprinting import libraries, reading
from diffuzz.fingerprinting import tree as trees
from diffuzz.fingerprinting.box import BoxError
from diffuzz.fingerprinting.differing import differences, why
from diffuzz.fingerprinting.verifying import numpy_pairwise
from diffuzz.kernels.names import MissingKernelsError


def _products(a: np.ndarray, b: np.ndarray, nested: Nested, fused: bool) -> np.ndarray:
    """A product of matrices with one column, added up in an order; with fused products where lanes are in sequence."""
    x, y = a, np.broadcast_to(b[:, 0], a.shape)
    if not fused:
        return total(nested, x * y)[:, None]

    def walked(node: Nested) -> np.ndarray:
        if isinstance(node, int):
            return x[:, node] * y[:, node]
        left, right = node
        if isinstance(right, int):
            return exact_fma(x[:, right], y[:, right], walked(left))
        return walked(left) + walked(right)

    return walked(nested)[:, None]


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("nested", [in_sequence(range(27)), lanes(30, 4, halved, tail=True)])
def test_products_are_fused_or_rounded(of, nested, fused):
    """Chains of multiply-adds, and products that are rounded first."""
    tree = trees.of(nested)
    found = of("matmul", lambda a, b: _products(a, b, nested, fused), tree.n)
    assert found.tree == tree
    assert found.details["products"] == ("fused multiply-adds" if fused else "rounded before they are added")
    assert found.verified.all


def test_short_factors_are_seen(of):
    """Factors that are rounded to bfloat16."""

    def short(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        a, b = (one.astype(ml_dtypes.bfloat16).astype(F32) for one in (a, b))
        return _products(a, b, in_sequence(range(16)), False)

    found = of("matmul", short, 16)
    assert found.details["factors"] == "8 bits and 8 bits"
    assert found.verified.all


def test_products_in_float64(of):
    """Products and sums in float64."""
    found = of("matmul", lambda a, b: (a.astype(F64) @ b.astype(F64)).astype(F32), 33)
    assert found.details["accumulator"] == "float64"
    assert found.details["products"] == "exact"
    assert found.verified.all


@pytest.mark.parametrize("n", [16, 53, 130])
def test_the_mean_of_squares(of, n):
    """Sums of positive numbers: NumPy's order, and one in sequence by fused multiply-adds."""
    found = of("mean_square", lambda x: np.mean(x * x, axis=-1), n)
    assert found.tree == of("sum", lambda x: x.sum(axis=-1), n).tree
    assert found.details["finish"] == "sum / n"
    assert found.verified.all

    def chained(x: np.ndarray) -> np.ndarray:
        whole = np.zeros(len(x), F32)
        for k in range(x.shape[1]):
            whole = exact_fma(x[:, k], x[:, k], whole)
        return whole * (F32(1) / F32(x.shape[1]))

    found = of("mean_square", chained, n // 4)
    assert found.tree == trees.of(in_sequence(range(n // 4)))
    assert found.details["products"] == "fused multiply-adds"
    assert found.verified.all


def test_rmsnorm_shows_its_sum_or_is_recognised(of):
    """By an eps below 0, and where that is refused among the usual orders."""

    def norm(x: np.ndarray, eps: float) -> np.ndarray:
        return x * (F32(1) / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + F32(eps)))

    def strict(x: np.ndarray, eps: float) -> np.ndarray:
        if eps < 0:
            raise ValueError("eps")
        return norm(x, eps)

    shown = of("rmsnorm", norm, 48)
    assert shown.tree == of("sum", lambda x: x.sum(axis=-1), 48).tree
    assert shown.details["finish"] == "x * (1 / sqrt(mean + eps)), mean = sum / n"
    recognised = of("rmsnorm", strict, 48)
    assert recognised.tree == shown.tree
    assert "recognised" in recognised.order


def test_softmax_shows_its_sum_and_its_exponential(of):
    """In an order that is none of the usual ones; with an exponential that is known, and with one that is not."""
    nested = ((in_sequence(range(20, 3, -1)), 0), ((1, 2), 3))

    def softmax(exp: Callable[..., np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
        def function(z: np.ndarray) -> np.ndarray:
            e = exp(z - z.max(axis=-1, keepdims=True))
            return e / total(nested, e)[:, None]

        return function

    found = of("softmax", softmax(np.exp), 21)
    assert found.tree == trees.of(nested)
    assert "NumPy's" in found.exp.names
    assert found.details["finish"] == "e / sum"
    assert found.verified.all
    odd = of("softmax", softmax(lambda x: np.exp(x) * np.where(x < 0, F32(1 + 2.0**-22), F32(1))), 21)
    assert odd.exp.names == ()
    assert odd.exp.largest > 1.5
    assert "of logits that are the largest or far below it, to the bit" in odd.verified.words


def test_a_softmax_that_scales_its_sums_anew_has_no_order(of):
    """Far below the largest logit an online softmax adds up in sequence, and elsewhere it does not."""

    def online(z: np.ndarray) -> np.ndarray:
        top, sums = z[..., 0], np.ones_like(z[..., 0])
        for place in range(1, z.shape[-1]):
            above = np.maximum(top, z[..., place])
            sums, top = sums * np.exp(top - above) + np.exp(z[..., place] - above), above
        return np.exp(z - top[..., None]) / sums[..., None]

    found = of("softmax", online, 32)
    assert found.order.startswith("none: its sums are scaled anew")
    assert found.tree is None
    assert not found.verified.all


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.filterwarnings("error")
def test_a_constant_has_no_order(of, n, number):
    """It is a function of any sum, which shows nothing where there is one sum only."""
    found = of("rmsnorm", lambda x, eps: np.full_like(x, number), n)
    assert found.order.startswith("none: ")
    assert found.tree is None


def test_a_silu_without_numbers_is_one_line(of):
    """NaN has no fingerprint, of whatever target."""
    with pytest.raises(BoxError, match="is not finite"):
        of("silu", lambda x: x * np.nan, 16)


def test_ggml_and_the_paths_of_aprender(of):
    """The kernels of diffuzz, whose arithmetic is written down in their docstrings."""
    ggml = of("matvec", "ggml", 256, format="q8_0")
    assert ggml.order.endswith(
        "8 lanes of 4 places that lie together, each of 8 blocks, in sequence; lanes combined as "
        "((0+4)+(2+6))+((1+5)+(3+7))"
    )
    assert ggml.details["activations"] == "8 bits in blocks of 32, ties to even, scales in float16"
    assert ggml.details["products"].startswith("fused multiply-adds")
    assert ggml.verified.all
    gguf = of("matvec", "gguf", 256, format="q8_0")
    assert gguf.details["activations"] == "8 bits in blocks of 32, ties away from zero, scales in float32"
    assert gguf.verified.all
    assert set(differences(ggml, gguf)) == {"order", "activations"}
    assert "ties to even" in why(ggml, gguf)
    assert of("matvec", "ggml", 1280, format="q4_K").verified.all
    apr = of("matvec", "apr", 64, format="q4_0", arithmetic="apr")
    assert apr.tree == trees.of(in_sequence(range(64)))
    softmax = of("softmax", "ggml", 64)
    assert softmax.verified.all
    assert softmax.details["finish"] == "e * (1 / sum in float64)"


@pytest.mark.skipif(importlib.util.find_spec("ggml") is None, reason="the ggml library is an extra")
def test_the_real_ggml_library(of):
    """Native code has lanes, portable code has none; both are verified."""
    native, generic = (of("matvec", name, 256, format="q8_0") for name in ("libggml", "libggml:generic"))
    assert native.verified.all
    assert generic.verified.all
    assert generic.order == "blocks of 32 with exact sums; 8 summands, in sequence"
    assert "ties away from zero" in generic.details["activations"]


def test_xla_has_an_order_and_flushes(of):
    """XLA's product on a CPU, and its sum."""
    product = of("matmul", "xla", 32, columns=4)
    assert product.verified.all
    assert product.details["subnormals"] == "flushed, in and out"
    assert of("sum", "xla", 64).verified.all


def test_a_target_without_a_sum_is_one_line(of):
    """What cannot be fingerprinted is said with what can."""
    with pytest.raises(BoxError, match="softmax, silu have fingerprints"):
        of("rope", "apr", 32)


def test_random_products_come_back(of):
    """Random trees of products, of which some are fused with what they are added to."""
    rng = random.Random(6)
    for _ in range(12):
        n = rng.randint(3, 24)
        nested = random_nested(n, rng)
        fused = [rng.random() < 0.5 for _ in range(n)]

        def product(a: np.ndarray, b: np.ndarray, nested: Nested = nested, fused: list[bool] = fused) -> np.ndarray:
            y = np.broadcast_to(b[:, 0], a.shape)

            def walked(node: Nested) -> np.ndarray:
                if isinstance(node, int):
                    return a[:, node] * y[:, node]
                for leaf, other in (node, node[::-1]):
                    if isinstance(leaf, int) and fused[leaf]:
                        return exact_fma(a[:, leaf], y[:, leaf], walked(other))
                return walked(node[0]) + walked(node[1])

            return walked(nested)[:, None]

        found = of("matmul", product, n)
        assert found.tree == trees.of(nested)
        assert found.verified.all


def test_numpy_and_its_blas_have_orders(of):
    """A product of two vectors, whatever BLAS there is, and NumPy's own sum."""
    assert of("matmul", lambda a, b: a @ b, 96, rows=1).verified.all
    assert of("sum", lambda x: np.sum(x, axis=-1), 300).tree == trees.of(numpy_pairwise(0, 300))


def test_torch_has_orders(of):
    """Sums and norms of torch on a CPU."""
    torch = pytest.importorskip("torch")
    assert of("sum", lambda x: torch.sum(torch.from_numpy(x), dim=-1).numpy(), 128).verified.all
    assert of("rmsnorm", lambda x, eps: torch.rms_norm(torch.from_numpy(x), x.shape[-1:], eps=eps).numpy(), 64).tree


@pytest.mark.parametrize("library", libraries.NAMES)
def test_functions_of_libraries_are_named_by_targets(library):
    """What ``--kernels numpy`` calls."""
    if importlib.util.find_spec(library) is None:
        with pytest.raises(MissingKernelsError, match="pip install"):
            libraries.candidate(library, "sum")
        return
    for target in (*reading.NAMES, "silu"):
        if target != "matvec":
            assert libraries.candidate(library, target).endswith(f"of_{library}.py:{target}")
    assert libraries.candidate("apr", "sum") is None
