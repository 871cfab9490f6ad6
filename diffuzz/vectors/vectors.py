"""What a file of vectors holds. docs/vectors.md says how it is laid out, so that a reader can be written from it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import attrs
import numpy as np

from diffuzz.models import arrays_file
from diffuzz.models.model import ModelError

FORMAT, VERSION = "diffuzz-vectors", "1"
# Bytes of a file, below a megabyte with its header.
LARGEST_FILE = 10**6
# Bytes of a file that is read: results of vectors of at most a megabyte, in any type, are far below.
LARGEST_READ = 2**28
# Arrays of so many bytes are written as runs if these take a quarter or less; bytes of what runs may stand for.
LEAST_FOR_RUNS, WORTH_RUNS, LARGEST_DECODED = 4096, 4, 2**26
# Elements of a fixed result of bytes that may be anything.
ANY_BYTE = 255

# What a function is called with: arrays, numbers, words, and None for an array that it may get and does not.
Argument: TypeAlias = np.ndarray | int | float | str | None


class VectorsError(ValueError):
    """A file that is no file of vectors, or a target that has none; one line."""


@attrs.frozen(eq=False)
class Expected:
    """One result: ``exact`` and ``allowance`` of its shape, float64, or uint8 where it consists of bytes.

    An element of a result is right if it equals ``exact``, or is within ``allowance`` of it, or the allowance is
    infinite (255 of bytes): nothing is promised there. ``dtype`` is what the function returns.
    """

    exact: np.ndarray
    allowance: np.ndarray
    dtype: str

    def ratios(self, got: np.ndarray) -> np.ndarray:
        """|got - exact| / allowance, of the result's shape: 0 where they are equal, and where nothing is promised; inf
        for an error where none is allowed, and for what is no number. More than 1 is wrong.
        """
        if self.exact.dtype == np.uint8:
            apart = np.abs(got.astype(np.int16) - self.exact.astype(np.int16))
            return np.where(apart <= self.allowance, 0.0, np.inf)
        wide = got.astype(np.float64)
        with np.errstate(all="ignore"):
            shares = np.abs(wide - self.exact) / self.allowance
        shares = np.where(np.isnan(shares), np.inf, shares)
        return np.where((wide == self.exact) | np.isposinf(self.allowance), 0.0, shares)


@attrs.frozen(eq=False)
class VectorCase:
    """One call of the function, and what it should return."""

    positional: Mapping[str, Argument]
    named: Mapping[str, Argument]
    results: tuple[Expected, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays in a file."""
        arrays = [one for one in (*self.positional.values(), *self.named.values()) if isinstance(one, np.ndarray)]
        arrays += [array for one in self.results for array in (one.exact, one.allowance)]
        return sum(part.nbytes for array in arrays for part in encoded("", array).values())


