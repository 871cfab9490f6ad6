"""Faults of norms and of the embedding."""

from __future__ import annotations

from collections.abc import Callable

import attrs
import numpy as np

from diffuzz.models.operations.embedding import Embedding
from diffuzz.models.operations.norm import Norm
from diffuzz.studies.faults.site import Fault, Site

_WHOLE = ("attn_norm", "ffn_norm", "final_norm", "attn_post_norm", "ffn_post_norm")
_ALL = (*_WHOLE, "q_norm", "k_norm")


def _norm(site: Site) -> Norm:
    assert isinstance(site.step.operation, Norm)
    return site.step.operation


def _eps(factor: float) -> Callable[[Site], np.ndarray]:
    def plant(site: Site) -> np.ndarray:
        return site.computed(operation=attrs.evolve(_norm(site), eps=_norm(site).eps * factor))

    return plant


def _gain_of_another_layer(site: Site) -> np.ndarray | None:
    other = site.peer()
    if other is None:
        return None
    return site.computed(operation=attrs.evolve(_norm(site), gain=other.operation.gain))  # type: ignore[attr-defined]


def _gain_missing(site: Site) -> np.ndarray:
    return site.computed(operation=attrs.evolve(_norm(site), gain=np.ones_like(_norm(site).gain)))


def _gain_plus_one(site: Site) -> np.ndarray:
    return site.computed(operation=attrs.evolve(_norm(site), gain=_norm(site).gain + 1))


def _one_gain(site: Site) -> np.ndarray:
    gain = _norm(site).gain.copy()
    place = site.below(len(gain) - 1)
    gain[place] = gain[place + 1]
    return site.computed(operation=attrs.evolve(_norm(site), gain=gain))


def _lost(count: int) -> Callable[[Site], np.ndarray]:
    """The last squares of the sum are lost."""

    def plant(site: Site) -> np.ndarray:
        x = site.inputs[0]
        groups = x.reshape(len(x), -1, len(_norm(site).gain)).astype(np.float64)
        n = groups.shape[-1]
        eps = _norm(site).eps
        whole = np.sqrt((groups**2).sum(axis=-1, keepdims=True) / n + eps)
        less = np.sqrt((groups[..., :-count] ** 2).sum(axis=-1, keepdims=True) / n + eps)
        made = site.computed().reshape(groups.shape) * (whole / less)
        return np.asarray(made.reshape(x.shape).astype(np.float32))

    return plant


def _centred(site: Site) -> np.ndarray:
    """The mean is subtracted, as in LayerNorm."""
    x = site.inputs[0]
    groups = x.reshape(len(x), -1, len(_norm(site).gain))
    return site.computed(((groups - groups.mean(axis=-1, keepdims=True)).reshape(x.shape),))


def _halves(site: Site) -> np.ndarray:
    """The squares are summed in f16, every 32 of them."""
    x = site.inputs[0]
    groups = x.reshape(len(x), -1, len(_norm(site).gain))
    n = groups.shape[-1]
    total = np.zeros(groups.shape[:2], np.float16)
    with np.errstate(all="ignore"):
        for start in range(0, n, 32):
            part = (groups[..., start : start + 32] ** 2).sum(axis=-1)
            total = (total.astype(np.float32) + part).astype(np.float16)
        factor = 1 / np.sqrt(total.astype(np.float32) / n + np.float32(_norm(site).eps))
        return np.asarray((groups * factor[..., None] * _norm(site).gain).reshape(x.shape))


def _embedding(site: Site) -> Embedding:
    assert isinstance(site.step.operation, Embedding)
    return site.step.operation


def _token(site: Site) -> np.ndarray:
    """The row of the next id."""
    tokens = site.sequence.tokens.copy()
    place = site.token()
    tokens[place] = (tokens[place] + 1) % _embedding(site).table.rows
    return site.computed(sequence=attrs.evolve(site.sequence, tokens=tokens))


def _scale(site: Site) -> np.ndarray | None:
    if _embedding(site).scale == 1:
        return None
    return site.computed(operation=attrs.evolve(_embedding(site), scale=1.0))


def _block(site: Site) -> np.ndarray:
    """A block of one row has the scale of another."""
    made = site.computed()
    start = 32 * site.below(made.shape[1] // 32)
    made[site.token(), start : start + 32] *= np.float32(1.25)
    return made


FAULTS = (
    Fault("eps is 0", _ALL, _eps(0)),
    Fault("eps 100 times too large", _ALL, _eps(100)),
    Fault("eps a tenth", _ALL, _eps(0.1)),
    Fault("eps 10 times too large", _ALL, _eps(10)),
    Fault("gain of another layer", _ALL, _gain_of_another_layer),
    Fault("gain missing", _ALL, _gain_missing),
    Fault("gain plus one", _ALL, _gain_plus_one),
    Fault("one gain of its neighbour", _ALL, _one_gain),
    Fault("last square lost", _WHOLE, _lost(1)),
    Fault("last 32 squares lost", _WHOLE, _lost(32)),
    Fault("mean subtracted", _ALL, _centred),
    Fault("squares summed in f16", _WHOLE, _halves),
    Fault("embedding of another token", ("embd",), _token),
    Fault("embedding scale missing", ("embd",), _scale),
    Fault("scale of a block of the embedding", ("embd",), _block),
)
