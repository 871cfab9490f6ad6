"""Results that were computed elsewhere, held against a file of vectors.

They are in a .safetensors file, the first result of the case c000 as ``c000/result/0``. Its metadata are not looked at.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import attrs
import numpy as np

from diffuzz.models.model import ModelError
from diffuzz.targets.contract import Result
from diffuzz.vectors.vectors import Vectors, read_arrays


class ResultsError(ValueError):
    """Results that cannot be held against the vectors: a damaged file, a missing case, another shape or dtype."""


@attrs.frozen
class Worst:
    """The element that is furthest from what is allowed: ``ratio`` is |got - exact| / allowance."""

    case: str
    result: int
    index: tuple[int, ...]
    got: float
    exact: float
    allowance: float
    ratio: float


@attrs.frozen
class Verification:
    """What results are: of ``judged`` elements ``wrong`` are outside, in the cases ``wrong_cases``."""

    cases: int
    elements: int
    judged: int
    wrong: int
    wrong_cases: tuple[str, ...]
    worst: Worst | None

    @property
    def right(self) -> bool:
        """Whether every element is as it should be."""
        return self.wrong == 0


def results_of(path: Path) -> dict[str, np.ndarray]:
    """The arrays in a file of results. Raises ResultsError, OSError."""
    try:
        return read_arrays(path)[1]
    except ModelError as error:
        raise ResultsError(f"{path}: {error}") from error


def verify(vectors: Vectors, results: Mapping[str, np.ndarray], name: str = "the results") -> Verification:
    """Hold all results against the vectors. Raises ResultsError, one line, where one is missing, is of another shape or
    dtype, or belongs to no case; ``name`` is for messages.
    """
    places = [(case, number) for case, one in vectors.cases.items() for number in range(len(one.results))]
    wanted = {f"{case}/result/{number}": (case, number) for case, number in places}
    if missing := [one for one in wanted if one not in results]:
        raise ResultsError(
            f"{name}: {len(missing)} of {len(wanted)} results are missing, the first is {missing[0]}; "
            "every case needs one"
        )
    if unknown := [one for one in results if one not in wanted]:
        raise ResultsError(f"{name}: {unknown[0]} is no result of a case; names are such as {next(iter(wanted), '')}")
    for key, (case, number) in wanted.items():
        expected = vectors.cases[case].results[number]
        needed = Result(expected.exact.shape, expected.dtype)
        if not needed.admits(results[key]):
            found = Result(results[key].shape, str(results[key].dtype))
            raise ResultsError(f"{name}: {key} is {found}, where {needed} is needed")
    elements = judged = wrong = 0
    wrong_cases: dict[str, None] = {}
    worst: Worst | None = None
    for key, (case, number) in wanted.items():
        expected, got = vectors.cases[case].results[number], results[key]
        ratios = expected.ratios(got)
        unjudged = expected.allowance == (255 if expected.exact.dtype == np.uint8 else np.inf)
        elements, judged = elements + got.size, judged + got.size - int(unjudged.sum())
        outside = int((ratios > 1).sum())
        wrong += outside
        if outside:
            wrong_cases[case] = None
        if ratios.size and (worst is None or ratios.max() > worst.ratio):
            index = tuple(int(i) for i in np.unravel_index(int(ratios.argmax()), ratios.shape))
            worst = Worst(
                case, number, index, float(got[index]), float(expected.exact[index]), float(expected.allowance[index]),
                float(ratios[index]),
            )  # fmt: skip
    return Verification(len(vectors.cases), elements, judged, wrong, tuple(wrong_cases), worst)
