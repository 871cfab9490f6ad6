"""A property that is not kept is an entry of the corpus: saved where it matters, replayed, judged, shown, and read
without trust.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from diffuzz.cli import main
from diffuzz.corpus import files, lost
from diffuzz.corpus.lost import Lost
from diffuzz.corpus.replay import replay
from diffuzz.corpus.strict import seal
from diffuzz.judging.question import Judge

KERNELS = str(Path(__file__).with_name("kernels_for_properties.py"))
Said = Callable[[], tuple[str, str]]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Said:
    """What was printed since, on stdout and stderr."""
    return lambda: (lambda captured: (captured.out, captured.err))(capsys.readouterr())


def search(*words: str, function: str, target: str = "softmax") -> int:
    asked = ["--target", target, "--candidate", f"{KERNELS}:{function}", "--seed", "0", "--budget", "1s"]
    return main._run(["search", *asked, *words])


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file that a search saves of a batch that shows from 38 rows on."""
    corpus = tmp_path_factory.mktemp("lost")
    assert search("--property", "batch", "--require", "batch", "--corpus", str(corpus), function="by_count") == 1
    (path,) = corpus.rglob("*.json")
    return path


@pytest.fixture
def entry(written: Path) -> Path:
    """The same file, in a corpus of its own."""
    path = Path("corpus/softmax", written.name)
    path.parent.mkdir(parents=True)
    shutil.copy(written, path)
    return path


def test_what_is_required_and_lost_is_an_entry(entry: Path, said: Said) -> None:
    """It is named in the report, replays with the function and not without, and is shown."""
    # The same again adds nothing, and names it.
    assert search("--require", "batch", function="by_count") == 1
    assert f"witness: {entry}" in said()[0]
    name = f"{KERNELS}:by_count"
    assert main._run(["replay", "corpus", "--candidate", name]) == 0
    assert re.search(rf"as recorded +{entry} +batch not invariant\n1 of 1 entries", said()[0])
    assert main._run(["replay", "corpus"]) == 3
    assert f"--candidate {name}" in said()[0]
    assert main._run(["show", str(entry)]) == 0
    shown, _ = said()
    assert "not invariant: softmax, property batch, rows of b" in shown
    assert "b[0] alone, and among 38, beside copies of it [b=38 (not 37)" in shown
    assert main._run(["show", str(entry), "--json"]) == 0
    assert json.loads(said()[0]) == json.loads(entry.read_text())


def test_a_function_that_is_mended_is_right(entry: Path, said: Said) -> None:
    """And one that is not is wrong, with --judge; without it, the entry has changed."""
    said()
    again = [f"{KERNELS}:by_count={KERNELS}:fixed", f"{KERNELS}:by_count"]
    assert main._run(["replay", "corpus", "--judge", "--candidate", again[0]]) == 0
    assert f"right  {entry}  batch kept by" in said()[0]
    assert main._run(["replay", "corpus", "--judge", "--candidate", again[1], "--json"]) == 1
    (found,) = json.loads(said()[0])["results"]
    assert (found["status"], found["property"], found["value"]) == ("wrong", "batch", None)
    assert main._run(["replay", "corpus", "--candidate", again[0]]) == 1
    assert "recorded batch not invariant, now kept" in said()[0]
    assert main._run(["report", "corpus", "--candidate", again[1], "--html", "page.html"]) == 1
    assert "batch not invariant by" in said()[0]


@pytest.mark.parametrize("command", [["measure"], ["minimise"], ["show", "--python"]])
def test_what_needs_a_case_says_so(command: list[str], entry: Path, said: Said) -> None:
    """One line, and exit code 2."""
    said()
    assert main._run([*command, str(entry)]) == 2
    assert f"diffuzz: {entry}: is about the property batch, and has no case; show and replay take it\n" == said()[1]


def test_what_nobody_promised_is_no_entry() -> None:
    """Nor is what is kept, or what --no-save asks for."""
    assert search("--property", "batch", function="by_count") == 0
    assert search("--property", "batch", "--require", "batch", function="fixed") == 0
    assert search("--require", "batch", "--no-save", function="by_count") == 1
    assert not Path("corpus").exists()


def test_what_is_broken_is_an_entry(said: Said) -> None:
    """Without being required; the process that crashes ends nothing else."""
    assert search("--property", "bounds", "--json", function="past_the_end") == 1
    (found,) = json.loads(said()[0])["implementations"][0]["properties"]
    (path,) = Path("corpus/softmax").glob("*.json")
    assert found["witness"] == str(path)
    loaded = files.load_any(path)
    assert isinstance(loaded, Lost)
    assert loaded.status == "broken"
    (result,) = replay(path, Judge(f"{KERNELS}:past_the_end"))
    assert (result.status, result.message) == ("as recorded", "bounds broken")


