"""``show --python``: an entry as a program without diffuzz, which shows what the entry says."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from diffuzz import targets
from diffuzz.cases.case import Case
from diffuzz.cases.text import case_text
from diffuzz.cli import main
from diffuzz.corpus import files
from diffuzz.corpus.entry import Counterexample
from diffuzz.corpus.record import record
from diffuzz.corpus.snippet import snippet
from diffuzz.judging.problem import open_problem
from diffuzz.judging.question import Compare, Judge
from diffuzz.searching.search import search
from diffuzz.targets.operation import Operation

ROOT = Path(__file__).parent.parent.parent
# Wrong functions of every target that judges any, in terms of the exact ones.
WRONG = {
    "matmul": "return a[0] @ a[1] + np.float32(1)",
    "dequantize": "return 2 * kernels.dequantize('q4_K', a[0]).astype(np.float32)",
    "matvec": "return kernels.vec_dot('q4_K', a[0], a[1][None])[:, 0].astype(np.float32) + np.float32(1)",
    "quantize": "return kernels.quantize('q8_K', a[0]) ^ np.uint8(1)",
    "rmsnorm": "return kernels.rms_norm(a[0], 1e-6).astype(np.float32)",
    "rope": "return kernels.rope(a[0], a[1], 1000.0, a[3]).astype(np.float32)",
    "softmax": "return kernels.soft_max(np.maximum(a[0], -100)).astype(np.float32) + np.float32(1e-3)",
    "swiglu": "return (a[0] * a[1]).astype(np.float32)",
}
# Operations that are functions of jax.numpy, all written alike: with one result and with two, with merged axes and
# keywords, with indices. The reference plus one is wrong.
OPERATIONS = ("add_rmsnorm", "attention", "gelu", "top_k")
JUDGING = sorted((*WRONG, *(name for name in OPERATIONS if name in targets.names())))
OFF_BY_ONE = """
def f(*a, **k):
    got = operation(*a, **k)
    first, *rest = got if isinstance(got, tuple) else (got,)
    results = (np.asarray(first, a[0].dtype) + a[0].dtype.type(1), *map(np.asarray, rest))
    return results if rest else results[0]
