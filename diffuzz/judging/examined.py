"""A batch that has been looked at: its values, and what its first row shows, if anyone asks."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import attrs
import numpy as np

from diffuzz.judging.evidence import Evidence
from diffuzz.kernels.process.worker import KINDS, Failure
from diffuzz.targets.outcome import Outcome

if TYPE_CHECKING:
    from jaxtyping import Bool, Int64

# Ways in which one implementation fares: well, or one of KINDS.
_WAYS = 1 + len(KINDS)
_HUNG = 1 + KINDS.index("hung")
_ENDED = [1 + KINDS.index(kind) for kind in ("crashed", "out of memory")]


@attrs.frozen
class Examined:
    """``outcome`` of a batch, and ``explain(value, row)``, which makes the evidence of a row, whose value that is.

    Values are wanted of every batch, evidence of one case: it is made from the same results, when it is printed.
    """

    outcome: Outcome
    explain: Callable[[float, int], Evidence]


def failure_code(one: Failure | None, other: Failure | None = None) -> int:
    """How a row fared with one implementation, or with two, as a number: 0 where neither failed (see Outcome)."""
    first, second = (0 if failure is None else 1 + KINDS.index(failure.kind) for failure in (one, other))
    return first + _WAYS * second


def hung(codes: Int64[np.ndarray, " b"]) -> Bool[np.ndarray, " b"]:
    """Which rows one of the implementations hung on."""
    return np.asarray((codes % _WAYS == _HUNG) | (codes // _WAYS == _HUNG))


def ended(codes: Int64[np.ndarray, " b"]) -> Bool[np.ndarray, " b"]:
    """On which rows one of the implementations ended its process, of which another has to be started."""
    return np.asarray(np.isin(codes % _WAYS, _ENDED) | np.isin(codes // _WAYS, _ENDED))
