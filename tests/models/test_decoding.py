"""Decoding steps: tokens run in batches, with what the cache held; each step is checked like any other."""

from __future__ import annotations

import importlib.util
import shlex
import sys
from pathlib import Path

import attrs
import numpy as np
import pytest

from diffuzz.models import checking, engines, random_model
from diffuzz.models import model as models
from diffuzz.models.dump import Dump, check_against, read, write
from diffuzz.models.engines import EngineError, hf

TOKENS = (65, 66, 70, 71, 72, 80, 81)
BATCHES = (4, 2, 1)
EXAMPLE = Path(__file__).parents[2] / "examples" / "engines" / "numpy_engine.py"


def _needs(*modules: str) -> pytest.MarkDecorator:
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")


@pytest.fixture(scope="module", params=("llama", "gemma3"))
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose heads turn pairs of neighbours, and one with a window, which the cache is longer than."""
    file = tmp_path_factory.mktemp("model") / f"{request.param}.gguf"
    random_model.write(file, architecture=request.param, layers=2)
    return file


@pytest.mark.parametrize(
    "name",
    [
        "exact", "apr", "ggml",
        pytest.param("libggml", marks=_needs("ggml")),
        pytest.param("llama.cpp", marks=_needs("xllamacpp")),
        pytest.param("llama.cpp:kv=f16", marks=_needs("xllamacpp")),
        pytest.param("hf", marks=[_needs("torch", "transformers", "accelerate", "gguf"),
                                  pytest.mark.filterwarnings("ignore")]),
    ],
)  # fmt: skip
def test_the_last_step_keeps_its_bounds_and_says_the_same(path: Path, name: str) -> None:
    """Every step of it, by what the cache held; and its logits are those of the last of all tokens at once."""
    run = hf.compute if name == "hf" else engines.get(name)
    whole, last = run(path, TOKENS), run(path, TOKENS, batches=BATCHES)
    model = models.open(path)
    check_against(last, model)
    assert ([81], [6]) == (last.tokens.tolist(), last.positions.tolist())
    assert 6 == len(last.taps["blk.1.k_past"]) == len(last.taps["blk.1.v_past"])
    report = checking.check(model, last)
    assert report.checked == report.steps
    wrong = {each.op for each in report.culprits}
    # What a GGUF file of a gemma3 does not have is another number in transformers: see diffuzz.models.engines.hf.
    assert wrong == ({"probs"} if name == "hf" and model.architecture == "gemma3" else set())
    one, other = (np.asarray(run.taps["logits"][-1], np.float64) for run in (whole, last))
    # A code of an activation may be another, as sums are in another order.
    near = 1e-13 if name == "exact" else 1e-5 if name in ("apr", "hf") else 0.05
    assert np.linalg.norm(one - other) <= near * np.linalg.norm(one)


def test_a_cache_that_was_not_read_is_found(path: Path) -> None:
    """Where what attention reads is not what the cache held, the step that reads it is wrong."""
    last = engines.get("ggml")(path, TOKENS, batches=BATCHES)
    taps = dict(last.taps)
    taps["blk.1.v_past"] = taps["blk.1.v_past"].copy()
    taps["blk.1.v_past"][-1] *= np.float32(1.01)
    report = checking.check(models.open(path), attrs.evolve(last, taps=taps))
    assert [("attn", 1, True)] == [(each.op, each.layer, each.certain) for each in report.culprits]


@pytest.mark.parametrize("batches", [(4, 2), (4, 3, 0), (8, -1), (4, 2, 1, 1)])
def test_batches_that_are_not_the_tokens(path: Path, batches: tuple[int, ...]) -> None:
    """They are one line."""
    with pytest.raises(EngineError, match=r"engine apr: batches of .* are not all 7 tokens"):
        engines.get("apr")(path, TOKENS, batches=batches)


def test_batches_take_no_patch(path: Path) -> None:
    """The taps of a patch are those of one batch."""
    whole = engines.get("apr")(path, TOKENS)
    with pytest.raises(EngineError, match="a patch replaces the taps of a run in one batch"):
        engines.get("apr")(path, TOKENS, batches=BATCHES, patch=whole)


@pytest.mark.parametrize("serves", [True, False])
def test_a_command_is_told_the_batches(tmp_path: Path, path: Path, serves: bool) -> None:
    """By --batches, or in its request; one that runs all tokens at once is told so."""
    script = tmp_path / "engine.py"
    script.write_text(
        "from pathlib import Path\n"
        "from diffuzz.models.engines import get\n"
        "def run(model, tokens, patch=None, batches=()):\n"
        "    return get('apr')(Path(model), tokens, batches=batches)\n"
    )
    with engines.opened(f"{script}:run", path) as running:
        found = running.run(TOKENS, None, BATCHES) if serves else engines.get(f"{script}:run")(
            path, TOKENS, batches=BATCHES
        )  # fmt: skip
    ours = engines.get("apr")(path, TOKENS, batches=BATCHES)
    assert np.array_equal(ours.taps["blk.1.k_past"], found.taps["blk.1.k_past"])
    assert [6] == found.positions.tolist()


def test_a_command_without_batches(path: Path) -> None:
    """One that runs all tokens at once says so in a dump, and is told in one line."""
    if "gemma3" in path.name:
        return
    example = f"run:{shlex.join((sys.executable, str(EXAMPLE)))}"
    with engines.opened(example, path) as running, pytest.raises(EngineError, match="runs all tokens at once"):
        running.run(TOKENS, None, BATCHES)


def test_a_step_is_a_file(tmp_path: Path, path: Path) -> None:
    """It is read as it was written."""
    last = engines.get("apr")(path, TOKENS, batches=BATCHES)
    write(tmp_path / "step.safetensors", last)
    found: Dump = read(tmp_path / "step.safetensors")
    assert set(found.taps) == set(last.taps)
    assert checking.check(models.open(path), found).culprits == ()
