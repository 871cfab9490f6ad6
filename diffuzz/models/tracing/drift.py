"""How far two runs are apart at each tap, token by token.

The measure is relative L2 of one token's numbers at one tap, |b - a| / |a|. Only the same tap of the same tokens is
compared, and tokens are never pooled: the first token of many models has activations that are a hundred times larger
than those of all others, beside which nothing else would be seen.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import attrs
import numpy as np

from diffuzz.models import forward
from diffuzz.models.checking import known
from diffuzz.models.dump import Dump
from diffuzz.models.model import ModelError
from diffuzz.models.operations.attention import Probs, Scores
from diffuzz.models.running import Opened
from diffuzz.models.sequence import Sequence
from diffuzz.models.step import Step

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Float64

# A token is massive at a tap where it is so many times as large as the median token.
MASSIVE = 10.0


@attrs.frozen(eq=False)
class Drift:
    """Two runs at one tap. A number is NaN for a token that one of the runs does not have there.

    accumulated    relative L2 of each token
    isolated       the same where the step had A's inputs in B, too; None if that is not known
    massive        the tokens whose activations are MASSIVE times as large as the median token's
    """

    step: Step
    accumulated: Float64[np.ndarray, " n"]
    massive: Bool[np.ndarray, " n"]
    isolated: Float64[np.ndarray, " n"] | None = None


def check_alike(a: Dump, b: Dump) -> None:
    """Raise ModelError unless two dumps are of the same tokens at the same positions."""
    for name, one, other in (("tokens", a.tokens, b.tokens), ("positions", a.positions, b.positions)):
        if not np.array_equal(one, other):
            raise ModelError(f"the two runs have other {name}: only runs over the same tokens can be compared")


def of_taps(found: Opened, a: Dump, b: Dump) -> Iterator[Drift]:
    """The drift at every tap that both runs have, in the order of the steps."""
    by_tap = {step.tap: step for step in found.steps}
    both = known.names(a) & known.names(b)
    sequence = known.sequence_of(a)
    for step in found.steps:
        if step.tap not in both:
            continue
        (one, there), (other, here) = whole(a, step.tap, by_tap), whole(b, step.tap, by_tap)
        share = np.where(there & here, relative(one, other, step, sequence), np.nan)
        yield Drift(step, share, _massive(sizes(one, step, sequence), there))


def isolated_by(found: Opened, a: Dump, b: Dump) -> dict[str, Float64[np.ndarray, " n"]]:
    """The isolated drift at every tap, where ``b`` is a run in which each tap of A replaced its own."""
    return {drift.step.tap: drift.accumulated for drift in of_taps(found, a, b)}


def isolated_in(
    found: Opened, a: Dump, pass_name: str, arithmetics: Mapping[str, str]
) -> dict[str, Float64[np.ndarray, " n"]]:
    """The isolated drift at every tap of A: between A and our own pass in B's arithmetic, each step on A's inputs."""
    by_tap = {step.tap: step for step in found.steps}
    names = known.names(a)
    sequence = known.sequence_of(a)
    apart: dict[str, np.ndarray] = {}

    def touch(tap: str, value: np.ndarray) -> np.ndarray:
        if tap not in names:
            return value
        one, there = whole(a, tap, by_tap)
        apart[tap] = np.where(there, relative(one, value, by_tap[tap], sequence), np.nan)
        # Tokens are the last axis but one, also of scores.
        return np.where(there[:, None], one, value).astype(value.dtype)

    past = cached(a, found)
    passed = forward.run(found.steps, sequence, pass_name, weights=found.weights, arithmetics=arithmetics, taps=past,
                         touch=touch)  # fmt: skip
    for _ in passed:
        pass
    return apart


def cached(dump: Dump, found: Opened) -> dict[str, np.ndarray]:
    """The keys and values that a run had in its cache."""
    by_tap = {step.tap: step for step in found.steps}
    return {tap: known.get(dump, tap, by_tap).value for tap in dump.taps if tap.endswith(("k_past", "v_past"))}


def relative(
    a: Float[np.ndarray, " ..."], b: Float[np.ndarray, " ..."], step: Step, sequence: Sequence
) -> Float64[np.ndarray, "... n"]:
    """|b - a| / |a| of each token, for several b at once if there are more axes. The same numbers are 0 apart; what is
    no number, where the other is one, is infinitely far. Places that a token does not attend to do not count.
    """
    with np.errstate(all="ignore"):
        difference = np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0.0, b - np.asarray(a, np.float64))
        apart = sizes(difference, step, sequence)
        share = np.where(apart == 0, 0.0, apart / sizes(a, step, sequence))
    return np.where(np.isnan(share), np.inf, share)


def sizes(x: Float[np.ndarray, " ..."], step: Step, sequence: Sequence) -> Float64[np.ndarray, "... n"]:
    """|x| of each token; of scores and probabilities over all heads."""
    with np.errstate(all="ignore"):
        if isinstance(step.operation, Scores | Probs):
            seen = sequence.visible(step.operation.window)
            squares = np.where(seen, np.asarray(x, np.float64), 0.0) ** 2
            return np.asarray(np.sqrt(squares.sum(axis=(-3, -1))))
        return np.asarray(np.sqrt((np.asarray(x, np.float64) ** 2).sum(axis=-1)))


def whole(
    dump: Dump, tap: str, steps: Mapping[str, Step]
) -> tuple[Float64[np.ndarray, "... n _"], Bool[np.ndarray, " n"]]:
    """A tap of a dump with all tokens, and those that the dump has there; the others are 0."""
    got = known.get(dump, tap, steps)
    there = np.ones(len(dump.tokens), np.bool_)
    if got.rows is None:
        return got.value, there
    there[:] = False
    there[got.rows] = True
    value = np.zeros((*got.value.shape[:-2], len(dump.tokens), got.value.shape[-1]))
    value[..., got.rows, :] = got.value
    return value, there


def _massive(size: Float64[np.ndarray, " n"], there: Bool[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
    """The tokens that are massive."""
    if there.sum() < 3:
        return np.zeros(len(size), np.bool_)
    return np.asarray(there & (size > MASSIVE * np.median(size[there])))