@attrs.frozen(eq=False)
class Vectors:
    """The cases of an operation with its parameters, and where they came from."""

    target: str
    params: Mapping[str, Any]
    signature: str
    diffuzz: str
    seed: int
    cases: Mapping[str, VectorCase]

    def packed(self) -> bytes:
        """The bytes of the file: they depend on nothing but what is in it."""
        arrays: dict[str, np.ndarray] = {}
        for name, case in self.cases.items():
            for argument, value in (*case.positional.items(), *case.named.items()):
                if (array := _stored(value)) is not None:
                    arrays |= encoded(f"{name}/in/{argument}", array)
            for number, one in enumerate(case.results):
                arrays |= encoded(f"{name}/exact/{number}", one.exact)
                arrays |= encoded(f"{name}/allowance/{number}", one.allowance)
        about = self.described()
        return arrays_file.packed(
            {key: value if isinstance(value, str) else _json(value) for key, value in about.items()}, arrays
        )

    def described(self) -> dict[str, object]:
        """The metadata, as the file beside it has them."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "diffuzz": self.diffuzz,
            "target": self.target,
            "signature": self.signature,
            "parameters": dict(self.params),
            "seed": self.seed,
            "cases": [
                {
                    "name": name,
                    "arguments": [
                        _argument(name, argument, value, keyword)
                        for given, keyword in ((case.positional, False), (case.named, True))
                        for argument, value in given.items()
                    ],
                    "results": [{"dtype": one.dtype, "shape": list(one.exact.shape)} for one in case.results],
                }
                for name, case in self.cases.items()
            ],
        }

    def sidecar(self) -> bytes:
        """The file beside it, for readers that have JSON and want no metadata of strings."""
        return (json.dumps(self.described(), indent=1) + "\n").encode()


def name_of(number: int) -> str:
    """The name of a case."""
    return f"c{number:03d}"


def encoded(name: str, array: np.ndarray) -> dict[str, np.ndarray]:
    """An array as it is in a file: itself, or as runs, where these take far less. A run is some equal units in a row,
    elements or slices of the first axis: ``name.values`` [runs, elements of a unit], ``name.counts`` int64[runs] how
    often each comes, ``name.shape`` int64[axes].
    """
    if array.nbytes < LEAST_FOR_RUNS:
        return {name: array}
    found: list[dict[str, np.ndarray]] = []
    for units in (array.size, len(array)):
        rows = np.ascontiguousarray(array).reshape(units, -1)
        # Bits, because zeros have signs and NaN is not equal to itself.
        bits = rows.view(_word(rows.dtype.itemsize if units == array.size else rows.shape[1] * rows.dtype.itemsize))
        first = np.flatnonzero(np.concatenate([[True], (bits[1:] != bits[:-1]).any(axis=1)]))
        found.append(
            {
                f"{name}.values": rows[first],
                f"{name}.counts": np.diff(np.append(first, units)),
                f"{name}.shape": np.array(array.shape, np.int64),
            }
        )
    least = min(found, key=_bytes)
    return least if _bytes(least) * WORTH_RUNS <= array.nbytes else {name: array}


def _word(nbytes: int) -> type[np.unsignedinteger[Any]]:
    """The widest word that so many bytes consist of."""
    return next(one for one in (np.uint64, np.uint32, np.uint16, np.uint8) if nbytes % np.dtype(one).itemsize == 0)


def decoded(name: str, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """The array of this name in a file. Raises KeyError, and ValueError for runs that do not add up."""
    if name in arrays:
        return arrays[name]
    values, counts, shape = (arrays[f"{name}.{part}"] for part in ("values", "counts", "shape"))
    sizes = [int(one) for one in shape]
    units = sum(int(one) for one in counts)
    fitting = values.ndim == 2 and counts.shape == values.shape[:1] and min([*sizes, *counts.tolist()], default=0) >= 0
    if not fitting or units * values.shape[1] != math.prod(sizes) or units * values[:1].nbytes > LARGEST_DECODED:
        raise ValueError(f"the runs of {name} do not add up to its shape")
    return np.repeat(values, counts.astype(np.int64), axis=0).reshape(sizes)


def _bytes(arrays: Mapping[str, np.ndarray]) -> int:
    return sum(one.nbytes for one in arrays.values())


def _stored(value: Argument) -> np.ndarray | None:
    """An argument as an array: numbers have no dimensions; None for words, which are in the metadata."""
    if isinstance(value, np.ndarray):
        return value
    if isinstance(value, bool):
        return np.array(value)
    if isinstance(value, int):
        return np.array(value, np.int64)
    return np.array(value, np.float64) if isinstance(value, float) else None


def _argument(case: str, name: str, value: Argument, keyword: bool) -> dict[str, object]:
    about: dict[str, object] = {"name": name, "keyword": keyword}
    if isinstance(value, np.ndarray):
        return about | {"array": f"{case}/in/{name}", "dtype": str(value.dtype), "shape": list(value.shape)}
    return about | {"value": value} | ({} if _stored(value) is None else {"array": f"{case}/in/{name}"})


def _json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))


def read(path: Path) -> Vectors:
    """The vectors in a file. Raises VectorsError, OSError."""
    try:
        return unpacked(*read_arrays(path))
    except (ModelError, VectorsError) as error:
        raise VectorsError(f"{path}: {error}") from error


def read_arrays(path: Path) -> tuple[dict[str, str], dict[str, np.ndarray]]:
    """The metadata and the arrays of a file, of vectors or of results. Raises ModelError, OSError."""
    with path.open("rb") as file:
        content = file.read(LARGEST_READ + 1)
    if len(content) > LARGEST_READ:
        raise ModelError(f"it has more than {LARGEST_READ} bytes")
    return arrays_file.unpacked(content)


def unpacked(metadata: Mapping[str, str], arrays: Mapping[str, np.ndarray]) -> Vectors:
    """The vectors of what a file has. Raises VectorsError, without the name of the file."""
    if metadata.get("format") != FORMAT:
        raise VectorsError("it has no vectors; python -m diffuzz export DIR --target T makes a file of them")
    if metadata.get("version") != VERSION:
        raise VectorsError(f"its vectors are of version {metadata.get('version')}, where {VERSION} can be read")
    try:
        return Vectors(
            target=metadata["target"],
            params=dict(json.loads(metadata["parameters"])),
            signature=metadata["signature"],
            diffuzz=metadata["diffuzz"],
            seed=int(metadata["seed"]),
            cases={str(one["name"]): _case(one, arrays) for one in json.loads(metadata["cases"])},
        )
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise VectorsError(f"its vectors are damaged ({type(error).__name__}: {error})") from error


def _case(about: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> VectorCase:
    name = about["name"]
    given: tuple[dict[str, Argument], dict[str, Argument]] = ({}, {})
    for one in about["arguments"]:
        given[bool(one["keyword"])][one["name"]] = one["value"] if "value" in one else decoded(one["array"], arrays)
    results = []
    for number, one in enumerate(about["results"]):
        exact, allowance = (decoded(f"{name}/{what}/{number}", arrays) for what in ("exact", "allowance"))
        fitting = exact.dtype == allowance.dtype and str(exact.dtype) in ("float64", "uint8")
        if not fitting or exact.shape != allowance.shape or list(exact.shape) != one["shape"]:
            raise ValueError(f"exact and allowance {number} of {name} do not fit")
        results.append(Expected(exact, allowance, str(one["dtype"])))
    return VectorCase(*given, tuple(results))
