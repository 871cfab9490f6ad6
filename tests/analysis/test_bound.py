"""What the analysis of whole functions promises."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffuzz.analysis import FORMATS, AnalysisError, Arithmetic, bound, evaluate, round_to, trace


def layer_norm(x: Any, gain: Any, bias: Any, eps: float = 1e-5) -> Any:
    """LayerNorm as users write it."""
    mean = jnp.mean(x, axis=-1, keepdims=True)
    return (x - mean) / jnp.sqrt(jnp.mean((x - mean) ** 2, axis=-1, keepdims=True) + eps) * gain + bias


def attention(q: Any, k: Any, v: Any) -> Any:
    """Causal attention of one head."""
    scores = q @ k.T / np.sqrt(q.shape[-1])
    mask = jnp.tril(jnp.ones(scores.shape, bool))
    return jax.nn.softmax(jnp.where(mask, scores, -jnp.inf), -1) @ v


def erf_gelu(x: Any) -> Any:
    """GELU by the complementary error function."""
    return jax.nn.gelu(x, approximate=False)


FUNCTIONS: list[tuple[Callable[..., Any], list[tuple[int, ...]], set[int]]] = [
    (jax.nn.softmax, [(32, 65)], {0}),
    (jax.nn.log_softmax, [(32, 65)], {0}),
    (layer_norm, [(32, 65), (65,), (65,)], {0}),
    (jax.nn.gelu, [(32, 65)], {0}),
    (erf_gelu, [(32, 65)], {0}),
    (jax.nn.silu, [(32, 65)], {0}),
    (jax.nn.softplus, [(32, 65)], {0}),
    (attention, [(8, 9, 16), (8, 9, 16), (8, 9, 16)], {0, 1, 2}),
    (jnp.var, [(64,)], set()),
]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize(("function", "shapes", "batched"), FUNCTIONS, ids=lambda each: getattr(each, "__name__", ""))
def test_xla_is_within_the_bound(
    function: Callable[..., Any], shapes: list[tuple[int, ...]], batched: set[int], dtype: str
) -> None:
    """Storage in the dtype, computing in float32: what XLA gives is never outside, and the bound is not idle."""
    rng = np.random.default_rng(0)
    inputs = [round_to(FORMATS[dtype], 3 * rng.standard_normal(shape)) for shape in shapes]
    traced = trace(function, [jax.ShapeDtypeStruct(shape, dtype) for shape in shapes], batched=batched)
    [estimate] = bound(traced, inputs, Arithmetic.of(dtype))
    axes = tuple(0 if position in batched else None for position in range(len(shapes)))
    mapped = jax.vmap(function, in_axes=axes) if batched else function
    got = np.asarray(jax.jit(mapped)(*(x.astype(np.float32) for x in inputs)).astype(dtype)).astype(np.float64)
    assert (np.abs(got - estimate.value) <= estimate.errors()).all()
    assert np.median(estimate.errors() / (np.abs(estimate.value) + 1e-3)) < 5000 * FORMATS[dtype].unit
    assert np.array_equal(estimate.value, evaluate(traced, inputs)[0])


def test_the_second_trace_is_the_first() -> None:
    """Functions and shapes that are known cost no trace."""
    argument = jax.ShapeDtypeStruct((4, 7), "bfloat16")
    first = trace(jax.nn.silu, [argument], batched={0})
    assert first is trace(jax.nn.silu, [jax.ShapeDtypeStruct((4, 7), "float32")], batched={0})
    assert first is not trace(jax.nn.silu, [jax.ShapeDtypeStruct((4, 8), "float32")], batched={0})


def test_an_unknown_primitive_is_named_with_its_line() -> None:
    """One line that says what has no rule, and where the user wrote it."""
    traced = trace(lambda x: jnp.linalg.qr(x)[0], [np.ones((3, 3))])
    with pytest.raises(
        AnalysisError, match=r"^the primitive \w+ has no rule of error analysis; it .*test_bound\.py:\d+"
    ):
        evaluate(traced, [np.ones((3, 3))])


NUMPYS = """
    exp exp2 expm1 log log1p log2 log10 sqrt cbrt square reciprocal tanh sin cos tan sinh cosh arcsin arccos
    arctan arcsinh arctanh
