"""The acceptance of Option A, which runs the APR path with the semantics of the GGUF path, and the published statistic.

Option A was to be accepted if the cosine of the logits of the two paths is at least 0.9999, and the standard deviations
of the gated product are within 10 % of each other in all layers. Both are measured here on two runs that are right by
construction: the GGUF path, and the same whose embeddings moved by one ULP. What they do not keep, no engine can.

The published ratio of 18.23 at layer 3 was one of all seven tokens to the last token alone. So it needs no second path.
"""

from __future__ import annotations

import numpy as np

from diffuzz.studies.claims.blocks import PUBLISHED_LAYER
from diffuzz.studies.claims.model import Answer, Subject
from diffuzz.studies.claims.passes import Passes, deviation, pooled_ratio
from diffuzz.studies.claims.reproductions import Figures

COSINE, WITHIN = 0.9999, 1.1
PUBLISHED_RATIO = 18.23


def cosine_of_last(subject: Subject) -> Answer:
    """1 - cosine of the last token's logits, of the GGUF path and of itself: the largest of the replicates."""
    floor = subject.passes.cosine_floor()[:, -1]
    figures: Figures = {
        "floor_cosine": 1 - float(floor.max()),
        "floor_cosine_median": 1 - float(np.median(floor)),
        "above": f"{int((floor > 1 - COSINE).sum())} of {len(floor)}",
        "apr_cosine": 1 - float(subject.passes.cosine_gap()[-1]),
    }
    return Answer(figures, float(floor.max()), "1 - cosine of the last token's logits, GGUF path against itself")


def cosine_of_worst(subject: Subject) -> Answer:
    """The same of the token for which it is largest."""
    floor, gap = subject.passes.cosine_floor(), subject.passes.cosine_gap()
    worst = int(floor.max(axis=0).argmax())
    figures: Figures = {
        "token": worst,
        "floor_cosine": 1 - float(floor.max()),
        "above": f"{int((floor.max(axis=1) > 1 - COSINE).sum())} of {len(floor)}",
        "apr_cosine": 1 - float(gap[worst]),
        "apr_cosine_worst": 1 - float(gap.max()),
    }
    return Answer(figures, float(floor.max()), "1 - cosine of the worst token's logits, GGUF path against itself")


def like_for_like(subject: Subject) -> Answer:
    """The ratio of the standard deviations of the gated product of the two paths: the layer and the token where it is
    farthest from 1, of the same tokens on both sides.
    """
    passes = subject.passes
    ratios = np.stack([_apart(deviation(passes.apr[tap]), deviation(passes.gguf[tap][0])) for tap in _glus(passes)])
    floors = np.stack([
        _apart(deviation(passes.gguf[tap][1:]), deviation(passes.gguf[tap][:1])).max(axis=0) for tap in _glus(passes)
    ])  # fmt: skip
    layer, token = np.unravel_index(int(ratios.argmax()), ratios.shape)
    at = _published_layer(passes)
    figures: Figures = {
        "layer": int(layer),
        "token": int(token),
        f"layer_{at}": float(ratios[at].max()),
        "largest": float(ratios.max()),
        "floor": float(floors.max()),
    }
    return Answer(
        figures, float(ratios.max()), "ratio of the std of one token's gated product, the larger over the smaller"
    )


def pooled(subject: Subject) -> Answer:
    """The published statistic of one run of the GGUF path against itself: all tokens over the last one."""
    passes = subject.passes
    ratios = [pooled_ratio(passes.gguf[tap][0]) for tap in _glus(passes)]
    layer = int(np.argmax(ratios))
    at = _published_layer(passes)
    figures: Figures = {
        "tokens": len(passes.apr["logits"]),
        "layer": layer,
        f"layer_{at}": ratios[at],
        "largest": ratios[layer],
        "median": float(np.median(ratios)),
    }
    return Answer(figures, ratios[layer], "std of the gated product of all tokens over that of the last one, one run")


def mixed(passes: Passes) -> tuple[float, float]:
    """At layer 3, or the last one if there are fewer: the ratio of standard deviations as published, all tokens of the
    APR path over the last one of the GGUF path, and like for like, of the last token on both.
    """
    tap = _glus(passes)[_published_layer(passes)]
    of_last = float(deviation(passes.gguf[tap][0])[-1])
    pooled = float(passes.apr[tap].astype(np.float64).std())
    with np.errstate(all="ignore"):
        return float(np.float64(pooled) / of_last), float(deviation(passes.apr[tap])[-1] / of_last)


def _glus(passes: Passes) -> list[str]:
    return [f"blk.{layer}.glu" for layer in range(passes.layers)]


def _published_layer(passes: Passes) -> int:
    return min(PUBLISHED_LAYER, passes.layers - 1)


def _apart(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The larger over the smaller; 1 where both are zero."""
    a, b = np.broadcast_arrays(a, b)
    with np.errstate(all="ignore"):
        return np.where(a == b, 1.0, np.maximum(a, b) / np.minimum(a, b))
