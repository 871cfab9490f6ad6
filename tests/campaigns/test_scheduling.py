"""Rounds: nobody starves, the budget is kept, and what pays comes first."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from diffuzz.campaigns.scheduling import LONGEST, Standing, allotted, gain

_STANDINGS = st.lists(
    st.builds(
        Standing,
        name=st.text("abcdef", min_size=1, max_size=4),
        slices=st.integers(1, 9),
        last=st.integers(0, 9),
        gain=st.floats(0, 10),
        valued=st.booleans(),
        reached=st.floats(0, 1),
        changed=st.booleans(),
    ),
    unique_by=lambda one: one.name,
    min_size=1,
    max_size=30,
)


@given(_STANDINGS, st.integers(0, 5), st.floats(0.5, 20), st.floats(0.1, 500))
def test_the_budget_is_kept(standings: list[Standing], number: int, first: float, left: float) -> None:
    """No round takes more than is left, and no slice more than its multiple of the first; the order does not matter."""
    found = allotted(standings, number, first, left)
    assert sum(found.values()) <= left + 1e-9
    assert all(0 < seconds <= LONGEST * first for seconds in found.values())
    assert set(found) <= {one.name for one in standings}
    assert allotted(standings[::-1], number, first, left) == found


def test_each_job_has_a_first_slice() -> None:
    """All of them the same, shorter ones if there is not enough for all; none where it is next to nothing."""
    jobs = [Standing(name) for name in "abcd"]
    assert allotted(jobs, 0, 5.0, 100.0) == dict.fromkeys("abcd", 5.0)
    assert allotted(jobs, 0, 5.0, 10.0) == dict.fromkeys("abcd", 2.5)
    assert allotted(jobs, 0, 5.0, 0.1) == {}


def test_what_pays_and_what_waits() -> None:
    """Half of the slices go to what gained most for its time, half to what has waited longest, the changed first."""
    jobs = [Standing(f"{number:02}", slices=1, last=0, valued=True, reached=number / 20) for number in range(12)]
    jobs += [
        Standing("gains", slices=1, last=5, gain=0.5, valued=True),
        Standing("gains more", slices=3, last=5, gain=2.0, valued=True),
        Standing("new build", slices=1, last=5, valued=True, changed=True),
        Standing("no value", slices=1, last=5),
    ]
    found = allotted(jobs, 3, 1.0, 100.0)
    assert list(found) == ["gains more", "gains", "new build", "no value"]
    # Each slice of a job is twice as long as the one before.
    assert list(found.values()) == [4.0, 1.0, 1.0, 1.0]
    assert list(allotted(jobs[:12], 3, 1.0, 100.0)) == ["00", "01", "02"]


@given(st.integers(2, 12))
def test_nobody_starves(count: int) -> None:
    """With one job that always gains, every other one still has its turn again and again."""
    last = dict.fromkeys(range(count), 0)
    for number in range(1, 12 * count):
        jobs = [Standing(f"{one:02}", 1, last[one], 1.0 if one == 0 else 0.0, True) for one in range(count)]
        for name in allotted(jobs, number, 1.0, 100.0):
            last[int(name)] = number
    if count > 4:
        assert min(last.values()) > 0


def test_gain() -> None:
    """A logarithm for each second; a first value is worth more than any growth, and what shrinks nothing."""
    assert gain(1.0, math.e, 2.0) == 0.5
    assert gain(2.0, 1.0, 1.0) == 0
    assert gain(0.0, 1e-9, 1.0) > gain(1.0, 1e9, 1.0)
    assert gain(1.0, math.inf, 1.0) > 0