def test_it_is_reported_to_ci(said: Said) -> None:
    """As annotations, and in report: an error if it was required, else a note."""
    assert search("--require", "batch", "--annotations", function="by_count") == 1
    (line,) = [line for line in said()[1].splitlines() if line.startswith("::error")]
    assert "kernels_for_properties.py,line=20" in line
    assert "batch not invariant: b[0] alone, and among 38" in line
    for option, level, code in (("--require", "error", 1), ("--property", "note", 0)):
        search(option, "batch", "--json", function="by_count")
        Path("results.jsonl").write_text(said()[0])
        assert main._run(["report", "results.jsonl", "--html", "page.html", "--sarif", "all.sarif"]) == code
        assert f"{level}" in said()[0].splitlines()[0]
        assert "among 38" in Path("page.html").read_text()


def test_what_shows_by_chance_is_found_again(tmp_path: Path) -> None:
    """It is asked until it shows."""
    Path("mine.py").write_text(
        "import numpy as np\nrng = np.random.default_rng()\n\n\n"
        "def f(z):\n    e = np.exp(z - z.max(-1, keepdims=True))\n"
        "    s = e.sum(-1, keepdims=True)\n    return e / (np.nextafter(s, np.inf) if rng.random() < 0.2 else s)\n"
    )
    words = ["search", "--target", "softmax", "--candidate", "mine.py:f", "--seed", "0", "--budget", "2s"]
    assert main._run([*words, "--require", "repeat"]) == 1
    assert main._run(["replay", "corpus", "--candidate", "mine.py:f"]) == 0


def test_one_that_adds_nothing(entry: Path) -> None:
    """The same again, in calls that are no smaller, is not written."""
    loaded = files.load_any(entry)
    assert isinstance(loaded, Lost)
    larger = lost.loads(_again(entry, sizes={"b": 60, "n": 70}), "")
    assert list(files.lost_like(larger, Path("corpus"))) == [(entry, loaded)]
    smaller = lost.loads(_again(entry, sizes={"b": 2, "n": 1}), "")
    assert not list(files.lost_like(smaller, Path("corpus")))


def test_an_implementation_of_a_file(said: Said) -> None:
    """Kernels are named again, as for any entry."""
    Path("my_kernels.py").write_text(
        "import numpy as np\n\n\ndef soft_max(z):\n    e = np.exp(z - z.max(-1, keepdims=True))\n"
        "    s = e.sum(-1, keepdims=True)\n    return e / (s if len(z) < 9 else np.nextafter(s, np.float32(np.inf)))\n"
    )
    words = ["--target", "softmax", "--kernels", "exact,my_kernels.py", "--seed", "0", "--budget", "1s"]
    assert main._run(["search", *words, "--require", "batch"]) == 1
    (path,) = Path("corpus/softmax").glob("*.json")
    loaded = files.load_any(path)
    assert isinstance(loaded, Lost)
    assert (loaded.kernels, loaded.candidate, loaded.sizes["b"]) == ("my_kernels", None, 9)
    assert main._run(["replay", "corpus"]) == 0


def _again(path: Path, **changes: Any) -> str:
    """The text of an entry with changes, as if it had been written so."""
    stored = json.loads(path.read_text()) | changes
    del stored["seal"]
    try:
        lost.loads(json.dumps(stored | {"seal": seal(stored)}), "")
    except ValueError as error:
        if not str(error).startswith("digest"):
            raise
        fields = {name: stored[name] for name in ("sizes", "numbers", "way", "drawn", "status", "candidate", "kernels")}
        loaded = lost.loads(path.read_text(), "")
        made = Lost(
            **{name: getattr(loaded, name) for name in Lost.__slots__ if name[:1] != "_"}
            | fields
            | {"name": stored["property"]}
        )
        stored["digest"] = made.digest
    return json.dumps(stored | {"seal": seal(stored)})


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"property": "batches"}, "there is no property 'batches'"),
        ({"sizes": {"b": 38}}, "property: rows of b: sizes of b, n are needed"),
        ({"sizes": {"b": 2**39, "n": 2**39}}, "where 2 s are allowed"),
        (
            {"property": "repeat", "way": "again", "sizes": {"b": 16384, "n": 128}, "numbers": {"calls": 64}},
            "where 2 s are allowed",
        ),
        ({"sizes": {"b": 0, "n": 9}}, "property: rows of b: b=0 is below 1"),
        ({"numbers": {"place": 0}}, "there is no such call of these sizes and numbers"),
        ({"numbers": {"place": 0, "beside": 99}}, "beside=99 is not between 0 and 4"),
        ({"numbers": {"place": 0, "beside": -1}}, "numbers: a number is not between 0 and"),
        ({"numbers": {"place": 0, "beside": 1.5}}, "numbers: beside has the wrong type, float"),
        ({"status": "kept"}, "status: 'kept' is none of"),
        ({"drawn": "0"}, "seed, drawn: a number from 0 to 2^63 and a SHA-256 are needed"),
        ({"candidate": None}, "candidate, kernels: one of them is needed, and not both"),
        ({"kernels": "libggml"}, "candidate, kernels: one of them is needed, and not both"),
        ({"candidate": None, "kernels": "a/b.so"}, "kernels: 'a/b.so' is none of"),
        ({"candidate": None, "kernels": "exact@a/b.so"}, "kernels: 'exact@a/b.so' name a path"),
        ({"candidate": None, "kernels": "nobody"}, "kernels: 'nobody' is none of"),
        ({"target": "rope-of-nobody"}, "rope-of-nobody"),
        ({"target": "chain"}, "property: target chain has no contract"),
        ({"more": 1}, "the entry: unknown field 'more'"),
        ({"seen": "\x1b[2J"}, "characters that cannot be printed"),
        ({"diffuzz": 99}, "diffuzz: schema 99, where this version reads"),
    ],
)
def test_what_cannot_be_trusted_or_asked_is_one_line(
    changes: dict[str, Any], line: str, entry: Path, said: Said
) -> None:
    """Whoever made it: nothing is called, and no memory is taken."""
    said()
    try:
        text = _again(entry, **changes)
    except ValueError:
        stored = json.loads(entry.read_text()) | changes
        text = json.dumps(stored | {"seal": seal({name: one for name, one in stored.items() if name != "seal"})})
    Path("made.json").write_text(text)
    code = main._run(["replay", "made.json", "--candidate", f"{KERNELS}:by_count"])
    out, err = said()
    assert line in out + err
    assert code == (3 if "are allowed" in line else 2)
    assert main._run(["replay", "made.json", "--candidate", f"{KERNELS}:by_count", "--json"]) == code
    assert len(err.splitlines()) == (0 if code == 3 else 1)


