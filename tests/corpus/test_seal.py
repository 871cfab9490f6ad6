"""No edit of an entry goes unseen: it is computed again and compared, or it is under the seal."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest

from diffuzz import targets
from diffuzz.cases.case import Case
from diffuzz.cases.encoding import hex_float
from diffuzz.cli import main
from diffuzz.corpus import files
from diffuzz.corpus.entry import Counterexample, dumps
from diffuzz.corpus.record import record
from diffuzz.corpus.replay import Replayed, exit_code, replay_file
from diffuzz.corpus.strict import seal
from diffuzz.judging.question import Compare, Judge
from diffuzz.searching.search import search

# One of each kind of target, as version 0.1 wrote them.
OLD = sorted((Path(__file__).parents[1] / "data" / "schema-1").glob("*.json"))
WRONG = "import numpy as np\ndef f(z):\n    e = np.exp(z)\n    return e / e.sum(1, keepdims=True)\n"


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Judge | None]]:
    """Entries as searches save them: of a claim, of a candidate and of two kernels; each with what replays it."""
    folder = tmp_path_factory.mktemp("sealed")
    (folder / "wrong.py").write_text(WRONG)
    judge = Judge(f"{folder}/wrong.py:f")
    target, made = targets.get("softmax"), {}
    for name, question in (("claim", None), ("candidate", judge), ("kernels", Compare("gguf", "exact"))):
        given = {"n": 3} if question is None else {"candidate_n": 3}
        found = search(target, given, question, engine="random", seconds=0.5, seed=0)
        made[name] = (files.save(record(found), folder / "corpus"), judge if name == "candidate" else None)
    return made


def _edits(value: Any) -> Iterator[Any]:
    """Other values than this one, near and far, of its type and of others."""
    if isinstance(value, dict):
        yield value | {"added": 1}
        yield value | {"added": "0x1p+0"}
    elif isinstance(value, bool):
        yield not value
    elif isinstance(value, int):
        yield from (value + 1, -value - 1, 2**62, float(value), str(value))
    elif isinstance(value, float):
        yield from (value * (1 + 2**-52) + 5e-324, value + 1, -value - 1.0, 0.5 * value + 1e-300, 1e300, str(value))
    elif isinstance(value, list):
        yield from ([], [*value, *value], value[::-1] if value[::-1] != value else None)
    elif isinstance(value, str):
        yield from (f"{value} ", f"{value}x", value[:-1], value.upper() if value.upper() != value else "y", "")
        if value.startswith(("0x", "-0x")):
            number = float.fromhex(value)
            near, far = hex_float(np.nextafter(number, 1e9)), (hex_float(-1.0), hex_float(2 * number + 1), "inf")
            yield from (near, *far)
        for other in ("CONFIRMED", "FALSIFIED", "UNRESOLVED"):
            if other != value:
                yield other
    else:
        yield "something"


def _places(stored: Any, at: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, value in stored.items():
        yield (*at, name)
        if isinstance(value, dict):
            yield from _places(value, (*at, name))


def _mutants(text: str) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    """Every field edited in every way, and removed."""
    for at in _places(json.loads(text)):
        for edit in (*_edits(_get(json.loads(text), at)), ...):
            stored = json.loads(text)
            place = _get(stored, at[:-1])
            if edit is ...:
                del place[at[-1]]
            else:
                place[at[-1]] = edit
            yield at, stored


def _get(stored: Any, at: tuple[str, ...]) -> Any:
    for name in at:
        stored = stored[name]
    return stored


def _replayed(path: Path, stored: dict[str, Any], judge: Judge | None) -> Replayed:
    path.write_text(json.dumps(stored))
    result = replay_file(path, judge)
    assert result.message.isprintable()
    return result


@pytest.mark.parametrize("name", ["claim", "kernels"])
def test_no_edit_replays_as_recorded(sealed: dict[str, tuple[Path, Judge | None]], tmp_path: Path, name: str) -> None:
    """Any field of an entry, edited in any way or removed: broken or changed; but for its layout."""
    path, judge = sealed[name]
    text, other = path.read_text(), tmp_path / "edited.json"
    for at, stored in _mutants(text):
        result = _replayed(other, stored, judge)
        assert result.status != "as recorded", (at, _get(stored, at[:-1]))
    stored = json.loads(text)
    assert _replayed(other, dict(sorted(stored.items(), reverse=True)), judge).status == "as recorded"


def test_no_edit_of_a_candidates_entry(sealed: dict[str, tuple[Path, Judge | None]], tmp_path: Path) -> None:
    """The same of what is beside the arrays of an entry that was found with a candidate."""
    path, judge = sealed["candidate"]
    other = tmp_path / "edited.json"
    seen = set()
    for at, stored in _mutants(path.read_text()):
        # Each of them starts a process.
        if at not in seen and at[0] != "arrays":
            seen.add(at)
            assert _replayed(other, stored, judge).status != "as recorded", at


MEASURED = ("verdict", "measure", "value", "noise", "threshold", "bound", "tolerance")


@pytest.mark.parametrize("name", ["claim", "kernels"])
def test_with_a_new_seal(sealed: dict[str, tuple[Path, Judge | None]], tmp_path: Path, name: str) -> None:
    """Whoever seals an edited entry again changes nothing of what is computed again, beyond its tolerance."""
    path, judge = sealed[name]
    other = tmp_path / "edited.json"
    for at, stored in _mutants(path.read_text()):
        if at[0] not in MEASURED or "seal" not in stored:
            continue
        result = _replayed(other, stored | {"seal": seal(stored)}, judge)
        if result.status == "as recorded":
            same, old = _get(stored, at[:1]), _get(json.loads(path.read_text()), at[:1])
            assert at[0] in ("value", "noise", "bound", "threshold")
            assert _numbers(same) == pytest.approx(_numbers(old), rel=2e-6)


def _numbers(stored: Any) -> list[float]:
    if isinstance(stored, dict):
        return [number for value in stored.values() for number in _numbers(value)]
    if isinstance(stored, str):
        try:
            return [float.fromhex(stored)] if "x" in stored else [float(stored)]
        except ValueError:
            return []
    return [float(stored)] if isinstance(stored, (int, float)) else []


@pytest.mark.parametrize("old", OLD, ids=lambda path: path.stem)
def test_an_old_entry(tmp_path: Path, old: Path) -> None:
    """One without a seal: what can be computed again is, and its command line says which threshold was asked for."""
    stored = json.loads(old.read_text())
    path = tmp_path / "old.json"
    assert _replayed(path, stored, None).status == "as recorded"
    edits: list[dict[str, Any]] = [
        {"limit": hex_float(-1.0)},
        {"limit": "inf"},
        {"noise": "inf"},
        {"noise": hex_float(1.0)},
        {"measure": "seconds"},
        {"tolerance": 1e-3},
        {"verdict": "UNRESOLVED"},
        {"bound": None if stored["bound"] else {"value": 1.0, "because": "", "rounding": 0.0}},
        {"value": {"decimal": "1000000", "hex": hex_float(1e6)}},
    ]
    if stored["bound"]:
        edits.append({"bound": stored["bound"] | {"because": "as everyone knows"}})
    for edit in edits:
        assert _replayed(path, stored | edit, None).status == "changed", edit
    # Edited together, as in 35.02 above a limit of 35.
    value = 1.0005 * float.fromhex(stored["value"]["hex"])
    both = {"tolerance": 1e-3, "value": {"decimal": f"{value:.9g}", "hex": hex_float(value)}}
    if value:
        assert _replayed(path, stored | both, None).status == "changed"


@pytest.mark.parametrize(
    ("at", "edit", "said"),
    [
        (("value",), {"decimal": "9", "hex": "0x1.2p+3"}, "value 9, where it is "),
        (("noise",), "inf", "noise inf, where it is "),
        (("measure",), "seconds", "measure 'seconds', where it is '"),
        (("threshold",), "-0x1p+0", "threshold -1, where it is 5"),
        (("bound", "because"), "why not", "reason of the bound 'why not', where it is '"),
        (("tolerance",), 1e-3, "tolerance 0.001, where it is 1e-09"),
        (("verdict",), "FALSIFIED", "verdict FALSIFIED, where it is CONFIRMED"),
        (("environment", "cpu"), "abacus", "not in what is measured again"),
        (("found", "command"), "rm -rf /", "not in what is measured again"),
        (("found", "seed"), 3, "not in what is measured again"),
    ],
)
def test_an_edit_is_named(saved: Path, at: tuple[str, ...], edit: object, said: str) -> None:
    """A seal that does not match: the replay says which field it is, where that can be told."""
    stored = json.loads(saved.read_text())
    _get(stored, at[:-1])[at[-1]] = edit
    result = _replayed(saved.parent / "edited.json", stored, None)
    assert result.status == "broken"
    assert "seal: does not match, so the file was edited after it was saved" in result.message
    assert said in result.message
    assert exit_code([result]) == 2


def test_a_threshold_that_was_asked_for(entry: Counterexample, saved: Path) -> None:
    """The command line says it, or it is the question's own."""
    command = "python -m diffuzz search --target softmax --threshold 7.5"
    asked = attrs.evolve(entry, threshold=7.5, found={"command": command})
    saved.write_text(dumps(asked))
    assert replay_file(saved).status == "as recorded"
    for found, threshold in (({"command": command}, 7.0), ({"command": "search"}, 7.5), ({"command": "'"}, 7.5)):
        saved.write_text(dumps(attrs.evolve(entry, threshold=threshold, found=found)))
        assert "recorded the threshold 7" in replay_file(saved).message


