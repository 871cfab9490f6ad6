"""The command: what it prints, and what it says of functions that have no fingerprint."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from diffuzz.cli import main

KERNELS = """
import os, time
import numpy as np

def total(x):
    return np.cumsum(x, axis=-1, dtype=np.float32)[..., -1]

def backwards(x):
    return total(x[:, ::-1])

def crashes(x):
    if x.max() > 1e20:
        os.abort()
    return total(x)

def hangs(x):
    if x.max() > 1e20:
        time.sleep(60)
    return total(x)

def raises(x):
    if x.max() > 1e20:
        raise ValueError("too\\x1b[31m large\\nfor it")
    return total(x)

def is_nan(x):
    return total(x) * np.float32("nan")

def is_wrong(x):
    return total(x[:, 1:]) if x.shape[1] > 1 else total(x)
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "kernels.py"
    path.write_text(KERNELS)
    return path


def _run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = main._run(["fingerprint", *words])
    out, err = capsys.readouterr()
    return code, out, err


def test_a_candidate_is_reported_in_words_and_as_json(file, capsys):
    """The order in one line, how it was verified, and every node in JSON."""
    code, out, _ = _run(capsys, "--target", "sum", "--candidate", f"{file}:backwards", "--n", "12")
    assert code == 0
    assert "  order        12 summands, in sequence backwards\n" in out
    assert "  tree         (0+(1+(2+(3+(4+(5+(6+(7+(8+(9+(10+11)))))))))))\n" in out
    assert "Verified on 1024 random inputs to the bit." in out
    assert "times sharper than that of any order." in out
    code, out, _ = _run(capsys, "--target", "sum", "--candidate", f"{file}:total", "--n", "600", "--json")
    assert code == 0
    said = json.loads(out.splitlines()[-1])
    assert said["order"] == "600 summands, in sequence"
    # In sequence from the left: each node has what came before, and one summand more.
    assert sorted(said["tree"][0]) == [0, 1]
    assert [sorted(node) for node in said["tree"][1:]] == [[k + 2, 600 + k] for k in range(598)]
    assert said["bits"] == [24] * 599
    assert said["verified"]["agree"] == said["verified"]["of"] > 100


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("crashes", "SIGABRT"),
        ("hangs", "no result after 1 s"),
        ("raises", "too\\x1b[31m large for it"),
        ("is_nan", "not finite"),
        ("is_wrong", "no sum of its summands"),
        ("nothing", "has no function nothing"),
    ],
)
def test_what_has_no_fingerprint_is_one_line(file, capsys, name, said):
    """A function that fails, or is no sum: exit code 2, one line, nothing on stdout."""
    code, out, err = _run(capsys, "--target", "sum", "--candidate", f"{file}:{name}", "--n", "16", "--timeout", "1s")
    assert code == 2
    assert out == ""
    assert err.count("\n") == 1
    assert said in err


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--target", "sum"), 2, "give --candidate or --kernels"),
        (("--target", "sum", "--kernels", "nosuch"), 2, "no kernels 'nosuch'"),
        (("--target", "requantise", "--kernels", "exact"), 2, "takes no candidate"),
        (("--target", "rope", "--kernels", "apr"), 2, "is no sum that can be read"),
        (("--target", "sum", "--kernels", "numpy", "--n", "0"), 2, "not in the range"),
        (("--target", "sum", "--kernels", "numpy", "--library", "."), 2, "it stands for libggml"),
        (("--target", "layer_norm", "--kernels", "numpy"), 3, "no function of numpy for the target layer_norm"),
        (("--target", "matvec", "--kernels", "ggml", "--n", "100"), 2, "a multiple of 256"),
    ],
)
def test_wrong_questions_are_one_line(capsys, words, code, said):
    """What cannot be asked is said in one line."""
    found, out, err = _run(capsys, *words)
    assert (code, "") == (found, out)
    assert said in err
    assert err.count("\n") == 1


def test_functions_of_numpy_have_a_name(capsys):
    """``dot`` of NumPy, in its process."""
    code, out, _ = _run(capsys, "--target", "dot", "--kernels", "numpy", "--n", "64")
    assert code == 0
    assert out.startswith("numpy, dot with n = 64")
    assert "Verified on 1024 random inputs to the bit." in out


def test_a_matrix_says_why(capsys):
    """In what two implementations that differ differ."""
    code = main._run(
        [
            "matrix",
            "--target",
            "softmax",
            "--kernels",
            "apr,gguf",
            "--budget",
            "1s",
            "--why",
            "--param",
            "candidate_n=64",
        ]
    )
    out = capsys.readouterr().out
    assert code == 0
    assert "apr and gguf differ in finish: e / sum | e * (1 / sum)." in out
