r"""Determinism of a float32 matrix product: does the same product, computed again, ever give other bits?

    y_to = sum_i w_oi x_ti        computed three times: the whole batch, the whole batch again, each token alone

Published (FFN-GGUF-005 and 005b): byte-identical on one input each, so FALSIFIED. The measure is the number of elements
of y whose bits are not the same in all three results. ``kernel`` is the matrix product of the APR path (``apr``), or
that of NumPy with the BLAS that NumPy was built with (``numpy``).

**Bound 0 for apr.** Each output is a dot product of its own: a fixed sequence of float32 operations on its row of w and
its token. Neither the number of tokens or rows, nor the threads that share the rows, can change it. Equal operands give
equal bits.

**No bound for numpy.** A BLAS chooses its kernel, and with it the order of its sums, by the shape of the whole product.
So a token alone may be summed in another order than the same token in a batch. The result of a search depends on the
machine and on the library.

**A candidate** is a product of any two matrices, ``a b``, in the arithmetic that its parameters state; its error bound
is derived (see diffuzz.targets.operation).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from diffuzz.cases.space import Dim, Space, TensorSpec
from diffuzz.formats.arrays import AnyArray
from diffuzz.kernels import apr
from diffuzz.targets.distances import ulp_distance
from diffuzz.targets.drift import Drift
from diffuzz.targets.lazily import lazily
from diffuzz.targets.operation import operation
from diffuzz.targets.outcome import Arrays, Bound, Outcome
from diffuzz.targets.parameter import Parameter, ParameterError, Params
from diffuzz.targets.target import Target
from diffuzz.targets.tensors import tensor

if TYPE_CHECKING:
    from jaxtyping import Float32, Float64

jnp = lazily("jax.numpy")

PARAMETERS = (
    Parameter("n", 128, "length of the sums", low=1, high=16384),
    Parameter("m", 64, "number of outputs", low=1, high=16384),
    Parameter("tokens", 4, "number of tokens in the batch", low=1, high=512),
    Parameter("max_abs", 16.0, "largest |w| and |x|", low=1e-15, high=1e15),
    Parameter(
        "kernel", "apr", "apr: matrix product of the APR path; numpy: of NumPy with its BLAS", choices=("apr", "numpy")
    ),
)


# y of one case, float32[tokens, m].
_Product: TypeAlias = np.ndarray
# Largest number n m tokens of products in a case: a second of left folds. Without it, a corpus file of a few bytes
# could take minutes to replay.
_MOST_PRODUCTS = 2**25
# Largest n tokens where the products are sums in lanes: token by token these are n tokens / 8 steps, 2^17 a second or
# two, however few rows the matrix has.
_MOST_STEPS = 2**20


def space(p: Params) -> Space:
    """The matrix and the tokens. Raises ParameterError if a case has more than 2^25 products, or, unless they are
    NumPy's, more than 2^20 in one column of the matrix.
    """
    if p["n"] * p["m"] * p["tokens"] > _MOST_PRODUCTS:
        raise ParameterError(f"n m tokens = {p['n'] * p['m'] * p['tokens']}: at most {_MOST_PRODUCTS} is needed")
    if p["kernel"] == "apr" and p["n"] * p["tokens"] > _MOST_STEPS:
        raise ParameterError(f"n tokens = {p['n'] * p['tokens']}: at most {_MOST_STEPS} is needed with kernel=apr")
    n, top = Dim("n", p["n"]), p["max_abs"]
    w = TensorSpec("w", kind="activations", shape=(Dim("m", p["m"]), n), low=-top, high=top)
    return Space((w, TensorSpec("x", kind="activations", shape=(Dim("tokens", p["tokens"]), n), low=-top, high=top)))


def evaluate(p: Params, arrays: Arrays) -> Outcome:
    """The number of elements whose bits are not the same in all three products; it has no noise."""
    values = []
    for whole, again, alone in _products(p, arrays):
        differ = (whole.view(np.uint32) != again.view(np.uint32)) | (whole.view(np.uint32) != alone.view(np.uint32))
        values.append(differ.sum())
    return Outcome(np.array(values, np.float64), np.zeros(len(values)))


def explain(p: Params, arrays: Arrays) -> dict[str, Float64[np.ndarray, " b"]]:
    """The largest ULP distance between two of the products."""
    ulps = [
        max(ulp_distance(whole, again).max(), ulp_distance(whole, alone).max())
        for whole, again, alone in _products(p, arrays)
    ]
    return {"largest ulp": np.array(ulps, np.float64)}


def _products(p: Params, arrays: Arrays) -> Iterator[tuple[_Product, _Product, _Product]]:
    """For each case its product, the same product again, and the product computed token by token."""
    product = _numpy if p["kernel"] == "numpy" else _apr
    for w, x in zip(arrays["w"], arrays["x"], strict=True):
        yield product(w, x), product(w, x), np.concatenate([product(w, token[None]) for token in x])


def _numpy(w: Float32[np.ndarray, "m n"], x: Float32[np.ndarray, "tokens n"]) -> _Product:
    return np.ascontiguousarray(x @ w.T)


def _apr(w: Float32[np.ndarray, "m n"], x: Float32[np.ndarray, "tokens n"]) -> _Product:
    return np.ascontiguousarray(apr.matmul(w, x).T)


def bound(p: Params) -> Bound | None:
    """0 for apr, and None for a BLAS."""
    if p["kernel"] == "numpy":
        return None
    return Bound(0.0, "each output is its own sequence of float32 operations: equal operands, equal bits")


@operation(
    a=tensor("m k", max_abs=1e4),
    b=tensor("k n", max_abs=1e4),
    sizes={"m": (1, 1025), "k": (1, 2049), "n": (1, 1025)},
    result="y[m, n]",
)
def matmul(a: AnyArray, b: AnyArray) -> AnyArray:
    """Product of two matrices."""
    return jnp.matmul(a, b)


TARGET = Target(
    name="matmul",
    summary="a float32 matrix product, computed twice, and once more token by token",
    parameters=PARAMETERS,
    space=space,
    question=Drift(evaluate, explain=explain),
    measure=lambda p: "elements whose bits differ",
    bound=bound,
    claim="the float32 matrix product is not deterministic",
    threshold=lambda p: 0.0,
    cost=16.0,
    contract=matmul.target.contract,
)
