"""The first of several builds that shows a witness."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffuzz.campaigns.bisecting import Answer, BisectError, bisect


@given(st.data())
def test_the_first_one_is_found(data: st.DataObject) -> None:
    """In as few trials as it takes, whichever builds cannot be asked; those that may be it are named."""
    count = data.draw(st.integers(2, 60))
    first = data.draw(st.integers(1, count - 1))
    odd = data.draw(st.sets(st.integers(1, max(count - 2, 1)), max_size=10)) - {0, count - 1}
    asked: list[int] = []

    def ask(build: str) -> Answer:
        asked.append(int(build))
        return "cannot be asked" if int(build) in odd else "shows" if int(build) >= first else "does not show"

    found = bisect(list(map(str, range(count))), ask)
    assert int(found.last) < first <= int(found.first)
    assert set(range(int(found.last) + 1, int(found.first))) == set(map(int, found.between)) <= odd
    assert len(asked) == len(set(asked))
    assert len(asked) <= math.log2(count) + 3 + len(odd)


@pytest.mark.parametrize(
    ("builds", "wrong_from", "said"),
    [("a", 0, "two or more"), ("aa", 1, "two or more different"), ("abc", 0, "build a: the first one must not"),
     ("abc", 3, "build c: the last one has to")],
)  # fmt: skip
def test_there_may_be_no_first_one(builds: str, wrong_from: int, said: str) -> None:
    """Where the first shows it, or the last does not, that is said."""
    with pytest.raises(BisectError, match=said):
        bisect(list(builds), lambda one: "shows" if builds.index(one) >= wrong_from else "does not show")


_KERNELS = """
import numpy as np

def right(z):
    wide = np.exp(z.astype(np.float64) - z.max(axis=1, keepdims=True))
    return (wide / wide.sum(axis=1, keepdims=True)).astype(np.float32)

def wrong(z):
    out = right(z)
    out[:, -1] = 0
    return out

v1 = v2 = right
v4 = wrong
"""


def _diffuzz(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "diffuzz", *words], cwd=folder, capture_output=True, text=True, check=False
    )


def test_the_command(tmp_path: Path) -> None:
    """Builds as functions, and as names; one that cannot be made is passed over; what is no witness is told."""
    (tmp_path / "k.py").write_text(_KERNELS)
    words = ("search", "--target", "softmax", "--candidate", "k.py:wrong", "--budget", "500ms", "--seed", "1", "--json")
    witness = json.loads(_diffuzz(tmp_path, *words).stdout)["witness"]
    found = _diffuzz(tmp_path, "bisect", witness, "k.py:v2", "k.py:v3", "k.py:v4")
    assert found.returncode == 0, found.stderr
    assert "k.py:v4 shows it, k.py:v2 does not; between them could not be asked: k.py:v3" in found.stdout
    named = _diffuzz(
        tmp_path, "bisect", witness, "--candidate", "k.py:v{}", "--before", "echo making {}; test {} != 2", "--json",
        "1", "2", "4",
    )  # fmt: skip
    said = json.loads(named.stdout.splitlines()[-1])
    assert (said["first"], said["last_without"], said["perhaps"]) == ("4", "1", ["2"])
    assert "making 2" in named.stderr
    wrong = _diffuzz(tmp_path, "bisect", witness, "k.py:v4", "k.py:v1")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr.count("\n") == 1
    assert "the last one has to show the witness" in wrong.stderr


def test_a_claim_has_no_builds(saved: Path, tmp_path: Path) -> None:
    """What is about the arithmetic shows in all of them."""
    done = _diffuzz(tmp_path, "bisect", str(saved), "a", "b")
    assert done.returncode == 2
    assert "is about the arithmetic" in done.stderr