def _large(**given: int) -> Counterexample:
    """An entry of less than a thousand bytes or so of a matrix product that takes long."""
    target = targets.get("matmul")
    params = target.params(given)
    case = Case({spec.name: np.zeros(spec.array_shape(), np.float32) for spec in target.space(params).tensors})
    return Counterexample(
        target="matmul", params=params, case=case, measure=target.measure(params), value=0.0, noise=0.0,
        threshold=target.threshold(params), bound=target.bound(params), verdict=_falsified(), tolerance=0.0,
        found={}, environment={},
    )  # fmt: skip


def _falsified() -> Any:
    from diffuzz.judging.verdict import Verdict

    return Verdict.FALSIFIED


def test_work_is_bounded_before_it_is_done(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A small file of a large case is not measured, and the line says how long it takes and which option allows it."""
    path = files.save(_large(n=16384, m=128, tokens=16), tmp_path)
    assert path.stat().st_size < 1500
    started = time.perf_counter()
    result = replay_file(path)
    # It would take seconds.
    assert time.perf_counter() - started < 8
    assert result.status == "needs time"
    assert "2359296 elements takes about 2.2 s, where 2 s are allowed: give --longest 3s" in result.message
    assert exit_code([result]) == 3
    for command in ("measure", "minimise", "replay"):
        assert main._run([command, str(path)]) == 3
        assert "give --longest 3s" in "".join(capsys.readouterr())
    small = files.save(_large(n=64, m=4, tokens=2), tmp_path)
    assert replay_file(small, longest=1e-9).status == "needs time"
    assert replay_file(small).status == "as recorded"


def test_what_takes_long_to_parse_is_refused_at_once(saved: Path, tmp_path: Path) -> None:
    """Many values, or long texts, whatever field they are in."""
    stored = json.loads(saved.read_text())
    many = {str(number): 1 for number in range(500_000)}
    path = tmp_path / "edited.json"
    for edit in (
        {"found": many},
        {"params": many},
        {"arrays": {"z": stored["arrays"]["z"] | {"elements": {f"{i}": "0x1p+0" for i in range(500_000)}}}},
        {"target": "x" * 10_000_000},
        {"params": stored["params"] | {"n" * 3_000_000: 1}},
        {"params": stored["params"] | {"perturbation": "y" * 10_000_000}},
    ):
        path.write_text(json.dumps(stored | edit))
        started = time.perf_counter()
        with pytest.raises(files.CorpusError, match="more than"):
            files.load(path)
        # They took 4 to 9 s.
        assert time.perf_counter() - started < 2


def test_an_old_entry_is_written_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In the current schema, with the same name and numbers; a second time there is nothing to do. ``replay --upgrade``
    does it for those that replay as recorded.
    """
    stored = json.loads(OLD[0].read_text())
    path = tmp_path / f"{stored['digest'][:12]}.json"
    path.write_text(json.dumps(stored))
    old = files.load(path)
    assert [True, False] == [files.upgrade(path), files.upgrade(path)]
    assert (files.load(path), files.load(path).schema) == (old, 3)
    new = json.loads(path.read_text())
    renamed = copy.deepcopy(stored) | {"diffuzz": 3, "threshold": stored["limit"], "seal": seal(new)}
    del renamed["limit"]
    assert new == renamed
    assert replay_file(path).status == "as recorded"
    changed = tmp_path / "changed.json"
    path.write_text(json.dumps(stored))
    changed.write_text(json.dumps(stored | {"noise": "0x1p+0"}))
    assert main._run(["replay", str(tmp_path), "--upgrade"]) == 1
    assert capsys.readouterr().out.endswith("1 of them written again\n")
    assert (files.load(path).schema, files.load(changed).schema) == (3, 1)
