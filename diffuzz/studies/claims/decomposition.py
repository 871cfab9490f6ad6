"""The published decomposition of a drift into factors, and one whose shares add up.

    published    0.077 % x 5.70 x 50 x 5.56 x 14 = 1715 %: one matvec, the chain, the batch, a real block, and 14 for
                 "cumulative layers", which is what the product lacked of the measured 1723 %

A factor that is chosen closes any product. For this model and one prompt it is computed twice, for the ratio of
standard deviations as it was published (all tokens of one path over the last token of the other) and for the same like
for like: a cause would be the same in both.

    telescoped   the run is kept up to a step and finished exactly, for every step: the differences of the logits add up
                 to the drift of the GGUF path from the exact logits; see diffuzz.models.tracing.attribution

Shares are signed, and as noisy as a coin: a run whose embeddings moved by one ULP has others. Energies are not.
"""

from __future__ import annotations

import numpy as np

from diffuzz.models.dump import Dump
from diffuzz.models.model import ModelError
from diffuzz.models.tracing import attribution
from diffuzz.studies.claims import acceptance, blocks, reproductions
from diffuzz.studies.claims.model import Answer, Subject
from diffuzz.studies.claims.reproductions import Figures
from diffuzz.targets.outcome import Bound
from diffuzz.targets.published import PUBLISHED_DRIFT

# The published product is within rounding of the published drift.
CLOSES = 1.1
# Shares that add up miss 1 by rounding only.
ADDS_UP = 1e-6
# So many kinds of step are shown, those of the largest energies.
_SHOWN = 2


def product(subject: Subject) -> Answer:
    """What the product of the factors lacks of the drift, without a factor that is chosen."""
    chain = float(reproductions.chain()["growth"])
    batch = float(reproductions.batch()["std_ratio_drift"]) / PUBLISHED_DRIFT
    block = blocks.first_of_layer(subject).found
    whole = PUBLISHED_DRIFT * chain * batch * block
    mixed, like = (abs(ratio - 1) for ratio in acceptance.mixed(subject.passes))
    residual_mixed, residual_like = mixed / whole, like / whole
    figures: Figures = {
        "chain": chain,
        "batch": batch,
        "block": block,
        "product": whole,
        "drift_as_published": mixed,
        "residual": residual_mixed,
        "drift_like_for_like": like,
        "residual_like_for_like": residual_like,
    }
    with np.errstate(all="ignore"):
        found = max(residual_like, float(np.float64(1) / residual_like))
    return Answer(figures, found, "what the product lacks of the like-for-like drift, or has too much")


def telescoped(subject: Subject) -> Answer:
    """By how much the shares of all steps miss 1."""
    found = subject.opened
    try:
        own, again = attribution.attribute(found, *(_run(subject, taps) for taps in subject.passes.whole))
    except ModelError as error:
        return Answer({"reason": str(error)}, float("nan"), "no shares")
    energies, shares = own.by(own.energies, "op"), own.by(own.shares, "op")
    moved_energies, moved_shares = again.by(again.energies, "op"), again.by(again.shares, "op")
    figures: Figures = {
        "steps": len(own.steps),
        "drift": own.relative,
        "sum": float(own.shares.sum()),
    }
    for op in sorted(energies, key=lambda op: -energies[op])[:_SHOWN]:
        figures |= {
            f"energy_{op}": energies[op],
            f"energy_{op}_moved": moved_energies.get(op, 0.0),
            f"share_{op}": shares[op],
            f"share_{op}_moved": moved_shares.get(op, 0.0),
        }
    missing = max(abs(float(one.shares.sum()) - 1) for one in (own, again))
    bound = Bound(0.0, "in exact arithmetic the differences of runs that follow one another cancel")
    return Answer(figures, missing, "|sum of the shares - 1|, shares by telescoping", bound)


def _run(subject: Subject, taps: dict[str, np.ndarray]) -> Dump:
    return Dump({}, subject.tokens.tokens, subject.tokens.positions, taps)