"""


def _function(folder: Path, target: str) -> str:
    """A wrong function; it uses diffuzz, as a candidate may, and the program that calls it does not."""
    module = "ggml" if target == "quantize" else "exact"
    path = folder / "wrong.py"
    if target not in WRONG:
        module = f"diffuzz.targets.{target.replace('-', '_')}"
        path.write_text(f"import numpy as np\nfrom {module} import TARGET as operation\n{OFF_BY_ONE}")
        return f"{path}:f"
    path.write_text(
        f"import numpy as np\nfrom diffuzz.kernels import {module} as kernels\ndef f(*a):\n    {WRONG[target]}\n"
    )
    return f"{path}:f"


def _run(text: str, folder: Path, *, isolated: bool = False) -> str:
    """What the program prints. Raises AssertionError if it fails, or warns."""
    path = folder / "snippet.py"
    path.write_text(text, encoding="utf-8")
    options = ["-I"] if isolated else []
    done = subprocess.run(
        [sys.executable, *options, str(path)], capture_output=True, text=True, timeout=120, cwd=folder
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_every_contract_is_there() -> None:
    """The tests below are about all targets that judge functions; of those made of one function, about some."""
    made = {name for name in targets.names() if _is_operation(name)}
    by_hand = {name for name in targets.names() if targets.get(name).contract is not None} - made
    assert set(WRONG) == by_hand


def _is_operation(name: str) -> bool:
    module = importlib.import_module(f"diffuzz.targets.{name.replace('-', '_')}")
    return isinstance(module.TARGET, Operation)


# One that takes as long as three others, and is written as they are.
MOST = [pytest.param(name, marks=pytest.mark.slow if name in ("attention", "gelu") else ()) for name in JUDGING]


@pytest.mark.parametrize("target", MOST)
def test_a_candidate(tmp_path: Path, target: str) -> None:
    """The program runs as it is, with the file that was recorded, and finds the value that the entry has: how many
    times the error that is allowed, or how many elements that are not right.
    """
    name = _function(tmp_path, target)
    entry = record(search(targets.get(target), {}, Judge(name), engine="random", seconds=0.5, seed=1))
    assert entry.verdict.value == "CONFIRMED"
    text = snippet(entry)
    assert "import diffuzz" not in text
    assert "from diffuzz" not in text
    out = _run(text, tmp_path)
    found = re.search(r"at most (\S+) times|: (\d+) of \d+ elements", out)
    assert found is not None
    assert float(found[1] or found[2]) == pytest.approx(entry.value, rel=1e-6)
    assert "  element " in out


@pytest.mark.parametrize("target", MOST)
def test_the_arguments_are_the_same_bits(tmp_path: Path, target: str) -> None:
    """What the function of the program is called with is what the candidate was called with, scalars included."""
    contract = targets.get(target).contract
    assert contract is not None
    entry = record(
        search(targets.get(target), {}, Judge(_function(tmp_path, target)), engine="random", seconds=0.3, seed=2)
    )
    (call,) = contract.calls(entry.params, entry.case.batch())
    program = snippet(entry).replace(
        "function = load(FILE, FUNCTION)", "function = lambda *a, **k: print(*map(see, (*a, *k.values())), sep=';')"
    )
    see = "def see(a): return (a.dtype.str + str(a.shape) + a.tobytes().hex()) if hasattr(a, 'dtype') else repr(a)\n"
    out = _run(program.replace("import numpy as np\n", f"import numpy as np\n{see}", 1), tmp_path)
    wanted = [
        f"{one.dtype.str}{one.shape}{one.tobytes().hex()}" if isinstance(one, np.ndarray) else repr(one)
        for one in (*call.positional, *call.named.values())
    ]
    assert out.splitlines()[0].split(";") == wanted


@pytest.mark.parametrize("target", JUDGING)
def test_two_kernels(tmp_path: Path, target: str) -> None:
    """Of two kernels there is no function to call, but a place for one; their results are there, and how far they are
    apart. Nothing but NumPy is needed.
    """
    contract = targets.get(target).contract
    assert contract is not None
    params = targets.get(target).contract_params()
    known = [name for name in contract.kernels(params) if name in ("exact", "apr", "gguf", "ggml")][:2]
    asked = Compare(known[0], known[-1])
    with open_problem(targets.get(target), {}, asked) as problem:
        spec = problem.space
        case = Case({
            one.name: np.zeros(one.array_shape(), one.dtype) if one.kind == "blocks"
            else np.full(one.array_shape(), min(max(one.low, 1), one.high), one.dtype) for one in spec.tensors
        })  # fmt: skip
        entry = _of(problem.target.name, asked, case)
    out = _run(snippet(entry), tmp_path, isolated=True)
    assert out.splitlines()[0].startswith(f"{known[0]}: ")
    if contract.allowance is not None:
        apart = next(line for line in out.splitlines() if line.startswith("apart: "))
        assert float(apart.split()[1]) == pytest.approx(entry.value, rel=1e-6)


def _of(target: str, asked: Compare, case: Case) -> Counterexample:
    with open_problem(targets.get(target), {}, asked) as problem:
        measured = problem.measured(case)
        return Counterexample(
            target=target, params=problem.params, case=case, measure=measured.measure, value=measured.value,
            noise=measured.noise, threshold=problem.threshold, bound=None, verdict=problem.verdict(measured),
            tolerance=problem.tolerance, found={}, environment={}, kernels=asked.recorded,
        )  # fmt: skip


@pytest.mark.parametrize("target", targets.names())
def test_a_claim(tmp_path: Path, target: str) -> None:
    """Of a claim about arithmetic the program has the arrays to the bit, and those that they move to."""
    path = sorted((ROOT / "corpus").glob(f"{target}/*.json"))
    if not path:
        params = targets.get(target).params()
        space = targets.get(target).space(params)
        case = Case({
            spec.name: np.full(spec.array_shape(), min(1.0, spec.high) if spec.smallest_peak else 0, spec.dtype)
            for spec in space.tensors
        })  # fmt: skip
        measured = open_problem(targets.get(target)).measured(case)
        entry = Counterexample(
            target=target, params=params, case=case, measure=measured.measure, value=measured.value, noise=0.0,
            threshold=0.0, bound=None, verdict=open_problem(targets.get(target)).verdict(measured), tolerance=0.0,
            found={}, environment={},
        )  # fmt: skip
    else:
        entry = files.load(path[0])
    check = "".join(
        f"assert {name}.dtype.str + str({name}.shape) + {name}.tobytes().hex() == "
        f"{array.dtype.str + str(array.shape) + array.tobytes().hex()!r}\n"
        for name, array in entry.case.arrays.items()
    )
    out = _run(snippet(entry) + check, tmp_path, isolated=True)
    assert [name for name in entry.case.arrays if f"{name} {entry.case[name].dtype} " in out] == list(entry.case.arrays)


def test_what_is_wrong_beside_other_rows(tmp_path: Path) -> None:
    """A function that is right of a row alone: the program calls it with the other rows as well."""
    (tmp_path / "mixed.py").write_text(
        "import numpy as np\ndef f(x, eps):\n"
        "    return (x / np.sqrt((x[:1].astype(float) ** 2).mean() + eps)).astype(np.float32)\n"
    )
    found = search(targets.get("rmsnorm"), {}, Judge(f"{tmp_path}/mixed.py:f"), engine="random", seconds=0.5, seed=0)
    entry = record(found)
    assert float(entry.found["alone"]) < 1 < entry.value
    out = _run(snippet(entry), tmp_path)
    first, *others = re.findall(r"at most (\S+) times", out)
    assert float(first) <= 1
    assert max(map(float, others)) == pytest.approx(entry.value, rel=1e-6)


def test_what_returns_something_else(tmp_path: Path) -> None:
    """Another type than the signature says, with the right numbers, is said to be that."""
    (tmp_path / "wide.py").write_text(
        "import numpy as np\ndef f(gate, up):\n    x = gate.astype(float)\n    y = x / (1 + np.exp(-x)) * up\n"
        "    return y if x.max() > 1.5 else y.astype(np.float32)\n"
    )
    judge, given = Judge(f"{tmp_path}/wide.py:f"), {"candidate_n": 3}
    entry = record(search(targets.get("swiglu"), given, judge, engine="random", seconds=0.5, seed=0, keep=1.0))
    assert entry.value == np.inf
    assert "f returns float64 (1, 1) and not float32 (1, 1)" in _run(snippet(entry), tmp_path)


def test_another_file(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """--candidate names the file that the program loads; it needs --python, which does not go with --json."""
    monkeypatch.chdir(tmp_path)
    entry = record(
        search(targets.get("swiglu"), {}, Judge(_function(tmp_path, "swiglu")), engine="random", seconds=0.3, seed=0)
    )
    path = str(files.save(entry, tmp_path))
    (tmp_path / "right.py").write_text(
        "import numpy as np\ndef g(gate, up):\n    x = gate.astype(float)\n"
        "    return (x / (1 + np.exp(-x)) * up).astype(np.float32)\n"
    )
    assert main._run(["show", path, "--python", "--candidate", "right.py:g"]) == 0
    out = _run(capsys.readouterr().out, tmp_path)
    assert float(re.findall(r"at most (\S+) times", out)[0]) <= 1
    assert main._run(["show", path, "--candidate", "right.py:g"]) == 2
    assert main._run(["show", path, "--python", "--json"]) == 2


def test_masked_logits_are_shown_as_such(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A witness is printed as what the function was called with: -inf, and not the end of the range."""
    contract, params = targets.get("softmax").contract, targets.get("softmax").contract_params()
    assert contract is not None
    case = contract.space(params).completed({"z": np.array([-120, 3, 3], np.float32)})
    shown = case_text(contract.space(params), case, contract.instead(params, case.batch()))
    assert shown == "z = -inf, 3 x 2"
    shifted = case.replace(shift=np.array([1000], np.float32))
    shown = case_text(contract.space(params), shifted, contract.instead(params, shifted.batch()))
    assert shown == "z = -inf, 1003 x 2"
    open_ones = targets.get("softmax").contract_params({"masked": False})
    assert contract.instead(open_ones, case.batch()) == {"shift": ""}


