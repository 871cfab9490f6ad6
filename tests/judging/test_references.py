"""What a function keeps by reference, of its arguments or its result, from one call to the next: it is right all the
same, in a process of its own and in this one.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from diffuzz import targets
from diffuzz.judging.question import Judge
from diffuzz.judging.verdict import Verdict
from diffuzz.searching.search import search

# It returns its own buffer, as kernels with preallocated memory do.
BUFFER = """
from diffuzz import formats
from diffuzz.kernels import apr
buffers = {}
def f(weights, x):
    buffer = buffers.setdefault(len(weights), np.empty(len(weights), np.float32))
    buffer[:] = apr.vec_dot_rows("q8_0", weights, np.repeat(x[None], len(weights), 0))
    return buffer
"""
# It writes to its argument.
IN_PLACE = """
def f(x, eps):
    x /= np.sqrt((x.astype(np.float64) ** 2).mean(1, keepdims=True) + eps).astype(np.float32)
    return x
"""
# It keeps its last argument, and uses it in the place of an equal one.
CACHE = """
kept = []
def f(x, eps):
    if not (kept and kept[0].shape == x.shape and (kept[0] == x).all() and kept[2] == eps):
        kept[:] = [x, (x / np.sqrt((x.astype(np.float64) ** 2).mean(1, keepdims=True) + eps)).astype(np.float32), eps]
    return kept[1]
"""


@pytest.mark.parametrize(
    ("target", "given", "body"),
    [
        ("matvec", {"format": "q8_0", "arithmetic": "apr"}, BUFFER),
        ("rmsnorm", {}, IN_PLACE),
        ("rmsnorm", {}, CACHE),
    ],
    ids=["its own buffer", "in place", "a cache"],
)
@pytest.mark.parametrize("own_process", [True, False])
def test_it_is_right(
    target: str, given: dict[str, object], body: str, own_process: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is found."""
    monkeypatch.chdir(tmp_path)
    code = f"import numpy as np\n{body}"
    Path("mine.py").write_text(code)
    asked = Judge("mine.py:f")
    if not own_process:
        names: dict[str, object] = {}
        exec(code, names)
        function = names["f"]
        assert callable(function)
        asked = Judge(function, name="f")
    result = search(targets.get(target), given, asked, seconds=1.5, seed=0)
    assert (result.verdict, result.unsteady) == (Verdict.UNRESOLVED, None)
    assert np.isfinite(result.value)


def test_what_is_kept_of_one_call_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The arguments of a call are not overwritten by the next, whose batch is in the same shared memory."""
    monkeypatch.chdir(tmp_path)
    # Right, unless an argument of the call before has changed since.
    Path("mine.py").write_text(
        "import numpy as np\nfrom diffuzz.kernels import apr\nkept = []\ndef f(weights, x):\n"
        "    changed = any((one != copy).any() for one, copy in kept)\n"
        "    kept[:] = [(one, one.copy()) for one in (weights, x)]\n"
        "    got = apr.vec_dot_rows('q8_0', weights, np.repeat(x[None], len(weights), 0))\n"
        "    return got * np.float32(np.nan) if changed else got\n"
    )
    given = {"format": "q8_0", "arithmetic": "apr", "range:m": ":5", "range:k": ":320"}
    result = search(targets.get("matvec"), given, Judge("mine.py:f"), seconds=1.0, seed=0)
    assert (result.verdict, result.unsteady) == (Verdict.UNRESOLVED, None)
    assert np.isfinite(result.value)
