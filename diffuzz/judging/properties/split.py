"""split: a whole call and a part of it, called by itself, have the same bits.

Parts are those whose results are that part of the results in exact arithmetic (see cuts): chunks of rows, the beginning
of a running sum, the last queries of a causal attention (decode against prefill), and a chunk of its queries with the
keys up to there (prefill in chunks against the whole).

What shows here: sums that are split at other places in longer calls, and another algorithm for one query.
"""

from __future__ import annotations

from collections.abc import Sequence

from diffuzz.judging.properties.cuts import Cut, cuts
from diffuzz.judging.properties.property import NOTHING, Look, Numbers, Property, Ranges, Way, failed, held_against
from diffuzz.judging.properties.subject import Sizes, Subject


def _ways(subject: Subject) -> Sequence[Way] | str:
    found = cuts(subject)
    lasts = {cut.dims[0] for cut in found if cut.kind == "last"}
    # Rows that stand beside each other are those of batch, too.
    chosen = [cut for cut in found if cut.kind != "any"] or found
    return [_way(subject, cut, lasts) for cut in chosen] or "no part of a call has a part of its results"


def _way(subject: Subject, cut: Cut, lasts: set[str]) -> Way:
    name = cut.dims[0]
    dims = subject.dims
    unit, step = max(dims[one].lowest for one in cut.dims), dims[name].step
    # In two dimensions that are cut together, that of the results may begin later than the other.
    begins = cut.kind in ("any", "last") or (cut.kind == "both" and name in lasts)
    ends = cut.kind != "last"

    def settled(sizes: Sizes) -> Sizes:
        return {**sizes, **dict.fromkeys(cut.dims, sizes[name])}

    def ranges(sizes: Sizes) -> Ranges | None:
        rest = (sizes[name] - unit) // step
        if rest < 1 or not all(dims[one].admits(sizes[name]) for one in cut.dims):
            return None
        found = {"end": (0, rest)} if ends else {}
        return found | ({"begin": (0, rest)} if begins else {})

    def look(sizes: Sizes, numbers: Numbers) -> Look:
        size = sizes[name]
        # Both count from the side at which the part is largest, so that the smallest change is the first.
        end = size - numbers.get("end", 0) * step
        begin = numbers.get("begin", 0) * step
        if end - begin < unit or (begin, end) == (0, size):
            return NOTHING
        whole = subject.drawn(sizes)
        part = subject.part(whole, {one: ((begin if one == name else 0), end) for one in cut.dims})
        first, other = subject.returned(whole), subject.returned(part)
        changed = f"a whole of {name} = {size}, and {name}[{begin}:{end}] by itself"
        changed += f" with {cut.dims[1]}[0:{end}]" if len(cut.dims) > 1 else ""
        if (stopped := failed(changed, (whole, first), (part, other))) is not None:
            return stopped
        wanted = cut.of(first.results, size, begin, end)
        if wanted is None:
            return NOTHING
        return held_against(changed, wanted, other.results, ((whole, first), (part, other)))

    words = {"any": "chunks of", "first": "the beginning of", "last": "the end of", "both": "chunks of"}
    label = f"{words[cut.kind]} {name}" + (f" with {cut.dims[1]}" if len(cut.dims) > 1 else "")
    least = dict.fromkeys(cut.dims, unit + step)
    return Way(label, ranges, look, least=least, settled=settled)


PROPERTY = Property("split", "a whole call and its parts have the same bits", _ways)
