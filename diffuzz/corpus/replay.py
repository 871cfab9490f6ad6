"""Replay: measure corpus entries again, with the exact implementations, and compare with what they recorded.

Needs neither jax nor hypothesis, so that a CI job is as quick to start as it is to run. An entry that was found with a
candidate names a function, but replaying never runs code because a corpus file says so: the caller has to name the
function again.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import attrs

from diffuzz import interruption, targets
from diffuzz.corpus import files
from diffuzz.corpus.entry import Counterexample, NeedsCandidateError, NeedsFileError, NeedsLibraryError
from diffuzz.corpus.files import CorpusError
from diffuzz.judging.pair import MissingKernelsError
from diffuzz.judging.problem import open_problem
from diffuzz.judging.question import Judge
from diffuzz.judging.verdict import Verdict
from diffuzz.registry import one_line, place_of
from diffuzz.targets.outcome import Bound

Status = Literal["as recorded", "changed", "broken", "needs candidate", "needs kernels", "needs file"]
# Relative: what libm may add to a bound on another machine.
_BOUND_TOLERANCE = 1e-9
_CODES: dict[Status, int] = {"broken": 2, "changed": 1, "needs candidate": 3, "needs kernels": 3, "needs file": 3}


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


def replay(
    paths: str | Path | Iterable[str | Path], candidate: Judge | None = None, library: str | None = None
) -> list[Replayed]:
    """Replay every entry that ``paths`` (files or folders) name. Raises CorpusError if there is none.

    ``candidate`` is measured in the entries that were found with a candidate; ``library`` is the folder or file that
    ``libggml`` stands for.
    """
    named = [Path(paths)] if isinstance(paths, (str, Path)) else [Path(path) for path in paths]
    results = []
    for path in files.files(named):
        interruption.check()
        results.append(replay_file(path, candidate, library))
    if not results:
        raise CorpusError(f"{', '.join(map(str, named))}: no corpus entry (.json) there, so nothing was replayed")
    return results


def replay_file(path: Path, candidate: Judge | None = None, library: str | None = None) -> Replayed:
    """Replay one file; a file that cannot be loaded is a result, not an exception."""
    started = time.perf_counter()
    entry: Counterexample | None = None

    def without(status: Status, message: str) -> Replayed:
        return Replayed(path, status, message, time.perf_counter() - started, entry)

    try:
        entry = files.load(path)
        value, verdict, bound = _measure(entry, candidate, library)
    except NeedsFileError as error:
        return without("needs file", f"{path}: {error}")
    except NeedsCandidateError as error:
        return without("needs candidate", f"{path}: {error}")
    except (MissingKernelsError, NeedsLibraryError) as error:
        return without("needs kernels", f"{path}: {error}")
    except ValueError as error:
        # A CorpusError or CandidateError, or a complaint of the target itself: the other entries are replayed anyway.
        entry = None
        return without("broken", str(error))
    except Exception as error:
        if (place := place_of(error)) is None:
            raise
        # A defect of a part that the user named.
        entry = None
        return without("broken", f"{path}: {place}: {one_line(error)}")
    same = _same(value, entry.value, entry.tolerance) and verdict is entry.verdict
    same_bound = _same_bound(bound, entry.bound)
    status: Status = "as recorded" if same and same_bound else "changed"
    message = f"{entry.value:.9g} {entry.verdict.value}"
    if not same:
        message = f"recorded {message}, now {value:.9g} {verdict.value}"
    if not same and candidate is not None and entry.candidate not in (None, candidate.name):
        message += f" (recorded with {entry.candidate})"
    if not same_bound:
        message += f"; recorded the proven bound {_bound_text(entry.bound)}, now {_bound_text(bound)}"
    if status == "changed":
        message += f"; see: python -m diffuzz show {path}"
    return Replayed(path, status, message, time.perf_counter() - started, entry, value, verdict)


def _measure(
    entry: Counterexample, candidate: Judge | None, library: str | None
) -> tuple[float, Verdict, Bound | None]:
    """The value, the verdict and the proven bound as they are now."""
    question = entry.asked_again(candidate, library)
    with open_problem(targets.get(entry.target), entry.params, question, threshold=entry.threshold) as problem:
        measured = problem.measured(entry.case, explained=False)
        return measured.value, problem.verdict(measured), problem.bound


def _same(now: float, recorded: float, tolerance: float) -> bool:
    if math.isinf(recorded):
        return now == recorded
    return abs(now - recorded) <= tolerance * abs(recorded)


def _same_bound(now: Bound | None, recorded: Bound | None) -> bool:
    """Whether two proven bounds are the same number, and so is what rounding may add to it."""
    if now is None or recorded is None:
        return now is recorded
    pairs = [(bound.value, bound.ceiling) for bound in (now, recorded)]
    return all(_same(a, b, _BOUND_TOLERANCE) for a, b in zip(*pairs, strict=True))


def _bound_text(bound: Bound | None) -> str:
    if bound is None:
        return "none"
    return f"{bound.value:.9g}" + (f" (rounding {bound.rounding:.3g})" if bound.rounding else "")


def exit_code(results: Iterable[Replayed]) -> int:
    """0 if everything is as recorded; else, the worst first: 2 a file is broken, 1 one changed, 3 one needs its
    candidate or kernels that are not here.
    """
    statuses = {result.status for result in results}
    return next((code for status, code in _CODES.items() if status in statuses), 0)
