"""Properties: each is found not to be kept where it is not, down to the smallest change, and kept where it is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from diffuzz import targets
from diffuzz.cases.space import Dim
from diffuzz.judging import properties
from diffuzz.judging.memory import Place, placed
from diffuzz.judging.properties.cuts import cuts
from diffuzz.judging.properties.property import NOTHING, Property, Way, held_against
from diffuzz.judging.properties.subject import Subject
from diffuzz.judging.question import Keep
from diffuzz.registry import UnknownNameError
from diffuzz.searching.keeping import Report, _Asking, keeping

KERNELS = Path(__file__).with_name("kernels_for_properties.py")


def asked(function: str, *names: str, target: str = "softmax", looks: int = 3, **given: object) -> dict[str, Report]:
    """The reports about a function of the file beside this one; the looks end it, and not the time."""
    found = keeping(
        targets.get(target), given, Keep(f"{KERNELS}:{function}", properties=names), seconds=20, seed=0, looks=looks
    )
    return {report.name: report for report in found.reports}


def test_all_are_kept() -> None:
    """By a function that goes through its rows one by one."""
    reports = asked("fixed", looks=2)
    assert list(reports) == list(properties.ORDER)
    assert {report.status for report in reports.values()} == {"kept"}
    assert all(report.compared and report.calls for report in reports.values())


@pytest.mark.parametrize(
    ("function", "name", "status", "said"),
    [
        ("by_count", "batch", "not invariant", "b[0] alone, and among 38"),
        ("first_for_all", "batch", "broken", "alone, and among 2"),
        ("from_the_third_call", "repeat", "not invariant", "the first of"),
        ("in_place", "pure", "not invariant", "it writes to its input z"),
        ("past_the_end", "bounds", "broken", "z right before a page that may not be touched"),
        ("strides_ignored", "layout", "broken", "z contiguous, and"),
    ],
)
def test_each_is_lost(function: str, name: str, status: str, said: str) -> None:
    """Where a function does not keep it; it is broken where a result leaves its bound, or memory is not its own."""
    report = asked(function, name)[name]
    assert status == report.status
    assert any(said in f"{one.difference.changed}; {one.difference.how}" for one in report.findings)


@pytest.mark.parametrize("name", ["repeat", "batch", "layout"])
def test_a_result_of_another_shape_breaks_any(name: str) -> None:
    """At one size only, and in the same way each time: two wrong results with the same bits keep nothing."""
    report = asked("short_at_nine", name, looks=30, **{"range:n": "8:10"})[name]
    assert report.status == "broken"
    assert any("8], where float32[" in one.difference.how and one.sizes["n"] == 9 for one in report.findings)


def test_loading_takes_no_time_of_a_property(tmp_path: Path) -> None:
    """Of a function whose module takes half a second, there are as many looks in memory and state as of another."""
    slow = tmp_path / "slow.py"
    slow.write_text(f"{KERNELS.read_text()}\nimport time\ntime.sleep(0.5)\n")
    kept = keeping(targets.get("softmax"), {}, Keep(f"{slow}:fixed", properties=("pure",)), seconds=1.0, seed=0)
    assert kept.reports[0].looks > 20


def test_a_threshold_is_found() -> None:
    """To the unit, although nobody has said that there is one: 37 rows have the bits of one."""
    (finding,) = asked("by_count", "batch")["batch"].findings
    assert finding.sizes["b"] == 38
    assert finding.below["b"] == 37
    assert finding.difference.ulps >= 1
    assert not finding.outside


def test_the_reference_says_what_a_row_is() -> None:
    """Rows of a batch, heads, and queries; of causal attention only the last queries, or the first of both."""

    def found(name: str, **given: object) -> set[tuple[str, str]]:
        target = targets.get(name)
        subject = Subject(name, "here", target, target.contract_params(given), lambda *_: None, lambda: None)  # type: ignore[arg-type,return-value]
        return {(" ".join(cut.dims), cut.kind) for cut in cuts(subject)}

    assert found("softmax") == {("b", "any")}
    assert found("matmul") == {("m", "any"), ("n", "any")}
    assert found("cumsum") == {("b", "any"), ("n", "first")}
    heads = {("b", "any"), ("g", "any"), ("r", "any")}
    assert found("attention") == {*heads, ("s", "any")}
    assert found("attention", causal=True) == {*heads, ("s", "last"), ("s t", "both")}


@pytest.mark.parametrize(
    "place",
    [
        Place(), Place("offset", 4), Place("fortran"), Place("gaps", 3), Place("wide", 5), Place("reversed", 1),
        Place("repeated", 0), Place("after", 4), Place("before", 8),
    ],
)  # fmt: skip
def test_places_hold_the_same_numbers(place: Place) -> None:
    """However they lie in memory; and what is written beside them, or into them, is seen."""
    numbers = np.broadcast_to(np.arange(6, dtype=np.float32), (4, 6))
    one = placed(numbers, place)
    assert one.array.tolist() == numbers.tolist()
    assert (one.changed(), one.wrote()) == (False, None)
    one.array[0, 0] = 9
    assert (one.changed(), one.wrote()) == (True, None)


def test_bits_are_compared() -> None:
    """All NaN are one number; both zeros only where that is said."""
    numbers = np.array([1, -0.0, np.nan], np.float32)
    other = np.array([1, 0.0, -np.nan], np.float32)
    assert held_against("", [numbers], [numbers]).difference is None
    assert held_against("", [numbers], [other], zeros=True).difference is None
    found = held_against("", [numbers], [other]).difference
    assert found is not None
    assert (found.elements, found.place, found.ulps) == (1, "[1]", 0)
    next_one = np.nextafter(numbers, np.float32(3))
    assert (held_against("", [numbers[:1]], [next_one[:1]]).difference or found).ulps == 1


def test_one_that_there_is_not() -> None:
    """Is a line with those that there are."""
    with pytest.raises(UnknownNameError, match="no property 'batches'; did you mean batch"):
        asked("fixed", "batches")


class _Ticking:
    """A subject without dimensions, whose clock goes on each time that it is read."""

    dims: dict[str, Dim] = {}  # noqa: RUF012
    all_calls = 0
    ticks = 0

    @property
    def clock(self) -> float:
        """So many times it was read."""
        self.ticks += 1
        return float(self.ticks)


@pytest.mark.parametrize("seconds", range(1, 20))
def test_time_may_be_up_at_any_moment(seconds: int) -> None:
    """A property ends with what it has, wherever between two looks time is up."""
    way = Way("nothing", lambda sizes: None, lambda sizes, numbers: NOTHING)
    one = Property("none", "", lambda subject: [way])
    asking = _Asking(_Ticking(), one, float(seconds), 0, None)  # type: ignore[arg-type]
    assert asking.report().status == "kept"
