"""Search: arguments, verdicts, what is kept when it ends early, and that it can be repeated."""

from __future__ import annotations

import importlib
import math
import shlex
import signal
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import attrs
import numpy as np
import pytest

from diffuzz import targets
from diffuzz.cli.main import commands
from diffuzz.cli.search import command
from diffuzz.cli.search_json import search_json
from diffuzz.cli.search_text import search_text
from diffuzz.corpus import files
from diffuzz.corpus.entry import Counterexample, NeedsCandidateError, dumps
from diffuzz.corpus.record import command_of, minimised, record
from diffuzz.corpus.replay import replay_file
from diffuzz.judging.examined import hung
from diffuzz.judging.opening import CandidateError
from diffuzz.judging.problem import evaluate, open_problem
from diffuzz.judging.question import Compare, Judge, Question
from diffuzz.judging.verdict import Verdict
from diffuzz.registry import UnknownNameError
from diffuzz.searching import engines
from diffuzz.searching.objective import Found, Objective
from diffuzz.searching.result import SearchResult
from diffuzz.searching.search import FIRST_ROWS, FIRST_STARTS, MOST_HANGS, OVERTIME, MissingDependencyError, search
from diffuzz.targets.parameter import ParameterError
from diffuzz.targets.target import Target
from diffuzz.telling import Message, Phase, listening

# Without a screen, so that nothing is compiled.
DOT = targets.get("dot-order")
SOFTMAX = targets.get("softmax")


