"""Replay: measure corpus entries again, with the exact implementations, and compare with what they recorded.

Needs neither jax nor hypothesis, so that a CI job is as quick to start as it is to run. An entry that was found with a
candidate names a function, but replaying never runs code because a corpus file says so: the caller has to name the
function again.
"""

from __future__ import annotations

import math
import shlex
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import attrs

from diffuzz import corpus, interruption, targets
from diffuzz.candidate import Candidate
from diffuzz.corpus import CorpusError
from diffuzz.entry import Counterexample
from diffuzz.subject import MissingKernelsError, Subject
from diffuzz.target import evaluate
from diffuzz.verdict import Verdict, judge

Status = Literal["as recorded", "changed", "broken", "needs candidate", "needs kernels"]
# Relative: what libm may add to a limit on another machine.
_BOUND_TOLERANCE = 1e-9
_CODES: dict[Status, int] = {"broken": 2, "changed": 1, "needs candidate": 3, "needs kernels": 3}


@attrs.frozen
class Replayed:
    """One file: its status, its entry (None if broken), what it measured now, and one line of explanation."""

    path: Path
    status: Status
    message: str
    seconds: float
    entry: Counterexample | None = None
    value: float | None = None
    verdict: Verdict | None = None


def replay(paths: Iterable[Path], candidate: Candidate | None = None, library: str | None = None) -> list[Replayed]:
    """Replay every entry that ``paths`` (files or folders) name. Raises CorpusError if there is none.

    ``candidate`` is measured in the entries that were found with a candidate; ``library`` is the folder or file that
    ``libggml`` stands for.
    """
    named = [Path(path) for path in paths]
    results = []
    for path in corpus.files(named):
        interruption.check()
        results.append(replay_file(path, candidate, library))
    if not results:
        raise CorpusError(f"{', '.join(map(str, named))}: no corpus entry (.json) there, so nothing was replayed")
    return results


def replay_file(path: Path, candidate: Candidate | None = None, library: str | None = None) -> Replayed:
    """Replay one file; a file that cannot be loaded is a result, not an exception."""
    started = time.perf_counter()
    try:
        entry = corpus.load(path)
        if entry.candidate is not None and candidate is None:
            message = f"{path}: found with a candidate; replay it with --candidate {shlex.quote(entry.candidate)}"
            return Replayed(path, "needs candidate", message, time.perf_counter() - started, entry)
        value, verdict, bound = _measure(entry, candidate, library)
    except MissingKernelsError as error:
        return Replayed(path, "needs kernels", f"{path}: {error}", time.perf_counter() - started, entry)
    except ValueError as error:
        # A CorpusError or CandidateError, or a complaint of the target itself: the other entries are replayed anyway.
        return Replayed(path, "broken", str(error), time.perf_counter() - started)
    same = _same(value, entry.value, entry.tolerance) and verdict is entry.verdict
    same_bound = _same_bound(bound, entry.bound)
    status: Status = "as recorded" if same and same_bound else "changed"
    message = f"{entry.value:.9g} {entry.verdict.value}"
    if not same:
        message = f"recorded {message}, now {value:.9g} {verdict.value}"
    if not same_bound:
        message += f"; recorded the proven limit {_limit_text(entry.bound)}, now {_limit_text(bound)}"
    if status == "changed":
        message += f"; see: python -m diffuzz show {path}"
    return Replayed(path, status, message, time.perf_counter() - started, entry, value, verdict)


def _measure(
    entry: Counterexample, candidate: Candidate | None, library: str | None
) -> tuple[float, Verdict, Mapping[str, Any] | None]:
    """The value, the verdict and the proven limit as they are now."""
    target = targets.get(entry.target)
    if entry.candidate is not None or entry.kernels is not None:
        under_test = candidate if entry.candidate is not None else None
        target = Subject.of(
            target, entry.params, candidate=under_test, kernels=entry.kernels, library=library, recorded=True
        ).target
    measured = evaluate(target, entry.params, entry.case)
    bound = target.bound(entry.params)
    verdict = judge(entry.limit, measured.value, measured.noise, bound)
    return measured.value, verdict, None if bound is None else attrs.asdict(bound)


def _same(now: float, recorded: float, tolerance: float) -> bool:
    if math.isinf(recorded):
        return now == recorded
    return abs(now - recorded) <= tolerance * abs(recorded)


def _same_bound(now: Mapping[str, Any] | None, recorded: Mapping[str, Any] | None) -> bool:
    """Whether two proven limits are the same number, and so is what rounding may add to it."""
    if now is None or recorded is None:
        return now is recorded
    pairs = [(bound["value"], bound["value"] * (1 + bound["rounding"])) for bound in (now, recorded)]
    return all(_same(a, b, _BOUND_TOLERANCE) for a, b in zip(*pairs, strict=True))


def _limit_text(bound: Mapping[str, Any] | None) -> str:
    if bound is None:
        return "none"
    return f"{bound['value']:.9g}" + (f" (rounding {bound['rounding']:.3g})" if bound["rounding"] else "")


def exit_code(results: Iterable[Replayed]) -> int:
    """0 if everything is as recorded; else, the worst first: 2 a file is broken, 1 one changed, 3 one needs its
    candidate or kernels that are not here.
    """
    statuses = {result.status for result in results}
    return next((code for status, code in _CODES.items() if status in statuses), 0)
