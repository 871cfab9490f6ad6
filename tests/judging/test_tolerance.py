"""Tolerances for tests of one's own."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from diffuzz import assert_within_bound, operation, targets, tensor, tolerance

RNG = np.random.default_rng(0)
X = RNG.standard_normal((4, 64)).astype(np.float32)


def norm(x: Any, eps: float = 1e-5) -> Any:
    """RMSNorm."""
    return x / jnp.sqrt(jnp.mean(x * x, axis=-1, keepdims=True) + eps)


def in_numpy(x: np.ndarray, dtype: Any = np.float32) -> np.ndarray:
    wide = x.astype(dtype)
    return np.asarray(wide / np.sqrt((wide * wide).mean(axis=-1, keepdims=True, dtype=dtype) + dtype(1e-5)))


def test_the_exact_result_and_the_error_of_each_element() -> None:
    """Arrays of the shape of the result; NumPy's float32 is within, and its bfloat16 is not."""
    exact, allowed = tolerance(norm, X)
    np.testing.assert_allclose(exact, in_numpy(X, np.float64), rtol=1e-12)
    assert exact.shape == allowed.shape == X.shape
    assert (np.abs(in_numpy(X) - exact) <= allowed).all()
    assert not (np.abs(in_numpy(X).astype(ml_dtypes.bfloat16).astype(np.float64) - exact) <= allowed).all()
    # Half a unit in the last place of bfloat16, and little more.
    exact, allowed = tolerance(norm, X, dtype="bfloat16", compute="float32")
    assert (allowed <= 2.0**-8 * np.abs(exact)).all()


def test_inputs_are_stored_in_the_dtype() -> None:
    """float32 inputs are rounded to bfloat16, and an array of bfloat16 says the dtype itself."""
    stored = X.astype(ml_dtypes.bfloat16)
    for one, other in zip(tolerance(norm, X, dtype="bfloat16"), tolerance(norm, stored), strict=True):
        np.testing.assert_array_equal(one, other)
    assert_within_bound(in_numpy(stored.astype(np.float32)).astype(ml_dtypes.bfloat16), norm, X)
    # All of it in bfloat16 is another arithmetic.
    low = in_numpy(stored, ml_dtypes.bfloat16)
    with pytest.raises(AssertionError):
        assert_within_bound(low, norm, stored)


def test_an_assertion_says_where_and_how_far() -> None:
    """One line: the place, what is there, the exact result, what is allowed, and how many elements are outside."""
    got = in_numpy(X)
    assert_within_bound(got, norm, X)
    got[2, 17] *= 1.01
    with pytest.raises(
        AssertionError, match=r"^element \(2, 17\) is .* is exact and an error of .* is allowed, .* times"
    ) as said:
        assert_within_bound(got, norm, X)
    assert "1 of 256 elements are outside the bound" in str(said.value)
    assert "\n" not in str(said.value)
    got[2, 17] = np.nan
    with pytest.raises(AssertionError, match="is nan"):
        assert_within_bound(got, norm, X)


def test_zeros_are_outside_where_a_tolerance_passes_them() -> None:
    """A softmax of 4096 logits in float16 is about 2^-12, below any common atol."""
    logits = RNG.standard_normal((2, 4096)).astype(np.float16)
    with pytest.raises(AssertionError):
        assert_within_bound(np.zeros(logits.shape, np.float16), jax.nn.softmax, logits)
    right = np.asarray(jax.nn.softmax(logits.astype(np.float32))).astype(np.float16)
    assert_within_bound(right, jax.nn.softmax, logits)


def test_several_results_and_indices() -> None:
    """Tuples of arrays; of equal numbers either index is right, and no index twice."""
    x = np.array([[3, 1, 3, 2]], np.float32)

    def top(x: Any) -> Any:
        return jax.lax.top_k(x, 2)

    (values, _), (of_values, of_indices) = tolerance(top, x)
    np.testing.assert_array_equal(values, [[3, 3]])
    assert not of_values.any()
    assert not of_indices.any()
    for good in ([[0, 2]], [[2, 0]]):
        assert_within_bound((values, np.array(good)), top, x)
    for bad in ([[0, 0]], [[0, 3]], [[0, -1]], [[0, 9]]):
        with pytest.raises(AssertionError, match=r"^result 2: element"):
            assert_within_bound((values, np.array(bad)), top, x)


def test_forms_of_an_operation_count() -> None:
    """An operation allows what its other formulas allow."""

    def one_pass(x: Any) -> Any:
        return jnp.mean(x * x, axis=-1) - jnp.mean(x, axis=-1) ** 2

    @operation(x=tensor("b n", max_abs=10), forms=(one_pass,))
    def variance(x: Any) -> Any:
        """Variance of rows."""
        return jnp.mean((x - jnp.mean(x, axis=-1, keepdims=True)) ** 2, axis=-1)

    x = (X + 100).astype(np.float32)
    narrow, wide = tolerance(variance.function, x)[1], tolerance(variance, x)[1]
    assert (wide > 4 * narrow).all()


def test_parameters_and_arrays_by_keyword() -> None:
    """Numbers are constants of the function; arrays are inputs."""
    _, small = tolerance(norm, X, eps=1e-5)
    exact, _ = tolerance(norm, X, eps=3.0)
    np.testing.assert_allclose(exact, X / np.sqrt((X.astype(float) ** 2).mean(-1, keepdims=True) + 3), rtol=1e-12)
    assert small.shape == X.shape


