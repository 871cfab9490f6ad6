"""Faults of rotations and of attention."""

from __future__ import annotations

from collections.abc import Callable

import attrs
import numpy as np

from diffuzz.models.operations.attention import Mixture, Probs, Scores
from diffuzz.models.operations.rope import Rope
from diffuzz.studies.faults.site import Fault, Site

_ROPE = ("q_rope", "k_rope")


def _rope(site: Site) -> Rope:
    assert isinstance(site.step.operation, Rope)
    return site.step.operation


def _layout(site: Site) -> np.ndarray:
    other = "norm" if _rope(site).layout == "neox" else "neox"
    return site.computed(operation=attrs.evolve(_rope(site), layout=other))


def _base(site: Site) -> np.ndarray:
    return site.computed(operation=attrs.evolve(_rope(site), base=5e5 if _rope(site).base < 1e5 else 1e4))


def _position(site: Site) -> np.ndarray:
    return site.computed(sequence=attrs.evolve(site.sequence, positions=site.sequence.positions + 1))


def _position_of_one(site: Site) -> np.ndarray:
    positions = site.sequence.positions.copy()
    positions[site.token(first=1)] -= 1
    return site.computed(sequence=attrs.evolve(site.sequence, positions=positions))


def _heads(site: Site) -> tuple[np.ndarray, np.ndarray, int]:
    """The result and the input by head, and one of the heads."""
    made = site.computed()
    shape = (len(made), _rope(site).heads, -1)
    return made.reshape(shape), site.inputs[0].reshape(shape), site.below(_rope(site).heads)


def _head_not_turned(site: Site) -> np.ndarray:
    made, given, head = _heads(site)
    made[:, head] = given[:, head]
    return made.reshape(len(made), -1)


def _pair_not_turned(site: Site) -> np.ndarray:
    """The fastest or the second pair of every head stays."""
    made, given, _ = _heads(site)
    pair = site.below(2)
    one, other = _rope(site)._pairs()
    for place in (one[pair], other[pair]):
        made[..., place] = given[..., place]
    return made.reshape(len(made), -1)


def _backwards(site: Site) -> np.ndarray:
    return site.computed(sequence=attrs.evolve(site.sequence, positions=-site.sequence.positions))


