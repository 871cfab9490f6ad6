"""``diffuzz corpus``: counts, copies and the fewest entries that show all of it. Nothing is lost unasked."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import attrs
import numpy as np
import pytest

from diffuzz.cli import main
from diffuzz.corpus import files
from diffuzz.corpus.entry import Counterexample
from diffuzz.corpus.grouping import distilled, mechanism_of

# Searches of a user save in corpus/, and nothing does here.
KEPT = Path(__file__).parents[2] / "corpus-ggml"
Said = Callable[[], tuple[str, str]]
KERNEL = """
import numpy as np

def soft_max(z):
    e = np.exp(z)
    return e / e.sum(axis=-1, keepdims=True)
"""


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Said:
    """What was printed since, on stdout and stderr."""
    return lambda: (lambda captured: (captured.out, captured.err))(capsys.readouterr())


def run(*words: object) -> int:
    return main._run(["corpus", *map(str, words)])


def _all(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.json")}


def test_what_a_corpus_has(said: Said) -> None:
    """Entries, mechanisms and verdicts, by target; that of the repository has nothing twice."""
    assert run("stats", KEPT, "--json") == 0
    found = json.loads(said()[0])
    assert found["entries"] == len(_all(KEPT)) == sum(one["entries"] for one in found["targets"].values())
    assert found["targets"]["matvec"]["outcomes"] == {"CONFIRMED": 3}
    assert run("distil", KEPT) == 0
    assert f"{found['entries']} of {found['entries']} entries show all of it" in said()[0]


def test_merging_copies_what_adds_something(entry: Counterexample, said: Said) -> None:
    """To the byte; what is known is told, what cannot be read is one line and exit code 2, and the rest is merged."""
    files.save(entry, Path("one"))
    larger = attrs.evolve(entry, value=entry.value * 2, case=attrs.evolve(entry.case, arrays=_moved(entry)))
    files.save(larger, Path("two"))
    Path("two/softmax/bad.json").write_text('{"diffuzz": 3}')
    assert run("merge", "two", "one", "all", "--json") == 2
    out, err = said()
    found = json.loads(out)
    assert (len(found["added"]), len(found["known"]), len(found["unread"])) == (1, 1, 1)
    assert err.startswith("diffuzz: two/softmax/bad.json: the entry: missing field")
    assert run("merge", KEPT, "all") == 0
    assert _all(KEPT).items() <= _all(Path("all")).items()
    assert run("merge", KEPT, "all") == 0
    assert "0 of " in said()[0].splitlines()[-1]


def test_one_of_each_mechanism_is_enough(entry: Counterexample, said: Said) -> None:
    """The one with the largest value stays. Nothing is removed unasked, or if a file cannot be read."""
    best = files.save(attrs.evolve(entry, value=entry.value * 2), Path("corpus"))
    other = attrs.evolve(entry, case=attrs.evolve(entry.case, arrays=_moved(entry)))
    assert mechanism_of(other) == mechanism_of(entry)
    like = files.save(other, Path("corpus"), always=True)
    apart = files.save(
        attrs.evolve(entry, params={**entry.params, "perturbation": "componentwise"}), Path("corpus"), always=True
    )
    before = _all(Path("corpus"))
    assert run("distil") == 0
    out, _ = said()
    assert f"not needed  {like}  like {best}" in out
    assert "2 of 3 entries show all of it" in out
    assert _all(Path("corpus")) == before
    Path("corpus/bad.json").write_text("no JSON")
    assert run("distil", "--apply") == 2
    assert _all(Path("corpus")).keys() == {*before, "bad.json"}
    Path("corpus/bad.json").unlink()
    assert run("distil", "--apply", "--json") == 0
    assert {str(best.relative_to("corpus")), str(apart.relative_to("corpus"))} == _all(Path("corpus")).keys()


def _moved(entry: Counterexample) -> dict[str, np.ndarray]:
    arrays = {name: array.copy() for name, array in entry.case.arrays.items()}
    arrays["z"][0] = np.nextafter(arrays["z"][0], np.float32(0))
    arrays["z"][1] = arrays["z"][0]
    return arrays


def test_a_file_of_two_names_is_one_entry(entry: Counterexample, said: Said) -> None:
    """A folder that is named twice, and links to files: nothing is removed, for nothing is there twice."""
    path = files.save(entry, Path("corpus"))
    Path("corpus/softmax/0.json").symlink_to(path.name)
    Path("other").symlink_to("corpus")
    assert run("distil", "corpus", Path("corpus").absolute(), "other", "./other/../corpus", "--apply") == 0
    assert "1 of 1 entries are left" in said()[0]
    assert path.is_file()
    assert run("stats", "corpus", "--json") == 0
    assert json.loads(said()[0])["entries"] == 1


def test_what_has_the_place_of_an_entry_is_told(entry: Counterexample, said: Said) -> None:
    """What is no entry, or a folder, is not overwritten, and the entry not passed over in silence."""
    path = files.save(entry, Path("one"))
    for name, make in (("garbage", lambda place: place.write_text("no")), ("folder", lambda place: place.mkdir())):
        place = Path(name, *path.parts[1:])
        place.parent.mkdir(parents=True)
        make(place)
        assert run("merge", "one", name) == 2
        assert str(place) in said()[1]


def test_an_entry_that_needs_a_file(entry: Counterexample, said: Said) -> None:
    """Exit code 3, as in a replay; nothing is removed."""
    path = files.save(entry, Path("corpus"))
    stored = json.loads(path.read_text()) | {"target": "nobodys", "files": {"target": "nobodys.py:T"}}
    Path("corpus/a.json").write_text(json.dumps(stored))
    for words in (("stats",), ("distil", "--apply"), ("merge", "corpus", "all")):
        assert run(*words) == 3
        assert "give --target nobodys.py:T" in said()[1]
    assert path.is_file()


def test_a_case_that_takes_too_long_is_kept(said: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not tried on mutants, whatever its file asks for."""
    Path("kernels.py").write_text(KERNEL)
    words = ["search", "--target", "softmax", "--candidate", "kernels.py:soft_max", "--seed", "0", "--budget", "5s"]
    assert main._run(words) == 1
    said()
    monkeypatch.setattr("diffuzz.corpus.replay.LONGEST", 1e-12)
    assert run("distil", "--apply") == 0
    assert "its case takes too long to be tried on mutants\n1 of 1 entries are left" in said()[0]


