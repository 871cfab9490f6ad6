"""Mistakes in a target, a format or an engine of somebody else are one line that says what, and in which line."""

from __future__ import annotations

from pathlib import Path

import attrs
import numpy as np
import pytest

import diffuzz
from diffuzz import formats, targets
from diffuzz.cases import Dim, TensorSpec
from diffuzz.cli import main
from diffuzz.corpus.entry import Counterexample
from diffuzz.judging.problem import open_problem
from diffuzz.judging.question import QuestionError
from diffuzz.registry import RegistryError
from diffuzz.searching.search import NoValueError, search
from diffuzz.targets import Amplification, Outcome, Target, laws
from diffuzz.targets.drift import Drift
from diffuzz.targets.outcome import Arrays
from diffuzz.targets.parameter import Params

SOFTMAX, DOT_ORDER = targets.get("softmax"), targets.get("dot-order")
FILES = Path(__file__).parent / "outside" / "files"


def _written(folder: Path, name: str, *changes: tuple[str, str]) -> str:
    """The stranger's file of that name, changed, in ``folder``."""
    text = (FILES / name).read_text(encoding="utf-8")
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    (folder / name).write_text(text, encoding="utf-8")
    return str(folder / name)


def _said(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """The exit code of a command, and its one line on stderr."""
    code = main._run(list(arguments))
    error = capsys.readouterr().err
    assert 1 == error.count("\n"), error
    return code, error


def _of_nan(params: Params, arrays: Arrays) -> Outcome:
    rows = len(arrays["a"])
    return Outcome(np.full(rows, np.nan), np.zeros(rows))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ((("def space(p):", "def space(p):\n    p['m']"),), "KeyError: 'm'"),
        ((('kind="activations", shape=(n,)', 'kind="activation", shape=(n,)'),), "one of activations, logits"),
        ((('TensorSpec("x_direction"', 'TensorSpec("towards"'),), "not x_direction"),
        ((('inputs=lambda p: ("x",)', 'inputs=lambda p: ("y",)'),), "not y"),
        ((("bound=lambda p: None", "bound=lambda p: 3.0"),), "its bound is a float"),
        ((("threshold=lambda p: 5.0", "threshold=lambda p: None"),), "its threshold is a NoneType"),
        ((("low=-top, high=top, smallest_peak=top * 2.0**-20", "low=top, high=-top"),), "low=4 is above high=-4"),
        ((("    xp = kernels.xp\n", "    xp = kernels.xp\n    raise RuntimeError('boom')\n"),), "RuntimeError: boom"),
    ],
)  # fmt: skip
def test_a_target(
    changes: tuple[tuple[str, str], ...], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever is wrong with it, it is no defect of diffuzz, and no claim of it is judged."""
    file = _written(tmp_path, "my_norm.py", ('name="layer-norm"', 'name="mine"'), *changes)
    code, line = _said(capsys, "search", "--target", f"{file}:TARGET", "--budget", "200ms", "--no-save")
    assert (2, True) == (code, words in line), line


def test_a_target_without_values() -> None:
    """NaN everywhere is no healthy target of which nothing was found."""
    nothing = attrs.evolve(DOT_ORDER, name="nothing", question=Drift(_of_nan), starts=None)
    with pytest.raises(
        NoValueError, match=r"^target nothing: none of \d+ cases has a value: .*; laws\.check says which$"
    ):
        search(nothing, {"n": 8}, engine="random", seconds=0.1, seed=0)


def test_a_law_of_a_target_that_raises() -> None:
    """A law is an AssertionError of one line, whatever the target does."""

    def fails(*_: object) -> tuple[object, object, object]:
        raise KeyError("y")

    broken: Target = attrs.evolve(SOFTMAX, question=Amplification(fails, inputs=lambda p: ("z",), norm=1))
    with pytest.raises(AssertionError, match=r"^law values_are_numbers: target softmax: raises KeyError: 'y'$"):
        laws.LAWS[5](broken)
    with pytest.raises(AssertionError, match=r"^law values_are_numbers"):
        laws.check(broken)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('("x", kind="activations")', '("x", kind="numbers")', "one of activations"),
        ('("x", kind="activations")', '("x", kind="activations", low=1.0)', "low=1 is above high=0"),
    ],
)
def test_a_tensor(old: str, new: str, words: str) -> None:
    """A kind that there is not, and an empty range, are refused where they are declared."""
    with pytest.raises(ValueError, match=words):
        eval(f"TensorSpec{new.replace(')', ', shape=(Dim(chr(110), 4),))')}", {"TensorSpec": TensorSpec, "Dim": Dim})


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (
            "def pack(fields):\n",
            "def pack(fields):\n    fields = {**fields, 'codes': 0 * fields['codes']}\n",
            "field codes",
        ),
        ('Format("', 'Format("other_', "blocks of 16 elements"),
    ],
    ids=["pack", "block_size"],
)
def test_a_format(old: str, new: str, words: str, tmp_path: Path) -> None:
    """Views of the same bytes that do not belong together are refused when the format is loaded."""
    changes = [(old, new)]
    if "other" in new:
        text = (FILES / "my_format.py").read_text(encoding="utf-8")
        declared = next(line for line in text.splitlines() if line.startswith("FORMAT = Format("))
        changes = [(declared, declared.replace("32,", "16,", 1))]
    with pytest.raises(RegistryError, match=words):
        formats.load(_written(tmp_path, "my_format.py", *changes) + ":FORMAT")


def test_what_moves_is_in_the_space() -> None:
    """The message names what is missing, and what there is."""
    assert isinstance(SOFTMAX.question, Amplification)
    wrong = attrs.evolve(SOFTMAX, question=Amplification(SOFTMAX.question.function, inputs=lambda p: ("w",), norm=1))
    with pytest.raises(QuestionError, match="its space has z, z_direction, but not w"):
        open_problem(wrong)


def test_a_name_in_the_place_of_a_target() -> None:
    """What a user of the library tries first gets the way to write it."""
    with pytest.raises(TypeError, match=r"target='softmax': a Target is needed, such as targets\.get\('softmax'\)"):
        diffuzz.search("softmax", seconds=1)  # type: ignore[arg-type]


def test_a_path_in_the_place_of_paths(saved: Path) -> None:
    """Not its letters, of which one is the root of all files."""
    assert ["as recorded"] == [result.status for result in diffuzz.replay(str(saved.parent))]
    assert ["as recorded"] == [result.status for result in diffuzz.replay(saved)]


def test_save_and_no_save(capsys: pytest.CaptureFixture[str]) -> None:
    """One of the two is meant."""
    code, line = _said(capsys, "search", "--target", "softmax", "--save", "--no-save")
    assert (2, "diffuzz: --save and --no-save: give one of them\n") == (code, line)


def test_another_candidate_than_the_recorded(
    entry: Counterexample, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A replay that changes because it is another function says which one was recorded."""
    monkeypatch.chdir(tmp_path)
    lines = (
        "import numpy as np\ndef one(z):\n    return z\ndef other(z):\n    e = np.exp(z - z.max(-1, keepdims=True))\n"
    )
    Path("f.py").write_text(lines + "    return e / e.sum(-1, keepdims=True)\n", encoding="utf-8")
    assert 1 == main._run(["search", "--target", "softmax", "--candidate", "f.py:one", "--first", "--seed", "0"])
    capsys.readouterr()
    assert 1 == main._run(["replay", "corpus", "--candidate", "f.py:other"])
    assert "(recorded with f.py:one)" in capsys.readouterr().out