def test_a_way_that_there_is_not_any_more(entry: Path, said: Said) -> None:
    """As of a function that has no parameter for threads now: the entry has changed, and is not broken."""
    said()
    Path("made.json").write_text(_again(entry, way="rows of z"))
    assert main._run(["replay", "made.json", "--candidate", f"{KERNELS}:by_count", "--json"]) == 1
    (found,) = json.loads(said()[0])["results"]
    assert (found["status"], found["target"], found["property"]) == ("changed", "softmax", "batch")
    assert "there is no way 'rows of z'" in found["message"]


def test_a_call_that_is_refused_is_not_right(entry: Path, said: Said) -> None:
    """Nothing was compared, so nothing is kept."""
    said()
    Path("mine.py").write_text(
        "import numpy as np\n\n\ndef f(z):\n    if len(z) == 38:\n        raise RuntimeError('no')\n"
        "    e = np.exp(z - z.max(-1, keepdims=True))\n    return e / e.sum(-1, keepdims=True)\n"
    )
    words = ["replay", "corpus", "--candidate", f"{KERNELS}:by_count=mine.py:f"]
    assert main._run([*words, "--judge"]) == 1
    assert "wrong" in said()[0].splitlines()[0]
    assert main._run(words) == 1
    assert "now unknown: it takes no such call: RuntimeError: no" in said()[0]


def test_an_entry_that_does_not_show_any_more_hides_nothing(tmp_path: Path) -> None:
    """Of a function that was changed, so that what is lost is lost in larger calls only."""
    code = (
        "import numpy as np\n\n\ndef f(z):\n    e = np.exp(z - z.max(-1, keepdims=True))\n"
        "    s = e.sum(-1, keepdims=True)\n    return e / (s if len(z) < {} else np.nextafter(s, np.float32(np.inf)))\n"
    )
    words = ["search", "--target", "softmax", "--candidate", "mine.py:f", "--seed", "0", "--budget", "1s"]
    for least in (10, 10, 38):
        Path("mine.py").write_text(code.format(least))
        assert main._run([*words, "--require", "batch"]) == 1
    found = [files.load_any(path) for path in Path("corpus/softmax").glob("*.json")]
    assert sorted(one.sizes["b"] for one in found if isinstance(one, Lost)) == [10, 38]


def test_numbers_that_are_drawn_otherwise_say_nothing(entry: Path, said: Said) -> None:
    """As by a version whose pool is another."""
    said()
    Path("made.json").write_text(_again(entry, drawn="0" * 64))
    assert main._run(["replay", "made.json", "--candidate", f"{KERNELS}:by_count"]) == 1
    assert "batch: its numbers are drawn otherwise by this version" in said()[0]


def test_an_edited_entry(entry: Path, said: Said) -> None:
    """The seal is over all of it."""
    said()
    entry.write_text(entry.read_text().replace('"seen": "b[0]', '"seen": "b[1]'))
    assert main._run(["replay", str(entry), "--candidate", f"{KERNELS}:by_count"]) == 2
    assert "seal: does not match" in said()[1]