@pytest.mark.parametrize("kind", ["numpy", "jax", "dlpack"])
def test_results_of_any_library(kind: str) -> None:
    """NumPy, jax and what exports DLPack."""
    got: Any = in_numpy(X)
    if kind == "jax":
        got = jnp.asarray(got)
    elif kind == "dlpack":
        array = got

        class Exported:
            def __dlpack__(self, **options: Any) -> Any:
                return array.__dlpack__(**options)

            def __dlpack_device__(self) -> Any:
                return array.__dlpack_device__()

        got = Exported()
    assert_within_bound(got, norm, X)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((in_numpy(X)[:, :3], norm, X), r"^got has shape \(4, 3\), where \(4, 64\) is needed$"),
        (((in_numpy(X), in_numpy(X)), norm, X), "^got has 2 results, where the function has one result$"),
        ((in_numpy(X), norm), "^an input is needed"),
        ((in_numpy(X), norm, np.array(["a"])), "^input 1: an array of numbers is needed"),
        ((in_numpy(X), norm, X.astype(complex)), "^input 1: an array of numbers is needed"),
        ((np.array([None]), norm, X), "^got: an array of numbers is needed"),
        ((in_numpy(X), 3, X), "^f=3: a function is needed"),
        ((in_numpy(X), lambda x, y: x @ y, X, X), "cannot be traced|cannot be called"),
        ((in_numpy(X), lambda x: np.sort(x), X), "cannot be traced|cannot be called"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_mistakes_are_one_line(arguments: tuple[Any, ...], message: str) -> None:
    """ValueError, one line, for wrong numbers, shapes and kinds."""
    with pytest.raises(ValueError, match=message) as said:
        assert_within_bound(*arguments)
    assert "\n" not in str(said.value)


def test_an_unknown_dtype_is_one_line() -> None:
    """The message lists those that there are."""
    with pytest.raises(ValueError, match="float31") as said:
        tolerance(norm, X, dtype="float31")
    assert "\n" not in str(said.value)


def test_hypothesis_is_not_loaded() -> None:
    """tolerance, assert_within_bound and check work without it."""
    program = (
        "import sys, numpy as np, jax.numpy as jnp\n"
        "from diffuzz import check, tolerance, assert_within_bound\n"
        "x = np.ones((2, 3), np.float32)\n"
        "assert_within_bound(np.tanh(x), jnp.tanh, x)\n"
        "check(lambda x, eps: (x / np.sqrt((x * x).mean(1, keepdims=True) + np.float32(eps))).astype(np.float32),\n"
        "      'rmsnorm', seconds=0.5)\n"
        "print('hypothesis' in sys.modules, 'torch' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False False"


def test_built_in_operations_are_references() -> None:
    """The reference of a target by its function, with its forms."""
    layer_norm = targets.get("layer_norm")
    assert layer_norm.contract is not None


def test_a_function_that_refers_to_something_else() -> None:
    """What a function finds when it is called counts, not what it found before."""
    settings = {"factor": 2.0}

    def scaled(x: Any) -> Any:
        return x * settings["factor"]

    first, _ = tolerance(scaled, X)
    settings["factor"] = 3.0
    second, _ = tolerance(scaled, X)
    np.testing.assert_array_equal(first * 1.5, second)


def test_a_list_of_numbers_is_one_array() -> None:
    """NumPy takes it, so it is no tuple of results."""
    assert_within_bound(in_numpy(X).tolist(), norm, X)
    with pytest.raises(AssertionError, match="elements are outside the bound"):
        assert_within_bound((in_numpy(X) * 1.01).tolist(), norm, X)


@pytest.mark.parametrize("dtype", ["bfloat16", "float8_e4m3fn"])
def test_a_result_of_torch_in_a_narrow_dtype(dtype: str) -> None:
    """It is an array like any other, and its dtype that of the arithmetic."""
    torch = pytest.importorskip("torch")
    stored = X.astype(getattr(ml_dtypes, dtype)).astype(np.float32)
    right = torch.tensor(in_numpy(stored)).to(getattr(torch, dtype))
    assert_within_bound(right, norm, stored)
    with pytest.raises(AssertionError):
        assert_within_bound((right.float() * 0).to(right.dtype), norm, stored)


def test_an_operation_takes_tensors_of_torch() -> None:
    """It is a function of jax.numpy, whatever its arguments are."""
    torch = pytest.importorskip("torch")

    @operation(x=tensor("b n"))
    def doubled(x: Any) -> Any:
        return jnp.add(x, x)

    assert_within_bound(torch.tensor(X) * 2, doubled, torch.tensor(X))


def test_messages_name_the_function() -> None:
    """Not a helper of diffuzz; and a function of nothing is none."""

    def mine(x: Any) -> Any:
        raise RuntimeError("no")

    with pytest.raises(ValueError, match=r"^mine: cannot be traced by JAX: RuntimeError: no$"):
        tolerance(mine, X)
    with pytest.raises(ValueError, match=r"^<lambda>: it returns no array$"):
        tolerance(lambda x: None, X)