def test_what_alone_kills_a_mutant_stays(said: Said) -> None:
    """An entry of a function is tried on the wrong kernels of its operation."""
    Path("kernels.py").write_text(KERNEL)
    words = ["search", "--target", "softmax", "--candidate", "kernels.py:soft_max", "--seed", "0", "--budget", "5s"]
    assert main._run(words) == 1
    said()
    assert run("distil", "--json") == 0
    found = json.loads(said()[0])
    assert "softmax/no-max" in found["mutants"] or len(found["mutants"]) > 3
    assert run("distil", "--no-mutants", "--json") == 0
    assert json.loads(said()[0])["mutants"] == []


def test_entries_are_kept_for_what_only_they_show(make_entry: Callable[..., Counterexample]) -> None:
    """The fewest: of two that show the same besides, one; and one that shows nothing more goes."""
    entries = {Path(str(k)): make_entry((9.5 - k / 64, 9.5 - k / 64, -10.0)) for k in range(4)}
    assert len({mechanism_of(one) for one in entries.values()}) == 1
    shows = {Path("0"): ["a"], Path("1"): ["a", "b"], Path("2"): ["b", "c"], Path("3"): ["c"]}
    best = max(entries, key=lambda path: entries[path].value)
    plan = distilled(entries, shows)
    shown = {what for path in plan.kept for what in shows[path]}
    assert shown == {"a", "b", "c"}
    assert best in plan.kept
    assert len(plan.kept) == 2
    assert set(plan.gone) | set(plan.kept) == set(entries)
    assert set(plan.gone.values()) == {best}


def test_a_corpus_that_is_not_there(said: Said) -> None:
    """One line, and exit code 2."""
    for words in (("stats",), ("distil",), ("merge", "nowhere", "all")):
        assert run(*words) == 2
        assert len(said()[1].splitlines()) == 1
    Path("empty").mkdir()
    assert run("stats", "empty") == 2
    assert "empty: no corpus entry (.json) there" in said()[1]
