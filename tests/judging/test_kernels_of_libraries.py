"""Right and wrong kernels of torch and JAX, and of what speaks DLPack, judged as those of NumPy are."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diffuzz import check, registry, targets
from diffuzz.cases import draws
from diffuzz.corpus import files
from diffuzz.corpus.candidates import parse
from diffuzz.corpus.record import command_of, record
from diffuzz.corpus.replay import replay_file
from diffuzz.judging.handing import MissingArraysError
from diffuzz.judging.opening import CandidateError
from diffuzz.judging.problem import Problem, open_problem
from diffuzz.judging.question import Judge
from diffuzz.judging.verdict import Verdict
from diffuzz.searching.search import search

EXAMPLES = Path(__file__).parents[2] / "examples/arrays"
TORCH, JAX, COMPILED = (EXAMPLES / f"{name}.py" for name in ("kernels_torch", "kernels_jax", "compiled_torch"))
needs_torch = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed")

WRONG = """
import torch
import torch.nn.functional as F

def no_maximum(z):
    e = torch.exp(z)
    return e / e.sum(-1, keepdim=True)

def eps_outside(x, eps):
    return x / ((x * x).mean(-1, keepdim=True).sqrt() + eps)

def no_scale(q, k, v, *, causal, window, softcap, scale):
    return F.scaled_dot_product_attention(q, k, v, scale=1.0, enable_gqa=True)

def first_positions(q, k, v, *, causal, window, softcap, scale):
    return F.scaled_dot_product_attention(q, k, v, is_causal=causal, scale=scale, enable_gqa=True)

def other_pairs(x, positions, base, mode):
    import sys
    sys.path.insert(0, PLACE)
    from kernels_torch import rope
    return rope(x, positions, base, "norm")

def in_half(z):
    return torch.softmax(z.half(), -1).float()

def in_place(z):
    z -= z.amax(-1, keepdim=True)
    return z.exp_().div_(z.sum(-1, keepdim=True))

def in_place_twice(x, eps):
    x *= x
    return x / torch.sqrt(x.mean(-1, keepdim=True) + eps)
"""


@pytest.fixture(scope="module")
def wrong(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of wrong kernels of torch, and one that is right and writes to its argument."""
    path = tmp_path_factory.mktemp("wrong") / "wrong.py"
    path.write_text(WRONG.replace("PLACE", repr(str(EXAMPLES))))
    return path


def function_of(path: Path, name: str) -> Any:
    """A function of a file, in this process."""
    return getattr(registry.load_file(path, "a test"), name)


def judged(path: Path, name: str, target: str, params: dict[str, object], arrays: str) -> Problem:
    """The question whether a function, called in this process, keeps its contract."""
    return open_problem(targets.get(target), params, Judge(function_of(path, name), arrays=arrays))


def largest(problem: Problem, rows: int = 6) -> float:
    """The largest value in a few batches of the usual size, and of odd sizes."""
    found = 0.0
    for seed in range(2):
        rng = np.random.default_rng(seed)
        for draw in (draws.structured, draws.scattered):
            found = max(found, float(np.nanmax(problem.evaluate(draw(problem.space, rng, rows)).value)))
    return found


SMALL: dict[str, dict[str, object]] = {
    "softmax": {"fix:n": 65},
    "rmsnorm": {"fix:n": 65},
    "attention": {"causal": True},
    "rope": {"fix:head_dim": 16, "fix:heads": 3},
    "swiglu": {"fix:n": 65},
}


@needs_torch
@pytest.mark.parametrize(
    ("target", "name", "dtype"),
    [
        *(
            ("softmax", "soft_max", dtype)
            for dtype in ("float64", "bfloat16", "float16", "float8_e4m3fn", "float8_e5m2")
        ),
        ("rope", "rope", "float32"),
        ("rope", "rope", "bfloat16"),
        ("rmsnorm", "rms_norm", "float32"),
        ("attention", "attention", "float32"),
    ],
)
def test_right_kernels_of_torch(target: str, name: str, dtype: str) -> None:
    """In the dtypes that its operators have, with positions in int32; in float8 through float32."""
    function = function_of(TORCH, name)

    def through(x: Any, *rest: Any, **named: Any) -> Any:
        assert str(x.dtype) == f"torch.{dtype}"
        return function(x.float(), *rest).to(x.dtype) if "float8" in dtype else function(x, *rest, **named)

    problem = open_problem(targets.get(target), SMALL[target] | {"dtype": dtype}, Judge(through, arrays="torch"))
    assert 0 < largest(problem) <= 1


