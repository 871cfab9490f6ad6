"""Witness sizes beside those of ddmin and Hypothesis: what each way may do, what is counted, what is printed."""

from __future__ import annotations

import json
from collections.abc import Callable

import attrs
import numpy as np
import pytest
from made_up import problem_of

from diffuzz import targets
from diffuzz.cases.case import Case
from diffuzz.cases.space import Dim, Space, TensorSpec
from diffuzz.cli import main
from diffuzz.cli.bench_witnesses import witnesses_summary, witnesses_text
from diffuzz.judging.problem import Problem
from diffuzz.minimising import simplicity
from diffuzz.minimising.simplicity import Size
from diffuzz.searching.objective import Found
from diffuzz.studies.witnesses import comparison, shrinking
from diffuzz.studies.witnesses.comparison import Referee, Row, Table, compare, ddmin

COMMAND = ("bench", "witnesses", "--target", "quantize", "--budget", "0.3s", "--minimising", "0.3s")


def vector(n: int, low: float = -16.0, high: float = 16.0) -> TensorSpec:
    return TensorSpec("x", kind="activations", shape=(Dim("n", n, fixed=True),), low=low, high=high)


def referee_of(
    problem: Problem, case: Case, value: float = 1.0, *, threshold: float = 0.0, seconds: float = 60.0
) -> Referee:
    found = Found(case, value, 0.0, "", 1, 0.0)
    return Referee(attrs.evolve(problem, threshold=threshold), found, keep=0.9, seconds=seconds)


@pytest.mark.parametrize("needed", [[], [3], [0, 63], [5, 6, 7, 40], list(range(0, 64, 2)), list(range(64))])
def test_ddmin_finds_what_is_needed(needed: list[int]) -> None:
    """Where a fixed set of elements makes the failure, it is found, and no more."""
    tests = 0

    def fails(items: np.ndarray) -> bool:
        nonlocal tests
        tests += 1
        return set(needed) <= set(items.tolist())

    assert needed == ddmin(np.arange(64), fails).tolist()
    assert tests <= 64**2 + 3 * 64


def test_ddmin_is_1_minimal() -> None:
    """Where many sets fail, none of the elements that are left can be left out alone."""

    def fails(items: np.ndarray) -> bool:
        return int(items.sum()) % 7 == 3 and len(items) > 2

    items = ddmin(np.arange(20)[1:] + 1, lambda items: fails(items) or len(items) == 19)
    assert fails(items)
    assert not any(fails(np.delete(items, i)) for i in range(len(items)))


@pytest.mark.parametrize("way", [comparison._ddmin, shrinking.shrink])
def test_a_peer_minimises(way: Callable[..., None]) -> None:
    """Of a vector in which one element counts, all others become 0; of blocks, the codes that do not."""
    problem = problem_of(lambda a: 1.0 * (a["x"][:, 17] >= 2), vector(40))
    case = Case({"x": np.linspace(1.1, 4.7, 40, dtype=np.float32)})
    referee = referee_of(problem, case)
    way(problem.space, case, referee)
    assert [17] == np.flatnonzero(referee.best["x"]).tolist()
    assert referee.best["x"][17] >= 2
    spec = TensorSpec("w", kind="blocks", shape=(Dim("k", 32, fixed=True),), format="q8_0")
    problem = problem_of(lambda a: 1.0 * (a["w"][:, 2 + 9] == 77), spec)
    raw = np.arange(34, dtype=np.uint8)
    raw[2 + 9], raw[:2] = 77, np.array([0.5], np.float16).view(np.uint8)
    case = Case({"w": raw})
    referee = referee_of(problem, case)
    way(problem.space, case, referee)
    assert [2 + 9] == np.flatnonzero(referee.best["w"]).tolist()


@pytest.mark.parametrize("way", [comparison._ddmin, shrinking.shrink])
def test_a_peer_stays_in_the_space(way: Callable[..., None]) -> None:
    """Where 0 is no admissible number, nothing becomes 0."""
    gain = TensorSpec("gain", kind="gain", shape=(Dim("n", 6, fixed=True),), low=0.01, high=10)
    problem = problem_of(lambda a: np.ones(len(a["gain"])), gain)
    case = Case({"gain": np.linspace(0.3, 3.3, 6, dtype=np.float32)})
    referee = referee_of(problem, case)
    way(problem.space, case, referee)
    assert problem.space.admits(referee.best)
    assert [1.0] * 6 == referee.best["gain"].tolist()


def test_a_shrinker_that_cannot_begin_says_so() -> None:
    """More than 8 KiB of floats are beyond Hypothesis: one line, and the case stays as it is."""
    problem = problem_of(lambda a: np.ones(len(a["x"])), vector(1100))
    case = Case({"x": np.full(1100, 1.1, np.float32)})
    with pytest.raises(shrinking.TooLargeError, match=r"^1,100 numbers do not fit"):
        shrinking.shrink(problem.space, case, referee_of(problem, case))


def test_what_a_referee_demands() -> None:
    """The share of the value, the verdict, little noise, a place in the space; the last good case is the best."""
    problem = problem_of(lambda a: a["x"][:, 0].astype(float), vector(2))
    cases = {x: Case({"x": np.array([x, 1], np.float32)}) for x in (1.0, 0.95, 0.875, 17.0)}
    referee = referee_of(problem, cases[1.0])
    assert [True, False, False] == [referee(cases[x]) for x in (0.95, 0.875, 17.0)]
    assert referee.best == cases[0.95]
    assert referee.evaluations == 2
    assert not referee_of(problem, cases[1.0], threshold=0.97)(cases[0.95])
    assert referee_of(problem, cases[1.0], threshold=1.5)(cases[0.95])
    noisy = problem_of(lambda a: a["x"][:, 0].astype(float), vector(2), noise=0.02)
    assert not referee_of(noisy, cases[1.0])(cases[0.95])
    with pytest.raises(comparison._OverError):
        referee_of(problem, cases[1.0], seconds=-1.0)(cases[0.95])


