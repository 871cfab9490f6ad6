"""What a search leaves to the next one of the same question, so that ten of them reach what a long one does.

    first = search(target, seconds=10, seed=0)
    second = search(target, seconds=10, seed=1, state=first.state)

That is the best cases of all engines and the population of the last, the best of all, the sizes that were looked at,
and what engines know of what pays. Nothing in it is believed: the next search evaluates the cases before anything else,
and what is outside its space it leaves out. So a state may come from another version of a function, or from a file.
"""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Mapping

import attrs
import numpy as np

from diffuzz.cases.case import Case
from diffuzz.cases.space import Space

Batch = dict[str, np.ndarray]

# Bytes of the arrays that are kept, of which the best case is always one.
LARGEST_STATE = 2**22
_MOST_SIZES, _MOST_SEARCHES = 2**17, 2**31
_CASES, _BEST, _DEALT, _NOTES, _SEARCHES = "cases/", "best/", "dealt/", "notes/", "searches"


class StateError(ValueError):
    """A text that is no state of a search; one line."""


@attrs.frozen(eq=False)
class State:
    """``cases`` of the usual shape, the best first, as many as may be kept; the ``best`` of any shape, None if there is
    none; the sizes of each dimension that were ``dealt`` with; ``notes`` of engines, arrays of float64 by names such as
    ``evolution/credit``; and how many ``searches`` led here.
    """

    cases: Mapping[str, np.ndarray] = attrs.field(factory=dict)
    best: Case | None = None
    dealt: Mapping[str, frozenset[int]] = attrs.field(factory=dict)
    notes: Mapping[str, np.ndarray] = attrs.field(factory=dict)
    searches: int = 0

    def batch(self, space: Space) -> Batch | None:
        """The cases that a space has, as a batch of its usual shape; None if there are none."""
        if set(self.cases) != {spec.name for spec in space.tensors}:
            return None
        for spec in space.tensors:
            array = self.cases[spec.name]
            if array.shape[1:] != spec.array_shape() or array.dtype != np.dtype(spec.dtype):
                return None
        inside = space.admissible(dict(self.cases))
        return {name: array[inside] for name, array in self.cases.items()} if inside.any() else None

    def best_of(self, space: Space) -> Case | None:
        """The best case, if the space has it."""
        if self.best is None:
            return None
        try:
            space.check(self.best)
        except ValueError:
            return None
        return self.best

    def note(self, name: str, length: int) -> np.ndarray | None:
        """What an engine has noted: numbers, as many as it needs; None if it has noted nothing of the kind."""
        found = self.notes.get(name)
        return None if found is None or found.shape != (length,) or np.isnan(found).any() else found

    def dumps(self) -> bytes:
        """The state as an archive of arrays (.npz)."""
        arrays = {_CASES + name: array for name, array in self.cases.items()}
        arrays |= {_BEST + name: array for name, array in (self.best.arrays if self.best else {}).items()}
        arrays |= {_DEALT + name: np.array(sorted(sizes), np.int64) for name, sizes in self.dealt.items()}
        arrays |= {_NOTES + name: array for name, array in self.notes.items()}
        written = io.BytesIO()
        np.savez_compressed(written, **arrays, **{_SEARCHES: np.array(self.searches)})  # type: ignore[arg-type]
        return written.getvalue()

    @classmethod
    def loads(cls, data: bytes) -> State:
        """Inverse of ``dumps``. Raises StateError for what is none, however it came about."""
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                # A few bytes may be packed that ask for any amount of memory.
                if sum(member.file_size for member in archive.infolist()) > 4 * LARGEST_STATE:
                    raise StateError("is larger than the state of a search can be")
            with np.load(io.BytesIO(data), allow_pickle=False) as stored:
                arrays = {name: stored[name] for name in stored.files}
        except StateError:
            raise
        except Exception as error:
            raise StateError(f"is no archive of arrays ({type(error).__name__})") from error
        return cls(
            _below(arrays, _CASES),
            Case(best) if (best := _below(arrays, _BEST)) else None,
            {name: _sizes(name, array) for name, array in _below(arrays, _DEALT).items()},
            {name: _note(name, array) for name, array in _below(arrays, _NOTES).items()},
            _searches(arrays.get(_SEARCHES)),
        )


def _below(arrays: Mapping[str, np.ndarray], prefix: str) -> Batch:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def _sizes(name: str, array: np.ndarray) -> frozenset[int]:
    if array.dtype != np.int64 or array.ndim != 1 or array.size > _MOST_SIZES:
        raise StateError(f"has no list of sizes as {name}")
    return frozenset(map(int, array))


def _note(name: str, array: np.ndarray) -> np.ndarray:
    if array.dtype != np.float64 or array.ndim != 1:
        raise StateError(f"has no numbers as {name}")
    return array


def _searches(array: np.ndarray | None) -> int:
    if array is None or array.dtype.kind not in "iu" or array.ndim or not 0 <= int(array) <= _MOST_SEARCHES:
        raise StateError("does not say how many searches led to it")
    return int(array)


def most_cases(arrays: Mapping[str, np.ndarray]) -> int:
    """How many of the cases of a batch may be kept."""
    each = sum(math.prod(array.shape[1:]) * array.itemsize for array in arrays.values())
    return max(1, LARGEST_STATE // max(each, 1))
