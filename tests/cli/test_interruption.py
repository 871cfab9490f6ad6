"""Ctrl-C on the command line: where it is taken, what is printed of tables that it ends, and the exit code."""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from diffuzz import interruption, targets
from diffuzz.cli import main
from diffuzz.cli.claims import claims_json
from diffuzz.corpus.record import Keeper
from diffuzz.corpus.replay import replay
from diffuzz.judging.evidence import Agreement
from diffuzz.judging.problem import open_problem
from diffuzz.judging.question import Judge
from diffuzz.minimising import minimise
from diffuzz.searching.result import SearchResult
from diffuzz.searching.search import search
from diffuzz.studies.claims import settling
from diffuzz.studies.engines import tournament
from diffuzz.studies.mutants import scoring
from diffuzz.studies.witnesses import comparison


@pytest.fixture
def deferred(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As on the command line."""
    # Whatever started pytest: SIGINT may be ignored in the background.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with interruption.deferred():
            yield
    finally:
        signal.signal(signal.SIGINT, before)


def _press(*_: Any, **__: Any) -> None:
    signal.raise_signal(signal.SIGINT)


def _press_after(count: int) -> Callable[..., None]:
    """Presses when called for the nth time."""
    calls = []

    def press(*_: Any, **__: Any) -> None:
        calls.append(1)
        if len(calls) == count:
            _press()

    return press


def test_it_waits_for_a_safe_place(deferred: None) -> None:
    """Nothing happens until ``check``, which raises once."""
    _press()
    with pytest.raises(KeyboardInterrupt):
        interruption.check()
    interruption.check()


def test_the_second_is_raised_at_once(deferred: None) -> None:
    """No safe place may come for long; and where that one is lost, the first still stands."""
    _press()
    with pytest.raises(KeyboardInterrupt):
        _press()
    with pytest.raises(KeyboardInterrupt):
        interruption.check()
    interruption.check()


def test_what_is_held_takes_five(deferred: None) -> None:
    """An import that is cut short cannot be repeated."""
    with interruption.held():
        for _ in range(4):
            _press()
        with pytest.raises(KeyboardInterrupt):
            _press()
    with pytest.raises(KeyboardInterrupt):
        interruption.check()


@pytest.mark.parametrize("presses", [1, 2])
def test_it_is_not_lost_in_a_callback(deferred: None, capsys: pytest.CaptureFixture[str], presses: int) -> None:
    """The garbage collector goes on after what its callbacks raise; nothing is printed of it."""

    def press(phase: str, _: Any) -> None:
        if phase == "start":
            for _ in range(presses):
                _press()

    gc.callbacks.append(press)
    gc.collect()
    gc.callbacks.remove(press)
    assert capsys.readouterr().err == ""
    with pytest.raises(KeyboardInterrupt):
        interruption.check()


def test_a_library_has_its_own_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a handler of ours SIGINT is Python's; with somebody else's, it stays theirs, and is restored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            _press()
        interruption.check()
        with interruption.deferred():
            assert signal.getsignal(signal.SIGINT) is not signal.default_int_handler
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        with interruption.deferred(afterwards=signal.SIG_IGN):
            pass
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        with interruption.deferred():
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_search_stops_where_it_evaluates(deferred: None) -> None:
    """The best so far, minimised; the result says that it was interrupted."""
    result = search(targets.get("dot-order"), {"n": 8}, engine="random", seconds=60, seed=0, on_found=_press_after(2))
    assert (result.stopped, result.interrupted, len(result.history)) == ("interrupted", True, 2)
    assert result.case is not None


def test_minimising_stops_where_it_measures(deferred: None) -> None:
    """The case as far as it has come, which is said."""
    target = targets.get("dot-order")
    found = search(target, {"n": 8}, engine="random", seconds=1, seed=0)
    assert not found.interrupted
    assert found.case is not None
    _press()
    made = minimise.minimise(open_problem(target, found.params, threshold=0.0), found.case)
    assert (made.finished, made.interrupted, made.evaluations) == (False, True, 1)


def test_replay_stops_between_entries(deferred: None, saved: Path) -> None:
    """Nothing is measured any more."""
    _press()
    with pytest.raises(KeyboardInterrupt):
        replay([saved])


def test_a_waiting_worker_stops(deferred: None, tmp_path: Path) -> None:
    """A candidate that hangs is left at once, and its process ended."""
    (tmp_path / "hangs.py").write_text("def f(z):\n    while True: pass\n")
    _press()
    with pytest.raises(KeyboardInterrupt):
        search(targets.get("softmax"), question=Judge(f"{tmp_path / 'hangs.py'}:f", timeout=100.0))


def _json(out: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(out.splitlines()[-1])
    return found


def _ran(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main._run(list(arguments))
    out, err = capsys.readouterr()
    return code, out, err


def test_claims(deferred: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows before it, as text and JSON, exit 130; the row that was searched is not there."""
    monkeypatch.setattr("diffuzz.cli.claims.claims_progress", lambda: _press_after(2))
    code, out, err = _ran(capsys, "claims", "--budget", "500ms", "--json")
    found = _json(out)
    assert (130, "diffuzz: interrupted: 2 of 18 claims\n") == (code, err)
    assert (["FFN-GGUF-005", "FFN-GGUF-005b"], [], True) == (
        [one["id"] for one in found["claims"]], found["variants"], found["interrupted"],
    )  # fmt: skip
    monkeypatch.setattr("diffuzz.cli.claims.claims_progress", lambda: _press_after(1))
    code, out, err = _ran(capsys, "claims", "--budget", "500ms")
    assert (130, True, False) == (code, "(128 to 512)" in out, "(128 to 64)" in out)


def test_a_claim_whose_search_is_cut_short_is_not_settled(
    deferred: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Neither a row nor a witness: what it found by then is no answer."""
    monkeypatch.setattr(settling, "ROWS", tuple(row for row in settling.ROWS if row.target == "dot-order"))

    def searched(*arguments: Any, **more: Any) -> Any:
        return search(*arguments, **more, on_found=_press_after(1))

    monkeypatch.setattr(settling, "search", searched)
    assert settling.settle(1.0, 0, save=Keeper(tmp_path / "corpus")) == []
    assert not (tmp_path / "corpus").exists()
    assert claims_json([])["interrupted"] is True


# Whatever started pytest: SIGINT may be ignored in the background.
PYTHONS = "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
MATRIX = ("matrix", "--target", "softmax", "--kernels", "exact,apr,gguf", "--budget", "200ms")


def test_matrix(deferred: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit 130 with the finished pairs; 1 if one of them is outside its bounds."""
    monkeypatch.setattr("diffuzz.cli.matrix.matrix_progress", lambda: _press_after(1))
    code, out, err = _ran(capsys, *MATRIX, "--json")
    assert (130, "diffuzz: interrupted: 1 of 3 pairs\n") == (code, err)
    assert (1, True) == (len(_json(out)["cells"]), _json(out)["interrupted"])
    monkeypatch.setattr(SearchResult, "agreement", Agreement.OUTSIDE)
    assert _ran(capsys, *MATRIX)[::2] == (1, "diffuzz: interrupted: 1 of 3 pairs\n")
    _press()
    assert _ran(capsys, *MATRIX) == (130, "", "diffuzz: interrupted: 0 of 3 pairs\n")


def test_mutants(deferred: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit 130 with the functions before it."""
    names = [mutant.name for mutant in scoring.named_mutants(None)][:3]
    one, press = scoring.one, _press_after(2)

    def counted(*arguments: Any) -> Any:
        press()
        return one(*arguments)

    monkeypatch.setattr(scoring, "one", counted)
    code, out, err = _ran(capsys, "bench", "mutants", *names, "--budget", "200ms", "--json")
    assert (130, "diffuzz: interrupted: 1 of 3 functions\n") == (code, err)
    assert ([names[0]], True) == ([row["name"] for row in _json(out)["rows"]], _json(out)["interrupted"])


def test_engines(deferred: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit 130; competitors of which some did not run are not compared."""
    run, press = tournament._run, _press_after(2)

    def counted(*arguments: Any) -> Any:
        press()
        return run(*arguments)

    monkeypatch.setattr(tournament, "_run", counted)
    command = ("bench", "engines", "--target", "dot-order", "--param", "n=8", "--engine", "auto", "--engine", "random")
    code, out, err = _ran(capsys, *command, "--budget", "200ms", "--seeds", "2", "--json")
    (table,) = _json(out)["targets"]
    assert (130, "diffuzz: interrupted: 1 of 4 runs\n", True) == (code, err, _json(out)["interrupted"])
    assert (1, False, None, 0) == (
        len(table["runs"]), table["finished"], table["auto_level"], _json(out)["summary"]["auto_compared"],
    )  # fmt: skip
    monkeypatch.setattr(tournament, "_run", lambda *_: _press() or run("random", *_[1:]))
    code, out, _ = _ran(capsys, *command, "--budget", "200ms")
    assert (130, False) == (code, "auto is level" in out)


def test_witnesses(deferred: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit 130; a target of which one way is missing has no table, also if it was diffuzz's that was cut short."""
    made, press = comparison.minimise, _press_after(2)

    def minimised(*arguments: Any, **more: Any) -> Any:
        press()
        return made(*arguments, **more)

    monkeypatch.setattr(comparison, "minimise", minimised)
    command = ("--target", "quantize", "--target", "quantize", "--budget", "200ms", "--minimising", "200ms", "--json")
    code, out, err = _ran(capsys, "bench", "witnesses", *command)
    assert (130, "diffuzz: interrupted: 1 of 2 targets\n") == (code, err)
    assert (1, True) == (len(_json(out)["targets"]), _json(out)["interrupted"])


def test_what_is_not_interrupted_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 0, and the field is false."""
    code, out, err = _ran(capsys, *MATRIX, "--json")
    assert (0, "", False) == (code, err, _json(out)["interrupted"])


def test_a_caller_has_its_own_back() -> None:
    """The command line as a function changes nothing for good."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(SystemExit):
            main.main(["--version"])
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("where", ["import", "exit"])
def test_in_a_process(where: str, tmp_path: Path) -> None:
    """While jax is imported it waits, and nothing is broken; after the result is printed the exit code stands."""
    if where == "import":
        # Pressed by the import itself: the module would be left half there.
        (tmp_path / "sitecustomize.py").write_text(
            f"{PYTHONS}import sys\nclass Finder:\n    def find_spec(self, name, *_):\n"
            "        if name == 'jax._src.config': signal.raise_signal(signal.SIGINT)\n"
            "sys.meta_path.insert(0, Finder())\n"
        )
        expected = 130
    else:
        (tmp_path / "sitecustomize.py").write_text(
            f"{PYTHONS}import atexit, os\natexit.register(lambda: os.kill(os.getpid(), signal.SIGINT))\n"
        )
        expected = 0
    command = [sys.executable, "-m", "diffuzz", "matrix", "--target", "rmsnorm", "--kernels", "exact,xla"]
    if where == "exit":
        command = [*command[:3], "targets"]
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"PYTHONPATH": path},
    )
    assert expected == done.returncode
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == (where == "import")
