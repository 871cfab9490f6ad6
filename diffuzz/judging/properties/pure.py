"""pure: a call leaves nothing behind, neither in its inputs nor in what it returned before, nor in the next result.

What shows here: work in place, a result that is a view of an input, two results that share memory, a buffer that is
returned again and again, and a cache or scratch memory that the next call of another size reads.
"""

from __future__ import annotations

from collections.abc import Sequence

from diffuzz.judging.properties.process import Returned
from diffuzz.judging.properties.property import (
    Difference,
    Look,
    Numbers,
    Property,
    Ranges,
    Way,
    failed,
    held_against,
)
from diffuzz.judging.properties.subject import Arrays, Sizes, Subject, listed, nearest

# What is called between two equal calls: the same sizes with other numbers, or sizes that are this much of them.
_BETWEEN = ((1, 1), (2, 1), (1, 2), (1, 64))
_WORDS = ("other numbers", "twice the sizes", "half the sizes", "the least sizes")


def _ways(subject: Subject) -> Sequence[Way]:
    def memory(sizes: Sizes, numbers: Numbers) -> Look:
        arrays = subject.drawn(sizes)
        first = subject.returned(arrays)
        other = subject.returned(subject.others(sizes))
        if (stopped := failed("a call", (arrays, first), (arrays, other))) is not None:
            return stopped
        compared = sum(one.size for one in first.results)
        said = []
        if changed := first.changed or other.changed:
            said.append(f"it writes to its input {listed(changed)}")
        shared = [one for one in (*first.shared, *other.shared) if one[1] not in changed]
        said += [f"{one} lies in the memory of {another}" for one, another in dict.fromkeys(shared)]
        if other.earlier:
            said.append("the next call changes the result of the one before")
        if not said:
            return Look(compared)
        return Look(compared, Difference("one call, and another", "; ".join(said), compared=compared))

    def state(sizes: Sizes, numbers: Numbers) -> Look:
        arrays, (times, parts) = subject.drawn(sizes), _BETWEEN[numbers["between"]]
        dims = subject.dims
        between = {name: nearest(dims[name], size * times // parts) for name, size in sizes.items()}
        first = subject.returned(arrays)
        subject.returned(subject.others(between))
        other = subject.returned(arrays)
        changed = f"a call, and the same after one with {_WORDS[numbers['between']]}"
        if (stopped := failed(changed, (arrays, first), (arrays, other))) is not None:
            return stopped
        return held_against(changed, first.results, other.results, ((arrays, first), (arrays, other)))

    def history(sizes: Sizes, numbers: Numbers) -> Look:
        arrays = subject.drawn(sizes)
        before = [
            subject.others({name: nearest(subject.dims[name], size * times // parts) for name, size in sizes.items()})
            for times, parts in _BETWEEN
        ]
        first, other = _alone(subject, arrays, []), _alone(subject, arrays, before)
        changed = "the first call of a process, and the same after calls with other numbers and sizes"
        if (stopped := failed(changed, (arrays, first), (arrays, other))) is not None:
            return stopped
        look = held_against(changed, first.results, other.results, ((arrays, first), (arrays, other)))
        if look.difference is None:
            return look
        again = _alone(subject, arrays, [])
        if again.failure or held_against("", first.results, again.results).difference is not None:
            # Processes differ anyway.
            return Look(look.compared)
        for one, words in zip(before, _WORDS, strict=True):
            other = _alone(subject, arrays, [one])
            changed = f"the first call of a process, and the same after one with {words}"
            simpler = held_against(changed, first.results, other.results, ((arrays, first), (arrays, other)))
            if other.failure is None and simpler.difference is not None:
                return simpler
        return look

    def ranges(sizes: Sizes) -> Ranges:
        return {"between": (0, len(_BETWEEN) - 1)}

    found = [Way("state", ranges, state)]
    if subject.kind in ("python", "here"):
        found.append(Way("memory", lambda sizes: {}, memory))
    if subject.kind in ("python", "library", "program"):
        found.append(Way("history", lambda sizes: {}, history, slow=True))
    return found


def _alone(subject: Subject, arrays: Arrays, before: Sequence[Arrays]) -> Returned:
    """A call in a process of its own, in which there were others before."""
    with subject.afresh() as process:
        try:
            for one in before:
                process.returned(one)
            return process.returned(arrays)
        finally:
            # The clock of the property stands while a process loads.
            subject.loading += process.loading


PROPERTY = Property("pure", "inputs, earlier results and later calls are left as they are", _ways)
