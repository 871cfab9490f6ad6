"""Wrong arguments of any kernel: one line that names the argument, its value and what would be right."""

import numpy as np
import pytest

from diffuzz.kernels import apr, exact, ggml, gguf

KERNELS = [exact, apr, gguf, ggml]
F = np.float32
ROW, X = np.zeros((2, 144), np.uint8), np.zeros((2, 256), F)

WRONG = {
    "weights is float32": lambda k: k.vec_dot("q4_K", ROW.astype(F), X),
    r"weights is uint8\[144\]": lambda k: k.vec_dot("q4_K", ROW[0], X),
    "rows of 143 bytes: whole q4_K blocks of 144": lambda k: k.vec_dot("q4_K", ROW[:, :-1], X),
    "rows of 0 bytes": lambda k: k.vec_dot("q4_K", ROW[:, :0], X),
    r"x has shape \(2, 255\): \[b, 256\] is needed": lambda k: k.vec_dot("q4_K", ROW, X[:, :-1]),
    "x has 1 rows: one for each of the 2 rows": lambda k: k.vec_dot_rows("q4_K", ROW, X[:1]),
    "x has dtype int64": lambda k: k.vec_dot("q4_K", ROW, X.astype(np.int64)),
    "there is no format 'q4_k'": lambda k: k.vec_dot("q4_k", ROW, X),
    "eps=-1e-06": lambda k: k.rms_norm(X, -1e-6),
    "eps=nan": lambda k: k.rms_norm(X, float("nan")),
    r"weight has shape \(255,\)": lambda k: k.rms_norm(X, 1e-6, np.ones(255, F)),
    r"x has shape \(2, 0\)": lambda k: k.soft_max(X[:, :0]),
    "x has dtype object": lambda k: k.silu(np.array([None])),
    r"up has shape \(1, 256\)": lambda k: k.swiglu(X, X[:1]),
    r"x has shape \(2, 256\): \[b, heads, head_dim\]": lambda k: k.rope(X, np.zeros(2, int), 1e4, "norm"),
    "heads of 7 elements": lambda k: k.rope(np.zeros((2, 1, 7), F), np.zeros(2, int), 1e4, "norm"),
    "mode='gptj': norm or neox is needed": lambda k: k.rope(X[:, None], np.zeros(2, int), 1e4, "gptj"),
    "base=0.0": lambda k: k.rope(X[:, None], np.zeros(2, int), 0.0, "norm"),
    r"positions is int64\[3\]": lambda k: k.rope(X[:, None], np.zeros(3, int), 1e4, "norm"),
    r"positions is float64\[2\]": lambda k: k.rope(X[:, None], np.zeros(2), 1e4, "norm"),
    "positions reach 4294967296": lambda k: k.rope(X[:, None], np.full(2, 2**32), 1e4, "norm"),
}


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda k: k.__name__.rsplit(".", 1)[1])
@pytest.mark.parametrize("message", WRONG, ids=range(len(WRONG)))
def test_one_line(kernel, message):
    """The error is a ValueError of one line."""
    with pytest.raises(ValueError, match=message) as caught:
        WRONG[message](kernel)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kernel", [apr, gguf, ggml], ids=lambda k: k.__name__.rsplit(".", 1)[1])
def test_float64_is_for_the_exact_kernels(kernel):
    """A float32 semantics has no float64 inputs."""
    with pytest.raises(ValueError, match="x has dtype float64: float32 is needed"):
        kernel.silu(np.zeros(3))


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda k: k.__name__.rsplit(".", 1)[1])
def test_empty_batches(kernel):
    """No rows in, no rows out."""
    assert kernel.vec_dot("q4_K", ROW[:0], X).shape == (0, 2)
    assert kernel.vec_dot("q4_K", ROW, X[:0]).shape == (2, 0)
    assert kernel.vec_dot_rows("q4_K", ROW[:0], X[:0]).shape == (0,)
    assert kernel.rms_norm(np.zeros((0, 4), F), 1e-6).shape == (0, 4)
    assert kernel.rope(np.zeros((0, 1, 4), F), np.zeros(0, np.int32), 1e4, "neox").shape == (0, 1, 4)


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda k: k.__name__.rsplit(".", 1)[1])
def test_overflow_and_nan_pass_silently(kernel):
    """Legitimate infinities and NaN raise no warning."""
    x = np.array([[np.inf, -np.inf, np.nan, 3e38]], F)
    for result in (kernel.rms_norm(x, 0.0), kernel.soft_max(x), kernel.silu(x), kernel.swiglu(x, x)):
        assert x.shape == result.shape
    kernel.rms_norm(np.zeros((1, 4), F), 0.0)
    kernel.rope(x[:, None], np.array([3]), 1e4, "norm")
    kernel.vec_dot("q8_0", np.full((1, 34), 0x7C, np.uint8), np.full((1, 32), 3e38, F))