@needs_torch
@pytest.mark.parametrize(
    ("target", "name"),
    [
        ("softmax", "no_maximum"),
        ("softmax", "in_half"),
        ("rmsnorm", "eps_outside"),
        ("rmsnorm", "in_place_twice"),
        ("attention", "no_scale"),
        ("attention", "first_positions"),
        ("rope", "other_pairs"),
    ],
)
def test_wrong_kernels_of_torch(wrong: Path, target: str, name: str) -> None:
    """Each is outside its bound on a usual case."""
    assert largest(judged(wrong, name, target, SMALL[target], "torch")) > 1


@needs_torch
def test_a_kernel_that_writes_to_its_argument_is_right(wrong: Path) -> None:
    """What it is held against was computed of what it was given, as with arrays of NumPy; alone and in company."""
    problem = judged(wrong, "in_place", "softmax", SMALL["softmax"], "torch")
    assert largest(problem) <= 1
    assert largest(problem, rows=1) <= 1


@needs_torch
@pytest.mark.parametrize("target", ["top_k", "embedding", "dequantize", "masked_softmax"])
def test_other_arrays(target: str) -> None:
    """Integers, indices in several results, bytes of blocks and masks come to a function of tensors as such."""
    import torch

    from diffuzz.kernels import exact

    def top_k(logits: Any, *, k: int) -> Any:
        return torch.topk(logits, k)

    def embedding(table: Any, ids: Any) -> Any:
        return table[ids]

    def dequantize(blocks: Any) -> Any:
        assert blocks.dtype == torch.uint8
        return torch.from_numpy(exact.dequantize("q8_0", blocks.numpy()).astype(np.float32))

    def masked_softmax(z: Any, mask: Any, *, scale: float) -> Any:
        return torch.softmax(z * scale + mask, -1)

    given: dict[str, object] = {"format": "q8_0"} if target == "dequantize" else {}
    function = {"top_k": top_k, "embedding": embedding, "dequantize": dequantize}.get(target, masked_softmax)
    assert largest(open_problem(targets.get(target), given, Judge(function, arrays="torch"))) <= 1


@pytest.mark.parametrize(
    ("target", "name", "dtype"),
    [
        *(("softmax", "soft_max", dtype) for dtype in ("float32", "float64", "bfloat16", "float8_e5m2")),
        ("rmsnorm", "rms_norm", "float32"),
    ],
)
def test_right_kernels_of_jax(target: str, name: str, dtype: str) -> None:
    """Compiled, in the dtypes that they have."""
    narrow = dtype in ("bfloat16", "float8_e5m2")
    function = function_of(JAX, name)

    def through(z: Any, *rest: Any) -> Any:
        return function(z.astype("float32"), *rest).astype(z.dtype) if narrow else function(z, *rest)

    problem = open_problem(targets.get(target), SMALL[target] | {"dtype": dtype}, Judge(through, arrays="jax"))
    assert 0 < largest(problem) <= 1


def test_a_wrong_kernel_of_jax() -> None:
    """``check`` calls it with arrays of JAX and says what is wrong."""
    import jax.numpy as jnp

    def no_maximum(z: Any) -> Any:
        assert isinstance(z, jnp.ndarray)
        return jnp.exp(z) / jnp.exp(z).sum(-1, keepdims=True)

    with pytest.raises(AssertionError, match=r"^no_maximum is wrong: element \d is nan") as error:
        check(no_maximum, "softmax", seconds=1, arrays="jax", params={"fix:n": 4})
    assert "\n  z = " in str(error.value)


def test_a_function_of_what_speaks_dlpack() -> None:
    """NumPy reads it, and what it returns is taken."""

    def soft_max(z: Any) -> Any:
        assert not hasattr(z, "__array__")
        read = np.from_dlpack(z)
        e = np.exp(read - read.max(-1, keepdims=True))
        return e / e.sum(-1, keepdims=True)

    problem = open_problem(targets.get("softmax"), SMALL["softmax"], Judge(soft_max, arrays="dlpack"))
    assert 0 < largest(problem) <= 1


