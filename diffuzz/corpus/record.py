"""What a search found, as an entry of the corpus; and an entry, made simpler."""

from __future__ import annotations

import math
import shlex

import attrs
import numpy as np

from diffuzz import formats, kernels, targets
from diffuzz.corpus.entry import Counterexample, Scalar
from diffuzz.corpus.environment import device, environment
from diffuzz.judging.problem import open_problem
from diffuzz.judging.question import Judge
from diffuzz.minimising.minimise import minimise
from diffuzz.searching import engines
from diffuzz.searching.result import SearchResult
from diffuzz.searching.search import failing_alike
from diffuzz.targets.target import Target


def record(result: SearchResult) -> Counterexample:
    """The corpus entry of a search that found something. Raises ValueError if it has no case that replays."""
    if result.case is None or not result.replays:
        raise ValueError("the search found no case that has its value again, so there is nothing to keep")
    found: dict[str, Scalar] = {
        "engine": result.engine,
        "seed": result.seed,
        "evaluations": result.evaluations,
        "stopped by": result.stopped,
        "command": command_of(result),
    }
    if result.failure is not None:
        found["failure"] = result.failure
    return Counterexample(
        target=result.target.name,
        params=result.params,
        case=result.case,
        measure=result.measurement.measure,
        value=result.value,
        noise=result.measurement.noise,
        threshold=result.threshold,
        bound=result.bound,
        verdict=result.verdict,
        tolerance=result.problem.tolerance,
        found=found,
        environment=environment() | device() | dict(result.libraries),
        candidate=result.candidate,
        kernels=result.kernels,
        files=_files(result),
    )


def _files(result: SearchResult) -> dict[str, str]:
    """By option, the files that the target, the format and the kernels of a search came from."""
    of_kernels = [file for name in result.kernels or () if (file := kernels.source(name)) is not None]
    sources = {
        "target": targets.REGISTRY.source(result.target.name),
        "format": formats.REGISTRY.source(str(result.params.get("format"))),
        "kernels": ",".join(dict.fromkeys(of_kernels)) or None,
    }
    return {option: file for option, file in sources.items() if file is not None}


def command_of(result: SearchResult) -> str:
    """The command line that makes this search again."""
    files = _files(result)
    words = ["python", "-m", "diffuzz", "search", "--target", files.get("target", result.target.name)]
    for name, value in result.params.items():
        if value != _default(result.target, name):
            shown = str(value).lower() if isinstance(value, bool) else value
            words += ["--param", f"{name}={files.get('format', shown) if name == 'format' else shown}"]
    budget = np.format_float_positional(result.budget_s, trim="-")
    engine = engines.REGISTRY.source(result.engine) or result.engine
    # It used all that had been loaded.
    others = engines.names() if engine == "auto" else ()
    engine = ",".join([engine, *filter(None, map(engines.REGISTRY.source, others))])
    words += ["--engine", engine, "--seed", str(result.seed), "--budget", f"{budget}s"]
    if not result.default_threshold:
        words += ["--threshold", f"{result.threshold!r}"]
    if result.first:
        words.append("--first")
    if result.candidate is not None:
        words += ["--candidate", result.candidate]
    if result.kernels is not None:
        words += ["--kernels", ",".join(kernels.source(name) or name for name in result.kernels)]
    return shlex.join(words)


def _default(target: Target, name: str) -> object:
    return next(parameter.default for parameter in target.declared if parameter.name == name)


def minimised(
    entry: Counterexample,
    keep: float,
    seconds: float = 10.0,
    *,
    candidate: Judge | None = None,
    library: str | None = None,
) -> Counterexample:
    """``entry`` with a simpler case of the same verdict and at least ``keep`` of the value; itself if there is none.

    ``candidate`` is the function, for an entry that was found with one; ``library`` the folder or file that ``libggml``
    stands for. Raises NeedsCandidateError, NeedsLibraryError.
    """
    question = entry.asked_again(candidate, library)
    with open_problem(targets.get(entry.target), entry.params, question, threshold=entry.threshold) as problem:
        alike = failing_alike(problem, entry.case) if math.isinf(entry.value) else None
        case = minimise(problem, entry.case, keep=keep, seconds=seconds, evaluate=alike).case
        if case == entry.case:
            return entry
        measured = problem.measured(case, explained=False)
        return attrs.evolve(
            entry,
            case=case,
            value=measured.value,
            noise=measured.noise,
            verdict=problem.verdict(measured),
            environment=environment() | problem.environment(),
        )