def test_infinite_stays_infinite() -> None:
    """An overflow counts only as an overflow."""
    problem = problem_of(lambda a: np.where(a["x"][:, 0] > 1, np.inf, 5.0), vector(1))
    referee = referee_of(problem, Case({"x": np.array([2], np.float32)}), value=np.inf)
    assert [True, False] == [referee(Case({"x": np.array([x], np.float32)})) for x in (1.5, 0.5)]


def test_size() -> None:
    """Elements beside the commonest, their significant digits, runs, levels, characters."""
    space = Space((vector(8),))
    size = simplicity.size_of(space, Case({"x": np.array([0, 0, 3, 0, -0.75, 0, 1, 1], np.float32)}))
    assert (4, 2 + 2 + 1 + 1, 6, 4) == (size.elements, size.bits, size.runs, size.levels)
    assert 0 < size.characters < 200
    blocks = TensorSpec("w", kind="blocks", shape=(Dim("k", 32, fixed=True),), format="q8_0")
    raw = np.zeros(34, np.uint8)
    raw[5], raw[1] = 255, 0x3C
    size = simplicity.size_of(Space((blocks,)), Case({"w": raw}))
    assert (1, 1, 1 + 3, 1 + 2) == (size.elements, size.bits, size.runs, size.levels)


def test_significant_bits() -> None:
    """From the first binary digit that is 1 to the last."""
    numbers = np.array([0, 1, -2, 3, 0.5, 10, 1 + 2.0**-23, 2.0**-149, 127], np.float32)
    assert [0, 1, 1, 2, 1, 3, 24, 1, 7] == simplicity.significant_bits(numbers).tolist()


def test_all_ways_keep_the_value() -> None:
    """Each way keeps its share, and diffuzz leaves no more runs and levels than the others."""
    (table,) = compare([targets.get("dot-order")], {"n": 16}, seconds=0.5, minimising=1.0, keep=0.9, seed=1)
    assert ["found", "diffuzz", "ddmin", "hypothesis"] == [row.way for row in table.rows]
    assert table.value > 0
    assert all(row.share >= 0.9 and row.problem is None for row in table.rows)
    runs = {row.way: row.size.runs for row in table.rows}
    assert runs["diffuzz"] == min(runs.values())
    assert all(row.evaluations > 0 for row in table.rows)
    again = compare([targets.get("dot-order")], {"n": 16}, seconds=0.5, minimising=1.0, keep=0.9, seed=1)[0]
    assert table.rows[1].size == again.rows[1].size


def test_what_has_no_value_is_told() -> None:
    """Two implementations that agree everywhere leave nothing to minimise."""
    (table,) = compare([targets.get("dequantize")], seconds=0.1, minimising=0.1)
    assert (0.0, ()) == (table.value, table.rows)
    assert "dequantize: nothing above zero was found\n" == witnesses_text(table)
    assert "" == witnesses_summary([table])


def test_summary_counts_ties_and_leaves_out_what_did_not_run() -> None:
    """A size that another way has too is a fewest one; a way that could not begin has none."""
    rows = [
        Row("found", Size(9, 9, 9, 9, 99)),
        Row("diffuzz", Size(3, 8, 3, 3, 99)),
        Row("ddmin", Size(3, 7, 4, 3, 99), finished=False),
        Row("hypothesis", Size(1, 1, 1, 1, 99), problem="too large"),
    ]
    table = Table("t", targets.get("softmax").params({}), "measure", 2.0, tuple(rows))
    assert "of 1 targets, diffuzz has (or shares) the fewest elements on 1, bits on 0, runs on 1, levels on 1\n" == (
        witnesses_summary([table])
    )
    lines = witnesses_text(table).strip().splitlines()
    assert lines[-2].endswith("time is up")
    assert lines[-1].split() == ["hypothesis", "too", "large"]


def _printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as exited:
        main.main(list(arguments))
    out, err = capsys.readouterr()
    return int(exited.value.code or 0), out, err


def test_command(capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 0, a table with a row for each way, and the summary."""
    code, out, err = _printed(capsys, *COMMAND)
    assert (0, "") == (code, err)
    for text in ("quantize 0.00787", "elements", "bits", "diffuzz", "ddmin", "hypothesis", "of 1 targets"):
        assert text in out


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    """One strict JSON object with everything that was measured."""
    code, out, _ = _printed(capsys, *COMMAND, "--keep", "0.9", "--seed", "3", "--json")
    found = json.loads(out, parse_constant=lambda text: pytest.fail(f"{text} is not JSON"))
    assert (0, 0.3, 0.3, 0.9, 3) == (code, *(found[key] for key in ("budget_s", "minimising_s", "keep", "seed")))
    (table,) = found["targets"]
    assert {"target", "params", "measure", "value", "rows"} == set(table)
    assert {"elements", "bits", "runs", "levels", "characters"} == set(table["rows"][0]["size"])
    assert np.__version__ == found["environment"]["numpy"]


def test_exit_codes(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """2 for what there is not; 130 where nothing was measured; one line each."""
    for more in (["--target", "sofmax"], ["--param", "m=1"], ["--keep", "2"]):
        code, out, err = _printed(capsys, *COMMAND, *more)
        assert (2, "", 1) == (code, out, err.strip().count("\n") + 1)
    monkeypatch.setattr(comparison, "one", _interrupt)
    assert 130 == _printed(capsys, *COMMAND)[0]


def _interrupt(*_: object, **__: object) -> Table:
    raise KeyboardInterrupt
