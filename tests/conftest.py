"""A corpus entry to test with, small and made without a search; and the build that the installed ggml is."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diffuzz import formats, kernels, targets
from diffuzz.cases.case import Case
from diffuzz.corpus import files
from diffuzz.corpus.entry import Counterexample
from diffuzz.corpus.environment import environment
from diffuzz.judging.problem import evaluate
from diffuzz.judging.verdict import judge
from diffuzz.kernels import ggml
from diffuzz.registry import Registry
from diffuzz.searching import engines

_REGISTRIES: tuple[Registry[Any], ...] = (targets.REGISTRY, formats.REGISTRY, kernels.REGISTRY, engines.REGISTRY)

pytest_plugins = ["pytester"]
# Where the tests are themselves a job of a CI system: what is tested adds nothing to its page, and prints what it does
# elsewhere. Nor is the terminal asked that the tests were started from.
for _name in (
    "CI", "BUILD_NUMBER", "GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY", "GITHUB_WORKSPACE",
    "PYTEST_ADDOPTS", "TERM", "COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE",
):  # fmt: skip
    os.environ.pop(_name, None)
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # As in the background of a script, or under nohup: tests interrupt themselves, and what they start.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    """How much of what takes as long as one likes."""
    parser.addoption(
        "--cases", type=int, default=20_000, help="hostile cases that libggml and the readers are held against [20000]"
    )
    parser.addoption("--slow", action="store_true", help="run what takes long, too")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests that are marked slow wait for --slow: others look at the same thing in less time."""
    if not config.getoption("--slow"):
        for item in items:
            if item.get_closest_marker("slow") is not None:
                item.add_marker(pytest.mark.skip(reason="takes long: give --slow"))


@pytest.fixture(autouse=True, scope="session")
def _the_corpus_stays() -> Iterator[None]:
    """No test saves anything in the corpus of the repository."""
    corpus = Path(__file__).parents[1] / "corpus"
    before = sorted(corpus.rglob("*"))
    yield
    assert sorted(corpus.rglob("*")) == before


@pytest.fixture(autouse=True)
def _names_are_free_again() -> Iterator[None]:
    """The names of what a test loads from files are forgotten after it."""
    before = [(one, dict(one._files), dict(one._found)) for one in _REGISTRIES]
    yield
    for one, loaded, found in before:
        one._files, one._found = loaded, found


def _softmax_entry(z: tuple[float, ...] = (9.5, 9.5, -10.0)) -> Counterexample:
    """A softmax case of three logits, as a search would save it."""
    target = targets.get("softmax")
    params = target.params({"n": 3})
    case = Case({"z": np.array(z, np.float32), "z_direction": np.array([1.0, -1.0, -1.0], np.float32)})
    measured, bound, threshold = evaluate(target, params, case), target.bound(params), target.threshold(params)
    assert bound is not None
    return Counterexample(
        target="softmax",
        params=params,
        case=case,
        measure=measured.measure,
        value=measured.value,
        noise=measured.noise,
        threshold=threshold,
        bound=bound,
        verdict=judge(threshold, measured.value, measured.noise, bound),
        tolerance=target.tolerance,
        found={"engine": "hand", "seed": 7, "evaluations": 1, "command": "none"},
        environment=environment(),
    )


@pytest.fixture
def make_entry() -> Callable[..., Counterexample]:
    """Makes a corpus entry of the target softmax from its three logits."""
    return _softmax_entry


@pytest.fixture
def entry() -> Counterexample:
    """A corpus entry of the target softmax."""
    return _softmax_entry()


@pytest.fixture
def saved(entry: Counterexample, tmp_path: Path) -> Path:
    """The file of ``entry`` in the corpus ``tmp_path / "corpus"``."""
    return files.save(entry, tmp_path / "corpus")


@pytest.fixture(scope="session")
def ggml_model() -> Any:
    """The build of our model that the installed library is: there is one for each that GCC made for AVX2."""
    library = kernels.get("libggml")
    found, about = ggml.model_of(library), library.about()
    if found is None and not ("avx2" in about["features"].split() and "GCC" in about["compiler"]):
        pytest.skip(f"modelled is what GCC makes of the library for AVX2: {about}")
    assert found is not None, about
    return found