def test_another_dtype_than_the_signature_says() -> None:
    """One line, as of NumPy's functions."""
    import jax.numpy as jnp

    with pytest.raises(CandidateError, match=r"returns bfloat16\[.*where float32\[") as error:
        largest(open_problem(targets.get("softmax"), {}, Judge(lambda z: z.astype(jnp.bfloat16), arrays="jax")))
    assert "\n" not in str(error.value)


@needs_torch
def test_a_witness_of_torch_is_kept_and_replays(wrong: Path, tmp_path: Path) -> None:
    """In a process of its own: the entry says what the function got, and a replay gives it the same, if nothing else is
    asked for.
    """
    softmax = targets.get("softmax")
    name = f"{wrong}:no_maximum"
    result = search(softmax, {"fix:n": 4}, Judge(name, arrays="torch"), seconds=1, seed=0)
    assert result.verdict is Verdict.CONFIRMED
    assert command_of(result).endswith(f"--candidate {name} --arrays torch")
    entry = record(result)
    assert (entry.environment["arrays"], entry.environment["arrays_device"]) == ("torch", "cpu")
    path = files.save(entry, tmp_path)
    assert path is not None
    assert replay_file(path, parse([name])).status == "as recorded"
    # The function is one of tensors only: with arrays of NumPy its first call fails.
    assert "raises" in replay_file(path, parse([name], arrays="numpy")).message
    missing = replay_file(path, parse([name], device="cuda:4321"))
    assert missing.status == "needs arrays"
    assert "device cuda:4321: torch" in missing.message


@needs_torch
def test_a_device_that_is_not_here_is_said_at_once(tmp_path: Path) -> None:
    """Before the file of the candidate is loaded, in one line."""
    path = tmp_path / "k.py"
    path.write_text("raise RuntimeError('loaded')\n")
    with pytest.raises(MissingArraysError, match=r"^device cuda:4321: torch .* has none of this name here"):
        open_problem(targets.get("softmax"), {}, Judge(f"{path}:f", arrays="torch", device="cuda:4321"))


def test_a_compiled_function_of_jax(tmp_path: Path) -> None:
    """It is told apart by its slow first calls, which are not a part of the budget, and few sizes are looked at."""
    path = tmp_path / "k.py"
    # Compiling by hand: how long XLA takes depends on the machine.
    path.write_text(
        "import time\nimport jax\nseen = set()\n"
        "def f(z):\n    if z.shape not in seen:\n        seen.add(z.shape)\n        time.sleep(0.5)\n"
        "    return jax.nn.softmax(z, -1)\n"
    )
    judge = Judge(f"{path}:f", arrays="jax")
    given = {"fix:n": 64, "range:b": ":64"}
    result = search(targets.get("softmax"), given, judge, seconds=0.5, seed=0, warm_up=0.5)
    shapes, seconds = len(result.problem.warm_ups), sum(result.problem.warm_ups)
    assert result.problem.compiles
    assert result.coverage.sizes["b"] <= {8, 16, 32, 64}
    assert 1 <= shapes <= 6
    assert seconds >= 0.5


@needs_torch
def test_a_compiled_function_of_torch() -> None:
    """torch.compile traces it, and what it gives is judged; here without its own compiler of C++."""
    import torch

    def soft_max(z: Any) -> Any:
        e = torch.exp(z - z.amax(-1, keepdim=True))
        return e / e.sum(-1, keepdim=True)

    compiled = torch.compile(soft_max, dynamic=True, backend="eager")
    problem = open_problem(targets.get("softmax"), SMALL["softmax"], Judge(compiled, name="f", arrays="torch"))
    assert 0 < largest(problem) <= 1


@pytest.mark.quality
@pytest.mark.slow
@needs_torch
def test_what_inductor_compiles() -> None:
    """The compiled example is right, in a process of its own."""
    judge = Judge(f"{COMPILED}:soft_max", arrays="torch", timeout=120)
    result = search(targets.get("softmax"), {"range:n": ":4096"}, judge, seconds=2, seed=0, warm_up=20)
    assert result.verdict is Verdict.UNRESOLVED
    assert result.evaluations > 8
