"""What two runs say next: distributions over the vocabulary, token by token."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import attrs
import numpy as np

from diffuzz.models.operations.product import Product
from diffuzz.models.step import Step

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Float64, Int

# Bytes of logits in float64 that are held at a time.
_AT_ONCE = 1 << 27


@attrs.frozen(eq=False)
class Outputs:
    """Two distributions p = softmax(a) and q = softmax(b) for each token.

    kl         sum p log(p / q), in nats
    variation  total variation, sum |p - q| / 2
    top_a      the token with the largest logit, and ``top_b``
    margin_a   by how much a's logit of its top is above that of b's top, where these differ, or else above the second;
               and ``margin_b`` the same of b
    """

    kl: Float64[np.ndarray, " n"]
    variation: Float64[np.ndarray, " n"]
    top_a: Int[np.ndarray, " n"]
    top_b: Int[np.ndarray, " n"]
    margin_a: Float64[np.ndarray, " n"]
    margin_b: Float64[np.ndarray, " n"]

    @property
    def flips(self) -> Bool[np.ndarray, " n"]:
        """Where the two disagree on the most probable token."""
        return np.asarray(self.top_a != self.top_b)


def compare(a: Float[np.ndarray, "n V"], b: Float[np.ndarray, "n V"]) -> Outputs:
    """The outputs of logits. Where one has no number, distances are NaN."""
    parts = [
        _compare(a[start : start + step].astype(np.float64), b[start : start + step].astype(np.float64))
        for step in (max(1, _AT_ONCE // (8 * a.shape[1])),)
        for start in range(0, len(a), step)
    ]
    return joined(parts)


def pieces(n: int, head: Step, runs: int) -> Iterator[slice]:
    """Tokens whose logits of several runs may be held at once."""
    assert isinstance(head.operation, Product)
    step = max(1, _AT_ONCE // (8 * head.operation.weight.rows * runs))
    for start in range(0, n, step):
        yield slice(start, min(n, start + step))


def joined(parts: Sequence[Outputs]) -> Outputs:
    """Those of one token after another."""
    names = [field.name for field in attrs.fields(Outputs)]
    return Outputs(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def _compare(a: Float64[np.ndarray, "n V"], b: Float64[np.ndarray, "n V"]) -> Outputs:
    with np.errstate(all="ignore"):
        log_p, log_q = _log_softmax(a), _log_softmax(b)
        p, q = np.exp(log_p), np.exp(log_q)
        # A probability that is zero adds nothing.
        kl = np.where(p == 0, 0.0, p * (log_p - log_q)).sum(axis=1)
        variation = np.abs(p - q).sum(axis=1) / 2
        top_a, top_b = a.argmax(axis=1), b.argmax(axis=1)
        return Outputs(kl, variation, top_a, top_b, _margin(a, top_a, top_b), _margin(b, top_b, top_a))


def _log_softmax(x: Float64[np.ndarray, "n V"]) -> Float64[np.ndarray, "n V"]:
    x = x - x.max(axis=1, keepdims=True)
    return np.asarray(x - np.log(np.exp(x).sum(axis=1, keepdims=True)))


def _margin(
    x: Float64[np.ndarray, "n V"], top: Int[np.ndarray, " n"], other: Int[np.ndarray, " n"]
) -> Float64[np.ndarray, " n"]:
    every = np.arange(len(x))
    second = np.partition(x, -2, axis=1)[:, -2] if x.shape[1] > 1 else x[:, 0]
    return np.asarray(x[every, top] - np.where(top == other, second, x[every, other]))
