"""Kernels against each other, from the command line to the corpus: search --kernels, matrix, replay."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest

from diffuzz import kernels, targets
from diffuzz.cli import main
from diffuzz.cli.matrix import matrix_json, matrix_text
from diffuzz.corpus import files
from diffuzz.corpus.entry import NeedsLibraryError, dumps
from diffuzz.corpus.files import CorpusError
from diffuzz.corpus.record import minimised, record
from diffuzz.corpus.replay import exit_code, replay_file
from diffuzz.judging.evidence import Agreement
from diffuzz.judging.question import Compare
from diffuzz.searching import matrix
from diffuzz.searching.search import search

MATVEC, SOFTMAX = targets.get("matvec"), targets.get("softmax")
QUICK = ("--budget", "1s", "--seed", "0")


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = main._run([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return code, out, err


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_difference_by_policy_from_search_to_replay(capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 1: saved with its kernels, shown, minimised and replayed as what it is."""
    code, out, err = run(capsys, "search", "--target", "matvec", "--kernels", "ggml,apr", *QUICK, "--json")
    found = json.loads(out.splitlines()[-1])
    assert (1, "", ["ggml", "apr"], "by policy") == (code, err, found["kernels"], found["agreement"])
    path = Path(found["witness"])
    assert files.load(path).kernels == ("ggml", "apr")
    assert "--kernels ggml,apr" in files.load(path).found["command"]
    assert "kernels       ggml against apr" in run(capsys, "show", path)[1]
    assert run(capsys, "minimise", path, "--keep", "0.5")[0] == 0
    assert run(capsys, "replay")[0] == 0
    code, out, err = run(capsys, "measure", path)
    assert (2, "") == (code, out)
    assert "compares ggml and apr: replay it" in err


