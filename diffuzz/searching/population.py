"""A population: the best distinct cases of all that were offered, at most so many, best first.

Equal values are nearly always equal cases, so one case of each value is kept. Cases stay in the slot that they were
written to, and only newcomers are copied: a generation rarely brings more than a few.
"""

from __future__ import annotations

from collections.abc import Mapping

import attrs
import numpy as np

Batch = dict[str, np.ndarray]


@attrs.define
class Population:
    """At most ``capacity`` cases of distinct values above -inf. Ranks count from 0, the best."""

    capacity: int
    _arrays: Batch = attrs.field(init=False, factory=dict)
    # By rank: values, falling, and the slots where their cases are.
    _values: np.ndarray = attrs.field(init=False, factory=lambda: np.empty(0))
    _slots: np.ndarray = attrs.field(init=False, factory=lambda: np.empty(0, np.intp))

    def __len__(self) -> int:
        return len(self._values)

    @property
    def values(self) -> np.ndarray:
        """float64[len], falling; not to be written to."""
        return self._values

    def take(self, name: str, ranks: np.ndarray | slice = slice(None)) -> np.ndarray:
        """A copy of array ``name`` of the cases of these ranks: [len(ranks), ...]."""
        taken: np.ndarray = self._arrays[name][self._slots[ranks]]
        return taken

    def admit(self, batch: Mapping[str, np.ndarray], values: np.ndarray) -> None:
        """Take in the rows of ``batch`` that are among the best, with their values float64[b]."""
        least = self._values[-1] if len(self) == self.capacity else -np.inf
        rows = np.flatnonzero(values > least)
        if not rows.size:
            return
        pooled = np.concatenate([self._values, values[rows]])
        # Stable: of equal values the case that is already here comes first, and equal seeds have equal slots.
        ranking = np.argsort(-pooled, kind="stable")
        ranked = pooled[ranking]
        kept = ranking[np.concatenate([[True], ranked[1:] != ranked[:-1]])][: self.capacity]
        new = np.flatnonzero(kept >= len(self))
        if not new.size:
            return
        left = np.ones(len(self), bool)
        left[kept[kept < len(self)]] = False
        free = np.concatenate([np.arange(len(self), len(kept)), self._slots[left]])
        slots = np.concatenate([self._slots, np.empty(len(rows), np.intp)])[kept]
        slots[new] = free
        for name, array in batch.items():
            if name not in self._arrays:
                self._arrays[name] = np.empty((self.capacity, *array.shape[1:]), array.dtype)
            self._arrays[name][free] = array[rows[kept[new] - len(self)]]
        self._values, self._slots = pooled[kept], slots
