"""The first step of a run that makes a number which is none: NaN or an infinity.

Whatever reads such a number makes more of them, so that the logits of a run say nothing of where it began.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import numpy as np

from diffuzz.models.checking import Report, known
from diffuzz.models.dump import Dump
from diffuzz.models.operations.attention import Scores
from diffuzz.models.step import Step

if TYPE_CHECKING:
    from jaxtyping import Bool


@attrs.frozen(eq=False)
class NotFinite:
    """Where a run has numbers that are none.

    step       the first one that has any
    kind       "NaN" or "infinity", of that step
    due        whether a number is due there: the exact result of the step's own inputs is one, so that the step is
               wrong. None where that step cannot be judged
    logits     the tokens whose logits have such numbers, of the ``count`` that have logits
    """

    step: Step
    kind: str
    due: bool | None
    logits: tuple[int, ...]
    count: int


def first(steps: tuple[Step, ...], dump: Dump, report: Report) -> NotFinite | None:
    """The first one in the order of the steps; None if all of a run's numbers are finite. What a token does not attend
    to does not count.
    """
    names = known.names(dump)
    for step in steps:
        if step.tap not in names:
            continue
        value, bad = _looked_at(step, dump, steps)
        if bad.any():
            kind = "NaN" if np.isnan(value[bad].astype(np.float64)).any() else "infinity"
            return NotFinite(step, kind, _due(step, report), *_of_logits(steps, dump))
    return None


def _looked_at(step: Step, dump: Dump, steps: tuple[Step, ...]) -> tuple[np.ndarray, Bool[np.ndarray, " ..."]]:
    """A tap, and where it has such numbers."""
    array = dump.taps.get(step.tap)
    if array is None:
        array = known.get(dump, step.tap, {each.tap: each for each in steps}).value
    bad = _no_numbers(array)
    if bad.any() and isinstance(step.operation, Scores):
        sequence = known.sequence_of(dump)
        # A tap may have more places than there are keys, and rows of some tokens only.
        rows = dump.rows.get(step.tap, slice(None))
        seen = sequence.visible(step.operation.window)[rows]
        bad[..., seen.shape[-1] :] = False
        bad[..., : seen.shape[-1]] &= seen
    return array, bad


def _due(step: Step, report: Report) -> bool | None:
    """What the check says of the step: a number that is none is wrong wherever one is due."""
    mine = next((each for each in report.judged if each.span.last.tap == step.tap), None)
    return None if mine is None else mine.broken or mine.worst == float("inf")


def _of_logits(steps: tuple[Step, ...], dump: Dump) -> tuple[tuple[int, ...], int]:
    tap = steps[-1].tap
    if tap not in dump.taps:
        return (), 0
    bad: np.ndarray = np.asarray(_no_numbers(dump.taps[tap]).any(axis=-1))
    return tuple(np.asarray(dump.rows.get(tap, np.arange(len(dump.tokens))))[bad].tolist()), len(bad)


def _no_numbers(array: np.ndarray) -> Bool[np.ndarray, " ..."]:
    # NumPy does not ask this of bfloat16.
    return np.asarray(~np.isfinite(array.astype(np.float32) if array.dtype.itemsize == 2 else array))