def test_scales_of_a_byte_are_shown_as_the_byte() -> None:
    """A power of two up to 2^127 would be a long number; rows and blocks are told apart."""
    contract, params = targets.get("matvec").contract, targets.get("matvec").contract_params({"format": "mxfp4"})
    assert contract is not None
    weights = np.zeros((5, 3 * 17), np.uint8)
    weights[:, ::17] = 254
    case = Case({"weights": weights, "x": np.ones(96, np.float32)})
    lines = case_text(contract.space(params), case, contract.instead(params, case.batch())).splitlines()
    assert lines[:2] == ["weights = 5 rows of 3 blocks of mxfp4", "  d (e8m0 byte) = 254 x 15"]


def test_narrow_types(tmp_path: Path) -> None:
    """Arrays of bfloat16 are written as the numbers that they are; the program says what it needs."""
    (tmp_path / "low.py").write_text(
        "import numpy as np\ndef f(x, eps):\n    mean = (x * x).mean(axis=1, keepdims=True, dtype=x.dtype)\n"
        "    return (x / np.sqrt(mean + x.dtype.type(eps))).astype(x.dtype)\n"
    )
    judge = Judge(f"{tmp_path}/low.py:f")
    entry = record(search(targets.get("rmsnorm"), {"dtype": "bfloat16"}, judge, engine="random", seconds=0.5, seed=0))
    text = snippet(entry)
    assert "This program needs NumPy and ml_dtypes only" in text
    found = re.search(r"at most (\S+) times", _run(text, tmp_path))
    assert found is not None
    assert float(found[1]) == pytest.approx(entry.value, rel=1e-6)
