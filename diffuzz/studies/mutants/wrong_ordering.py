"""Top-k and the gate of a mixture of experts: one correct form of each, with a switch for each bug.

The functions that are made have the signatures of the targets. Without a switch they are correct.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from diffuzz.studies.mutants import wrong_rows as rows
from diffuzz.studies.mutants.wrong_norms import Right, Wrong, first_row
from diffuzz.studies.mutants.wrong_rows import Array, Change, same
from diffuzz.targets.parameter import Params

_F = np.float32
# (logits, k) -> indices int64[b k].
_Order: TypeAlias = Callable[[Array, int], Array]


def descending(z: Array, k: int) -> Array:
    """The places of the k largest, largest first; of equal numbers the first one."""
    return np.argsort(-z, axis=-1, kind="stable")[..., :k]


def last_first(z: Array, k: int) -> Array:
    """The same; of equal numbers the last one."""
    return np.argsort(z, axis=-1, kind="stable")[..., ::-1][..., :k]


def by_partition(z: Array, k: int) -> Array:
    """The same by a selection that is sorted afterwards."""
    chosen = np.argpartition(-z, k - 1, axis=-1)[..., :k]
    order = np.argsort(-np.take_along_axis(z, chosen, axis=-1), axis=-1)
    return np.take_along_axis(chosen, order, axis=-1)


def unsorted(z: Array, k: int) -> Array:
    """The k largest in the order of their places."""
    return np.sort(descending(z, k), axis=-1)


def ascending(z: Array, k: int) -> Array:
    """The k smallest."""
    return np.argsort(z, axis=-1, kind="stable")[..., :k]


def largest_last(z: Array, k: int) -> Array:
    """The k largest, smallest first."""
    return descending(z, k)[..., ::-1]


def of(change: Change, order: _Order = descending) -> _Order:
    """The order of changed logits."""
    return lambda z, k: order(change(z), k)


def of_first(kept: Callable[[int], int]) -> _Order:
    """The k largest among the first ``kept(n)``, but among k at least."""

    def f(z: Array, k: int) -> Array:
        n = max(kept(z.shape[-1]), k)
        return descending(z[..., :n], k)

    return f


def in_buckets(size: int) -> _Order:
    """The largest of each of k stretches of ``size`` neighbours or more, instead of the k largest of all."""

    def f(z: Array, k: int) -> Array:
        n = z.shape[-1]
        if n < k * size:
            return descending(z, k)
        ends = np.linspace(0, n, k + 1).astype(int)
        best = [begin + z[..., begin:end].argmax(axis=-1) for begin, end in itertools.pairwise(ends)]
        chosen = np.stack(best, axis=-1)
        order = np.argsort(-np.take_along_axis(z, chosen, axis=-1), axis=-1, kind="stable")
        return np.take_along_axis(chosen, order, axis=-1)

    return f


def tie_break(step: float) -> Change:
    """Logits with ``step`` times their place subtracted, against ties."""
    return lambda z: z - _F(step) * np.arange(z.shape[-1], dtype=np.float32)


def integers(z: Array) -> Array:
    """The bits of the logits as integers, which order negative ones the other way."""
    return np.ascontiguousarray(z).view(np.int32).astype(np.float64)


def top(
    order: _Order = descending,
    *,
    values: Change = same,
    indices: Change = same,
    k_of: Callable[[int], int] = int,
) -> Callable[..., tuple[Array, Array]]:
    """(logits at ``order``, ``order``)."""

    def f(logits: Array, *, k: int) -> tuple[Array, Array]:
        with np.errstate(all="ignore"):
            chosen = order(logits, k_of(k))
            return values(np.take_along_axis(logits, chosen, axis=-1)), indices(chosen).astype(np.int32)

    return f


def soft_max(z: Array) -> Array:
    """Softmax along the last axis, in float32."""
    e = np.exp(z - z.max(axis=-1, keepdims=True))
    return np.asarray(e / e.sum(axis=-1, keepdims=True))


def raw(z: Array) -> Array:
    """exp(z): not normalised."""
    return np.asarray(np.exp(z))


def sigmoids(z: Array) -> Array:
    """The sigmoid of each logit."""
    return np.asarray(1 / (1 + np.exp(-z)))


def gate(
    *,
    order: _Order = descending,
    probabilities: Change = soft_max,
    ranked: Callable[[Array, Array], Array] = lambda z, p: p,
    share: Callable[[Array, bool], Array] = lambda w, renormalise: w / w.sum(-1, keepdims=True) if renormalise else w,
    weights: Change = same,
    indices: Change = same,
) -> Callable[..., tuple[Array, Array]]:
    """(probabilities of the k that ``order`` finds among ``ranked``, their places); ``share`` divides them."""

    def f(logits: Array, *, k: int, renormalise: bool) -> tuple[Array, Array]:
        with np.errstate(all="ignore"):
            p = probabilities(logits)
            chosen = order(ranked(logits, p), k)
            w = share(np.take_along_axis(p, chosen, axis=-1), renormalise)
            return weights(w).astype(np.float32), indices(chosen).astype(np.int32)

    return f


def gate_of_chosen(logits: Array, *, k: int, renormalise: bool) -> tuple[Array, Array]:
    """The k largest logits first, and then their softmax, or their share of the softmax of all."""
    chosen = descending(logits, k)
    z = np.take_along_axis(logits, chosen, axis=-1)
    e = np.exp(z - z[..., :1])
    whole = e if renormalise else np.exp(logits - z[..., :1])
    return np.asarray(e / whole.sum(axis=-1, keepdims=True)).astype(np.float32), chosen.astype(np.int32)


def chosen_always(logits: Array, *, k: int, renormalise: bool) -> tuple[Array, Array]:
    """Always the softmax of the k largest."""
    return gate_of_chosen(logits, k=k, renormalise=True)


def last_expert_lost(z: Array) -> Array:
    """Logits with the last as -inf if there are 128 or more."""
    return np.where((np.arange(z.shape[-1]) == z.shape[-1] - 1) & (z.shape[-1] >= 128), _F(-np.inf), z)


def _kept_whole(n: int) -> int:
    return n - n % 8


def _repeated_last(indices: Array) -> Array:
    return np.concatenate([indices[..., :-1], indices[..., :1]], axis=-1)


def _shifted(values: Array) -> Array:
    return np.roll(values, 1, axis=-1)


def _never(w: Array, renormalise: bool) -> Array:
    return w


def _always(w: Array, renormalise: bool) -> Array:
    return np.asarray(w / w.sum(axis=-1, keepdims=True))


def _of_largest(w: Array, renormalise: bool) -> Array:
    return np.asarray(w / w[..., :1]) if renormalise else w


def _with_eps(w: Array, renormalise: bool) -> Array:
    return np.asarray(w / (w.sum(axis=-1, keepdims=True) + _F(1e-3))) if renormalise else w


_K: Params = {}
_ONE: Params = {"k": 1}
_SHARE: Params = {"renormalise": False}

# Wrong orders, for both: (name, order, what is wrong, source).
_ORDERS: tuple[tuple[str, _Order, str, str], ...] = (
    ("unsorted", unsorted, "in the order of their places", ""),
    ("smallest", ascending, "the smallest", ""),
    ("largest-last", largest_last, "smallest first", ""),
    ("magnitudes", of(np.abs), "by magnitude", ""),
    ("tail", of_first(_kept_whole), "among whole vectors of 8", ""),
    ("byte", of_first(lambda n: min(n, 256)), "among the first 256", ""),
    ("last-lost", of_first(lambda n: n - 1), "without the last", ""),
    ("buckets", in_buckets(32), "largest of each bucket", "sglang#36807"),
    ("f16", of(rows.half), "ordered in f16", ""),
    ("bf16", of(rows.bfloat), "ordered in bf16", ""),
    ("first-row", of(first_row), "order of the first row for all", "ik_llama.cpp#2103"),
)

WRONG: Wrong = (
    *((f"top-k/{name}", "top_k", _K, top(order), wrong, source) for name, order, wrong, source in _ORDERS),
    ("top-k/tie-break", "top_k", _K, top(of(tie_break(3e-7))), "tie-break reorders unequal scores", "sglang#31768"),
    ("top-k/integers", "top_k", _K, top(of(integers)), "negative logits in the other order", ""),
    ("top-k/repeated", "top_k", _K, top(indices=_repeated_last), "last index is the first", ""),
    ("top-k/values-shifted", "top_k", _K, top(values=_shifted), "values of other places", ""),
    ("top-k/values-f16", "top_k", _K, top(values=rows.half), "values in f16", ""),
    ("top-k/one-based", "top_k", _ONE, top(indices=lambda i: i + 1), "indices from 1 on", ""),
    ("top-k/local", "top_k", _ONE, top(indices=lambda i: i % 128), "indices within a block of 128", ""),
    ("top-k/masked-zero", "top_k", _K,
     top(values=lambda v: np.where(np.isneginf(v), _F(0), v)), "0 for -inf", ""),
    ("top-k/at-least", "top_k", _K, top(values=lambda v: np.maximum(v, _F(-100))), "maximum starts at -100", ""),
    *((f"moe-gate/{name}", "moe_gate", _K, gate(order=order, ranked=lambda z, p: z), wrong, source)
      for name, order, wrong, source in _ORDERS),
    ("moe-gate/not-renormalised", "moe_gate", _K, gate(share=_never), "not divided by their sum", ""),
    ("moe-gate/renormalised", "moe_gate", _SHARE, gate(share=_always), "divided by their sum", ""),
    ("moe-gate/chosen", "moe_gate", _SHARE, chosen_always, "softmax of the chosen", ""),
    ("moe-gate/raw", "moe_gate", _SHARE, gate(probabilities=raw, ranked=lambda z, p: z), "exp for softmax",
     "sglang#35160"),
    ("moe-gate/logits", "moe_gate", _SHARE, gate(probabilities=same), "logits for softmax", "sglang#35160"),
    ("moe-gate/sigmoid", "moe_gate", _K, gate(probabilities=sigmoids), "sigmoid for softmax", ""),
    ("moe-gate/largest", "moe_gate", _K, gate(share=_of_largest), "divided by the largest", ""),
    ("moe-gate/eps", "moe_gate", _K, gate(share=_with_eps), "sum + 1e-3", ""),
    ("moe-gate/weights-f16", "moe_gate", _K, gate(weights=rows.half), "weights in f16", "hip-ep#672"),
    ("moe-gate/experts-128", "moe_gate", _K, gate(probabilities=lambda z: soft_max(last_expert_lost(z))),
     "last expert of 128 or more lost", "vLLM-metax#270"),
    ("moe-gate/weights-shifted", "moe_gate", _K, gate(weights=_shifted), "weights of other experts", ""),
    ("moe-gate/first-probabilities", "moe_gate", _SHARE, gate(probabilities=lambda z: first_row(soft_max(z)),
                                                     ranked=lambda z, p: z), "probabilities of the first row", ""),
)  # fmt: skip

RIGHT: Right = [
    *((f"top-k/{name}", "top_k", _K, top(order), what)
      for name, order, what in (("first", descending, "first of equals"), ("last", last_first, "last of equals"),
                                ("partition", by_partition, "selected, then sorted"))),
    ("top-k/one", "top_k", _ONE, top(), "k = 1"),
    ("top-k/whole", "top_k", {"k": 16, "range:n": "16:16"}, top(), "k = n"),
    ("moe-gate/plain", "moe_gate", _K, gate(), "softmax, then the largest"),
    ("moe-gate/by-logits", "moe_gate", _K, gate(ranked=lambda z, p: z), "largest logits, softmax of all"),
    ("moe-gate/chosen-first", "moe_gate", _K, gate_of_chosen, "softmax of the chosen"),
    ("moe-gate/last", "moe_gate", _K, gate(order=last_first), "last of equals"),
    ("moe-gate/share", "moe_gate", _SHARE, gate(), "not renormalised"),
    ("moe-gate/share-chosen", "moe_gate", _SHARE, gate_of_chosen, "share of the softmax of all"),
]  # fmt: skip
