"""bounds: nothing outside of the arrays is read or written.

Each input, and each result of a function of C, is put right before a page that may not be touched, and right after one:
whoever reads or writes there ends its process. What lies around an array, and between its rows, is filled with other
bytes, which must not show in the results. A function that does not keep this is broken, whatever it promised.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import attrs

from diffuzz.judging.memory import Kind, Place, can_guard
from diffuzz.judging.properties.process import Returned
from diffuzz.judging.properties.property import Difference, Look, Numbers, Property, Ranges, Way, failed, held_against
from diffuzz.judging.properties.subject import Arrays, Sizes, Subject

# Calls that have to give the same bits again.
_AGAIN = 3
# Bytes that lie around arrays, in pairs. Numbers of them are 0, NaN, some 0.7, some 1e38, and less than 1e-37.
_POISON = ((0x00, 0xFF), (0x00, 0x3F), (0x00, 0x7F), (0x80, 0x7E))


def _ways(subject: Subject) -> Sequence[Way] | str:
    if subject.kind == "program":
        return "a program has memory of its own"
    if subject.kind == "kernels":
        return "an implementation of diffuzz is called with arrays of its own making"
    arrays = subject.drawn({name: dim.lowest for name, dim in subject.dims.items()})
    inputs = subject.inputs(arrays)
    names = list(inputs)
    if subject.kind == "library":
        count = len(subject.exact(arrays))
        names += ["result"] if count == 1 else [f"result_{i + 1}" for i in range(count)]
    ways = [_poisoned(subject, name) for name in names]
    if subject.kind == "python":
        ways += [_poisoned(subject, name, wide=True) for name, one in inputs.items() if one.ndim > 1]
    if subject.kind != "here" and can_guard():
        ways += [_guarded(subject, name, side) for name in names for side in ("after", "before")]
    return ways


def _poisoned(subject: Subject, name: str, *, wide: bool = False) -> Way:
    def look(sizes: Sizes, numbers: Numbers) -> Look:
        arrays, poison = subject.drawn(sizes), _POISON[numbers["poison"]]
        kind: Kind = "wide" if wide else "plain"
        where = "between the rows of" if wide else "around"
        changed = f"the bytes {poison[0]:#04x} and {poison[1]:#04x} {where} {name}"

        def called(byte: int) -> Returned:
            return subject.returned(arrays, {name: Place(kind, 16 if wide else 0, poison=byte)})

        first, other = (called(byte) for byte in poison)
        if (stopped := _touched(changed, arrays, first, other)) is not None:
            return stopped
        look = held_against(changed, first.results, other.results, ((arrays, first), (arrays, other)))
        if look.difference is None:
            return look
        for _ in range(_AGAIN):
            for byte, before in zip(poison, (first, other), strict=True):
                again = called(byte)
                if again.failure or held_against("", before.results, again.results).difference is not None:
                    # Results that change by themselves say nothing about memory.
                    return Look(look.compared)
        return attrs.evolve(look, difference=attrs.evolve(look.difference, how="they show", broken=True))

    def ranges(sizes: Sizes) -> Ranges:
        return {"poison": (0, len(_POISON) - 1)}

    return Way(f"{'between the rows of' if wide else 'around'} {name}", ranges, look)


def _guarded(subject: Subject, name: str, side: Literal["after", "before"]) -> Way:
    def look(sizes: Sizes, numbers: Numbers) -> Look:
        arrays = subject.drawn(sizes)
        first, gap = subject.returned(arrays), 0
        if subject.kind == "library" and side == "after":
            # It may count on the alignment of the first byte.
            one = subject.inputs(arrays).get(name)
            number = int(name.rpartition("_")[2]) - 1 if name.startswith("result_") else 0
            if one is None and number < len(first.results):
                one = first.results[number]
            gap = 0 if one is None else -one.nbytes % 64
        other = subject.returned(arrays, {name: Place(side, gap)})
        where = "before" if side == "after" else "after"
        changed = f"{name} right {where} a page that may not be touched"
        # Another alignment may show in the results, and is no matter of bounds.
        return _touched(changed, arrays, first, other) or Look(sum(one.size for one in first.results))

    return Way(f"{side} {name}", lambda sizes: {}, look)


def _touched(changed: str, arrays: Arrays, first: Returned, other: Returned) -> Look | None:
    """What is said of calls that wrote where they must not, or that have no result."""
    wrote = [*first.wrote, *other.wrote]
    if wrote:
        compared = sum(one.size for one in first.results)
        name, where = wrote[0]
        return Look(compared, Difference(changed, f"it writes {where} of {name}", compared=compared, broken=True))
    for side in (first, other):
        if side.failure is not None and side.failure.text.startswith("wrote to memory"):
            return Look(0, Difference(changed, f"it {side.failure.text}", broken=True))
    return failed(changed, (arrays, first), (arrays, other))


PROPERTY = Property("bounds", "nothing outside of the arrays is read or written", _ways)
