"""A case: the named arrays of one input, with exact bits.

One softmax case is ``{"z": float32[7], "direction": float32[7]}``; one matvec case is ``{"weights": uint8[1, 144],
"x": float32[256]}``. A case has no batch axis. What the names stand for is up to its target, and which cases are
admissible is up to a :class:`diffuzz.cases.space.Space`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from types import MappingProxyType

import attrs
import numpy as np

DTYPES = ("float32", "int32", "uint8")


def _freeze(arrays: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
    frozen = {}
    for name in sorted(arrays):
        array = np.asarray(arrays[name])
        if str(array.dtype) not in DTYPES:
            raise ValueError(f"array {name!r} has dtype {array.dtype}: a case holds {', '.join(DTYPES)}")
        array = np.array(array, order="C", copy=True)
        array.setflags(write=False)
        frozen[name] = array
    return MappingProxyType(frozen)


@attrs.frozen(eq=False)
class Case:
    """Named arrays of float32, int32 or uint8, copied and read-only.

    Two cases are equal if their arrays have the same names, shapes, dtypes and bits. Raises ValueError for another
    dtype.
    """

    arrays: Mapping[str, np.ndarray] = attrs.field(converter=_freeze)

    def __getitem__(self, name: str) -> np.ndarray:
        return self.arrays[name]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Case) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    @property
    def digest(self) -> str:
        """SHA-256 in hexadecimal over name, dtype, shape and little-endian bytes of each array, sorted by name."""
        sha = hashlib.sha256()
        for name, array in self.arrays.items():
            sha.update(f"{name}:{array.dtype}:{array.shape};".encode())
            sha.update(array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes())
        return sha.hexdigest()

    def replace(self, **arrays: np.ndarray) -> Case:
        """This case with some arrays replaced or added."""
        return Case({**self.arrays, **arrays})

    def batch(self) -> dict[str, np.ndarray]:
        """The arrays with a leading batch axis of one, as kernels and targets take them."""
        return {name: array[None] for name, array in self.arrays.items()}


def stack(cases: list[Case]) -> dict[str, np.ndarray]:
    """Cases of equal shapes as a batch: arrays by name, with a leading axis of len(cases)."""
    return {name: np.stack([case[name] for case in cases]) for name in cases[0].arrays}


def unstack(batch: Mapping[str, np.ndarray], index: int) -> Case:
    """Row ``index`` of a batch as a case."""
    return Case({name: np.asarray(array[index]) for name, array in batch.items()})
