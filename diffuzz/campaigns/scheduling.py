"""Scheduling: which jobs get how much of a round.

In the first round of a night each open job gets one slice. In every later one a quarter of them does: half of the
slices go to jobs whose last slice raised their value most for its time, half to those that have waited longest. What
has changed since its last slice comes first in both, then what has no value yet, and of equals what is farthest below
its bound. The slices of a job grow, so that starting one costs less and less of it.

All of this follows from what the rounds before have found, and from nothing else: neither from the clock nor from the
order in which slices came back. So a campaign that was stopped goes on as it would have gone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import attrs

# Of the open jobs a round after the first serves this share; a slice is as many times as long as the first at most.
SHARE, LONGEST = 0.25, 16
# Slices shorter than this show nothing but the start of a search, in seconds.
LEAST = 0.1


@attrs.frozen
class Standing:
    """What is known of a job when a round begins.

    slices    that it has had this night
    last      the last round in which it had one, -1 for none
    gain      natural logarithm of what its last slice made its value larger by, for each second of it
    valued    whether it has a value
    reached   share of its bound that is reached, 0 where that is not known
    changed   whether what it asks of has changed since
    """

    name: str
    slices: int = 0
    last: int = -1
    gain: float = 0.0
    valued: bool = False
    reached: float = 0.0
    changed: bool = False


def allotted(standings: Sequence[Standing], number: int, first: float, left: float) -> Mapping[str, float]:
    """The seconds of each job in the round ``number``, of ``left`` in all; nothing when too few are left. ``first`` are
    those of a job's first slice.
    """
    if not standings:
        return {}
    if number == 0:
        each = _whole(min(first, left / len(standings)))
        return {one.name: each for one in standings} if each >= least(first) else {}
    count = max(1, math.ceil(SHARE * len(standings)))
    paying = sorted((one for one in standings if one.gain > 0), key=lambda one: (*_first(one), -one.gain, one.name))
    waiting = sorted(standings, key=lambda one: (*_first(one), one.last, one.reached, one.name))
    chosen = dict.fromkeys(one.name for one in paying[: (count + 1) // 2])
    chosen |= dict.fromkeys([one.name for one in waiting if one.name not in chosen][: count - len(chosen)])
    by_name = {one.name: one for one in standings}
    found: dict[str, float] = {}
    for name in chosen:
        seconds = min(first * min(2 ** max(by_name[name].slices - 1, 0), LONGEST), left)
        seconds = _whole(seconds)
        if seconds < least(first):
            break
        found[name], left = seconds, left - seconds
    return found


def least(first: float) -> float:
    """Seconds that a slice has at least, where a job's first one has so many."""
    return _whole(min(LEAST, first) * (1 - 1e-9))


def _whole(seconds: float) -> float:
    """Whole milliseconds, as one writes them down."""
    return math.floor(seconds * 1000) / 1000


def _first(one: Standing) -> tuple[bool, bool]:
    return not one.changed, one.valued


def gain(before: float, after: float, seconds: float) -> float:
    """How much larger a value became for each second: a job that had none, and has one, gains most."""
    if not after > before:
        return 0.0
    return (math.log(after / before) if 0 < before and after < math.inf else 50.0) / max(seconds, 1e-3)
