"""What a search leaves to the next one of the same question, so that ten of them reach what a long one does.

    first = search(target, seconds=10, seed=0)
    second = search(target, seconds=10, seed=1, state=first.state)

That is the best case of all, the sizes that were looked at, and what each engine keeps: cases that it was at work on,
with their values, and numbers, such as what pays. None of it counts before the next search has evaluated it: the best
case first, and where that has not the value that it had, as of another version of a function, all the others, too. What
is outside its space it leaves out. So a state may come from a file.
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

# Bytes of the cases that an engine keeps; one case it may always have.
LARGEST_KEPT = 2**21
# Bytes of a state, packed or not.
LARGEST_STATE = 2**24
_MOST_SIZES, _MOST_SEARCHES = 2**17, 2**31
_BEST, _VALUE, _DEALT, _SEARCHES = "best", "value", "dealt", "searches"
_CASES, _VALUES, _NOTES = "cases", "values", "notes"


class StateError(ValueError):
    """A text that is no state of a search; one line."""


@attrs.frozen(eq=False)
class Kept:
    """What an engine keeps: ``cases`` of the usual shape, as a batch, with their ``values``, where they have any, and
    ``notes``, float64 arrays of one axis.
    """

    cases: Mapping[str, np.ndarray] = attrs.field(factory=dict)
    values: np.ndarray | None = None
    notes: Mapping[str, np.ndarray] = attrs.field(factory=dict)

    def recalled(self, space: Space) -> tuple[Batch, np.ndarray | None] | None:
        """The cases that a space has, as a batch of its usual shape, and their values; None if there are none."""
        if set(self.cases) != {spec.name for spec in space.tensors}:
            return None
        for spec in space.tensors:
            array = self.cases[spec.name]
            if array.shape[1:] != spec.array_shape() or array.dtype != np.dtype(spec.dtype):
                return None
        if len({len(array) for array in self.cases.values()}) != 1:
            return None
        inside = space.admissible(dict(self.cases))
        values = self.values if self.values is not None and self.values.shape == inside.shape else None
        if not inside.any():
            return None
        batch = {name: array[inside] for name, array in self.cases.items()}
        return batch, None if values is None else values[inside]

    def note(self, name: str, length: int) -> np.ndarray | None:
        """Numbers that were noted, if there are as many as are needed."""
        found = self.notes.get(name)
        return None if found is None or found.shape != (length,) or np.isnan(found).any() else found


_NOTHING = Kept()


@attrs.frozen(eq=False)
class State:
    """The ``best`` case, of any shape, None if there is none, and its ``value``; the sizes of each dimension that were
    ``dealt`` with; what each engine keeps, by name; and how many ``searches`` led here.
    """

    best: Case | None = None
    value: float = 0.0
    dealt: Mapping[str, frozenset[int]] = attrs.field(factory=dict)
    engines: Mapping[str, Kept] = attrs.field(factory=dict)
    searches: int = 0

    def of(self, engine: str) -> Kept:
        """What an engine keeps; nothing, if it was not at work."""
        return self.engines.get(engine, _NOTHING)

    def best_of(self, space: Space) -> Case | None:
        """The best case, if the space has it."""
        if self.best is None:
            return None
        try:
            space.check(self.best)
        except ValueError:
            return None
        return self.best

    def dumps(self) -> bytes:
        """The state as an archive of arrays (.npz)."""
        arrays = {f"{_BEST}/{name}": array for name, array in (self.best.arrays if self.best else {}).items()}
        arrays |= {f"{_DEALT}/{name}": np.array(sorted(sizes), np.int64) for name, sizes in self.dealt.items()}
        arrays[_VALUE] = np.array(self.value)
        for engine, kept in self.engines.items():
            arrays |= {} if kept.values is None else {f"{_VALUES}/{engine}": kept.values}
            arrays |= {f"{_CASES}/{engine}/{name}": array for name, array in kept.cases.items()}
            arrays |= {f"{_NOTES}/{engine}/{name}": array for name, array in kept.notes.items()}
        written = io.BytesIO()
        np.savez_compressed(written, **arrays, **{_SEARCHES: np.array(self.searches)})  # type: ignore[arg-type]
        return written.getvalue()

    @classmethod
    def loads(cls, data: bytes) -> State:
        """Inverse of ``dumps``. Raises StateError for what is none, however it came about."""
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                # A few bytes may be packed that ask for any amount of memory.
                if sum(member.file_size for member in archive.infolist()) > LARGEST_STATE:
                    raise StateError("is larger than the state of a search can be")
            with np.load(io.BytesIO(data), allow_pickle=False) as stored:
                arrays = {name: stored[name] for name in stored.files}
        except StateError:
            raise
        except Exception as error:
            raise StateError(f"is no archive of arrays ({type(error).__name__})") from error
        best, cases, notes, values = (_below(arrays, kind) for kind in (_BEST, _CASES, _NOTES, _VALUES))
        for name, array in (*notes.items(), *values.items()):
            if array.dtype != np.float64 or array.ndim != 1:
                raise StateError(f"has no numbers as {name}")
        value = arrays.get(_VALUE)
        if value is None or value.dtype != np.float64 or value.ndim:
            raise StateError("does not say what its best case has")
        if any(array.ndim == 0 for array in cases.values()):
            raise StateError("has cases that are no batch")
        names = dict.fromkeys(name.partition("/")[0] for name in (*cases, *notes))
        return cls(
            Case(best) if best else None,
            float(value),
            {name: _sizes(name, array) for name, array in _below(arrays, _DEALT).items()},
            {name: Kept(_below(cases, name), values.get(name), _below(notes, name)) for name in names},
            _searches(arrays.get(_SEARCHES)),
        )


def _below(arrays: Mapping[str, np.ndarray], prefix: str) -> Batch:
    start = f"{prefix}/"
    return {name.removeprefix(start): array for name, array in arrays.items() if name.startswith(start)}


def _sizes(name: str, array: np.ndarray) -> frozenset[int]:
    if array.dtype != np.int64 or array.ndim != 1 or array.size > _MOST_SIZES:
        raise StateError(f"has no list of sizes as {name}")
    return frozenset(map(int, array))


def _searches(array: np.ndarray | None) -> int:
    if array is None or array.dtype.kind not in "iu" or array.ndim or not 0 <= int(array) <= _MOST_SEARCHES:
        raise StateError("does not say how many searches led to it")
    return int(array)


def kept_of(
    batch: Mapping[str, np.ndarray], values: np.ndarray | None, notes: Mapping[str, np.ndarray] | None = None
) -> Kept:
    """What an engine keeps of a batch: its first rows, as many as there may be."""
    each = sum(math.prod(array.shape[1:]) * array.itemsize for array in batch.values())
    most = max(1, LARGEST_KEPT // max(each, 1))
    cases = {name: np.asarray(array)[:most] for name, array in batch.items()}
    return Kept(cases, None if values is None else np.asarray(values, np.float64)[:most], notes or {})
