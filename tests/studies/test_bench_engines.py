"""The comparison of engines: equal time for all, fractions of the bound, and words for what did not run."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from diffuzz import targets
from diffuzz.cases.space import Dim, Space, TensorSpec
from diffuzz.cli import main
from diffuzz.cli.bench_engines import engines_summary, engines_text
from diffuzz.judging.problem import open_problem
from diffuzz.registry import UnknownNameError
from diffuzz.searching.objective import Batch, Budget, BudgetSpentError, Objective, Values
from diffuzz.searching.search import MissingDependencyError
from diffuzz.studies.engines import peers, picture, property, tournament
from diffuzz.studies.engines.tournament import Run, Table
from diffuzz.targets.outcome import Bound

GAIN = TensorSpec("gain", kind="gain", shape=(Dim("n", 3),), low=0.01, high=10.0)


def _compared(*names: str, competitors: list[str], seconds: float = 0.3, seeds: int = 1) -> list[Table]:
    chosen = [targets.get(name) for name in names]
    return tournament.compare(chosen, {"n": 8}, seconds=seconds, seeds=range(seeds), competitors=competitors)


def _table(*runs: Run, bound: float | None = 10.0) -> Table:
    return Table("softmax", {}, "a measure", None if bound is None else Bound(bound, "because"), runs)


def _run(engine: str, *history: tuple[float, float], seed: int = 0) -> Run:
    value = history[-1][1] if history else 0.0
    return Run(engine, seed, value, evaluations=100, seconds=2.0, stopped="clock", history=history)


# Encoding


@pytest.mark.parametrize("logarithmic", [False, True])
@pytest.mark.parametrize("name", targets.names())
def test_every_point_is_a_case(name: str, logarithmic: bool) -> None:
    """Points of the box, its corners, and points outside it decode to admissible cases, all of the space's arrays."""
    target = targets.get(name)
    space = target.space(target.params())
    encoding = peers.Encoding(space, logarithmic)
    points = np.random.default_rng(0).uniform(-1.5, 1.5, (16, encoding.size))
    points[0], points[1], points[2] = 1.0, -1.0, 0.0
    batch = encoding.decode(points)
    assert {spec.name: (16, *spec.array_shape()) for spec in space.tensors} == {k: a.shape for k, a in batch.items()}
    assert {spec.name: spec.dtype for spec in space.tensors} == {k: str(a.dtype) for k, a in batch.items()}
    assert space.admissible(batch).all()


@pytest.mark.parametrize("logarithmic", [False, True])
def test_the_encoding_covers_the_range(logarithmic: bool) -> None:
    """Both ends of every range are the ends of the box, and numbers between them grow with the coordinate."""
    x = TensorSpec("x", kind="activations", shape=(Dim("n", 3),), low=-16.0, high=16.0)
    positions = TensorSpec("positions", kind="positions", shape=(Dim("n", 3),), low=0, high=4096)
    space = Space((x, GAIN, positions))
    u = np.linspace(-1, 1, 101)[:, None] * np.ones(9)
    batch = peers.Encoding(space, logarithmic).decode(u)
    for spec in space.tensors:
        column = batch[spec.name][:, 0]
        np.testing.assert_allclose([spec.low, spec.high], column[[0, -1]], rtol=1e-6)
        assert (np.diff(column) > 0).all()
    assert 0.1 < np.median(batch["gain"]) < 1
    assert (np.abs(batch["x"]) < 16 / 2**8).mean() > 0.4 or not logarithmic


@pytest.mark.parametrize("format", ["q4_K", "q6_K", "q5_1", "q8_0"])
def test_block_fields_reach_their_ends(format: str) -> None:
    """The corners of the box are blocks with every field at an end; coordinates do not share bits."""
    params = targets.get("matvec").params({"format": format, "n": 256})
    space = targets.get("matvec").space(params)
    encoding = peers.Encoding(Space(space.of_kind("blocks")), logarithmic=False)
    low, high = encoding.decode(np.array([-np.ones(encoding.size), np.ones(encoding.size)]))["weights"]
    assert not (low == high).all()
    one = np.zeros((encoding.size + 1, encoding.size))
    np.fill_diagonal(one[1:], 1.0)
    decoded = encoding.decode(one)["weights"].reshape(len(one), -1)
    assert len(one) == len(np.unique(decoded, axis=0))


# Peers


