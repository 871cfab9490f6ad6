"""threads: the bits do not depend on the number of threads.

The number is set in the environment of a process of its own (OMP_NUM_THREADS and what other libraries read), or as the
parameter ``threads``, if the function has one. What shows here: sums that are split between threads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from diffuzz.judging.properties.process import Returned
from diffuzz.judging.properties.property import Look, Numbers, Property, Ranges, Way, failed, held_against
from diffuzz.judging.properties.subject import Arrays, Sizes, Subject

_VARIABLES = (
    "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS", "RAYON_NUM_THREADS",
    "BLIS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS",
)  # fmt: skip
# Seeds of other processes with one thread, which have to agree with the first.
_OTHERS = ("1", "2")
_PARAMETERS = ("threads", "num_threads", "n_threads")
# Numbers of threads that are compared with one.
_THREADS = (2, 3, 4, 8)


def _ways(subject: Subject) -> Sequence[Way] | str:
    if subject.kind not in ("python", "library", "program"):
        return "it is not known how many threads it has, and there is no process of its own to set that in"
    parameter = next((name for name in _PARAMETERS if name in subject.parameters), None)

    def in_environment(sizes: Sizes, numbers: Numbers) -> Look:
        many = _THREADS[numbers["threads"]]
        one, several = (subject.elsewhere(_variables(threads)) for threads in (1, many))
        look = _look(subject, sizes, many, lambda arrays: (one.returned(arrays), several.returned(arrays)))
        if look.difference is None or not look.difference.sides:
            return look
        arrays, first = look.difference.sides[0]
        for seed in _OTHERS:
            other = subject.elsewhere({**_variables(1), "PYTHONHASHSEED": seed}).returned(arrays)
            if other.failure or held_against("", first.results, other.results).difference is not None:
                # Processes differ anyway, which is a matter of repeat.
                return Look(look.compared)
        return look

    def by_parameter(sizes: Sizes, numbers: Numbers) -> Look:
        many = _THREADS[numbers["threads"]]
        named = str(parameter)
        return _look(
            subject,
            sizes,
            many,
            lambda arrays: (subject.returned(arrays, {}, {named: 1}), subject.returned(arrays, {}, {named: many})),
        )

    def ranges(sizes: Sizes) -> Ranges:
        return {"threads": (0, len(_THREADS) - 1)}

    ways = [Way("environment", ranges, in_environment)]
    return [*ways, Way(f"parameter {parameter}", ranges, by_parameter)] if parameter else ways


def _variables(threads: int) -> dict[str, str]:
    return dict.fromkeys(_VARIABLES, str(threads))


def _look(subject: Subject, sizes: Sizes, many: int, both: Callable[[Arrays], tuple[Returned, Returned]]) -> Look:
    arrays, changed = subject.drawn(sizes), f"1 thread, and {many}"
    first, other = both(arrays)
    if (stopped := failed(changed, (arrays, first), (arrays, other))) is not None:
        return stopped
    return held_against(changed, first.results, other.results, ((arrays, first), (arrays, other)))


PROPERTY = Property("threads", "the number of threads does not show", _ways)
