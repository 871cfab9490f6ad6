"""Quantised weights times several tokens: products of one token (see diffuzz.studies.mutants.wrong_dots), put together
with a switch for each bug. Without a switch the functions that are made are correct.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from diffuzz import formats
from diffuzz.studies.mutants import styles
from diffuzz.studies.mutants import wrong_dots as dots
from diffuzz.studies.mutants import wrong_rows as rows
from diffuzz.studies.mutants.wrong_blocks import WRONG as DECODERS
from diffuzz.studies.mutants.wrong_blocks import dequantiser, right
from diffuzz.studies.mutants.wrong_norms import Right, Wrong, first_row
from diffuzz.studies.mutants.wrong_rows import Array, Change, same
from diffuzz.targets.parameter import Params

_F = np.float32


def tokens(
    product: dots.Matvec, *, x_of: Change = same, result: Change = same, few: dots.Matvec | None = None
) -> Callable[[Array, Array], Array]:
    """[t m]: ``product(weights, x)`` for each token; ``few``, if given, is the product of fewer than nine tokens."""

    def f(weights: Array, x: Array) -> Array:
        used = few if few and len(x) < 9 else product
        with np.errstate(all="ignore"):
            return np.asarray(result(np.stack([used(weights, row) for row in x_of(x)]))).astype(np.float32)

    return f


def together(format: str) -> Callable[[Array, Array], Array]:
    """The weights dequantised, and one product of matrices by NumPy."""
    dequantize = dequantiser(format, right)

    def f(weights: Array, x: Array) -> Array:
        size = formats.get(format).type_size
        return np.asarray(x @ dequantize(weights.reshape(-1, size)).reshape(len(weights), -1).T)

    return f


def tokens_kept(kept: Callable[[int], int]) -> Change:
    """A result whose tokens from ``kept(t)`` on are 0."""
    return lambda y: np.where((np.arange(len(y)) < kept(len(y)))[:, None], y, _F(0))


def rows_kept(kept: Callable[[int], int]) -> Change:
    """A result whose columns, rows of the weights, from ``kept(m)`` on are 0."""
    return lambda y: np.where(np.arange(y.shape[1]) < kept(y.shape[1]), y, _F(0))


def as_transposed(y: Array) -> Array:
    """[t m] written as [m t]."""
    return np.ascontiguousarray(y.T).reshape(y.shape)


def small_tile(y: Array) -> Array:
    """Rows of the weights beyond 32 are not computed for up to 32 tokens."""
    return np.where((np.arange(y.shape[1]) < 32) | (len(y) > 32), y, _F(0))


def _whole(size: int) -> Callable[[int], int]:
    return lambda n: n - n % size if n > size else n


_Q4: Params = {"format": "q4_0"}
_Q8: Params = {"format": "q8_0"}
_K: Params = {"format": "q4_K"}
_FLOAT = dots.float_matvec

WRONG: Wrong = (
    ("matmat/tokens-of-4", "matmat", _K, tokens(_FLOAT("q4_K"), result=tokens_kept(_whole(4))),
     "tokens left over from blocks of 4", "nntrainer#3187"),
    ("matmat/tokens-16", "matmat", _Q8, tokens(_FLOAT("q8_0"), result=tokens_kept(lambda t: min(t, 16))),
     "tokens beyond 16", ""),
    ("matmat/first-token", "matmat", _K, tokens(_FLOAT("q4_K"), x_of=first_row), "first token for all", ""),
    ("matmat/few-tokens", "matmat", _Q4, tokens(_FLOAT("q4_0"), few=_FLOAT("q4_0", value=rows.half)),
     "fewer than 9 tokens in f16", "llama.cpp#8106"),
    ("matmat/rows-of-16", "matmat", _Q4, tokens(_FLOAT("q4_0"), result=rows_kept(_whole(16))),
     "rows left over from tiles of 16", "llama.cpp#25734"),
    ("matmat/small-tile", "matmat", _Q8, tokens(_FLOAT("q8_0"), result=small_tile), "m > 32 with t <= 32",
     "llama.cpp#26921"),
    ("matmat/transposed", "matmat", _Q4, tokens(_FLOAT("q4_0"), result=as_transposed), "written as [m t]", ""),
    ("matmat/gemv-transpose", "matmat", _Q8, tokens(_FLOAT("q8_0", order=dots.transposed)), "W read as [k m]",
     "aprender#1651"),
    ("matmat/odd-block", "matmat", _K, tokens(_FLOAT("q4_K", used=lambda k: slice(k - k % 512))), "last odd block lost",
     "llama.cpp#29131"),
    ("matmat/inner-tail", "matmat", _Q4, tokens(_FLOAT("q4_0", used=lambda k: slice(k - k % 64))),
     "only whole vectors of 64", ""),
    ("matmat/nibbles", "matmat", _K, tokens(_FLOAT("q4_K", decode=DECODERS["nibble-interleave"])),
     "byte i holds elements 2i, 2i+1", "kekzl/imp#722"),
    ("matmat/minimum", "matmat", {"format": "q5_1"},
     tokens(_FLOAT("q5_1", decode=DECODERS["header-without-minimum"])), "minimum not read", "MLX#3664"),
    ("matmat/f16-flush", "matmat", _Q8, tokens(_FLOAT("q8_0", decode=DECODERS["f16-flush"])), "subnormal d as 0",
     "aprender#2073"),
    ("matmat/x-f16", "matmat", _Q8, tokens(_FLOAT("q8_0", value=rows.half)), "tokens in f16", ""),
    ("matmat/weights-bf16", "matmat", _Q8, tokens(_FLOAT("q8_0", weight=rows.bfloat)), "weights in bf16", ""),
    ("matmat/sums-f16", "matmat", _Q8, tokens(_FLOAT("q8_0", add=dots.half_sums)), "accumulated in f16",
     "onnxruntime#29611"),
    ("matmat/result-f16", "matmat", _Q4, tokens(_FLOAT("q4_0"), result=rows.half), "result in f16", "vllm#33972"),
    ("matmat/quantised", "matmat", _Q8, tokens(dots.matvec("q8_0")), "tokens quantised where they are not", ""),
    ("matmat/not-quantised", "matmat", {**_Q8, "activation": "q8_0"}, tokens(_FLOAT("q8_0")),
     "tokens not quantised where they are", ""),
    ("matmat/truncated", "matmat", {**_K, "activation": "q8_K"},
     tokens(dots.matvec("q4_K", quantise=dots.activation(np.trunc))), "code trunc(x/d)", "sglang-jax#1598"),
    ("matmat/scale-f16", "matmat", {**_K, "activation": "q8_K"},
     tokens(dots.matvec("q4_K", quantise=dots.activation(scale=lambda d, partner: dots.half(d)))),
     "scale of the tokens in f16", ""),
)  # fmt: skip

RIGHT: Right = [
    *((f"matmat/{format}", "matmat", {"format": format}, tokens(_FLOAT(format)), "token by token")
      for format in ("q4_0", "q5_1", "q8_0", "q4_K", "q6_K", "mxfp4")),
    ("matmat/together", "matmat", _K, together("q4_K"), "one product of matrices"),
    ("matmat/pairwise", "matmat", _Q8, tokens(_FLOAT("q8_0", add=dots.pairwise)), "pairwise sums"),
    ("matmat/backwards", "matmat", _K, tokens(_FLOAT("q4_K", add=dots.backwards)), "backwards"),
    ("matmat/offset", "matmat", _Q4, tokens(styles.offset_matvec("q4_0")), "codes from 0 on"),
    ("matmat/activation-q8_0", "matmat", {**_Q8, "activation": "q8_0"}, tokens(dots.matvec("q8_0")), "q8_0 tokens"),
    ("matmat/activation-q4_0", "matmat", {**_Q4, "activation": "q8_0"}, tokens(dots.matvec("q4_0")), "q8_0 tokens"),
    ("matmat/activation-q8_K", "matmat", {**_K, "activation": "q8_K"}, tokens(dots.matvec("q4_K")), "q8_K tokens"),
]  # fmt: skip
