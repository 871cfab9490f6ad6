"""Replay: measure corpus entries again, with the exact implementations, and compare with what they recorded.

Needs neither jax nor hypothesis, so that a CI job is as quick to start as it is to run. An entry that was found with a
candidate names a function, but replaying never runs code because a corpus file says so: the caller has to name the
function again.
"""

from __future__ import annotations

import math
import shlex
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import attrs

from diffuzz import corpus, interruption, targets
from diffuzz.candidate import Candidate
from diffuzz.corpus import CorpusError
from diffuzz.entry import Counterexample
from diffuzz.subject import MissingKernelsError, Subject
from diffuzz.target import evaluate
from diffuzz.verdict import Verdict, judge

Status = Literal["as recorded", "changed", "broken", "needs candidate", "needs kernels"]
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
        value, verdict = _measure(entry, candidate, library)
    except MissingKernelsError as error:
        return Replayed(path, "needs kernels", f"{path}: {error}", time.perf_counter() - started, entry)
    except ValueError as error:
        # A CorpusError or CandidateError, or a complaint of the target itself: the other entries are replayed anyway.
        return Replayed(path, "broken", str(error), time.perf_counter() - started)
    same = _same(value, entry.value, entry.tolerance)
    status: Status = "as recorded" if same and verdict is entry.verdict else "changed"
    message = f"{entry.value:.9g} {entry.verdict.value}"
    if status == "changed":
        message = f"recorded {message}, now {value:.9g} {verdict.value}; see: python -m diffuzz show {path}"
    return Replayed(path, status, message, time.perf_counter() - started, entry, value, verdict)


def _measure(entry: Counterexample, candidate: Candidate | None, library: str | None) -> tuple[float, Verdict]:
    target = targets.get(entry.target)
    if entry.candidate is not None or entry.kernels is not None:
        under_test = candidate if entry.candidate is not None else None
        target = Subject.of(target, entry.params, candidate=under_test, kernels=entry.kernels, library=library).target
    measured = evaluate(target, entry.params, entry.case)
    return measured.value, judge(entry.limit, measured.value, measured.noise, target.bound(entry.params))


def _same(now: float, recorded: float, tolerance: float) -> bool:
    if math.isinf(recorded):
        return now == recorded
    return abs(now - recorded) <= tolerance * abs(recorded)


def exit_code(results: Iterable[Replayed]) -> int:
    """0 if everything is as recorded; else, the worst first: 2 a file is broken, 1 one changed, 3 one needs its
    candidate or kernels that are not here.
    """
    statuses = {result.status for result in results}
    return next((code for status, code in _CODES.items() if status in statuses), 0)
