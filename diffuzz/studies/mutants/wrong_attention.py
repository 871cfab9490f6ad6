"""Attention: one correct form, with a switch for each bug.

The functions that are made have the signature of the target. Without a switch they are correct.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

import attrs
import numpy as np

from diffuzz.studies.mutants import wrong_rows as rows
from diffuzz.studies.mutants.wrong_norms import Right, Wrong
from diffuzz.studies.mutants.wrong_rows import Array, Change, Float, same
from diffuzz.targets.parameter import Params

_F = np.float32


@attrs.frozen
class Asked:
    """What a call of attention asks for, beside its arrays; see :mod:`diffuzz.targets.attention`."""

    causal: bool = False
    window: int = 0
    softcap: float = 0.0
    scale: float = 0.0
    sinks: Array | None = None
    mask: Array | None = None


# (s, t, asked) -> bool[s t]: which keys a query sees.
_Seen: TypeAlias = Callable[[int, int, Asked], Array]
# (score, asked) -> capped score.
_Cap: TypeAlias = Callable[[Array, Asked], Array]


def back(s: int, t: int, first: int | None = None) -> Array:
    """int64[s t]: how far each key lies before each query; query 0 stands at ``first``, by default at t - s."""
    return np.asarray((t - s if first is None else first) + np.arange(s)[:, None] - np.arange(t))


def seen(s: int, t: int, asked: Asked, *, first: int | None = None, ahead: int = 0, more: int = 0) -> Array:
    """bool[s t]: the keys that a query sees. ``ahead`` more are seen after it, ``more`` more in the window."""
    distance = back(s, t, first)
    visible = np.ones((s, t), bool)
    if asked.causal:
        visible &= distance >= -ahead
    if asked.window:
        visible &= distance < asked.window + more
    return visible


def causal_from_first(s: int, t: int, asked: Asked) -> Array:
    """Queries at the first positions."""
    return seen(s, t, asked, first=0)


def window_both_ways(s: int, t: int, asked: Asked) -> Array:
    """A window around the query: as many keys after it as before it."""
    return seen(s, t, asked) & ((back(s, t) > -asked.window) | (asked.window == 0))


def capped(score: Array, asked: Asked) -> Array:
    """``c tanh(score / c)``."""
    return np.asarray(_F(asked.softcap) * np.tanh(score / _F(asked.softcap))) if asked.softcap else score


def cap_clipped(score: Array, asked: Asked) -> Array:
    """Scores clipped to +-c."""
    return np.clip(score, -asked.softcap, asked.softcap) if asked.softcap else score


def cap_times_score(score: Array, asked: Asked) -> Array:
    """``score tanh(score / c)``."""
    return np.asarray(score * np.tanh(score / _F(asked.softcap))) if asked.softcap else score


def cap_not_scaled(score: Array, asked: Asked) -> Array:
    """``tanh(score / c)``."""
    return np.tanh(score / _F(asked.softcap)) if asked.softcap else score


def neighbours(h: int, g: int) -> Array:
    """The head of k and v for each head of q: r neighbours share one."""
    return np.arange(h) // (h // g)


def interleaved(h: int, g: int) -> Array:
    """Every g-th head of q shares one head of k and v."""
    return np.arange(h) % g


def weights(top: Array, score: Array, sinks: Array | None, exp: Change = np.exp) -> tuple[Array, Array]:
    """(exp(score - top), its sum with the sinks[h 1 1])."""
    e = exp(score - top)
    whole = e.sum(axis=-1, keepdims=True)
    return e, whole if sinks is None else whole + exp(sinks - top)


def attention(
    *,
    sees: _Seen = seen,
    cap: _Cap = capped,
    scaled: Callable[[int, int, Asked], float] = lambda d, t, asked: asked.scale or 1 / math.sqrt(d),
    heads: Callable[[int, int], Array] = neighbours,
    masked: Callable[[Array, Array], Array] = lambda score, mask: score + mask[:, None],
    sinks_of: Callable[[Array], Array | None] = lambda sinks: sinks,
    sink_value: bool = False,
    hidden: float = -math.inf,
    top_of: Change = lambda score: score.max(axis=-1, keepdims=True),
    sunk: bool = True,
    exp: Change = np.exp,
    normalised: Callable[[Array, Array], Array] = np.divide,
    q_of: Change = same,
    k_of: Change = same,
    v_of: Change = same,
    score_of: Change = same,
    p_of: Change = same,
    result: Change = same,
    empty: str = "nan",
    capped_first: bool = False,
    dtype: Float = np.float32,
) -> Callable[..., Array]:
    """``softmax(cap(scale q k^T) + mask) v``, with everything that may go wrong as a switch.

    ``sunk``: the maximum includes the sinks. ``sink_value``: the first value is added with the weight of the sink.
    ``hidden`` is the score of a key that is not seen, ``empty`` what a row gives that is masked whole.
    """

    def f(q: Array, k: Array, v: Array, **given: object) -> Array:
        asked = Asked(**given)  # type: ignore[arg-type]
        h, s, d = q.shape[1:]
        g, t = k.shape[1:3]
        pick = heads(h, g)
        wide_q, wide_k, wide_v = (change(x).astype(dtype) for change, x in ((q_of, q), (k_of, k), (v_of, v)))
        with np.errstate(all="ignore"):
            factor = dtype(scaled(d, t, asked))
            score = score_of(np.matmul(wide_q, np.swapaxes(wide_k[:, pick], -1, -2)))
            score = factor * cap(score, asked) if capped_first else cap(factor * score, asked)
            if asked.mask is not None:
                score = masked(score, asked.mask.astype(dtype))
            score = np.where(sees(s, t, asked), score, dtype(hidden))
            sinks = None if asked.sinks is None else sinks_of(asked.sinks)
            column = None if sinks is None else sinks.astype(dtype)[:, None, None]
            top = top_of(score)
            if column is not None and sunk:
                top = np.maximum(top, column)
            e, whole = weights(top, score, column, exp)
            p = p_of(normalised(e, whole))
            none = whole == 0 if column is not None else top == -np.inf
            if empty == "zero":
                p = np.where(none | np.isnan(whole), 0, p)
            if empty == "uniform":
                p = np.where(none | np.isnan(whole), 1 / t, p)
            y = np.matmul(p, wide_v[:, pick])
            if sink_value and column is not None:
                y = y + exp(column - top) / whole * wide_v[:, pick, :1]
            return np.asarray(result(y)).astype(np.float32)

    return f


def online(block: int, *, rescaled: bool = True, start: float = -math.inf, empty: str = "nan") -> Callable[..., Array]:
    """Attention in one pass over blocks of keys, with a running maximum that begins at ``start``."""

    def f(q: Array, k: Array, v: Array, **given: object) -> Array:
        asked = Asked(**given)  # type: ignore[arg-type]
        h, s, d = q.shape[1:]
        g, t = k.shape[1:3]
        pick = neighbours(h, g)
        factor = _F(asked.scale or 1 / math.sqrt(d))
        with np.errstate(all="ignore"):
            score = np.matmul(q, np.swapaxes(k[:, pick], -1, -2))
            score = capped(factor * score, asked)
            score = score if asked.mask is None else score + asked.mask[:, None]
            score = np.where(seen(s, t, asked), score, _F(-np.inf))
            top = np.full((*score.shape[:-1], 1), _F(start))
            whole, total = np.zeros_like(top), np.zeros((*score.shape[:-1], d), np.float32)
            if asked.sinks is not None:
                top = np.maximum(top, asked.sinks[:, None, None])
                whole = np.exp(asked.sinks[:, None, None] - top)
            for i in range(0, t, block):
                part = score[..., i : i + block]
                new = np.maximum(top, part.max(axis=-1, keepdims=True))
                shift = np.where(new > -np.inf, new, _F(0))
                kept = np.exp(top - shift) if rescaled else _F(1)
                e = np.exp(part - shift)
                whole = whole * kept + e.sum(axis=-1, keepdims=True)
                total = total * kept + np.matmul(e, v[:, pick, i : i + block])
                top = new
            y = total / whole
            return np.where(whole == 0, _F(0), y) if empty == "zero" else y

    return f


def keys_kept(kept: Callable[[int], int]) -> Callable[..., Array]:
    """Attention that sees the first ``kept(t)`` keys only."""
    inner = attention()

    def f(q: Array, k: Array, v: Array, **given: object) -> Array:
        return inner(q, k, v, **given) if kept(k.shape[2]) == k.shape[2] else attention(
            sees=lambda s, t, asked: seen(s, t, asked) & (np.arange(t) < kept(t)), empty="zero"
        )(q, k, v, **given)  # fmt: skip

    return f


def dims_kept(width: int) -> Change:
    """q with what is no whole vector of ``width`` dimensions left out."""

    def f(q: Array) -> Array:
        d = q.shape[-1]
        return np.where(np.arange(d) < max(d - d % width, 1), q, _F(0))

    return f


def first_batch(x: Array) -> Array:
    """The first case of the batch for all."""
    return np.broadcast_to(x[:1], x.shape)


def as_if_contiguous(x: Array) -> Array:
    """[b g t d] read from memory that holds [b t g d]."""
    return np.ascontiguousarray(np.swapaxes(x, 1, 2)).reshape(x.shape)


def last_query_only(q: Array, k: Array, v: Array, **given: object) -> Array:
    """A path for one query that ignores the window."""
    return attention()(q, k, v, **(given | {"window": 0} if q.shape[2] == 1 else given))


def query_tail(q: Array, k: Array, v: Array, **given: object) -> Array:
    """The queries after the last whole block of 16 take the scores of those before."""
    y = np.array(attention()(q, k, v, **given))
    s = q.shape[2]
    if s > 16 and s % 16:
        y[:, :, s - s % 16 :] = y[:, :, s - s % 16 - 1 : s - s % 16]
    return y


_PLAIN: Params = {}
_CAUSAL: Params = {"causal": True}
_WINDOW: Params = {"causal": True, "window": 5}
_BESIDE: Params = {**_WINDOW, "window_beside": True}
_CAP: Params = {"softcap": 20.0}
_CAP_SCALED: Params = {"softcap": 20.0, "softcap_first": True}
_SCALE: Params = {"scale": 0.3}
_SINKS: Params = {"sinks": True}
_MASK: Params = {"mask": True}
_ZERO: Params = {"mask": True, "masked_rows": "zero"}


def _one_more(change: int) -> _Seen:
    return lambda s, t, asked: seen(s, t, asked, more=change)


def _ahead(s: int, t: int, asked: Asked) -> Array:
    return seen(s, t, asked, ahead=1)


def _own_not(s: int, t: int, asked: Asked) -> Array:
    return seen(s, t, asked, ahead=-1)


def _all(s: int, t: int, asked: Asked) -> Array:
    return np.ones((s, t), bool)


def _no_window(s: int, t: int, asked: Asked) -> Array:
    return seen(s, t, attrs.evolve(asked, window=0))


def _first_mask(score: Array, mask: Array) -> Array:
    return np.asarray(score + first_batch(mask)[:, None])


def _mask_per_head(score: Array, mask: Array) -> Array:
    b, h = score.shape[:2]
    return np.asarray(score + mask[np.arange(b * h).reshape(b, h) % len(mask)])


def _row_of_mask(score: Array, mask: Array) -> Array:
    return np.asarray(score + mask[:, None, :1])


def _sinks_as_scores(sinks: Array) -> Array:
    return np.asarray(np.zeros_like(sinks))


WRONG: Wrong = (
    ("attention/scale-forgotten", "attention", _PLAIN, attention(scaled=lambda d, t, a: 1.0), "not scaled", ""),
    ("attention/scale-of-keys", "attention", _PLAIN, attention(scaled=lambda d, t, a: 1 / math.sqrt(t)),
     "1 / sqrt(t)", ""),
    ("attention/scale-squared", "attention", _PLAIN, attention(scaled=lambda d, t, a: 1 / d), "1 / d", ""),
    ("attention/scale-given", "attention", _SCALE, attention(scaled=lambda d, t, a: 1 / math.sqrt(d)),
     "scale ignored", ""),
    ("attention/scale-f16", "attention", _SCALE, attention(scaled=lambda d, t, a: float(np.float16(a.scale))),
     "scale in f16", ""),
    ("attention/heads-interleaved", "attention", _PLAIN, attention(heads=interleaved),
     "head i of q with head i mod g", "llama.cpp#2459"),
    ("attention/heads-first", "attention", _PLAIN, attention(heads=lambda h, g: np.zeros(h, int)),
     "first head of k and v for all", ""),
    ("attention/no-max", "attention", _PLAIN, attention(top_of=lambda s: np.zeros_like(s[..., :1])),
     "exp without the maximum", "uTensor#175"),
    ("attention/max-zero", "attention", _PLAIN, attention(top_of=lambda s: np.maximum(s.max(-1, keepdims=True), 0)),
     "maximum starts at 0", ""),
    ("attention/not-rescaled", "attention", _PLAIN, online(8, rescaled=False), "online sum not rescaled", ""),
    ("attention/sentinel", "attention", _PLAIN, online(16, start=-100.0), "running maximum starts at -100", ""),
    ("attention/not-normalised", "attention", _PLAIN, attention(normalised=lambda e, whole: e), "not divided", ""),
    ("attention/key-tail", "attention", _PLAIN, keys_kept(lambda t: max(t - t % 8, 1)), "whole blocks of 8 keys", ""),
    ("attention/key-last", "attention", _PLAIN, keys_kept(lambda t: max(t - 1, 1)), "last key not seen", ""),
    ("attention/key-128", "attention", _PLAIN, keys_kept(lambda t: min(t, 128)), "keys beyond 128 not seen", ""),
    ("attention/dim-tail", "attention", _PLAIN, attention(q_of=dims_kept(32)), "whole vectors of 32 dimensions", ""),
    ("attention/query-tail", "attention", _PLAIN, query_tail, "query after the last block of 16", "tt-metal#28605"),
    ("attention/contiguous", "attention", _PLAIN, attention(k_of=as_if_contiguous), "k read as [b t g d]",
     "candle#3703"),
    ("attention/first-case", "attention", _PLAIN, attention(v_of=first_batch), "v of the first case for all", ""),
    ("attention/score-f16", "attention", _PLAIN, attention(score_of=rows.half), "scores in f16", "openvino#33880"),
    ("attention/p-f16", "attention", _PLAIN, attention(p_of=rows.half), "weights in f16", ""),
    ("attention/v-bf16", "attention", _PLAIN, attention(v_of=rows.bfloat), "v cut to bf16", ""),
    ("attention/q-f16", "attention", _PLAIN, attention(q_of=rows.half), "q in f16", ""),
    ("attention/causal-ignored", "attention", _CAUSAL, attention(sees=_all), "causal ignored", ""),
    ("attention/causal-first", "attention", _CAUSAL, attention(sees=causal_from_first), "query 0 at position 0", ""),
    ("attention/causal-ahead", "attention", _CAUSAL, attention(sees=_ahead), "one key too many", ""),
    ("attention/causal-strict", "attention", _CAUSAL, attention(sees=_own_not), "own key not seen", ""),
    ("attention/causal-finite", "attention", _CAUSAL, attention(hidden=-10.0), "-10 for keys not seen", ""),
    ("attention/causal-zero", "attention", _CAUSAL, attention(hidden=0.0), "0 for keys not seen", ""),
    ("attention/window-one-more", "attention", _WINDOW, attention(sees=_one_more(1)), "one key too many",
     "transformers#39408"),
    ("attention/window-one-less", "attention", _WINDOW, attention(sees=_one_more(-1)), "one key too few", "zml#763"),
    ("attention/window-forgotten", "attention", _WINDOW, attention(sees=_no_window), "window ignored",
     "keras-hub#2186"),
    ("attention/window-decode", "attention", _WINDOW, last_query_only, "window ignored for one query", "nanochat#452"),
    ("attention/window-beside", "attention", _BESIDE, attention(), "own key counted", ""),
    ("attention/cap-forgotten", "attention", _CAP, attention(cap=lambda score, asked: score), "softcap ignored",
     "sgl-kernel-xpu#491"),
    ("attention/cap-times-score", "attention", _CAP, attention(cap=cap_times_score), "x tanh(x / c)",
     "unsloth-zoo#593"),
    ("attention/cap-not-scaled", "attention", _CAP, attention(cap=cap_not_scaled), "tanh(x / c)", ""),
    ("attention/cap-clipped", "attention", _CAP, attention(cap=cap_clipped), "clipped to +-c", ""),
    ("attention/cap-before-scale", "attention", _CAP,
     attention(capped_first=True), "cap before the scale", ""),
    ("attention/cap-after-scale", "attention", _CAP_SCALED,
     attention(), "cap after the scale", ""),
    ("attention/sinks-forgotten", "attention", _SINKS, attention(sinks_of=lambda sinks: None), "sinks ignored", ""),
    ("attention/sinks-of-key-heads", "attention", _SINKS, attention(sinks_of=lambda s: np.full_like(s, s[0])),
     "first sink for all heads", ""),
    ("attention/sinks-zero", "attention", _SINKS, attention(sinks_of=_sinks_as_scores), "sinks as 0", ""),
    ("attention/sinks-not-in-max", "attention", _SINKS,
     attention(sunk=False, exp=lambda x: np.exp(np.minimum(x, _F(20)))), "sink beyond the maximum is cut", ""),
    ("attention/sinks-value", "attention", _SINKS, attention(sink_value=True), "sink has the first value", ""),
    ("attention/mask-first", "attention", _MASK, attention(masked=_first_mask),
     "mask of the first case for all", "llama.cpp#10683"),
    ("attention/mask-per-head", "attention", _MASK, attention(masked=_mask_per_head), "mask of case b h + head", ""),
    ("attention/mask-first-query", "attention", _MASK, attention(masked=_row_of_mask),
     "mask of the first query for all", ""),
    ("attention/mask-f16", "attention", _MASK, attention(masked=lambda s, m: s + rows.half(m)[:, None]),
     "mask in f16", "llama.cpp#15730"),
    ("attention/mask-1e4", "attention", _MASK, attention(masked=lambda s, m: s + np.maximum(m, _F(-1e4))[:, None]),
     "-1e4 for -inf", "apex#1390"),
    ("attention/mask-forgotten", "attention", _MASK, attention(masked=lambda s, m: s), "mask ignored", ""),
    ("attention/masked-nan", "attention", _ZERO, attention(), "NaN for a query that sees no key",
     "cubecl#1070"),
    ("attention/masked-uniform", "attention", _ZERO, attention(empty="uniform"), "mean for a query that sees no key",
     "pytorch#109517"),
    ("attention/masked-finite", "attention", _ZERO,
     attention(masked=lambda s, m: np.where(np.isneginf(m)[:, None], _F(-1e30), s + m[:, None])),
     "-1e30 for -inf", "pytorch#109517"),
    ("attention/masked-sinks", "attention", {**_MASK, **_SINKS},
     lambda q, k, v, **given: np.where(np.isneginf(np.asarray(given["mask"]).max(-1))[:, None, :, None], _F(np.nan),
                                       attention()(q, k, v, **given)), "NaN for a masked query with sinks",
     "ik_llama.cpp#2344"),
)  # fmt: skip

_CALLS: tuple[tuple[str, Params], ...] = (
    ("plain", _PLAIN), ("causal", _CAUSAL), ("window", _WINDOW), ("softcap", _CAP), ("sinks", _SINKS), ("mask", _MASK),
    ("all", {**_WINDOW, **_CAP, **_SINKS, **_MASK}),
)  # fmt: skip
RIGHT: Right = [
    *((f"attention/{name}", "attention", params, attention(), "matmul") for name, params in _CALLS),
    *((f"attention/{name}-online", "attention", params, online(16), "blocks of 16 keys") for name, params in _CALLS),
    ("attention/softcap-first", "attention", _CAP_SCALED, attention(capped_first=True), "cap before the scale"),
    ("attention/beside", "attention", _BESIDE, attention(sees=_one_more(1)), "window beside the own key"),
    ("attention/masked-zero", "attention", _ZERO, attention(empty="zero"), "0 for a query that sees no key"),
    ("attention/masked-zero-online", "attention", _ZERO, online(16, empty="zero"), "blocks of 16 keys"),
    ("attention/wide", "attention", _PLAIN, attention(dtype=np.float64), "float64 inside"),
    ("attention/one-key", "attention", _CAUSAL, online(1), "one key after another"),
    ("attention/scaled-query", "attention", _PLAIN,
     lambda q, k, v, **given: attention()(q * _F(1 / math.sqrt(q.shape[-1])), k, v, **(given | {"scale": 1.0})),
     "q scaled first"),
    ("attention/late-division", "attention", _PLAIN, online(10**6), "divided after the product with v"),
    ("attention/base-two", "attention", _PLAIN, attention(exp=rows.exp_base_two(1.4426950408889634)), "exp2"),
]  # fmt: skip