@pytest.fixture(autouse=True)
def _little_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Searches end by work, long before the clock, however slow the machine."""
    monkeypatch.setattr(importlib.import_module("diffuzz.searching.search"), "WORK_PER_SECOND", 2**13)


def _quick(
    target: Target = DOT, given: dict[str, Any] | None = None, question: Question | None = None, **more: Any
) -> SearchResult:
    arguments: dict[str, Any] = {"engine": "random", "seconds": 20.0, "seed": 3}
    return search(target, {"n": 8} if given is None else given, question, **(arguments | more))


def _file(folder: Path, body: str) -> str:
    path = folder / "mine.py"
    path.write_text(f"import os, signal\nimport numpy as np\ncalls = []\ndef f(z):\n    calls.append(1)\n    {body}\n")
    return f"{path}:f"


RIGHT = "e = np.exp(z - z.max(1, keepdims=True)); return e / e.sum(1, keepdims=True)"
WRONG = "e = np.exp(z - z.max(1, keepdims=True)); return e / (e.sum(1, keepdims=True) + np.float32(1e-3))"


def test_what_a_search_gives() -> None:
    """A witness that is measured again to its value, a verdict that follows from it, and the effort."""
    result = _quick()
    assert result.case is not None
    assert result.value == evaluate(DOT, result.params, result.case).value > 0
    assert (result.engine, result.seed, result.budget_s, result.threshold) == ("random", 3, 20.0, 0.0)
    assert result.verdict is Verdict.CONFIRMED
    assert result.evaluations > 0
    assert result.bound is not None
    assert result.efficiency == result.value / result.bound.value
    assert result.value >= 0.999 * result.largest
    assert result.stopped == "work"


@pytest.mark.parametrize(("target", "given"), [("softmax", {"n": 2}), ("rmsnorm", {"n": 4})])
def test_with_a_screen(target: str, given: dict[str, Any]) -> None:
    """JAX screens, NumPy confirms: the value is the exact one."""
    result = search(targets.get(target), given, seconds=2000.0, seed=1)
    assert result.case is not None
    assert result.bound is not None
    assert 0.9 * result.bound.value < result.value <= result.bound.ceiling
    assert result.value == evaluate(result.target, result.params, result.case).value


def test_equal_seeds_give_equal_witnesses() -> None:
    """Bit for bit; another seed searches elsewhere."""
    first, again, other = (_quick(seed=seed) for seed in (5, 5, 6))
    assert {"work"} == {first.stopped, again.stopped, other.stopped}
    assert (first.case, first.value, first.evaluations) == (again.case, again.value, again.evaluations)
    assert [found.value for found in first.history] != [found.value for found in other.history]


def test_a_random_seed_is_told() -> None:
    """Without a seed one is drawn, so that the search can be repeated."""
    first, second = _quick(seed=None), _quick(seed=None)
    assert first.seed != second.seed
    assert 0 <= first.seed < 2**32


def test_verdicts() -> None:
    """A witness confirms, a bound falsifies, and between them nothing is resolved."""
    result = _quick()
    assert result.bound is not None
    between = (result.value + result.bound.value) / 2
    assert _quick(threshold=result.bound.ceiling).verdict is Verdict.FALSIFIED
    assert _quick(threshold=between).verdict is Verdict.UNRESOLVED


def test_every_improvement_is_reported() -> None:
    """``on_found`` sees the history as it is made, each value larger than the one before."""
    seen: list[Found] = []
    result = _quick(on_found=seen.append)
    assert list(result.history) == seen
    assert all(a.value < b.value for a, b in pairwise(seen))


@pytest.mark.parametrize(
    ("more", "error", "message"),
    [
        ({"given": {"m": 3}}, ParameterError, "has no parameter 'm'"),
        ({"given": {"n": -3}}, ParameterError, "out of range"),
        ({"engine": "annealing"}, UnknownNameError, "there is no engine 'annealing'"),
        ({"engine": "__init__"}, UnknownNameError, "there is no engine"),
        ({"seconds": 0.0}, ValueError, "seconds=0.0: a positive number"),
        ({"seconds": math.nan}, ValueError, "seconds=nan: a positive number"),
        ({"seed": -1}, ValueError, "seed=-1: an integer of at least 0"),
        ({"threshold": math.nan}, ValueError, "threshold=nan: a finite number"),
        ({"threshold": math.inf}, ValueError, "threshold=inf: a finite number"),
        ({"keep": 0.0}, ValueError, "keep=0.0: a share"),
        ({"keep": 1.5}, ValueError, "keep=1.5: a share"),
        ({"keep": math.nan}, ValueError, "keep=nan: a share"),
        ({"target": SOFTMAX, "given": {}, "question": Judge("missing.py:f")}, CandidateError, "there is no file"),
        ({"question": Judge(__file__ + ":_quick")}, CandidateError, "takes no candidate"),
    ],
)
def test_bad_arguments(more: dict[str, Any], error: type[Exception], message: str) -> None:
    """Refused before anything is searched, in one line that names the argument."""
    with pytest.raises(error, match=message) as raised:
        _quick(**({"on_found": lambda found: pytest.fail("searched")} | more))
    assert "\n" not in str(raised.value)


def test_nothing_found() -> None:
    """Without a value above zero there is no case, and nothing to keep."""
    result = _quick(targets.get("dequantize"), {})
    assert (result.case, result.value, result.largest, result.efficiency) == (None, 0.0, 0.0, None)
    assert result.verdict is Verdict.FALSIFIED
    with pytest.raises(ValueError, match="found no case"):
        record(result)


def test_a_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """Says which one, and how to get it; a missing module of ours or another's is not disguised."""
    for name in ("jax", "hypothesis"):
        _raising(monkeypatch, ModuleNotFoundError(f"No module named {name!r}", name=name))
        with pytest.raises(MissingDependencyError, match=f"pip install {name}"):
            _quick(engine="pbt")
    _raising(monkeypatch, ModuleNotFoundError("No module named 'other'", name="other"))
    with pytest.raises(ModuleNotFoundError, match="other"):
        _quick(engine="pbt")