@pytest.mark.parametrize("name", list(peers.PEERS))
@pytest.mark.parametrize("target", ["softmax", "rmsnorm"])
def test_peers_search(name: str, target: str) -> None:
    """Each peer finds something within its time and keeps to it."""
    if package := peers.PEERS[name].package:
        pytest.importorskip(package, exc_type=ImportError)
    (table,) = _compared(target, competitors=[name], seconds=1.0)
    (run,) = table.runs
    if name == "nevergrad" and run.problem:
        pytest.skip(run.problem)
    assert (None, True) == (run.problem, run.value > 0)
    assert [value for _, value in run.history] == sorted(value for _, value in run.history)
    assert run.history[-1][1] == run.value
    assert run.stopped == "bound reached" or 1 <= run.seconds < 10


@pytest.mark.parametrize("name", ["uniform", "cma", "de"])
def test_peers_are_repeatable(name: str) -> None:
    """Equal seeds make equal evaluations, until the clock ends them."""
    pytest.importorskip(peers.PEERS[name].package or "numpy")
    problem = open_problem(targets.get("dot-order"), {"n": 8})

    def history() -> list[tuple[int, float]]:
        objective = Objective(problem, Budget(60, 2**24))
        with pytest.raises(BudgetSpentError):
            for _ in peers.PEERS[name].rounds(objective, np.random.default_rng(5)):
                pass
        return [(found.evaluations, found.value) for found in objective.history]

    assert history() == history()


def test_uniform_draws_as_ggml_does() -> None:
    """[-1, 1] where the range is wider, 10 for rmsnorm, positions below 512, blocks of quantised numbers."""
    rng = np.random.default_rng(0)
    for name, arrays, top in (("rope", "q", 1.0), ("rmsnorm", "x", 10.0), ("swiglu", "gate", 16.0)):
        space = targets.get(name).space(targets.get(name).params())
        drawn = peers._as_ggml_draws(space[arrays], rng, 64, peers.TOP.get(name, 1.0))
        assert 0.95 * top < np.abs(drawn).max() <= top
    space = targets.get("rope").space(targets.get("rope").params())
    assert peers._as_ggml_draws(space["positions"], rng, 999, 1.0).max() <= 511
    assert peers._as_ggml_draws(GAIN, rng, 9, 1.0).max() <= 1.0


@pytest.mark.parametrize("name", targets.names())
def test_hypothesis_draws_cases(name: str) -> None:
    """What the strategy draws is nearly always in the space."""
    objective = Objective(open_problem(targets.get(name)), Budget(60))
    admitted: list[bool] = []

    def screen(batch: Batch) -> Callable[[], Values]:
        admitted.append(bool(objective.space.admissible(batch)[0]))
        return lambda: (np.zeros(1), batch)

    objective.use_screen(screen)
    property.climb(objective, 1, 40)
    assert np.mean(admitted) > 0.9
    assert len(admitted) >= 30


# Runs


def test_compiling_is_on_nobodys_clock() -> None:
    """Time that JAX reports as its own is taken off, once, however it is nested."""
    monitoring: Any = pytest.importorskip("jax.monitoring")
    event = "/jax/core/compile/backend_compile_duration"
    with tournament._compile_seconds() as compiled:
        time.sleep(0.02)
        monitoring.record_event_duration_secs(event, 0.01)
        monitoring.record_event_duration_secs(event, 0.015)
        monitoring.record_event_duration_secs("/jax/other", 5.0)
        assert 0.015 == pytest.approx(compiled(), abs=1e-3)
    monitoring.record_event_duration_secs(event, 1.0)
    assert compiled() < 0.1


def test_engines_compile_off_the_clock() -> None:
    """The gradient engine compiles a program of its own; what remains is a search of the stated time."""
    (table,) = tournament.compare(
        [targets.get("rope")], {"head_dim": 32}, seconds=0.3, seeds=[0], competitors=["gradient", "random"]
    )
    gradient, random = table.runs
    assert gradient.compiling > random.compiling
    assert gradient.seconds < 2


def test_a_comparison() -> None:
    """A table for each target with a run for each competitor and seed; auto is level where it reaches the bound."""
    seen: list[Table] = []
    tables = tournament.compare(
        [targets.get("softmax"), targets.get("dot-order")],
        {"n": 8},
        seconds=0.3,
        seeds=[3, 4],
        competitors=["auto", "blind", "shapes", "uniform"],
        on_table=seen.append,
    )
    assert tables == seen
    assert ["softmax", "dot-order"] == [table.target for table in tables]
    softmax = tables[0]
    assert ("auto", "blind", "shapes", "uniform") == softmax.engines
    assert [3, 4] == [run.seed for run in softmax.of("auto")]
    assert softmax.level is True
    assert softmax.fraction(softmax.median("auto")) >= 0.99
    assert [tournament.NOTHING_TO_DO] * 2 == [run.problem for run in softmax.runs if run.engine == "shapes"]
    assert engines_summary(tables).startswith("auto is level with the best on ")
    assert "" == engines_summary(_compared("dot-order", competitors=["random"], seconds=0.05))


