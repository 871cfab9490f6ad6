"""The peer Hypothesis of ``bench witnesses``: its shrinker, started from a given case."""

from __future__ import annotations

import math
import tempfile
import warnings
from collections.abc import Callable, Iterable

import numpy as np
from hypothesis import HealthCheck, Phase, Verbosity, given, settings
from hypothesis import strategies as st
from hypothesis.configuration import set_hypothesis_home_dir
from hypothesis.database import ExampleDatabase, choices_to_bytes
from hypothesis.errors import HypothesisWarning, Unsatisfiable

from diffuzz.cases import parts as case_parts
from diffuzz.cases.case import Case
from diffuzz.cases.parts import Part
from diffuzz.cases.space import Space


class TooLargeError(ValueError):
    """A case with more numbers than Hypothesis can draw one by one."""


class _Given(ExampleDatabase):
    """A database with one failing example for every test. It is in the secondary corpus, of examples that are not
    shrunk yet: Hypothesis does not shrink those of the primary corpus.
    """

    def __init__(self, example: bytes) -> None:
        super().__init__()
        self._example = example

    def fetch(self, key: bytes) -> Iterable[bytes]:
        """The example, for keys of the secondary corpus."""
        return [self._example] if key.endswith(b".secondary") else []

    def save(self, key: bytes, value: bytes) -> None:
        """Store nothing."""

    def delete(self, key: bytes, value: bytes) -> None:
        """Store nothing."""


def shrink(space: Space, case: Case, shows: Callable[[Case], bool]) -> None:
    """Let Hypothesis shrink ``case`` while ``shows`` is true of it.

    Raises TooLargeError for a case of more than 8 KiB, and what ``shows`` raises.
    """
    parts = case_parts.parts_of(space)
    values = {name: array[0] for name, array in case_parts.split(parts, case.batch()).items()}
    choices = [number for part in parts for number in values[part.name].reshape(-1).tolist()]

    @settings(
        max_examples=10**9,
        database=_Given(choices_to_bytes(choices)),
        deadline=None,
        phases=(Phase.reuse, Phase.shrink),
        suppress_health_check=list(HealthCheck),
        verbosity=Verbosity.quiet,
        print_blob=False,
        report_multiple_bugs=False,
    )
    @given(st.tuples(*(_numbers(part, values[part.name].shape) for part in parts)))
    def test(drawn: tuple[np.ndarray, ...]) -> None:
        batch = {part.name: array[None] for part, array in zip(parts, drawn, strict=True)}
        shown = Case({name: array[0] for name, array in case_parts.join(parts, batch).items()})
        assert not shows(shown)

    with warnings.catch_warnings(), tempfile.TemporaryDirectory(prefix="diffuzz-") as folder:
        warnings.simplefilter("ignore", HypothesisWarning)
        set_hypothesis_home_dir(folder)
        try:
            test()
        except AssertionError:
            pass
        except Unsatisfiable:
            raise TooLargeError(f"{len(choices):,} numbers do not fit into 8 KiB") from None
        finally:
            set_hypothesis_home_dir(None)


def _numbers(part: Part, shape: tuple[int, ...]) -> st.SearchStrategy[np.ndarray]:
    """Arrays of ``shape`` for one part, each number drawn separately."""
    count = math.prod(shape)
    numbers: st.SearchStrategy[float] | st.SearchStrategy[int]
    if part.dtype.kind == "f":
        ends = np.array([part.low, part.high]).astype(part.dtype)
        inside = [np.nextafter(end, part.dtype.type(0)) if abs(end) > part.high else end for end in ends]
        numbers = st.floats(float(inside[0]), float(inside[1]), width=16 if part.dtype.itemsize == 2 else 32)
    else:
        numbers = st.integers(int(part.low), int(part.high))
    return st.tuples(*[numbers] * count).map(lambda drawn: np.array(drawn, part.dtype).reshape(shape))