"""


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_numpys_functions_keep_their_budgets(dtype: type) -> None:
    """Each of NumPy's own float32 and float16 functions, over seven decades."""
    rng = np.random.default_rng(0)
    arithmetic = Arithmetic.of(np.dtype(dtype).name, np.dtype(dtype).name)
    worst = {}
    for name in NUMPYS.split():
        x = rng.standard_normal(4000) * 10.0 ** rng.uniform(-4, 1, 4000)
        if name.startswith(("log", "sqrt")):
            x = np.abs(x)
        if name in ("arcsin", "arccos", "arctanh"):
            x = rng.uniform(-1, 1, 4000)
        x = x.astype(dtype)
        [estimate] = bound(trace(getattr(jnp, name), [x]), [x], arithmetic)
        with np.errstate(all="ignore"):
            got = getattr(np, name)(x).astype(np.float64)
        worst[name] = float(estimate.ratios(got).max(initial=0.0))
    assert {} == {name: ratio for name, ratio in worst.items() if not 0.05 < ratio <= 1}


def _gates(z: Any, k: int = 2) -> Any:
    """The softmax of the k largest, written to their places."""
    values, index = jax.lax.top_k(z, k)
    rows = jnp.arange(z.shape[0])[:, None]
    return jnp.zeros_like(z).at[rows, index].set(jax.nn.softmax(values, axis=-1))


def test_writes_at_places_that_ties_leave_open() -> None:
    """Whichever of equal numbers is taken, its result is within the bound; rows without ties, and places where nothing
    can be written, are judged as ever.
    """
    rng = np.random.default_rng(0)
    z = rng.integers(0, 4, (200, 5)).astype(np.float64)
    traced = trace(_gates, [z])
    (estimate,) = bound(traced, [z], Arithmetic.of("float32"))
    tied = np.array([np.sort(row)[-2] == np.sort(row)[-3] or np.sort(row)[-1] == np.sort(row)[-2] for row in z])
    assert tied.any()
    assert (estimate.errors()[~tied] < 1e-5).all()
    for _ in range(20):
        # A random order of equal numbers.
        order = np.argsort(-(z + 1e-3 * rng.random(z.shape)), axis=-1)[:, :2]
        largest = np.take_along_axis(z, order, -1)
        e = np.exp(largest - largest.max(axis=-1, keepdims=True))
        got = np.zeros_like(z)
        np.put_along_axis(got, order, e / e.sum(axis=-1, keepdims=True), -1)
        assert (np.abs(got - estimate.value) <= estimate.errors()).all()
    # What is below the two largest, and tied with neither, is certainly zero.
    below = z < np.sort(z, axis=-1)[:, -2:-1]
    clear = below & ~tied[:, None]
    assert (estimate.errors()[clear] == 0).all()


def test_sums_at_places_that_ties_leave_open() -> None:
    """Of the places where an addition may go nothing is promised, of the others everything."""

    def counted(z: Any) -> Any:
        return jnp.zeros_like(z).at[jnp.arange(z.shape[0]), jnp.argmax(z, axis=-1)].add(1.5)

    z = np.array([[3.0, 1.0, 2.0], [2.0, 2.0, 1.0]])
    (estimate,) = bound(trace(counted, [z]), [z], Arithmetic.of("float32"))
    assert np.isfinite(estimate.errors()[0]).all()
    assert np.isinf(estimate.errors()[1, :2]).all()


def test_complex_numbers_are_refused_by_name() -> None:
    """And with the line of the user's code."""
    x = np.ones((2, 4))
    with pytest.raises(AnalysisError, match=r"^complex numbers have no rule of error analysis; .*test_bound\.py"):
        bound(trace(lambda a: jnp.abs(jnp.fft.fft(a)), [x]), [x], Arithmetic.of("float32"))
