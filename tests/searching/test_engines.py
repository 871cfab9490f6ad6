"""Engines: what every one of them owes a search, and what is particular to some."""

from __future__ import annotations

import contextlib
import math
from collections import defaultdict
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest

from diffuzz import targets
from diffuzz.judging.problem import Problem, open_problem
from diffuzz.judging.question import Function, Judge
from diffuzz.kernels import exact
from diffuzz.registry import UnknownNameError
from diffuzz.searching import engines
from diffuzz.searching.engines import auto, shapes
from diffuzz.searching.objective import Budget, BudgetSpentError, Objective
from diffuzz.searching.screen import compile_screen
from diffuzz.searching.search import search

ALL = engines.names()


def objective_of(name: str, given: dict[str, Any], *, screened: bool, bounded: bool = True) -> Objective:
    problem = open_problem(targets.get(name), given)
    if not bounded:
        problem = attrs.evolve(problem, bound=None)
    objective = Objective(problem, Budget(math.inf))
    if screened:
        objective.use_screen(compile_screen(problem, objective.rows))
    return objective


def some_rounds(engine: str, objective: Objective, count: int, seed: int = 0) -> int:
    """Rounds that were made: ``count``, fewer if the engine had no more ideas or the search was over."""
    made = 0
    try:
        for _ in islice(engines.get(engine)(objective.for_engine(engine), np.random.default_rng(seed)), count):
            made += 1
    except BudgetSpentError:
        pass
    return made


def halved(x: np.ndarray, eps: float) -> np.ndarray:
    """RMSNorm that is right for vectors of eight and more elements, and forgets the last element of shorter ones."""
    used = x if x.shape[1] >= 8 else x[:, :-1]
    root = np.sqrt((used.astype(np.float64) ** 2).sum(1, keepdims=True) / x.shape[1] + eps)
    return np.asarray(x / root, np.float32)


def wrong_when_short(n: int) -> Problem:
    return judged(halved, {"candidate_n": n})


def judged(function: Function, given: dict[str, Any]) -> Problem:
    return open_problem(targets.get("rmsnorm"), given, Judge(function, name="f"))


def right(x: np.ndarray, eps: float) -> np.ndarray:
    return np.asarray(x / np.sqrt((x.astype(np.float64) ** 2).mean(1, keepdims=True) + eps), np.float32)


@pytest.mark.parametrize("engine", [name for name in ALL if name not in ("shapes", "prompts")])
@pytest.mark.parametrize(
    ("target", "given", "screened"), [("softmax", {"n": 8}, True), ("dot-order", {"n": 16}, False)], ids=str
)
def test_every_round_goes_through_the_objective(
    engine: str, target: str, given: dict[str, Any], screened: bool
) -> None:
    """Each round evaluates something, credited to its engine, and finds what is admissible; or there are no ideas."""
    objective = objective_of(target, given, screened=screened)
    before = 0
    for _ in range(3):
        made = some_rounds(engine, objective, 1)
        if not made:
            assert objective.stopped == "bound reached" or (engine in ("gradient", "device") and not screened)
            return
        assert objective.evaluations > before
        before = objective.evaluations
    assert objective.best is not None
    assert objective.best.engine in (*ALL, "starts")
    assert objective.space.admits(objective.best.case)


@pytest.mark.parametrize("engine", ["evolution", "gradient", "random", "auto", "pbt"])
def test_equal_seeds_give_equal_searches(engine: str) -> None:
    """Two runs with one seed have the same history to the bit, pipelined screen and all; another seed has another."""
    histories = []
    for seed in (5, 5, 6):
        objective = objective_of("rmsnorm", {"n": 12, "gain": True}, screened=True)
        some_rounds(engine, objective, 6, seed)
        histories.append([(found.value, found.case.digest, found.evaluations) for found in objective.history])
    assert histories[0] == histories[1] != histories[2]


def test_evolution_improves_on_its_first_population() -> None:
    """Selection is worth something: later generations beat the best of the first by far, without constructions."""
    objective = Objective(open_problem(targets.get("dot-order"), {"n": 64}).without_starts(), Budget(math.inf))
    some_rounds("evolution", objective, 1)
    assert objective.best is not None
    first = objective.best.value
    some_rounds("evolution", objective, 60)
    assert objective.best.value > 1.5 * first


def test_evolution_uses_what_is_known_at_the_time() -> None:
    """With a screen one brood is always on its way; without, every brood is learnt from before the next is made."""
    for screened, waiting in ((True, 1), (False, 0)):
        objective = objective_of("rmsnorm", {"n": 8, "perturbation": "normwise"}, screened=screened, bounded=False)
        some_rounds("evolution", objective, 4)
        assert len(objective._progress.running) == waiting


def test_shapes_finds_what_only_short_vectors_show() -> None:
    """A kernel that is wrong for fewer than eight elements is caught at a length that the full shape never has."""
    objective = Objective(wrong_when_short(64), Budget(math.inf))
    some_rounds("evolution", objective, 5)
    assert objective.best is None or objective.best.value < 1
    some_rounds("shapes", objective, 20)
    assert objective.best is not None
    assert objective.best.value > 1
    assert objective.best.case["x"].shape[0] < 8


