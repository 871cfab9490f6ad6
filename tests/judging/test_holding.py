"""Held weights: every case of a search has those of the model, and only the rest is searched."""

from __future__ import annotations

import numpy as np
import pytest

from diffuzz import Judge, formats, targets
from diffuzz.cases import draws
from diffuzz.judging import holding
from diffuzz.judging.problem import Problem, open_problem
from diffuzz.judging.question import QuestionError
from diffuzz.models.rows import Rows
from diffuzz.searching import moves
from diffuzz.searching.own_strategies import cases

RNG = np.random.default_rng(0)


def rows(format: str = "q4_0", count: int = 6, columns: int = 128) -> Rows:
    """Rows 10, 12, ... of a tensor, different ones."""
    quantise = formats.get(format).quantize
    assert quantise is not None
    values = np.random.default_rng(1).standard_normal((count * columns // formats.get(format).block_size,
                                                       formats.get(format).block_size))  # fmt: skip
    blocks = quantise(values.astype(np.float32)).reshape(count, -1)
    return Rows("m.gguf:t", "t", format, columns, range(10, 10 + 2 * count, 2), blocks)


def held(given: dict[str, object] | None = None, weights: Rows | None = None, target: str = "matvec") -> Problem:
    weights = weights or rows()
    found = targets.get(target)
    return holding.held(open_problem(found, holding.given_with(found, given, None, weights)), weights)


def test_format_and_length_follow_from_the_rows() -> None:
    """A case has one whole row, or a piece of n weights."""
    problem = held()
    assert ("q4_0", 128) == (problem.params["format"], problem.params["n"])
    assert (6, 1, 72) == problem.space["weights"].among.arrays.shape
    pieces = held({"n": "32"}).space["weights"].among.arrays
    assert (24, 1, 18) == pieces.shape
    np.testing.assert_array_equal(rows().blocks.reshape(24, 18), pieces[:, 0])


def among(problem: Problem, batch: dict[str, np.ndarray]) -> bool:
    choices = problem.space["weights"].among.arrays
    return all((choices == one).reshape(len(choices), -1).all(axis=1).any() for one in batch["weights"])


def test_whatever_makes_cases_keeps_to_them() -> None:
    """Draws, constructions, strategies and every move."""
    problem = held({"n": 64})
    batch = draws.structured(problem.space, RNG, 40)
    assert among(problem, batch)
    assert among(problem, draws.uniform(problem.space, RNG, 40))
    assert among(problem, draws.scattered(problem.space, RNG, 40))
    made = problem.starts(RNG, 40)
    assert made is not None
    assert among(problem, made)
    assert problem.space.admissible(made).all()
    other = draws.structured(problem.space, RNG, 40)
    functions = moves.moves(problem.space)
    assert {"weights", "x"} == {spec.name for spec, _ in functions}
    for spec, function in functions:
        moves.apply(function, moves.Move(spec, problem.space, batch, lambda name: other[name].copy(), RNG))
        assert among(problem, batch)
    assert 1 < len(np.unique(batch["weights"], axis=0))
    from hypothesis import given, settings

    @settings(max_examples=10, database=None)
    @given(cases(problem.space))
    def drawn(case: object) -> None:
        assert among(problem, {"weights": case["weights"][None]})  # type: ignore[index]

    drawn()


def test_one_choice_has_no_moves() -> None:
    """The weights stay, and x moves."""
    problem = held(None, rows(count=1))
    assert {"x"} == {spec.name for spec, _ in moves.moves(problem.space)}


@pytest.mark.parametrize("format", ["q4_0", "q4_1", "q4_K", "q6_K"])
def test_constructions_come_near_what_the_weights_allow(format: str) -> None:
    """All errors have the sign of their weight: half a step times the norm of the weights, of which blocks with a
    minimum have less than of their terms.
    """
    from diffuzz.kernels import fused

    weights = rows(format, columns=512)
    problem = held(None, weights)
    made = problem.starts(RNG, 200)
    assert made is not None
    code, constant = fused.split(format, made["weights"][:, 0])
    share = np.abs(code + constant).sum(axis=1) / fused.terms(format, made["weights"][:, 0]).sum(axis=1)
    assert (problem.evaluate(made).value / share).max() > 0.85 / 254
    assert (problem.evaluate(made).value <= problem.bound.ceiling).all()  # type: ignore[union-attr]


def test_a_case_is_found_in_the_model() -> None:
    """The row of the tensor, and the columns of the piece."""
    problem = held({"n": 64})
    blocks = rows().blocks.reshape(6, 2, 36)
    assert "row 16, columns 64 to 127" == holding.place_of(problem, {"weights": blocks[3, 1][None]})


def test_a_judged_function_gets_all_rows_at_once() -> None:
    """One matrix, and its sizes are fixed."""
    asked, found = Judge(lambda w, x: np.zeros(len(w), np.float32)), targets.get("matvec")
    with open_problem(found, holding.given_with(found, None, asked, rows()), asked) as opened:
        problem = holding.held(opened, rows())
        assert (1, 6, 72) == problem.space["weights"].among.arrays.shape
        assert () == problem.space.free


def test_the_minimiser_leaves_weights_as_they_are() -> None:
    """And makes x simpler."""
    from diffuzz.cases.case import unstack
    from diffuzz.minimising.minimise import minimise

    problem = held(None, rows(columns=64))
    case = unstack(draws.structured(problem.space, RNG, 4), 3)
    made = minimise(problem, case, keep=0.5, seconds=0.5).case
    np.testing.assert_array_equal(case["weights"], made["weights"])
    assert len(np.unique(made["x"])) < len(np.unique(case["x"]))


@pytest.mark.parametrize(
    ("target", "given", "weights", "message"),
    [
        ("matvec", {"format": "q4_K"}, rows(), "they are q4_0, not format=q4_K"),
        ("matvec", {"n": 96}, rows(), "n=96: rows of 128 cannot be cut"),
        ("block-scale", {"n": 256}, rows(columns=256), "they are q4_0, where q4_K is needed"),
        ("softmax", {}, rows(), "target softmax has no quantised weights"),
    ],
)
def test_what_does_not_fit_is_one_line(target: str, given: dict[str, object], weights: Rows, message: str) -> None:
    """It names the weights and what is needed."""
    with pytest.raises(QuestionError, match=f"weights m.gguf:t: .*{message}") as caught:
        held(given, weights, target)
    assert "\n" not in str(caught.value)


def test_weights_that_are_no_numbers_are_refused() -> None:
    """The row is named."""
    bad = rows()
    bad.blocks[4, :2] = np.array([np.nan], "<f2").view(np.uint8)
    with pytest.raises(QuestionError, match="d of block 16 is nan"):
        held(None, bad)
