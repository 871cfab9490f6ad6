r"""Determinism of a float32 matrix product: does the same product, computed again, ever give other bits?

    y_to = sum_i w_oi x_ti        three times: the whole batch; the whole batch again; each token alone

Published (FFN-GGUF-005 and 005b): byte-identical on one input each, so FALSIFIED. Measure: number of elements of y of
which the three do not all have the same bits. ``kernel`` is the matrix product of the APR path (``apr``), or NumPy's
with the BLAS it was built with (``numpy``).

**Limit 0 for apr.** Each output is a dot product of its own, a fixed sequence of float32 operations on its row of w
and its token. Neither the number of tokens nor that of rows, nor how threads share the rows, takes part in it. Equal
operands, equal bits.

**None for numpy.** A BLAS picks its kernel, and so the order of its sums, by the shape of the whole product: a token
alone may get another order than the same token in a batch. What is found depends on the machine and on the library.
"""

from __future__ import annotations

import numpy as np

from diffuzz.kernels import apr
from diffuzz.measure import ulp_distance
from diffuzz.space import Dim, Space, TensorSpec
from diffuzz.target import Arrays, Bound, Drift, Outcome, Parameter, ParameterError, Params, Target

PARAMETERS = (
    Parameter("n", 128, "length of the sums", low=1, high=16384),
    Parameter("m", 64, "number of outputs", low=1, high=16384),
    Parameter("tokens", 4, "number of tokens in the batch", low=1, high=512),
    Parameter("max_abs", 16.0, "largest |w| and |x|", low=1e-15, high=1e15),
    Parameter("kernel", "apr", "the matrix product: of the APR path, or of NumPy's BLAS", choices=("apr", "numpy")),
)


# Products n m tokens of a case: a second of left folds, so that no corpus file of a few bytes takes minutes to replay.
_MOST_PRODUCTS = 2**25


def space(p: Params) -> Space:
    """The matrix and the tokens. Raises ParameterError where there is more than a second's work."""
    if p["n"] * p["m"] * p["tokens"] > _MOST_PRODUCTS:
        raise ParameterError(f"n m tokens = {p['n'] * p['m'] * p['tokens']}: at most {_MOST_PRODUCTS} is needed")
    n, top = Dim("n", p["n"]), p["max_abs"]
    w = TensorSpec("w", kind="activations", shape=(Dim("m", p["m"]), n), low=-top, high=top)
    return Space((w, TensorSpec("x", kind="activations", shape=(Dim("tokens", p["tokens"]), n), low=-top, high=top)))


def evaluate(p: Params, arrays: Arrays) -> Outcome:
    """Elements whose bits are not the same in all three products, and the largest ULP distance."""
    product = _numpy if p["kernel"] == "numpy" else _apr
    values, ulps = [], []
    for w, x in zip(arrays["w"], arrays["x"], strict=True):
        whole, again = product(w, x), product(w, x)
        alone = np.concatenate([product(w, token[None]) for token in x])
        differ = (whole.view(np.uint32) != again.view(np.uint32)) | (whole.view(np.uint32) != alone.view(np.uint32))
        values.append(differ.sum())
        ulps.append(max(ulp_distance(whole, again).max(), ulp_distance(whole, alone).max()))
    return Outcome(np.array(values, np.float64), np.zeros(len(values)), {"largest ulp": np.array(ulps, np.float64)})


def _numpy(w: np.ndarray, x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(x @ w.T)


def _apr(w: np.ndarray, x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(apr.matmul(w, x).T)


def bound(p: Params) -> Bound | None:
    """0 for apr; nothing is known for a BLAS."""
    if p["kernel"] == "numpy":
        return None
    return Bound(0.0, "each output is its own sequence of float32 operations: equal operands, equal bits")


TARGET = Target(
    name="matmul",
    summary="one float32 matrix product, computed again, and token by token",
    parameters=PARAMETERS,
    space=space,
    question=Drift(evaluate),
    measure=lambda p: "elements whose bits differ",
    bound=bound,
    claim="the float32 matrix product is not deterministic",
    limit=lambda p: 0.0,
    cost=16.0,
)