def test_an_interrupt_keeps_what_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C in the second competitor: the first is in the table, and no other target is begun."""

    def interrupted(*_: object) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setitem(peers.PEERS, "uniform", peers.Peer(interrupted))
    tables = _compared("dot-order", "softmax", competitors=["random", "uniform", "auto"])
    assert [("dot-order", ("random",))] == [(table.target, table.engines) for table in tables]
    monkeypatch.setitem(peers.PEERS, "cma", peers.Peer(interrupted))
    assert [] == _compared("dot-order", competitors=["uniform"])


def test_a_peer_that_fails_has_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """An exception of somebody else's package is a remark in one line; the others are compared all the same."""

    def broken(*_: object) -> Any:
        raise TypeError("np.float_\nis gone")

    monkeypatch.setitem(peers.PEERS, "de", peers.Peer(broken))
    (table,) = _compared("dot-order", competitors=["de", "random"])
    assert "failed: TypeError: np.float_ is gone" == table.runs[0].problem
    assert table.of("random")
    assert "failed: TypeError" in engines_text(table)


# Names and packages


def test_missing_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer asked for by name needs its package; in a comparison of all, nevergrad may be missing."""
    pytest.importorskip("cma")
    monkeypatch.setitem(sys.modules, "nevergrad", None)
    assert tournament.names() == tournament.check(None)
    with pytest.raises(MissingDependencyError, match=r"needs nevergrad.*pip install 'diffuzz-kernels\[bench\]'"):
        tournament.check(["auto", "nevergrad"])
    run = tournament._run("nevergrad", open_problem(targets.get("softmax")), 0.1, 0, {})
    assert "did not run: nevergrad is not installed" == run.problem
    monkeypatch.setitem(sys.modules, "cma", None)
    with pytest.raises(MissingDependencyError, match="needs cma"):
        tournament.check(None)


def test_unknown_engine() -> None:
    """The message lists all competitors."""
    with pytest.raises(UnknownNameError, match=r"no engine 'cam' \(engines: auto, blind, .*nevergrad\)"):
        tournament.check(["cam"])


# Tables


def test_medians_and_fractions() -> None:
    """The lower median over seeds; shares of the bound, or of the best where none is proven."""
    runs = [_run("auto", (0.1, value), seed=seed) for seed, value in enumerate([9.0, 9.9, 5.0, 9.95])]
    table = _table(*runs, _run("uniform", (0.5, 2.0)))
    assert (9.0, 2.0) == (table.median("auto"), table.median("uniform"))
    assert (0.9, 0.2) == (table.fraction(table.median("auto")), table.fraction(2.0))
    assert 2 / 9 == _table(*runs, bound=None).fraction(2.0)
    assert 1.0 == _table(_run("auto"), bound=0.0).fraction(0.0)
    assert 1.0 == _table(_run("auto", (0.1, math.inf)), bound=None).fraction(math.inf)
    assert 0.0 == _table(_run("auto", (0.1, math.inf)), bound=None).fraction(3.0)


@pytest.mark.parametrize(("auto", "level"), [(9.991, True), (9.98, False)])
def test_level(auto: float, level: bool) -> None:
    """Level with the best is 0.999 of it."""
    table = _table(_run("auto", (0.1, auto)), _run("de", (0.1, 10.0)))
    assert level is table.level
    assert ("auto is level" in engines_text(table)) == level
    assert ("auto falls behind de, 99.80 % of it" in engines_text(table)) == (not level)
    assert _table(_run("de", (0.1, 10.0))).level is None


def test_arrival() -> None:
    """99 % of the bound where somebody got there, else of the best of all."""
    slow, quick = _run("de", (0.1, 5.0), (0.4, 9.95)), _run("auto", (0.2, 9.0), (0.3, 9.91))
    table = _table(slow, quick)
    assert (0.4, 0.3) == (table.arrival("de"), table.arrival("auto"))
    behind = _table(_run("de", (0.1, 5.0), (0.4, 8.0)), _run("auto", (0.2, 7.0)))
    assert (0.4, math.inf) == (behind.arrival("de"), behind.arrival("auto"))


# The command

COMMAND = ("bench", "engines", "--target", "dot-order", "--param", "n=8", "--budget", "200ms")


def _printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main._run([*arguments])
    out, err = capsys.readouterr()
    return code, out, err


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 0, a table with a row for each engine asked for, and the counts."""
    code, out, err = _printed(capsys, *COMMAND, "--engine", "auto", "--engine", "uniform")
    assert (0, "") == (code, err)
    for text in ("dot-order", "of bound", "evals/s", "99 % after", "auto is level", "1 of 1 targets"):
        assert text in out
    assert ["auto", "uniform"] == [line.split()[0] for line in out.splitlines() if "%  " in line][:2]


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    """One strict JSON object: exact values, the history as pairs, the environment, the counts."""
    code, out, _ = _printed(capsys, *COMMAND, "--engine", "auto", "--engine", "random", "--seeds", "2", "--json")
    found = json.loads(out, parse_constant=lambda text: pytest.fail(f"{text} is not JSON"))
    (table,) = found["targets"]
    assert (0, 0.2, 4) == (code, found["budget_s"], len(table["runs"]))
    keys = {"target", "params", "measure", "bound", "best", "auto_level", "finished", "engines", "runs"}
    assert (keys, True, False) == (set(table), table["finished"], found["interrupted"])
    assert [("auto", 0), ("auto", 1), ("random", 0), ("random", 1)] == [(r["engine"], r["seed"]) for r in table["runs"]]
    run = table["runs"][0]
    assert run["value"] == run["history"][-1][1]
    assert all(len(pair) == 2 for pair in run["history"])
    assert {"engine", "value", "fraction", "arrival_s"} == set(table["engines"][0])
    assert np.__version__ == found["environment"]["numpy"]
    assert (1, 1) == (found["summary"]["targets"], found["summary"]["auto_compared"])


