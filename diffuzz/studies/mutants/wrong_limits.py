"""Operations that are wrong for some sizes only: from some length on, at one width that a model has, for one number of
experts, heads or tokens. Each function is a correct one whose first result is off by a thousandth there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from diffuzz.studies.mutants import wrong_activations as activations
from diffuzz.studies.mutants import wrong_attention as attention
from diffuzz.studies.mutants import wrong_dots as dots
from diffuzz.studies.mutants import wrong_norms as norms
from diffuzz.studies.mutants import wrong_ordering as ordering
from diffuzz.studies.mutants import wrong_products as products
from diffuzz.studies.mutants import wrong_reductions as reductions
from diffuzz.studies.mutants import wrong_rows as rows
from diffuzz.studies.mutants import wrong_softmaxes as softmaxes
from diffuzz.studies.mutants import wrong_tokens as tokens
from diffuzz.studies.mutants.wrong_norms import Wrong
from diffuzz.studies.mutants.wrong_rows import Array
from diffuzz.targets.parameter import Params


def off(function: Callable[..., Any], where: Callable[..., bool], factor: float = 1.001) -> Callable[..., Any]:
    """``function`` with its first result times ``factor`` if ``where(*arrays)``."""

    def f(*arrays: Array, **given: object) -> Array | tuple[Array, ...]:
        got = function(*arrays, **given)
        if not where(*arrays):
            return got  # type: ignore[no-any-return]
        first, *others = got if isinstance(got, tuple) else (got,)
        first = np.asarray(first * np.float32(factor))
        return (first, *others) if others else first

    return f


def long(n: int, axis: int = -1) -> Callable[..., bool]:
    """Whether an axis of the first array has at least ``n`` elements."""
    return lambda first, *_: first.shape[axis] >= n


def width(n: int, axis: int = -1) -> Callable[..., bool]:
    """Whether an axis of the first array has exactly ``n`` elements."""
    return lambda first, *_: first.shape[axis] == n


_ATTEND, _PLAIN, _K = attention.attention(), products.product(), {"format": "q4_0"}
_TOKENS, _EIGHT = tokens.tokens(dots.float_matvec("q4_0")), {"k": 8}
_ERF: Params = {"form": "erf"}

WRONG: Wrong = (
    ("layer-norm/from-16384", "layer_norm", {}, off(norms.layer_norm(), long(16384)), "wrong from 16384 on", ""),
    ("layer-norm/width-768", "layer_norm", {}, off(norms.layer_norm(), width(768)), "wrong at 768", ""),
    ("rmsnorm-gain/from-2048", "rmsnorm_gain", {}, off(norms.rms_norm(), long(2048)), "wrong from 2048 on", ""),
    ("rmsnorm-gain/width-4096", "rmsnorm_gain", {}, off(norms.rms_norm(), width(4096), 1.01), "wrong at 4096",
     "vllm#44692"),
    ("add-rmsnorm/from-1536", "add_rmsnorm", {}, off(norms.add_norm(), long(1536)), "wrong from 1536 on", ""),
    ("silu/from-65536", "silu", {}, off(activations.silu(), long(65536)), "wrong from 65536 on", ""),
    ("gelu/width-11008", "gelu", _ERF, off(activations.gelu(), width(11008)), "wrong at 11008", ""),
    ("geglu/from-8192", "geglu", _ERF, off(activations.geglu(), long(8192)), "wrong from 8192 on", ""),
    ("log-softmax/from-65536", "log_softmax", {}, off(softmaxes.log_soft_max(), long(65536)), "from 65536 on", ""),
    ("log-softmax/width-50257", "log_softmax", {}, off(softmaxes.log_soft_max(), width(50257)), "wrong at 50257", ""),
    ("masked-softmax/from-1536", "masked_softmax", {}, off(softmaxes.masked_soft_max(), long(1536)),
     "wrong from 1536 on", ""),
    ("attention/from-1536", "attention", {}, off(_ATTEND, lambda q, k, v: k.shape[2] >= 1536),
     "wrong from 1536 keys on", ""),
    ("attention/head-192", "attention", {}, off(_ATTEND, width(192)), "wrong at a head of 192", ""),
    ("attention/head-256", "attention", {}, off(_ATTEND, width(256)), "wrong at a head of 256", ""),
    ("attention/heads-64", "attention", {}, off(_ATTEND, long(64, 1)), "wrong from 64 heads on", ""),
    ("attention/groups-of-7", "attention", {}, off(_ATTEND, lambda q, k, v: q.shape[1] == 7 * k.shape[1]),
     "wrong for 7 heads of q in a group", ""),
    ("attention/one-query", "attention", {}, off(_ATTEND, lambda q, k, v: q.shape[2] == 1 < k.shape[2]),
     "wrong for one query", ""),
    ("batched-matmul/rows-500", "batched_matmul", {}, off(_PLAIN, long(500, 1), 1e-6), "near zero from 500 rows on",
     "burn#4966"),
    ("batched-matmul/inner-768", "batched_matmul", {}, off(_PLAIN, width(768)), "wrong for sums of 768", ""),
    ("batched-matmul/columns-7", "batched_matmul", {}, off(_PLAIN, lambda a, b: b.shape[2] in (6, 7)),
     "wrong for 6 and 7 columns", "llama.cpp#10710"),
    ("matmat/tokens-512", "matmat", _K, off(_TOKENS, lambda w, x: len(x) >= 512), "wrong from 512 tokens on", ""),
    ("matmat/rows-500", "matmat", _K, off(_TOKENS, lambda w, x: len(w) >= 500), "wrong from 500 rows on", ""),
    ("matmat/width-4096", "matmat", _K, off(_TOKENS, lambda w, x: x.shape[1] == 4096, 1.01), "wrong at 4096", ""),
    ("conv1d/length-1000", "conv1d", {}, off(products.convolution(), long(1000)), "wrong from 1000 on", ""),
    ("conv1d/kernel-3", "conv1d", {}, off(products.convolution(), lambda x, w: w.shape[2] == 3), "3 taps", ""),
    ("conv1d/channels-80", "conv1d", {}, off(products.convolution(), width(80, 1)), "wrong for 80 channels", ""),
    ("embedding/rows-65536", "embedding", {},
     products.looked_up(index=lambda ids, v: ids.astype(np.uint16).astype(np.int32)), "ids as uint16", ""),
    ("embedding/width-1536", "embedding", {}, off(products.looked_up(), long(1536)), "wrong from 1536 on", ""),
    ("top-k/candidates-4096", "top_k", {}, off(ordering.top(), long(4097)), "wrong above 4096 candidates",
     "sglang#36807"),
    ("moe-gate/experts-128-top-8", "moe_gate", _EIGHT, off(ordering.gate(), width(128)),
     "wrong for 128 experts", "vLLM-metax#270"),
    ("sum/from-65536", "sum", {}, off(reductions.reduced(rows.fold), long(65536), 1.1), "wrong from 65536 on", ""),
    ("cumsum/from-1025", "cumsum", {}, off(reductions.prefix_sums, long(1025)), "wrong above 1024", ""),
    ("mean-square/width-5120", "mean_square", {}, off(reductions.mean_of_squares(), width(5120)), "wrong at 5120", ""),
)  # fmt: skip