def test_kernels_that_agree(capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 0, in two lines; on demand how they agree, in words, and nothing is saved."""
    asked = ("search", "--target", "rmsnorm", "--kernels", "apr,gguf", *QUICK)
    code, out, _ = run(capsys, *asked)
    assert (0, 2, False) == (code, out.count("\n"), Path("corpus").exists())
    assert "UNRESOLVED: apr and gguf were not found to differ by more than rounding" in out
    code, out, _ = run(capsys, *asked, "--verbose")
    assert (0, True) == (code, "They agree to rounding, as far as was seen." in out)
    assert "apr's error / a-priori bound" in out


def test_kernels_that_agree_to_the_bit(capsys: pytest.CaptureFixture[str]) -> None:
    """There is no case then, and how they agree is said all the same."""
    asked = ("search", "--target", "dequantize", "--kernels", "apr,ggml", *QUICK)
    code, out, _ = run(capsys, *asked, "--verbose")
    assert (0, True) == (code, "apr and ggml agree to the bit, as far as was seen." in out)
    code, out, _ = run(capsys, *asked, "--json")
    assert (0, "to the bit") == (code, json.loads(out.splitlines()[-1])["agreement"])


def test_a_candidate_may_be_one_of_them(capsys: pytest.CaptureFixture[str]) -> None:
    """Judged by rounding alone, against whom the user says."""
    Path("mine.py").write_text(
        "import numpy as np\ndef f(z):\n"
        "    e = np.exp(z - z.max(1, keepdims=True)); return e / e.sum(1, keepdims=True)\n"
    )
    both = ("--kernels", "candidate,ggml", "--candidate", "mine.py:f")
    code, out, _ = run(capsys, "search", "--target", "softmax", *both, *QUICK, "--verbose", "--save")
    assert (0, True) == (code, "They agree to rounding" in out)
    (path,) = Path("corpus").rglob("*.json")
    assert run(capsys, "replay")[0] == 3
    assert run(capsys, "replay", "--candidate", "mine.py:f")[0] == 0
    assert files.load(path).kernels == ("candidate", "ggml")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--target", "softmax", "--kernels", "ggml"), 2, "'ggml' is not two names"),
        (("--target", "softmax", "--kernels", "ggml,nobody"), 2, "has no kernels 'nobody'"),
        (("--target", "softmax", "--kernels", "ggml,candidate"), 2, "give --candidate"),
        (("--target", "dot-order", "--kernels", "ggml,apr"), 2, "compares no kernels"),
        (("--target", "softmax", "--kernels", "ggml,libggml@nowhere"), 2, "library nowhere: there is no such file or"),
        (("--target", "softmax", "--library", "nowhere"), 2, "nowhere"),
        (("--target", "softmax", "--library", "."), 2, "it stands for libggml, which is not one of the kernels"),
        (("--target", "softmax", "--kernels", "ggml,apr", "--candidate", "m.py:f"), 2, "name candidate as one of them"),
    ],
)
def test_bad_kernels(capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], code: int, message: str) -> None:
    """One line, before anything is searched."""
    Path("m.py").write_text("def f(z): return z")
    got, out, err = run(capsys, "search", *arguments, *QUICK)
    assert (code, "") == (got, out)
    assert message in err
    assert err.count("\n") == 1


def test_missing_kernels(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit 3 and how to get them; an entry that needs them is not replayed in silence."""
    monkeypatch.setattr("diffuzz.kernels.missing", lambda name: f"no {name}" if "libggml" in name else None)
    code, out, err = run(capsys, "search", "--target", "softmax", "--kernels", "ggml,libggml", *QUICK)
    assert (3, "", "diffuzz: no libggml\n") == (code, out, err)
    entry = record(search(SOFTMAX, {"n": 3}, Compare("apr", "ggml"), seconds=1, seed=0))
    path = files.save(attrs.evolve(entry, kernels=("apr", "libggml")), Path("corpus"))
    result = replay_file(path)
    assert (result.status, exit_code([result])) == ("needs kernels", 3)
    assert run(capsys, "replay")[0] == 3


def test_an_entry_names_no_path(tmp_path: Path) -> None:
    """Loading a corpus file must not decide which library is loaded."""
    entry = record(search(SOFTMAX, {"n": 3}, Compare("apr", "ggml"), seconds=1, seed=0))
    for names, message in (
        (("apr", "libggml@/tmp/evil"), "name a path"),
        (("apr", "nobody"), "are not two of"),
        (("apr",), "are not two of"),
    ):
        path = tmp_path / "bad.json"
        path.write_text(dumps(attrs.evolve(entry, kernels=names)))  # type: ignore[arg-type]
        with pytest.raises(CorpusError, match=message):
            files.load(path)
    path.write_text(dumps(attrs.evolve(entry, kernels=("apr", "libggml@build"))))
    with pytest.raises(NeedsLibraryError, match="--library"):
        minimised(files.load(path), keep=0.9)
    # Nor is a folder that happens to be called like it.
    Path("build").mkdir()
    assert replay_file(path).status == "needs kernels"


def test_kernels_are_a_part_of_an_entry() -> None:
    """Two pairs with one case are two entries; an entry without kernels is written as it always was."""
    entry = record(search(SOFTMAX, {"n": 3}, Compare("apr", "ggml"), seconds=1, seed=0))
    other = attrs.evolve(entry, kernels=("ggml", "apr"))
    plain = attrs.evolve(entry, kernels=None)
    assert len({entry.digest, other.digest, plain.digest}) == 3
    assert "kernels" not in json.loads(dumps(plain))


def test_matrix() -> None:
    """Every pair once, each judged; policy against policy, rounding against rounding."""
    cells = matrix.matrix(MATVEC, {"format": "q8_0"}, seconds=1, seed=0, chosen=["ggml", "exact", "apr", "gguf"])
    how = {(cell.a, cell.b): cell.agreement for cell in cells}
    assert len(how) == 6
    assert how["ggml", "apr"] is Agreement.POLICY
    assert how["exact", "apr"] is Agreement.ROUNDING
    assert not matrix.outside(cells)
    text = matrix_text(cells, ["kernels x need the package y"])
    assert "by policy" in text
    assert "Not here: kernels x need the package y." in text
    foreign = [attrs.evolve(cell, a=cell.a + "@[/bold][red]:smile:\n\x1b[2J") for cell in cells]
    shown = matrix_text(foreign, ["library [/bold]\n"])
    assert shown.replace("\n", "").isprintable()
    assert r"exact@[/bold][red]:smile:\n\x1b[2J" in shown
    assert r"Not here: library [/bold]\n." == shown.splitlines()[-1]
    stored = matrix_json(MATVEC, {"format": "q8_0"}, cells, [])
    assert json.loads(json.dumps(stored, allow_nan=False))["cells"][0]["kernels"] == ["ggml", "exact"]


def test_matrix_of_an_operation_that_is_wrong(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit 1: outside, with who is how far, and the witness in the corpus that was named."""
    from diffuzz.kernels import gguf

    def wrong(x: np.ndarray, *_: Any, **__: Any) -> np.ndarray:
        return np.full_like(x, 1 / x.shape[-1])

    monkeypatch.setattr(gguf, "soft_max", wrong)
    arguments = ("matrix", "--target", "softmax", "--kernels", "exact,apr,gguf", "--budget", "500ms")
    code, out, err = run(capsys, *arguments, "--corpus", "found")
    assert (1, "") == (code, err)
    assert "exact and gguf do not agree: exact has 0 of its a-priori bound, gguf " in out
    assert len(list(Path("found/softmax").iterdir())) == 2
    code, out, _ = run(capsys, *arguments, "--json")
    assert {cell["agreement"] for cell in json.loads(out.splitlines()[-1])["cells"]} == {"to rounding", "not at all"}


def test_matrix_of_fixed_results_shows_the_exact_one(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two dequantisers that differ by more than the sign of a zero: both numbers, and which is exact."""
    from diffuzz.kernels import apr

    right = apr.dequantize
    monkeypatch.setattr(apr, "dequantize", lambda format, blocks: right(format, blocks) + np.float32(1))
    arguments = ("--target", "dequantize", "--param", "format=q3_K", "--kernels", "exact,ggml,apr")
    code, out, err = run(capsys, "matrix", *arguments, "--budget", "500ms")
    assert (1, "") == (code, err)
    lines = [line for line in out.splitlines() if "do not agree" in line]
    assert len(lines) == 2
    for line in lines:
        found = re.search(r"the first is (\S+) against (\S+), where (\S+) is exact\.$", line)
        assert found is not None
        a, b, exact = map(float, found.groups())
        assert (a, b) == (exact, exact + 1)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--target", "dot-order"), 2, "compares no kernels"),
        (("--target", "softmax", "--kernels", "apr"), 2, "two are needed"),
        (("--target", "softmax", "--kernels", "apr,nobody"), 2, "has no kernels 'nobody'"),
        (("--target", "softmax", "--kernels", "apr,ggml", "--corpus", "file/nowhere"), 2, "cannot be written"),
        (("--target", "softmax", "--kernels", "apr,exact,apr"), 2, "kernels apr: the same implementation twice"),
        (("--target", "softmax", "--kernels", ",,"), 2, "--kernels ,,: not a list of names"),
        (("--target", "softmax", "--kernels", "apr,,ggml"), 2, "not a list of names"),
        (("--target", "softmax", "--kernels", ""), 2, "not a list of names"),
        (
            ("--target", "softmax", "--kernels", "apr,exact,libggml@nowhere"),
            2,
            "library nowhere: there is no such file",
        ),
    ],
)
def test_bad_matrix(capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], code: int, message: str) -> None:
    """One line."""
    Path("file").touch()
    got, out, err = run(capsys, "matrix", *arguments, "--budget", "500ms")
    assert (code, "") == (got, out)
    assert message in err


