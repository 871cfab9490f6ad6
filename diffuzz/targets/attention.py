r"""Scaled dot-product attention, with what models add to it.

    score = softcap(scale q k^T) + mask,   softcap(x) = c tanh(x / c),   y = softmax(score) v

The s queries are the last s of t positions: query i stands at position t - s + i. ``h = g r`` heads of q share g heads
of k and v, r neighbours each. What public reports dispute is said by a parameter that chooses the reference:

- ``window`` is the number of keys that a query sees, its own one included (transformers#39408, zml#763); with
  ``window_beside`` the own one is not counted. Keys after the query are not limited by it, but by ``causal``.
- ``softcap`` applies to the scaled score; with ``softcap_first`` it caps ``q k^T`` before the scale.
- A query whose keys are all masked has no right result, or 0 with ``masked_rows=zero`` (pytorch#109517, cubecl#1070).
  With ``sinks`` no query is, because a sink is one more score, without a value.

A kernel may go over the keys in one pass and rescale what it has whenever the maximum grows (online softmax). That is
one more rounding a key in numerator and denominator, and the factor itself cancels: no more than the bound of sums in
any order has to spare, so it needs no form of its own.
"""

from __future__ import annotations

import math

from diffuzz.formats.arrays import AnyArray
from diffuzz.targets.masked_softmax import MASKED_ROWS
from diffuzz.targets.operation import lazily, operation, tensor
from diffuzz.targets.parameter import Parameter

jnp = lazily("jax.numpy")

PARAMETERS = (
    Parameter("window", 0, "how many keys a query sees, its own one included; 0 is all", low=0, high=4096),
    Parameter("softcap", 0.0, "largest magnitude of a score, by a tangent; 0 is no cap", low=0.0, high=1e6),
    Parameter("scale", 0.0, "factor of the scores; 0 is 1 / sqrt(d)", low=0.0, high=1e3),
    Parameter("window_beside", False, "the own key is not counted in window: a query sees window + 1 keys"),
    Parameter("softcap_first", False, "the cap is applied before the scale"),
    MASKED_ROWS,
)


def scores(
    q: AnyArray,
    k: AnyArray,
    *,
    causal: bool,
    window: int,
    softcap: float,
    scale: float,
    mask: AnyArray | None,
    window_beside: bool,
    softcap_first: bool,
) -> AnyArray:
    """[b g r s t]: the scores of ``attention``, -inf where a key is not seen."""
    b, h, s, d = q.shape
    g, t = k.shape[1], k.shape[2]
    factor = scale or 1 / math.sqrt(d)
    grouped = q.reshape(b, g, h // g * s, d)
    score = jnp.matmul(grouped, jnp.swapaxes(k, -1, -2)).reshape(b, g, h // g, s, t)
    if not softcap_first:
        score = factor * score
    if softcap:
        score = softcap * jnp.tanh(score / softcap)
    if softcap_first:
        score = factor * score
    if mask is not None:
        score = score + mask[:, None, None]
    # How far each key lies before each query; negative for the keys after it.
    back = t - s + jnp.arange(s)[:, None] - jnp.arange(t)
    seen = jnp.full((s, t), True)
    if causal:
        seen &= back >= 0
    if window:
        seen &= back < window + window_beside
    return jnp.where(seen, score, -jnp.inf)


@operation(
    q=tensor("b (g r) s d", max_abs=16),
    k=tensor("b g t d", max_abs=16),
    v=tensor("b g t d", max_abs=1e3),
    sinks=tensor("(g r)", kind="logits", max_abs=30),
    mask=tensor("b s t", kind="logits", max_abs=2e4, minus_infinity=True),
    sizes={"b": (1, 5), "g": (1, 65), "r": (1, 9), "s": (1, "t"), "t": (1, 2049), "d": (8, 256, 8)},
    usual={"b": 2, "g": 2, "r": 3, "s": 19, "t": 37, "d": 16},
    parameters=PARAMETERS,
    reference_only=("window_beside", "softcap_first", "masked_rows"),
    resolved={"scale": lambda p, sizes: p["scale"] or 1 / math.sqrt(sizes["d"])},
    result="y[b, h, s, d]",
)
def attention(
    q: AnyArray,
    k: AnyArray,
    v: AnyArray,
    *,
    sinks: AnyArray | None = None,
    mask: AnyArray | None = None,
    causal: bool = False,
    window: int = 0,
    softcap: float = 0.0,
    scale: float = 0.0,
    window_beside: bool = False,
    softcap_first: bool = False,
    masked_rows: str = "any",
) -> AnyArray:
    """Attention of the last s of t positions: softmax(softcap(scale q k^T) + mask) v."""
    b, h, s, d = q.shape
    g = k.shape[1]
    score = scores(
        q, k, causal=causal, window=window, softcap=softcap, scale=scale, mask=mask,
        window_beside=window_beside, softcap_first=softcap_first,
    )  # fmt: skip
    top = jnp.max(score, axis=-1, keepdims=True)
    if sinks is not None:
        sink = sinks.reshape(g, h // g, 1, 1)
        top = jnp.maximum(top, sink)
    if masked_rows == "zero":
        top = jnp.where(top == -jnp.inf, 0.0, top)
    e = jnp.exp(score - top)
    whole = jnp.sum(e, axis=-1, keepdims=True)
    if sinks is not None:
        whole = whole + jnp.exp(sink - top)
    if masked_rows == "zero":
        whole = jnp.where(whole == 0, 1.0, whole)
    return jnp.matmul((e / whole).reshape(b, g, h // g * s, -1), v).reshape(b, h, s, d)


TARGET = attention
