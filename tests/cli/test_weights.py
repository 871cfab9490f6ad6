"""``search --weights``: real weights in the cases of a search, on the command line and in the corpus."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import numpy as np
import pytest
from small_gguf import write

from diffuzz.cli import main
from diffuzz.corpus import files
from diffuzz.targets.published import seed_matrix


@pytest.fixture(autouse=True)
def _folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(importlib.import_module("diffuzz.searching.search"), "WORK_PER_SECOND", 2**18)
    monkeypatch.chdir(tmp_path)
    write(Path("m.gguf"), {"down": ("q4_K", (8, 256), seed_matrix(0, rows=8))})


SEARCH = ("search", "--target", "matvec", "--seed", "0", "--engine", "evolution")


def test_a_witness_has_the_weights_and_replays_without_the_model(capsys: pytest.CaptureFixture[str]) -> None:
    """The report and the entry say where they are from; the same command finds the same."""
    assert main._run([*SEARCH, "--weights", "m.gguf:down[2:5]", "--json"]) in (0, 1)
    found = json.loads(capsys.readouterr().out)
    assert ("m.gguf:down[2:5]", "q4_K", 3) == tuple(found["weights"][key] for key in ("from", "format", "choices"))
    entry = files.load(Path(found["witness"]))
    row = int(found["weights"]["case"].split()[1].rstrip(","))
    assert row in (2, 3, 4)
    np.testing.assert_array_equal(seed_matrix(0, rows=8)[row][None], entry.case["weights"])
    assert "m.gguf:down[2:5]" == entry.found["weights"]
    assert "--weights 'm.gguf:down[2:5]'" in str(entry.found["command"])
    Path("m.gguf").unlink()
    assert 0 == main._run(["replay", found["witness"]])


def test_what_is_found_of_other_weights_is_another_entry(capsys: pytest.CaptureFixture[str]) -> None:
    """A larger value of any weights does not make it superfluous."""
    given = ("--param", "n=256", "--param", "format=q4_K", "--json")
    assert main._run([*SEARCH, *given]) in (0, 1)
    free = json.loads(capsys.readouterr().out)
    assert main._run([*SEARCH, *given, "--weights", "m.gguf:down[2]"]) in (0, 1)
    real = json.loads(capsys.readouterr().out)
    assert free["value"] > real["value"]
    assert free["witness"] != real["witness"]
    assert free["params"] == real["params"]


def test_a_report_names_the_weights(capsys: pytest.CaptureFixture[str]) -> None:
    """And the row of the case."""
    assert main._run([*SEARCH, "--weights", "m.gguf:down", "--no-save"]) in (0, 1)
    out = capsys.readouterr().out
    assert "  weights        m.gguf:down (q4_K); of the case: row " in out


def test_bad_weights_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 2."""
    for given in ("m.gguf", "m.gguf:up", "m.gguf:down[8]", "none.gguf:down"):
        assert 2 == main._run([*SEARCH, "--weights", given, "--no-save"])
        said = capsys.readouterr().err
        assert 1 == said.count("\n")
        assert "m.gguf" in said or "none.gguf: No such file" in said


def test_a_layer_of_a_model_is_searched_and_replays_with_the_model_only(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model is a parameter; without its file a replay is exit 3, and a search exit 2."""
    from diffuzz.models import named, random_model

    monkeypatch.setattr(importlib.import_module("diffuzz.searching.search"), "MINIMISING", 0.05)
    random_model.write("r.gguf", layers=1)
    given = ("search", "--target", "layer", "--param", "model=r.gguf", "--seed", "0", "--engine", "random")
    assert 1 == main._run([*given, "--json"])
    found = json.loads(capsys.readouterr().out)
    assert 0 < found["value"] < found["detail"]["first-order bound"]
    assert "r.gguf@" in str(found["params"]["model"])
    assert 0 == main._run(["replay", found["witness"], "--model", "r.gguf"])
    named._MODELS.clear()
    named._DIGESTS.clear()
    capsys.readouterr()
    assert 3 == main._run(["replay", found["witness"]])
    assert "give --model r.gguf" in capsys.readouterr().out
    Path("r.gguf").unlink()
    assert 2 == main._run([*given])
    assert "model r.gguf: No such file or directory" in capsys.readouterr().err
