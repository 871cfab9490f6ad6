"""repeat: the same call gives the same bits, again and again, and in a fresh process.

What shows here: a race between threads, memory that nobody wrote to, a sum by atomics, an algorithm that is chosen by
timing, a state that grows. A fresh process has other addresses, and another seed for the hashes of Python.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from diffuzz.judging.properties.property import Difference, Look, Numbers, Property, Ranges, Way, failed, held_against
from diffuzz.judging.properties.subject import Sizes, Subject

# Calls of one look at most, where results differ by chance.
_CALLS = 64
# Other processes that there are: each has a seed of its own, and the first one has none.
_PROCESSES = (1, 3)


def _ways(subject: Subject) -> Sequence[Way]:
    def ranges(sizes: Sizes) -> Ranges:
        return {"calls": (2, _CALLS)}

    def again(sizes: Sizes, numbers: Numbers) -> Look:
        arrays, calls, seen = subject.drawn(sizes), numbers["calls"], 0
        first = subject.returned(arrays)
        shown: Difference | None = None
        for call in range(2, calls + 1):
            other, changed = subject.returned(arrays), f"the first of {calls} equal calls, and number {call}"
            if (stopped := failed(changed, (arrays, first), (arrays, other))) is not None:
                return stopped
            look = held_against(changed, first.results, other.results, ((arrays, first), (arrays, other)))
            shown = shown or look.difference
            seen += look.difference is not None
        compared = sum(one.size for one in first.results) * (calls - 1)
        return Look(compared, None if shown is None else attrs.evolve(shown, chance=(seen, calls - 1)))

    def fresh(sizes: Sizes, numbers: Numbers) -> Look:
        arrays, changed = subject.drawn(sizes), "a call in one process, and in another"
        there = subject.elsewhere({"PYTHONHASHSEED": str(numbers["process"])})
        first, other = subject.returned(arrays), there.returned(arrays)
        if (stopped := failed(changed, (arrays, first), (arrays, other))) is not None:
            return stopped
        return held_against(changed, first.results, other.results, ((arrays, first), (arrays, other)))

    ways = [Way("again", ranges, again, chance=True)]
    if subject.kind in ("python", "library", "program"):
        ways.append(Way("another process", lambda sizes: {"process": _PROCESSES}, fresh, chance=True))
    return ways


PROPERTY = Property("repeat", "the same call gives the same bits, in a fresh process, too", _ways)