def test_shapes_is_a_part_of_auto() -> None:
    """The default search looks at short vectors too, soon."""
    objective = Objective(wrong_when_short(64), Budget(math.inf))
    some_rounds("auto", objective, 40)
    assert objective.best is not None
    assert objective.best.engine == "shapes"


@pytest.mark.parametrize("engine", ["auto", "shapes"])
def test_a_kernel_that_needs_whole_vectors_is_not_flagged(engine: str) -> None:
    """With tail=false every length is a multiple of eight, in every engine."""
    lengths = set()

    def whole(x: np.ndarray, eps: float) -> np.ndarray:
        lengths.add(x.shape[1])
        assert x.shape[1] % 8 == 0
        return right(x, eps)

    objective = Objective(judged(whole, {"candidate_n": 128, "tail": False}), Budget(math.inf))
    some_rounds(engine, objective, 30)
    assert objective.best is not None
    assert objective.best.value < 1
    assert {8, 128} <= lengths
    assert len(lengths) > 12


@pytest.mark.slow
def test_shapes_leaves_no_small_length_out_for_long() -> None:
    """A deck is dealt: after three times as many batches as there are small lengths each of them had its turn."""
    lengths = set()

    def seen(x: np.ndarray, eps: float) -> np.ndarray:
        lengths.add(x.shape[1])
        return right(x, eps)

    objective = Objective(judged(seen, {"candidate_n": 300}), Budget(math.inf))
    some_rounds("shapes", objective, 3 * shapes.SMALL // shapes.SHAPES_PER_ROUND)
    assert set(range(1, shapes.SMALL + 1)) <= lengths


def test_shapes_begins_with_the_smallest() -> None:
    """Every length up to SMALLEST has its turn in the first part of the deck."""
    lengths: list[int] = []

    def seen(x: np.ndarray, eps: float) -> np.ndarray:
        lengths.append(x.shape[1])
        return right(x, eps)

    some_rounds("shapes", Objective(judged(seen, {"candidate_n": 300, "fix:b": 4}), Budget(math.inf)), 20)
    assert set(range(1, shapes.SMALLEST + 1)) <= set(lengths)


def test_shapes_shows_the_end_of_every_row() -> None:
    """A square that is left out at one length only is seen the first time that this length has its turn."""
    for wanted in (768, 1536, 4096):
        turns = []

        def short(x: np.ndarray, eps: float, wanted: int = wanted, turns: list[int] = turns) -> np.ndarray:
            used = x[:, :-1] if x.shape[1] == wanted else x
            turns.append(x.shape[1])
            return (
                right(used, eps)
                if used is x
                else np.asarray(
                    x / np.sqrt((used.astype(np.float64) ** 2).sum(1, keepdims=True) / wanted + eps), np.float32
                )
            )

        problem = judged(short, {"candidate_n": 8192, "fix:b": 4})
        objective = Objective(problem, Budget(math.inf))
        space = objective.space.resized({"n": wanted})
        batch = shapes._ended(objective, space, np.random.default_rng(0))
        assert objective.evaluate(batch)[0] > 1


def test_shapes_has_constructions_of_every_size() -> None:
    """A block that is left out at one length shows where no other terms hide it, and such cases have any length."""
    problem = open_problem(targets.get("matvec"), {"format": "q8_0"}, Judge(lambda weights, x: x[: len(weights)]))
    made = problem.starts(np.random.default_rng(0), 3, {"m": 7, "k": 11008})
    assert made is not None
    assert {"weights": (3, 7, 344 * 34), "x": (3, 11008)} == {name: array.shape for name, array in made.items()}
    narrowed = open_problem(
        targets.get("matvec"), {"format": "q8_0", "multiple:k": 64}, Judge(lambda weights, x: x[: len(weights)])
    )
    assert narrowed.starts(np.random.default_rng(0), 3, {"m": 7, "k": 11008}) is not None


def test_shapes_looks_beyond_a_counter_of_16_bits_more_than_once() -> None:
    """Only the last row of the largest batch is beyond it: there are several such batches, of rows with elements that
    depend on each other.
    """
    seen: list[int] = []

    def soft_max(z: np.ndarray) -> np.ndarray:
        seen.extend([z.shape[1]] * (len(z) == 2**16 + 1))
        return exact.soft_max(z).astype(np.float32)

    problem = open_problem(targets.get("softmax"), {"candidate_n": 2}, Judge(soft_max, name="f"))
    some_rounds("shapes", Objective(problem, Budget(math.inf)), 40)
    assert len(seen) >= 1 + len(shapes.AGAIN)
    assert max(seen) > 1


@pytest.fixture
def spent(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Work by the engine that it is credited to, from now on."""
    spent: dict[str, float] = defaultdict(float)
    charge = Objective.charge

    def charged(self: Objective, work: float, evaluations: int = 0) -> None:
        spent[self.engine] += work
        charge(self, work, evaluations)

    monkeypatch.setattr(Objective, "charge", charged)
    return spent


def test_an_engine_of_a_file_is_a_part_of_auto(spent: dict[str, float], tmp_path: Path) -> None:
    """It has its turns, what it finds is credited to it, and one that has no more ideas is asked no more."""
    found, ended = tmp_path / "constant.py", tmp_path / "ended.py"
    found.write_text(
        "import numpy as np\n\n\ndef rounds(objective, rng):\n    while True:\n"
        "        tensors = objective.space.tensors\n"
        "        objective.evaluate({s.name: np.ones((2, *s.array_shape()), s.dtype) for s in tensors})\n"
        "        yield\n"
    )
    ended.write_text("def rounds(objective, rng):\n    return iter(())\n")
    assert (engines.load(str(found)), engines.load(str(ended))) == ("constant", "ended")
    objective = objective_of("dot-order", {"n": 16}, screened=False)
    assert some_rounds("auto", objective, 40) == 40
    assert spent["constant"] > 0
    assert "ended" not in spent
    # What these work with is not there: gradients, and a device.
    assert set(auto.ORDER) - {"gradient", "device"} <= set(spent)


def test_an_engine_that_evaluates_nothing_is_ended_by_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """The budget holds for it, too."""

    def rounds(objective: Objective, rng: np.random.Generator) -> Iterator[None]:
        while True:
            yield

    monkeypatch.setitem(engines.REGISTRY._found, "idle", rounds)
    result = search(targets.get("dot-order"), {"n": 16}, engine="idle", seconds=0.1, seed=0)
    assert result.stopped == "clock"


@pytest.mark.slow
def test_fresh_batches_have_a_share_of_a_search_for_a_wrong_function(
    monkeypatch: pytest.MonkeyPatch, spent: dict[str, float]
) -> None:
    """However much noise a right function offers to climb, other shapes and fresh batches get their parts of the work;
    a search of the target's own question is another.
    """
    objective = Objective(judged(right, {"range:n": "1:16", "fix:b": 1}), Budget(math.inf))
    assert some_rounds("auto", objective, 200) == 200
    assert sum(spent.values()) == objective.work
    for name, share in auto.FRESH.items():
        assert abs(spent[name] / objective.work - share) < 0.03
    assert spent["evolution"] > 0.1 * objective.work
    spent.clear()
    some_rounds("auto", objective_of("dot-order", {"n": 16}, screened=False), 10)
    assert "evolution" in spent
    assert "sampling" not in spent


def test_few_shapes_where_each_is_compiled() -> None:
    """What a shape takes to compile counts as work, so that the usual shape gets its part of the time, too."""
    lengths: list[int] = []
    now = 0.0

    def seen(x: np.ndarray, eps: float) -> np.ndarray:
        nonlocal now
        # Half a second for each new shape.
        now += 0.5 * (x.shape[1] not in lengths)
        lengths.append(x.shape[1])
        return right(x, eps)

    problem = attrs.evolve(judged(seen, {"fix:b": 8}), compiles=True)
    objective = Objective(problem, Budget(10.0), clock=lambda: now)
    with contextlib.suppress(BudgetSpentError):
        for _ in engines.started("auto", objective, np.random.default_rng(0)):
            now += 1e-2
    assert objective.stopped == "clock"
    assert 5 < len(set(lengths)) <= 21
    assert lengths.count(1025) > len(lengths) / 4


@pytest.mark.slow
def test_a_narrow_window_is_found() -> None:
    """A function that is wrong in a window of one part in 10^4 of a range that spans five decades."""
    target = targets.get("swiglu")

    def seam(gate: np.ndarray, up: np.ndarray) -> np.ndarray:
        y = exact.swiglu(gate, up).astype(np.float32)
        inside = (gate > 5.0) & (gate < 5.001)
        return np.where(inside, y * np.float32(1.001), y)

    objective = Objective(open_problem(target, {}, Judge(seam, name="seam")), Budget(math.inf))
    some_rounds("auto", objective, 100)
    assert objective.best is not None
    assert objective.best.value > 1


@pytest.mark.parametrize(
    ("target", "given", "screened"), [("softmax", {"n": 8}, True), ("dequantize", {}, False)], ids=str
)
def test_shapes_has_nothing_to_do_with_one_shape_or_a_screen(
    target: str, given: dict[str, Any], screened: bool
) -> None:
    """It ends at once, without an evaluation."""
    objective = objective_of(target, given, screened=screened)
    assert some_rounds("shapes", objective, 1) == 0
    assert objective.evaluations == 0


def test_an_unknown_engine_is_one_line() -> None:
    """The message lists what there is."""
    with pytest.raises(UnknownNameError, match=r"there is no engine 'x' \(engines: auto, .*shapes\)"):
        engines.get("x")