def _half(site: Site) -> np.ndarray:
    return site.computed(operation=attrs.evolve(_rope(site), dimensions=_rope(site).dimensions // 2))


def _groups(site: Site) -> int:
    assert isinstance(site.step.operation, Scores | Mixture)
    return site.step.operation.groups


def _stale(site: Site) -> np.ndarray:
    """The key or value of one token is that of the token before."""
    cached = site.inputs[1].copy()
    token = site.token(first=1)
    cached[token] = cached[token - 1]
    return site.computed((site.inputs[0], cached))


def _stale_head(site: Site) -> np.ndarray:
    """The same in one head of keys or values."""
    cached = site.inputs[1].copy()
    token, group = site.token(first=1), site.below(_groups(site))
    parts = cached.reshape(len(cached), _groups(site), -1)
    parts[token, group] = parts[token - 1, group]
    return site.computed((site.inputs[0], cached))


def _mapping(site: Site) -> np.ndarray | None:
    """Head h reads h modulo the number of heads of keys."""
    operation = site.step.operation
    assert isinstance(operation, Scores | Mixture)
    share = operation.heads // operation.groups
    if share == 1 or operation.groups == 1:
        return None
    order = np.arange(operation.heads).reshape(share, operation.groups).T.reshape(-1)
    back = np.argsort(order)
    if isinstance(operation, Mixture):
        made = site.computed((site.inputs[0][order], site.inputs[1]))
        return made.reshape(len(made), operation.heads, -1)[:, back].reshape(made.shape)
    q = site.inputs[0].reshape(len(site.inputs[0]), operation.heads, -1)[:, order].reshape(site.inputs[0].shape)
    return np.asarray(site.computed((q, site.inputs[1]))[back])


def _lost_element(site: Site) -> np.ndarray:
    """The last element of q . k is lost."""
    q = site.inputs[0].copy()
    size = q.shape[1] // site.step.operation.heads  # type: ignore[attr-defined]
    q[:, size - 1 :: size] = 0
    return site.computed((q, site.inputs[1]))


def _one_score(site: Site) -> np.ndarray:
    """One score has the value of its neighbour."""
    made = site.computed()
    query = site.token(first=1)
    key = 1 + site.below(query)
    head = site.below(len(made))
    made[head, query, key] = made[head, query, key - 1]
    return made


def _probs(site: Site) -> Probs:
    assert isinstance(site.step.operation, Probs)
    return site.step.operation


def _scaled(factor: Callable[[float], float]) -> Callable[[Site], np.ndarray]:
    def plant(site: Site) -> np.ndarray:
        return site.computed(operation=attrs.evolve(_probs(site), scale=factor(_probs(site).scale)))

    return plant


def _masked(site: Site, seen: np.ndarray) -> np.ndarray:
    """The softmax over the keys that are ``seen``; 0 where there are none."""
    with np.errstate(all="ignore"):
        scaled = np.where(seen, site.inputs[0] * np.float32(_probs(site).scale), -np.inf)
        e = np.exp(scaled - np.where(seen, scaled, -1e30).max(axis=-1, keepdims=True))
        made = e / e.sum(axis=-1, keepdims=True)
    return np.where(np.isnan(made), 0, made).astype(np.float32)


def _seen(site: Site) -> np.ndarray:
    return np.broadcast_to(site.sequence.visible(_probs(site).window), site.inputs[0].shape).copy()


def _next_seen(site: Site) -> np.ndarray:
    later = attrs.evolve(site.sequence, positions=site.sequence.positions)
    seen = later.visible(_probs(site).window)
    return _masked(site, seen | np.eye(len(seen), seen.shape[1], k=1, dtype=bool))


def _not_itself(site: Site) -> np.ndarray:
    seen = _seen(site)
    own = np.eye(seen.shape[-1], dtype=bool)
    own[0] = False
    return _masked(site, seen & ~own)


def _window(by: int) -> Callable[[Site], np.ndarray | None]:
    def plant(site: Site) -> np.ndarray | None:
        window = _probs(site).window
        if window is None or window + by >= len(site.sequence.tokens):
            return None
        return _masked(site, np.broadcast_to(site.sequence.visible(window + by), site.inputs[0].shape))

    return plant


def _no_window(site: Site) -> np.ndarray | None:
    window = _probs(site).window
    if window is None or window >= len(site.sequence.tokens):
        return None
    return _masked(site, np.broadcast_to(site.sequence.visible(None), site.inputs[0].shape))


def _key_lost(site: Site) -> np.ndarray:
    """One key of one token, in every head."""
    seen = _seen(site)
    query = site.token(first=1)
    window = _probs(site).window
    first = 0 if window is None else max(0, query - window + 1)
    seen[:, query, first + site.below(query - first + 1)] = False
    return _masked(site, seen)


def _not_normed(site: Site) -> np.ndarray:
    """The sum lacks the term of the first key that is seen, for the last token."""
    made = site.computed()
    first = int(np.argmax(_seen(site)[0, -1]))
    made[:, -1] /= np.maximum(1 - made[:, -1, first], np.float32(1e-6))[:, None]
    return made


def _no_largest(site: Site) -> np.ndarray:
    """The exponentials are of the scores themselves, in f16."""
    with np.errstate(all="ignore"):
        scaled = np.where(_seen(site), site.inputs[0] * np.float32(_probs(site).scale), -np.inf)
        e = np.exp(scaled).astype(np.float16).astype(np.float32)
        return np.asarray((e / e.sum(axis=-1, keepdims=True)).astype(np.float32))


def _rounded(site: Site) -> np.ndarray:
    return site.computed().astype(np.float16).astype(np.float32)


def _head_zero(site: Site) -> np.ndarray:
    made = site.computed()
    operation = site.step.operation
    assert isinstance(operation, Mixture)
    made.reshape(len(made), operation.heads, -1)[:, site.below(operation.heads)] = 0
    return made


def _heads_transposed(site: Site) -> np.ndarray:
    """Elements side by side instead of heads."""
    made = site.computed()
    operation = site.step.operation
    assert isinstance(operation, Mixture)
    return np.swapaxes(made.reshape(len(made), operation.heads, -1), 1, 2).reshape(made.shape).copy()


def _last_key_lost(site: Site) -> np.ndarray:
    """The value of the last key of the last token is left out."""
    probs = site.inputs[0].copy()
    probs[:, -1, -1] = 0
    return site.computed((probs, site.inputs[1]))


FAULTS = (
    Fault("pairs of the other layout", _ROPE, _layout),
    Fault("another base", _ROPE, _base),
    Fault("positions off by one", _ROPE, _position),
    Fault("position of one token off by one", _ROPE, _position_of_one),
    Fault("one head not rotated", _ROPE, _head_not_turned),
    Fault("one pair not rotated", _ROPE, _pair_not_turned),
    Fault("rotated backwards", _ROPE, _backwards),
    Fault("half of the dimensions rotated", _ROPE, _half),
    Fault("stale key or value", ("scores", "attn"), _stale),
    Fault("stale key or value in one head", ("scores", "attn"), _stale_head),
    Fault("heads read other keys or values", ("scores", "attn"), _mapping),
    Fault("last element of q . k lost", ("scores",), _lost_element),
    Fault("score of its neighbour", ("scores",), _one_score),
    Fault("scores not scaled", ("probs",), _scaled(lambda scale: 1.0)),
    Fault("scores scaled by 1 / c", ("probs",), _scaled(lambda scale: scale * scale)),
    Fault("scale off by 1 %", ("probs",), _scaled(lambda scale: 1.01 * scale)),
    Fault("mask shows the next token", ("probs",), _next_seen),
    Fault("mask hides the token itself", ("probs",), _not_itself),
    Fault("window one too long", ("probs",), _window(1)),
    Fault("window one too short", ("probs",), _window(-1)),
    Fault("no window", ("probs",), _no_window),
    Fault("one key lost", ("probs",), _key_lost),
    Fault("term lost in the sum of exponentials", ("probs",), _not_normed),
    Fault("exponentials in f16 without the largest", ("probs",), _no_largest),
    Fault("probabilities in f16", ("probs",), _rounded),
    Fault("output of one head zero", ("attn",), _head_zero),
    Fault("heads transposed", ("attn",), _heads_transposed),
    Fault("value of the last key lost", ("attn",), _last_key_lost),
)