needs_library = pytest.mark.skipif(kernels.missing("libggml") is not None, reason=str(kernels.missing("libggml")))


@needs_library
@pytest.mark.parametrize(
    ("target", "given"),
    [
        ("softmax", {}),
        ("rmsnorm", {}),
        ("swiglu", {}),
        ("rope", {}),
        ("rope", {"mode": "neox"}),
        *[("matvec", {"format": name}) for name in ("q4_0", "q4_1", "q5_0", "q5_1", "q8_0")],
        *[("matvec", {"format": name}) for name in ("q2_K", "q3_K", "q4_K", "q5_K", "q6_K")],
        *[("quantize", {"format": name}) for name in ("q8_0", "q8_1", "q8_K")],
        *[("dequantize", {"format": name}) for name in ("q4_0", "q4_K", "q6_K")],
    ],
    ids=str,
)
def test_the_model_is_the_library(target: str, given: dict[str, Any]) -> None:
    """A search for a difference in bits between ggml, our model, and libggml finds none."""
    result = search(targets.get(target), given, Compare("ggml", "libggml"), seconds=1, seed=1)
    assert result.evaluations > 100
    assert (result.value, result.failure) == (0, None)


@needs_library
def test_libraries_are_recorded() -> None:
    """Version, compiler and features of a library are in its witness, and in the corpus entry."""
    result = search(MATVEC, {"format": "q4_0"}, Compare("apr", "libggml"), seconds=1, seed=0)
    assert set(result.libraries) == {"libggml"}
    assert record(result).environment["libggml"] == result.libraries["libggml"]
    path = files.save(record(result), Path("corpus"))
    assert replay_file(path).status == "as recorded"