def test_exit_codes(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """2 for what there is not, 3 for a package that is missing, 130 where nothing was measured; one line each."""
    monkeypatch.chdir(tmp_path)
    for more in (
        ["--engine", "cam"],
        ["--target", "sofmax"],
        ["--engine", "random", "--param", "m=1"],
        ["--picture", "x.txt"],
    ):
        code, out, err = _printed(capsys, *COMMAND, *more)
        assert (2, "", 1) == (code, out, err.count("\n"))
    monkeypatch.setitem(sys.modules, "cma", None)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for more, package in ((["--engine", "cma"], "cma"), (["--engine", "random", "--picture", "x.png"], "matplotlib")):
        code, out, err = _printed(capsys, *COMMAND, *more)
        assert (3, "", 1) == (code, out, err.count("\n"))
        assert f"needs {package}, not installed here: pip install 'diffuzz-kernels[bench]'" in err
    monkeypatch.setattr(tournament, "_run", _interrupt)
    assert 130 == _printed(capsys, *COMMAND, "--engine", "random")[0]


def _interrupt(*_: object) -> Run:
    raise KeyboardInterrupt


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_picture(suffix: str, tmp_path: Path) -> None:
    """A file with a panel for each target, also where nothing was found or no bound is proven."""
    pytest.importorskip("matplotlib")
    tables = [
        _table(_run("auto", (0.0001, 5.0), (0.4, 9.95)), _run("auto", (0.2, 9.9), seed=1), _run("uniform", (0.3, 2.0))),
        _table(_run("auto"), _run("uniform"), bound=0.0),
        _table(_run("de", (0.1, 3.0)), bound=None),
    ]
    path = tmp_path / f"picture.{suffix}"
    picture.check(path)
    picture.draw(tables, 2.0, path)
    content = path.read_bytes()
    assert content.startswith({"png": b"\x89PNG", "svg": b"<?xml"}[suffix])
    assert 3 == content.count(b"<!-- softmax -->") or suffix == "png"


def test_every_competitor_has_a_style() -> None:
    """No competitor is missing from a picture."""
    assert set(tournament.names()) == set(picture.STYLES)


def test_a_broken_import_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A package whose import fails is a remark, not a crash."""

    class _Broken(ModuleType):
        def __getattr__(self, name: str) -> Any:
            raise RuntimeError("built against another NumPy")

    monkeypatch.setitem(sys.modules, "nevergrad", _Broken("nevergrad"))
    run = tournament._run("nevergrad", open_problem(targets.get("dot-order"), {"n": 8}), 0.1, 0, {})
    assert "failed: RuntimeError: built against another NumPy" == run.problem
