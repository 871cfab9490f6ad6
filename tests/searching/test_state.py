"""What a search leaves to the next one: it goes on there, believes nothing of it, and reads any bytes without harm."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffuzz import Judge, search, targets
from diffuzz.cases.case import Case
from diffuzz.searching.state import Kept, State, StateError


def _state() -> State:
    cases = {"x": np.arange(6, dtype=np.float32).reshape(2, 3)}
    return State(
        Case({"x": np.array([1.0, 2.0], np.float32)}),
        1.5,
        {"n": frozenset({1, 7})},
        {"elites": Kept(cases), "evolution": Kept(cases, np.array([1.5, 1.0]), {"credit": np.array([0.5, 2.0])})},
        3,
    )


def test_a_state_comes_back() -> None:
    """To the bit, all of it."""
    before, after = _state(), State.loads(_state().dumps())
    assert after.searches == 3
    assert after.dealt == before.dealt
    assert (after.best, after.value) == (before.best, 1.5)
    assert after.of("elites").values is None
    assert list(after.of("evolution").values) == [1.5, 1.0]  # type: ignore[arg-type]
    assert after.of("elites").cases["x"].tobytes() == before.of("elites").cases["x"].tobytes()
    assert list(after.of("evolution").notes["credit"]) == [0.5, 2.0]
    assert not after.of("nobody").cases


@given(st.binary(max_size=200), st.integers(0, 5000), st.integers(0, 255))
def test_any_bytes_are_a_state_or_an_error(noise: bytes, place: int, byte: int) -> None:
    """Random bytes, and a state with one byte changed or its end cut off."""
    good = _state().dumps()
    place %= len(good)
    for data in (noise, good[:place], good[:place] + bytes([byte]) + good[place + 1 :]):
        with contextlib.suppress(StateError):
            assert isinstance(State.loads(data), State)


def test_a_search_goes_on() -> None:
    """The second search begins with the best case of the first, and has at least its value."""
    target = targets.get("swiglu")
    first = search(target, {"n": 8, "max_abs": 3.0}, seconds=0.3, seed=1, engine="evolution")
    second = search(target, {"n": 8, "max_abs": 3.0}, seconds=0.3, seed=2, engine="evolution", state=first.state)
    assert second.kept == pytest.approx(first.largest, rel=1e-9)
    assert second.largest >= first.largest
    assert second.history[0].engine == "kept"
    assert second.state.searches == 2
    again = search(target, {"n": 8, "max_abs": 3.0}, seconds=0.3, seed=2, engine="evolution", state=first.state)
    if {second.stopped, again.stopped} <= {"work", "bound reached"}:
        assert (again.value, again.case) == (second.value, second.case)


def test_what_does_not_fit_is_left_out() -> None:
    """A state of another space, with cases outside of this one, is no harm, and no help."""
    other = search(targets.get("softmax"), {"n": 9}, seconds=0.2, seed=1, engine="random").state
    result = search(targets.get("softmax"), {"n": 5}, seconds=0.2, seed=1, engine="random", state=other)
    assert result.kept is None
    assert result.history[0].engine != "kept"
    cases = {"z": np.full((1, 5), np.nan, np.float32), "z_direction": np.ones((1, 5), np.float32)}
    outside = State(Case({"z": cases["z"][0]}), 1.0, {}, {"elites": Kept(cases), "evolution": Kept(cases)}, 1)
    assert search(targets.get("softmax"), {"n": 5}, seconds=0.2, seed=1, engine="random", state=outside).value > 0


def test_sizes_are_dealt_once() -> None:
    """A search of other shapes goes on with the sizes that the one before has not looked at."""
    target = targets.get("softmax")

    def right(z: np.ndarray) -> np.ndarray:
        wide = np.exp(z.astype(np.float64) - z.max(axis=1, keepdims=True))
        return (wide / wide.sum(axis=1, keepdims=True)).astype(np.float32)

    def dealt(state: State) -> set[tuple[str, int]]:
        return {(name, size) for name, sizes in state.dealt.items() for size in sizes}

    first = search(target, {}, Judge(right), seconds=1, seed=1, engine="shapes", minimise_best=False)
    second = search(
        target, {}, Judge(right), seconds=1, seed=1, engine="shapes", minimise_best=False, state=first.state
    )
    before, after = dealt(first.state), dealt(second.state)
    assert before
    # With the same seed the same sizes would have come again; but the machine may have been busy.
    assert before <= after
    assert len(after) > len(before) or second.evaluations < first.evaluations / 2


def test_a_wrong_function_is_wrong_at_once() -> None:
    """Its witness is the first thing that the next search looks at."""

    def wrong(z: np.ndarray) -> np.ndarray:
        out = np.exp(z - z.max(axis=1, keepdims=True))
        out = out / out.sum(axis=1, keepdims=True)
        return np.where(z.shape[1] > 40, 0 * out, out).astype(np.float32)

    target = targets.get("softmax")
    first = search(target, {}, Judge(wrong), seconds=2, seed=1)
    second = search(target, {}, Judge(wrong), seconds=2, seed=2, state=first.state)
    assert first.stopped == second.stopped == "witness"
    assert second.evaluations == 1
    assert second.case == first.case