def _raising(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def rounds(*arguments: Any) -> Any:
        raise error
        yield

    monkeypatch.setitem(engines.REGISTRY._found, "pbt", rounds)


def test_an_interrupt_keeps_the_best(tmp_path: Path) -> None:
    """Ctrl-C in the middle of a search ends it; what was found is minimised and judged as ever."""

    def interrupt(found: Found) -> None:
        if found.value > 1:
            signal.raise_signal(signal.SIGINT)

    result = _quick(seconds=1e3, on_found=interrupt)
    assert result.stopped == "interrupted"
    assert result.value > 1
    assert result.verdict is Verdict.CONFIRMED


def test_an_interrupt_while_minimising(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then the case is kept as it was found."""

    def interrupt(*arguments: Any, **more: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(importlib.import_module("diffuzz.searching.search"), "minimise", interrupt)
    result = _quick()
    assert (result.value, result.case) == (result.history[-1].value, result.history[-1].case)


def test_a_failure_of_minimising_loses_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where a simpler case cannot even be tried, the one that was found is reported, with why, and saved."""

    def fails(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("no such case")

    monkeypatch.setattr("diffuzz.searching.search.minimise", fails)
    result = search(targets.get("softmax"), {"n": 3}, seconds=1, seed=0)
    assert result.unminimised == "ZeroDivisionError: no such case"
    assert (result.case, result.value) == (result.history[-1].case, result.history[-1].value)
    entry = files.load(files.save(record(result), tmp_path))
    assert (entry.case, entry.value) == (result.case, result.value)
    words = ("--target", "softmax", "--param", "n=3", "--budget", "1s", "--seed", "0", "--no-save")
    assert command.main(words, standalone_mode=False) == 1
    assert "since minimising it failed: ZeroDivisionError: no such case.\n" in capsys.readouterr().out


def test_a_right_candidate(tmp_path: Path) -> None:
    """It is never flagged, and its largest share of the bound is kept."""
    result = _quick(SOFTMAX, {"n": 3}, Judge(_file(tmp_path, RIGHT)))
    assert result.verdict is Verdict.UNRESOLVED
    assert 0 < result.value < 1


def test_a_candidate_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Minimising a hang ends after a few; the seconds are all that it took, those of the first call included."""
    module = importlib.import_module("diffuzz.searching.search")
    hangs = []
    made = module.failing_alike

    def counted(*arguments: Any) -> Any:
        evaluate = made(*arguments)

        def evaluate_alike(*batch: Any) -> Any:
            outcome = evaluate(*batch)
            hangs.append(outcome.failures is not None and bool(hung(outcome.failures).any()))
            return outcome

        return evaluate_alike

    monkeypatch.setattr(module, "failing_alike", counted)
    name = _file(tmp_path, f"while len(calls) == 1 or (z > 8).any(): pass\n    {RIGHT}")
    result = _quick(SOFTMAX, {"n": 3}, Judge(name, timeout=0.2))
    assert (result.value, result.failure) == (math.inf, "hung: no result after 0.2 s")
    assert result.seconds > 1.2
    assert 1 < sum(hangs) <= MOST_HANGS


def test_a_candidate_that_crashes_is_minimised_with_few_crashes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each starts a process, which is work that the elements of a case do not count: so they are counted."""
    module, crashes = importlib.import_module("diffuzz.searching.search"), []
    monkeypatch.setattr(module, "MOST_CRASHES", 5)
    monkeypatch.setattr(module, "ended", lambda codes: crashes.append(int((codes > 0).sum())) or codes > 0)
    result = _quick(SOFTMAX, {}, Judge(_file(tmp_path, f"if z.max() > 8: os.abort()\n    {RIGHT}")))
    assert (result.value, result.minimising_timed_out) == (math.inf, False)
    # The last batch may have several.
    assert 5 <= sum(crashes) < 5 + 8


def test_a_wrong_candidate(tmp_path: Path) -> None:
    """It is confirmed wrong, by an entry that replays."""
    name = _file(tmp_path, WRONG)
    result = _quick(SOFTMAX, {"n": 3}, Judge(name))
    assert result.verdict is Verdict.CONFIRMED
    assert (result.failure, result.passing) == (None, None)
    path = files.save(record(result), tmp_path / "corpus")
    assert replay_file(path, Judge(name)).status == "as recorded"


def test_a_candidate_that_fails_at_once(tmp_path: Path) -> None:
    """There is nothing to keep: an error."""
    with pytest.raises(CandidateError, match="raises RuntimeError: no GPU"):
        _quick(SOFTMAX, {"n": 3}, Judge(_file(tmp_path, "raise RuntimeError('no GPU')")))


@pytest.mark.parametrize(
    ("body", "failure"),
    [
        ("raise RuntimeError('too large')", "raised: RuntimeError: too large"),
        ("import ctypes; ctypes.string_at(0)", "crashed: SIGSEGV: File "),
        ("os.abort()", "crashed: SIGABRT: "),
        ("os._exit(0)", "crashed: ended with exit status 0"),
        ("return z[0]", "garbage: returns float32["),
        ("while True: pass", "hung: no result after "),
    ],
)
def test_a_candidate_that_fails_on_a_case(tmp_path: Path, body: str, failure: str) -> None:
    """It is wrong there: the value is inf, the entry says how, and replays in a fresh process."""
    name = _file(tmp_path, f"if z.max() > 8:\n        {body}\n    {RIGHT}")
    result = _quick(SOFTMAX, {"n": 3}, Judge(name, timeout=0.25))
    assert (result.value, result.verdict, result.passing) == (math.inf, Verdict.CONFIRMED, None)
    assert result.failure is not None
    assert result.failure.startswith(failure)
    assert result.case is not None
    case = result.problem.space.completed(result.case.arrays)
    assert case["z"].max() + case["shift"] > 8
    entry = record(result)
    assert entry.found["failure"] == result.failure
    path = files.save(entry, tmp_path / "corpus")
    assert replay_file(path, Judge(name, timeout=0.25)).status == "as recorded"


def test_a_bug_in_every_row_is_found_beside_one_in_batches(tmp_path: Path) -> None:
    """What only a batch of more rows than a case is given has does not hide what every row has."""
    file = tmp_path / "mine.py"
    file.write_text(
        "import numpy as np\n\n\ndef f(z):\n    e = np.exp(z - z.max(axis=1, keepdims=True))\n"
        "    y = e / e.sum(axis=1, keepdims=True) * np.float32(1.0001)\n    y[9:] *= 2\n    return y\n"
    )
    result = search(SOFTMAX, {}, Judge(f"{file}:f"), seconds=200, seed=0)
    assert (result.replays, result.company) == (True, None)
    assert 10 < result.value < 5000


def test_a_failure_that_does_not_come_again_is_no_witness(tmp_path: Path) -> None:
    """A function that fails from its fourth call on fails on no case: it is mentioned, and the search goes on."""
    name = _file(tmp_path, f"if len(calls) > 3: raise RuntimeError('no handles left')\n    {WRONG}")
    result = _quick(SOFTMAX, {"n": 3}, Judge(name))
    assert result.passing == "raised: RuntimeError: no handles left (mine.py, line 6)"
    assert (result.failure, result.verdict) == (None, Verdict.CONFIRMED)
    assert 1 < result.value < math.inf


def test_what_a_candidate_prints_is_not_output(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """It goes to a log: scripts read the stdout of the search."""
    _quick(SOFTMAX, {"n": 3}, Judge(_file(tmp_path, f"print('hello'); os.write(2, b'hello')\n    {RIGHT}")))
    assert capfd.readouterr() == ("", "")


def test_a_candidate_that_exits(tmp_path: Path) -> None:
    """It cannot choose the exit code of the search."""
    with pytest.raises(CandidateError, match="raises SystemExit: 0"):
        _quick(SOFTMAX, {"n": 3}, Judge(_file(tmp_path, "raise SystemExit(0)")))


@pytest.mark.parametrize(
    ("target", "given", "more"),
    [
        ("dot-order", {"n": 8}, {"seconds": 0.0123456, "threshold": 0.1 + 0.2}),
        ("matvec", {"format": "q5_K"}, {"engine": "random"}),
        ("block-scale", {"mins": False}, {}),
        ("rmsnorm", {"gain": True, "eps": 1e-5}, {"candidate": "my kernels.py:f"}),
    ],
)
def test_the_command_repeats_the_search(target: str, given: dict[str, Any], more: dict[str, Any]) -> None:
    """The command line of a result, parsed again, asks for the same search."""
    found = targets.get(target)
    # In this process there need be no such file.
    question = Judge(lambda x, eps: x, name=more["candidate"]) if "candidate" in more else None
    threshold = more.get("threshold")
    result = attrs.evolve(
        _quick(),
        problem=open_problem(found, given, question, threshold=threshold),
        engine="auto",
        budget_s=more.get("seconds", 10.0),
        default_threshold=threshold is None,
    )
    words = shlex.split(command_of(result))
    assert words[:4] == ["python", "-m", "diffuzz", "search"]
    # Below the group, whose settings the command takes over: click keeps the help option that it makes first.
    context = command.make_context("search", words[4:], parent=commands.make_context("diffuzz", words[3:]))
    parsed = context.params
    assert open_problem(found, dict(parsed["settings"]), question).params == result.params
    assert (target, "auto", 3) == (parsed["target_name"], parsed["engine"], parsed["seed"])
    assert result.budget_s == parsed["budget"]
    assert threshold == parsed["threshold"]
    assert more.get("candidate") == parsed["candidate"]


def test_minimised(make_entry: Callable[..., Counterexample]) -> None:
    """A simpler case of the same claim, with its own value; a candidate has to be named."""
    old = make_entry((9.5, 9.4375, -9.8125))
    new = minimised(old, keep=0.5)
    assert new.case != old.case
    assert new.value >= 0.5 * old.value
    assert new.value == evaluate(SOFTMAX, new.params, new.case).value
    assert (new.target, new.params, new.verdict) == (old.target, old.params, old.verdict)
    assert new.threshold == old.threshold
    with pytest.raises(NeedsCandidateError, match=r"give --candidate x\.py:f"):
        minimised(attrs.evolve(old, candidate="x.py:f"), keep=0.5)


def test_entries_have_the_environment() -> None:
    """An entry says how it was found and where."""
    entry = record(_quick())
    assert {"engine", "seed", "evaluations", "command"} <= set(entry.found)
    assert entry.environment["numpy"] == np.__version__


def test_the_first_witness_ends_a_search_that_judges(tmp_path: Path) -> None:
    """Of a function, of two kernels, unless the largest value is wanted; a claim of the target only on demand."""
    judge, few = Judge(_file(tmp_path, WRONG)), {"n": 3}
    for question in (judge, Compare("apr", "candidate", candidate=judge)):
        asked = _quick(SOFTMAX, few, question)
        assert (asked.verdict, asked.stopped, asked.first) == (Verdict.CONFIRMED, "witness", True)
        assert record(asked).found["stopped by"] == "witness"
        alias, largest = (_quick(SOFTMAX, few, question, **{more: True}) for more in ("first", "largest"))
        assert (alias.case, alias.stopped) == (asked.case, "witness")
        assert (largest.verdict, largest.stopped) == (Verdict.CONFIRMED, "work")
        assert asked.evaluations < largest.evaluations
        options = [{"--first", "--largest"} & set(shlex.split(command_of(each))) for each in (asked, alias, largest)]
        assert options == [set(), set(), {"--largest"}]
    claim, first = _quick(), _quick(first=True)
    assert (claim.stopped, first.stopped, first.verdict) == ("work", "witness", Verdict.CONFIRMED)
    assert ("--first" in command_of(claim), "--first" in command_of(first)) == (False, True)
    with pytest.raises(ValueError, match="first=True, largest=True: the first witness or the largest value"):
        _quick(first=True, largest=True)


@pytest.mark.parametrize("largest", [False, True])
def test_a_search_that_judges_keeps_to_its_budget(monkeypatch: pytest.MonkeyPatch, largest: bool) -> None:
    """However slow the function is, minimising ends two seconds after the budget, and the result says that time did.

    Time is told by the calls, each of which sleeps: the load of a machine makes them fewer, and never more. Those by
    which the result is seen again in the end are not counted, and neither is one that had begun when time was up.
    """
    calls, ended = 0, 0

    def slow(z: np.ndarray) -> np.ndarray:
        nonlocal calls
        calls += 1
        time.sleep(0.05)
        e = np.exp(z - z.max(1, keepdims=True))
        return np.asarray(e / (e.sum(1, keepdims=True) + np.float32(1e-3)))

    def listener(message: Message) -> None:
        nonlocal ended
        if isinstance(message, Phase) and message.name == "reproducing":
            ended = calls

    monkeypatch.setattr(importlib.import_module("diffuzz.searching.search"), "WORK_PER_SECOND", 2**24)
    with listening(listener):
        result = _quick(SOFTMAX, {}, Judge(slow), seconds=0.5, largest=largest)
    assert (result.verdict, result.minimising_timed_out) == (Verdict.CONFIRMED, True)
    assert 10 < ended <= (0.5 + OVERTIME) / 0.05 + 1


def _at_speed(monkeypatch: pytest.MonkeyPatch, searching: float, minimising: float) -> None:
    """Clocks that run at other speeds than the world's."""
    module = importlib.import_module("diffuzz.searching.search")
    monkeypatch.setattr(module, "Objective", partial(Objective, clock=lambda: searching * time.monotonic()))
    other = SimpleNamespace(monotonic=lambda: minimising * time.monotonic())
    monkeypatch.setattr(importlib.import_module("diffuzz.minimising.minimise"), "time", other)


@pytest.mark.parametrize("target", ["block-scale", "dot-order", "chain"])
def test_the_clock_changes_nothing_that_work_ends(monkeypatch: pytest.MonkeyPatch, target: str) -> None:
    """Two searches that end by work, and minimise by work, have equal entries, at whatever speed the clock runs."""
    monkeypatch.setattr(importlib.import_module("diffuzz.searching.search"), "MINIMISING", 0.02)
    entries = []
    for speed in (0.02, 1.0, 2.0):
        _at_speed(monkeypatch, speed, speed)
        monkeypatch.setattr(importlib.import_module("diffuzz.searching.search"), "PATIENCE", 2000.0)
        result = _quick(targets.get(target), {})
        assert (result.stopped, result.minimising_timed_out) == ("work", False)
        entries.append(dumps(record(result)))
    assert entries[0] == entries[1] == entries[2]


def test_it_is_said_when_the_clock_ended_minimising(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the last line, and in JSON: then another run may give another witness."""
    _at_speed(monkeypatch, 1.0, 1e6)
    result = _quick()
    assert (result.stopped, result.minimising_timed_out) == ("work", True)
    assert search_json(result, None)["minimising_timed_out"] is True
    last = search_text(result, None).splitlines()[-1]
    assert last.endswith(
        "the budget's work was done; time was up before the case was as simple as can be (another run may get further "
        "or less far)."
    )


@pytest.mark.parametrize("target", ["batch", "chain", "block-scale"])
def test_constructions_are_evaluated_before_anything_is_compiled(monkeypatch: pytest.MonkeyPatch, target: str) -> None:
    """So a search gets somewhere however long compiling takes: to 90 % of the bound in these targets."""

    def compile_screen(*arguments: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(importlib.import_module("diffuzz.searching.screen"), "compile_screen", compile_screen)
    monkeypatch.setattr(importlib.import_module("diffuzz.searching.search"), "WORK_PER_SECOND", 2**24)
    result = _quick(targets.get(target), {}, engine="auto", seed=0)
    assert result.stopped in ("interrupted", "bound reached")
    assert result.evaluations <= FIRST_ROWS + FIRST_STARTS
    assert result.efficiency is not None
    assert result.efficiency > 0.9


def test_the_best_case_of_a_right_function_is_minimised_on_demand(tmp_path: Path) -> None:
    """Without, it is the case that was found; a witness is minimised either way."""
    costs: list[float] = []
    for body, minimise_best in ((RIGHT, False), (RIGHT, True), (WRONG, False)):
        costs.clear()
        judge = Judge(_file(tmp_path, body))
        result = _quick(SOFTMAX, {"n": 3}, judge, minimise_best=minimise_best, on_smaller=costs.append)
        assert bool(costs) == (minimise_best or body == WRONG)
        if not costs:
            assert result.case == result.history[-1].case
