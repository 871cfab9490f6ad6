"""Properties of functions of torch, jax and DLPack: their arrays lie in memory as they were put there, or it is said
why that is not asked.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diffuzz import Keep, targets
from diffuzz.cli import main
from diffuzz.judging.handing import Handing, HandingError, placing
from diffuzz.judging.memory import Kind, Place, placed
from diffuzz.searching.keeping import Report, keeping

KERNELS = """
import torch

def by_count(z):
    e = torch.exp(z - z.amax(-1, keepdim=True))
    half = z.shape[1] // 2 if len(z) > 37 else z.shape[1]
    return e / (e[:, :half].sum(-1, keepdim=True) + e[:, half:].sum(-1, keepdim=True))

def in_place(z):
    z -= z.amax(-1, keepdim=True)
    return z.exp_().div_(z.sum(-1, keepdim=True))

def through_a_capsule(z):
    assert not hasattr(z, "__array__")
    return in_place(torch.from_dlpack(z))

def strides_ignored(z):
    return torch.softmax(torch.nan_to_num(z.as_strided((z.numel(),), (1,)).reshape(z.shape), nan=0.0), -1)
"""
OF_JAX = """
import jax.numpy as jnp

def by_count(z):
    e = jnp.exp(z - z.max(-1, keepdims=True))
    return e / (e.sum(-1, keepdims=True) * (1 + 2e-7 * (len(z) > 1)))
"""
torch_only = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed")
jax_only = pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="jax is not installed")


def asked(folder: Path, function: str, name: str, arrays: str, *, code: str = KERNELS) -> Report:
    """The report about one property of a function of the code."""
    file = folder / "kernels.py"
    file.write_text(code, encoding="utf-8")
    question = Keep(f"{file}:{function}", properties=(name,), arrays=arrays)
    (report,) = keeping(targets.get("softmax"), {}, question, seconds=20, seed=0, looks=3).reports
    return report


@torch_only
def test_a_batch_shows_in_a_function_of_torch(tmp_path: Path) -> None:
    """To the unit."""
    (finding,) = asked(tmp_path, "by_count", "batch", "torch").findings
    assert (finding.sizes["b"], finding.below["b"]) == (38, 37)


@torch_only
@pytest.mark.parametrize(("function", "arrays"), [("in_place", "torch"), ("through_a_capsule", "dlpack")])
def test_work_in_place_is_seen(function: str, arrays: str, tmp_path: Path) -> None:
    """Tensors share the memory of the arrays."""
    report = asked(tmp_path, function, "pure", arrays)
    assert any("it writes to its input z" in one.difference.how for one in report.findings)


@torch_only
def test_strides_are_those_of_the_tensor(tmp_path: Path) -> None:
    """Those that there are: a negative one is not asked of torch, which says nothing of the function."""
    report = asked(tmp_path, "strides_ignored", "layout", "torch")
    assert {"z gaps", "z fortran", "z wide"} <= {one.way for one in report.findings}
    assert report.refused["z reversed 0"] == "torch has no negative strides"
    assert report.status == "broken"


@jax_only
def test_functions_of_jax(tmp_path: Path) -> None:
    """A batch shows, and JAX has but one layout."""
    (finding,) = asked(tmp_path, "by_count", "batch", "jax", code=OF_JAX).findings
    assert finding.sizes["b"] == 2
    layout = asked(tmp_path, "by_count", "layout", "jax", code=OF_JAX)
    assert (layout.status, layout.why) == ("not asked", "JAX copies what is not contiguous and aligned")


@pytest.mark.parametrize("arrays", ["numpy", "torch", "jax", "dlpack"])
def test_what_does_not_lie_so_is_told(arrays: str) -> None:
    """Of each library, for each place."""
    if arrays in ("torch", "jax"):
        pytest.importorskip(arrays)
    refuses = placing.refusing(Handing(arrays))

    def refused(kind: Kind, number: int = 0) -> bool:
        place = Place(kind, number)
        return bool(refuses(placed(np.arange(12, dtype=np.float32).reshape(3, 4), place).array, place))

    assert not refused("plain")
    assert refused("reversed", 0) == (arrays in ("torch", "jax"))
    for kind, number in (("offset", 4), ("fortran", 0), ("gaps", 2), ("wide", 3), ("repeated", 0)):
        assert refused(kind, number) == (arrays == "jax"), kind


def test_another_device() -> None:
    """Tensors there have the same strides, and what is written to them is written to the arrays; what is around them is
    not asked. torch knows the processor by another name, too, and so as another device.
    """
    torch = pytest.importorskip("torch")
    seen: set[tuple[int, ...]] = set()

    def reports(function: Callable[[Any], Any], name: str) -> Report:
        question = Keep(function, properties=(name,), arrays="torch", device="cpu:0")
        (report,) = keeping(targets.get("softmax"), {}, question, seconds=20, seed=0, looks=2).reports
        return report

    def soft(z: Any) -> Any:
        seen.add(z.stride())
        return torch.softmax(z.contiguous(), -1)

    def in_place(z: Any) -> Any:
        return z.copy_(torch.softmax(z, -1))

    assert reports(soft, "layout").status == "kept"
    assert {(1, 70), (0, 1)} <= seen
    assert any(columns in (2, 3, 4, 5) and rows >= 2 * columns for rows, columns in seen)
    (finding,) = reports(in_place, "pure").findings
    assert finding.difference.how == "it writes to its input z"
    assert "are copies in memory of their own" in reports(soft, "bounds").why


@torch_only
def test_the_command_says_the_arrays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """So what it prints is seen again."""
    file = tmp_path / "kernels.py"
    file.write_text(KERNELS, encoding="utf-8")
    words = ["search", "--target", "softmax", "--candidate", f"{file}:in_place", "--arrays", "torch", "--device", "cpu"]
    assert main._run([*words, "--property", "pure", "--seed", "0", "--budget", "1s", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["environment"]["arrays"] == "torch"
    finding = found["implementations"][0]["properties"][0]["findings"][0]
    assert f"{file}:in_place --arrays torch --device cpu --property pure" in finding["command"]


def test_what_cannot_be_handed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Is one line, as for a search."""
    with pytest.raises(HandingError):
        Keep("k.py:f", arrays="cupy")
    (tmp_path / "k.so").touch()
    words = ["search", "--target", "softmax", "--candidate", f"{tmp_path}/k.so:f", "--property", "repeat"]
    assert main._run([*words, "--arrays", "dlpack"]) == 2
    assert "they are for functions of Python" in capsys.readouterr().err
    assert main._run([*words, "--device", "cuda"]) == 2
    assert "arrays of numpy are in the memory of the processor" in capsys.readouterr().err
