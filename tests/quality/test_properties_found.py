"""Functions that lose one property are found, to the unit, and functions that keep all are not flagged."""

from __future__ import annotations

import pytest

from diffuzz import targets
from diffuzz.judging.question import Keep
from diffuzz.searching.keeping import Report, keeping
from diffuzz.studies.properties import mutants, scoring

# Some of each property, whose thresholds are where nobody has said.
THRESHOLDS = {
    "batch/from-38-rows": {"b": 38},
    "batch/many-long-rows": {"b": 3, "n": 1000},
    "batch/from-ten-rows": {"b": 10},
    "split/scan-from-777": {"n": 777},
    "bounds/only-whole-tiles": {"n": 16},
}


def kept(name: str, looks: int, *properties: str) -> tuple[Report, ...]:
    """What is found about a function; the looks end it, and not the time."""
    (one,) = scoring.named([name])
    asked = Keep(one.candidate, properties=properties)
    return keeping(targets.get(one.target), one.params, asked, seconds=600, seed=0, looks=looks).reports


@pytest.mark.quality
@pytest.mark.parametrize("name", THRESHOLDS)
def test_thresholds_are_found_to_the_unit(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And one less is known not to show it."""
    # The same sizes, and as many of them, however slow the machine is.
    monkeypatch.setattr("diffuzz.searching.keeping._Asking._most", lambda asking: 2**17)
    monkeypatch.setattr("diffuzz.searching.keeping._MOST_SMALLER", 600.0)
    (report,) = kept(name, 200, name.partition("/")[0])
    finding, wanted = report.findings[0], THRESHOLDS[name]
    assert {dim: finding.sizes[dim] for dim in wanted} == wanted
    assert {dim: finding.below[dim] for dim in wanted} == {dim: size - 1 for dim, size in wanted.items()}


@pytest.mark.quality
@pytest.mark.parametrize("name", ["control/padded", "control/with-scratch"])
def test_what_keeps_all_is_not_flagged(name: str) -> None:
    """Whatever it does inside."""
    assert {report.status for report in kept(name, 3)} == {"kept"}


def test_there_are_many() -> None:
    """At least 60 that lose a property, of all eight, and controls; each has words of its own."""
    every = mutants.mutants()
    lost = [one for one in every if one.loses is not None]
    assert len(lost) >= 60
    assert {one.loses for one in lost} == {
        "repeat", "batch", "split", "threads", "layout", "bounds", "pure", "scale",
    }  # fmt: skip
    assert len(every) - len(lost) >= 15
    assert len({one.wrong for one in lost}) == len(lost)
    with pytest.raises(ValueError, match="no mutant or control has this name"):
        scoring.named(["nobody"])
