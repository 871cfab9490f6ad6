"""Replay: measure corpus entries again, with the exact implementations, and compare with what they recorded.

Needs neither jax nor hypothesis, so that a CI job is as quick to start as it is to run. An entry that was found with a
candidate names a function, but replaying never runs code because a corpus file says so: the caller has to name the
function again. Nor does it work for long: what a case takes is estimated before it is measured.

Value, noise, verdict, measure, threshold, tolerance, and the proven bound with its reason are what the question says
now, or the entry has changed. The rest of an entry is under its digest and its seal (see diffuzz.corpus.entry).

That is for what is not meant to change. A function under test is: once it is mended, its entries have changed. Where
``judge`` is asked for, such an entry is *right* if the function keeps its bound now, and *wrong* if it does not.

An entry of a property is asked again by the one change that it has: the property is lost as recorded, or has changed.
Its entry is *right* if the change does not show.
"""

from __future__ import annotations

import math
import shlex
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

import attrs

from diffuzz import interruption, targets
from diffuzz.corpus import files
from diffuzz.corpus.candidates import Candidates, by_name, function_for
from diffuzz.corpus.entry import Counterexample, NeedsCandidateError, NeedsLibraryError
from diffuzz.corpus.files import CorpusError, SealError
from diffuzz.corpus.lost import Lost
from diffuzz.corpus.strict import NeedsFileError
from diffuzz.escaping import escaped
from diffuzz.judging import properties
from diffuzz.judging.handing import MissingArraysError
from diffuzz.judging.opening import UnloadableError
from diffuzz.judging.pair import MissingKernelsError
from diffuzz.judging.problem import Measurement, Problem, open_problem
from diffuzz.judging.question import Judge
from diffuzz.judging.verdict import Verdict, same
from diffuzz.registry import one_line, place_of
from diffuzz.targets.outcome import Bound
from diffuzz.telling import parts

Status = Literal[
    "as recorded", "changed", "right", "wrong",
    "broken", "needs candidate", "needs arrays", "needs kernels", "needs file", "needs time",
]  # fmt: skip
# Those of entries of which all is well.
GOOD: frozenset[Status] = frozenset({"as recorded", "right"})
# Relative: what libm may add to a bound, or to a threshold that is one, on another machine.
_BOUND_TOLERANCE = 1e-9
# Relative: noise is an estimate, of numbers that libm takes part in.
_NOISE_TOLERANCE = 1e-6
# What a slow core evaluates in a second, in operations; a search has as much for each second of its budget.
OPERATIONS_PER_SECOND = 2.0**24
# Seconds that the case of one entry may be expected to take.
LONGEST = 2.0
_CODES: dict[Status, int] = {
    "broken": 2,
    "changed": 1,
    "wrong": 1,
    "needs candidate": 3,
    "needs arrays": 3,
    "needs kernels": 3,
    "needs file": 3,
    "needs time": 3,
}


class NeedsTimeError(ValueError):
    """An entry whose case is expected to take longer than allowed; one line."""


@attrs.frozen
class Replayed:
    """One file: its status, its entry (None if broken), what it measured now, and one line of explanation."""

    path: Path
    status: Status
    message: str
    seconds: float
    entry: Counterexample | Lost | None = None
    value: float | None = None
    verdict: Verdict | None = None


def replay(
    paths: str | Path | Iterable[str | Path],
    candidate: Candidates | None = None,
    library: str | None = None,
    *,
    longest: float = LONGEST,
    judge: bool = False,
) -> list[Replayed]:
    """Replay every entry that ``paths`` (files or folders) name. Raises CorpusError if there is none.

    ``candidate`` is measured in the entries that were found with a candidate: one function in those that recorded its
    name or, if none did, in all of them; or functions by the names that entries recorded. The others need theirs.
    ``library`` is the folder or file that ``libggml`` stands for, ``longest`` the time in seconds that one case may be
    expected to take. ``judge`` asks of entries of a candidate, and with a ``library`` of those of kernels, whether the
    function is right now.
    """
    given = [paths] if isinstance(paths, (str, Path)) else list(paths)
    if "" in given:
        raise CorpusError("an empty path names no file and no folder; the current folder is .")
    named = [Path(path) for path in given]
    found = list(files.files(named))
    candidates = by_name(candidate, (files.candidate_of(path) for path in found))
    results = []
    for path in parts(found, "entries"):
        interruption.check()
        results.append(replay_file(path, candidates, library, longest=longest, judge=judge))
    if not results:
        raise CorpusError(f"{', '.join(map(str, named))}: no corpus entry (.json) there, so nothing was replayed")
    return results


def replay_file(
    path: Path,
    candidate: Candidates | None = None,
    library: str | None = None,
    *,
    longest: float = LONGEST,
    judge: bool = False,
) -> Replayed:
    """Replay one file, with ``candidate``, if it is one function, whatever the entry recorded; a file that cannot be
    loaded is a result, not an exception.
    """
    started = time.perf_counter()
    entry: Counterexample | Lost | None = None

    def without(status: Status, message: str) -> Replayed:
        return Replayed(path, status, message, time.perf_counter() - started, entry)

    try:
        entry = files.load_any(path)
        judged = function_for(candidate, entry.candidate)
        if isinstance(entry, Lost):
            return without(*_asked_again(entry, judged, library, longest, judge=judge))
        now = _measured(entry, judged, library, longest)
    except NeedsFileError as error:
        return without("needs file", f"{path}: {error}")
    except (NeedsCandidateError, UnloadableError) as error:
        return without("needs candidate", f"{path}: {error}")
    except MissingArraysError as error:
        return without("needs arrays", f"{path}: {error}")
    except (MissingKernelsError, NeedsLibraryError) as error:
        return without("needs kernels", f"{path}: {error}")
    except NeedsTimeError as error:
        return without("needs time", f"{path}: {error}")
    except SealError as error:
        return without("broken", f"{error}{_edited(error.entry, candidate, library, longest)}")
    except ValueError as error:
        # A CorpusError or CandidateError, or a complaint of the target itself: the other entries are replayed anyway.
        entry = entry if isinstance(entry, Lost) else None
        return without("broken", str(error))
    except Exception as error:
        if (place := place_of(error)) is None:
            raise
        # A defect of a part that the user named.
        entry = None
        return without("broken", f"{path}: {place}: {one_line(error)}")
    value, verdict, chance = now.measured.value, now.verdict, entry.chance
    named = judged.name if judged is not None else " against ".join(entry.kernels or ()) if library else None
    if judge and named:
        wrong = verdict is Verdict.CONFIRMED
        said = f"{named} is {'wrong' if wrong else 'within its bound'} on this case: {value:.9g}"
        said += f", recorded {entry.value:.9g} {entry.verdict.value}"
        return Replayed(path, "wrong" if wrong else "right", said, time.perf_counter() - started, entry, value, verdict)
    # Values by chance differ from call to call; what has to come again is that there is one outside the bound.
    alike = (chance is not None or same(value, entry.value, now.problem.tolerance)) and verdict is entry.verdict
    message = f"{entry.value:.9g} {entry.verdict.value}"
    if chance is not None:
        message += f", {chance}; now {'' if alike else 'not '}seen in {now.calls} call{'s' if now.calls > 1 else ''}"
    elif not alike:
        message = f"recorded {message}, now {value:.9g} {verdict.value}"
    if not alike and judged is not None and entry.candidate != judged.name:
        message += f" (recorded with {entry.candidate})"
    others = list(_differences(entry, now))
    message += "".join(f"; recorded the {what} {recorded}, now {is_now}" for what, recorded, is_now in others)
    status: Status = "as recorded" if alike and not others else "changed"
    if status == "changed":
        message += f"; see: python -m diffuzz show {shlex.quote(str(path))}"
    return Replayed(path, status, message, time.perf_counter() - started, entry, value, verdict)


def _asked_again(
    entry: Lost, candidate: Judge | None, library: str | None, longest: float, *, judge: bool
) -> tuple[Status, str]:
    """Whether a property is still lost, by the change that was found; and what is said of it.

    Raises NeedsCandidateError, NeedsLibraryError, NeedsTimeError, and what ``seen_again`` raises.
    """
    from diffuzz.searching.keeping import NoWayError, seen_again

    asked = entry.asked_again(candidate, library)
    _check_seconds(math.prod(entry.sizes.values()) * max(1, entry.numbers.get("calls", 1)), 1.0, longest)
    try:
        seen = seen_again(
            targets.get(entry.target), entry.params, asked, entry.way, entry.sizes, entry.numbers, seed=entry.seed,
            seconds=longest,
        )  # fmt: skip
    except NoWayError as error:
        return "changed", f"recorded {entry.name} {entry.status}, and now: {error}"
    if seen.drawn != entry.drawn:
        return "changed", f"{entry.name}: its numbers are drawn otherwise by this version, so nothing can be said"
    found = seen.finding
    now = "kept" if found is None else "broken" if found.broken else "not invariant"
    if seen.refused is not None and not properties.get(entry.name).kept_by_refusing:
        now = f"unknown: it takes no such call: {seen.refused}"
    said = f"{entry.name} {now}"
    if judge and (entry.candidate is not None or library is not None):
        return "right" if now == "kept" else "wrong", f"{said} by {asked.name}, recorded {entry.status}"
    if now == entry.status:
        return "as recorded", said
    return "changed", f"recorded {entry.name} {entry.status}, now {now}"


def _check_seconds(elements: int, cost: float, longest: float) -> None:
    seconds = elements * cost / OPERATIONS_PER_SECOND
    if seconds > longest:
        raise NeedsTimeError(
            f"its case of {elements} elements takes about {seconds:.2g} s, where {longest:g} s are allowed: give "
            f"--longest {math.ceil(seconds)}s"
        )


def check_time(entry: Counterexample, longest: float) -> None:
    """Raise NeedsTimeError if the case of an entry is expected to take more than ``longest`` seconds.

    That is its number of elements times the cost of the target, which is an estimate of no more than its size, as often
    as there are rows beside it and calls that are left to chance.
    """
    elements = sum(array.size for array in entry.case.arrays.values())
    elements *= 1 if entry.company is None else 1 + entry.company.rows
    elements *= 1 if entry.chance is None else entry.chance.patience
    _check_seconds(elements, targets.get(entry.target).cost, longest)


@attrs.frozen
class _Now:
    """The question of an entry as it is now, with its own threshold; what the case of the entry measures, and what
    that says with the threshold of the entry; and the calls that it took, where that is left to chance.
    """

    problem: Problem
    measured: Measurement
    verdict: Verdict
    calls: int = 1


def _measured(entry: Counterexample, candidate: Judge | None, library: str | None, longest: float) -> _Now:
    """Raises NeedsCandidateError, NeedsLibraryError, NeedsTimeError, and what ``open_problem`` raises."""
    question = entry.asked_again(candidate, library)
    check_time(entry, longest)
    with open_problem(targets.get(entry.target), entry.params, question) as problem:
        judge = attrs.evolve(problem, threshold=entry.threshold).verdict
        if entry.chance is None:
            measured = problem.measured(entry.case, company=entry.company, explained=False)
            return _Now(problem, measured, judge(measured))
        problem.space.check(entry.case)
        once, largest = problem.repeated(entry.case, entry.company), Measurement(-math.inf, 0.0, problem.measure)
        for call in range(1, entry.chance.patience + 1):
            interruption.check()
            outcome, _ = once()
            measured = Measurement(float(outcome.value[0]), float(outcome.noise[0]), problem.measure)
            if judge(measured) is entry.verdict:
                return _Now(problem, measured, entry.verdict, call)
            largest = max(largest, measured, key=lambda one: one.value)
        return _Now(problem, largest, Verdict.UNRESOLVED, entry.chance.patience)


def _edited(entry: Counterexample, candidate: Candidates | None, library: str | None, longest: float) -> str:
    """Where an entry was edited whose seal does not match, as far as can be told."""
    try:
        now = _measured(entry, function_for(candidate, entry.candidate), library, longest)
    except Exception:  # what cannot be measured says nothing
        return ""
    differences = list(_differences(entry, now))
    if entry.chance is None and not same(now.measured.value, entry.value, now.problem.tolerance):
        differences.insert(0, ("value", f"{entry.value:.9g}", f"{now.measured.value:.9g}"))
    if now.verdict is not entry.verdict:
        differences.append(("verdict", entry.verdict.value, now.verdict.value))
    if not differences:
        return " (not in what is measured again, so in how, when or where it was found)"
    return " (" + "; ".join(f"{what} {recorded}, where it is {is_now}" for what, recorded, is_now in differences) + ")"


def _differences(entry: Counterexample, now: _Now) -> Iterator[tuple[str, str, str]]:
    """What else is not as recorded, beside the value and the verdict: its name, as recorded, and now."""
    problem, measured = now.problem, now.measured
    if not _same_bound(problem.bound, entry.bound):
        yield "proven bound", _bound_text(entry.bound), _bound_text(problem.bound)
    elif problem.bound is not None and entry.bound is not None:
        because = escaped(problem.bound.because)
        if entry.bound.because != because:
            yield "reason of the bound", repr(entry.bound.because), repr(because)
    if entry.chance is None and not same(measured.noise, entry.noise, _NOISE_TOLERANCE):
        yield "noise", f"{entry.noise:.9g}", f"{measured.noise:.9g}"
    if entry.measure != escaped(measured.measure):
        yield "measure", repr(entry.measure), repr(escaped(measured.measure))
    if entry.tolerance != problem.tolerance:
        yield "tolerance", f"{entry.tolerance:g}", f"{problem.tolerance:g}"
    given = entry.given_threshold
    if entry.threshold != given and not (given is None and same(problem.threshold, entry.threshold, _BOUND_TOLERANCE)):
        yield "threshold", f"{entry.threshold:.9g}", f"{problem.threshold if given is None else given:.9g}"


def _same_bound(now: Bound | None, recorded: Bound | None) -> bool:
    """Whether two proven bounds are the same number, and so is what rounding may add to it."""
    if now is None or recorded is None:
        return now is recorded
    pairs = [(bound.value, bound.rounding) for bound in (now, recorded)]
    return all(same(a, b, _BOUND_TOLERANCE) for a, b in zip(*pairs, strict=True))


def _bound_text(bound: Bound | None) -> str:
    if bound is None:
        return "none"
    return f"{bound.value:.9g}" + (f" (rounding {bound.rounding:.3g})" if bound.rounding else "")


def exit_code(results: Iterable[Replayed]) -> int:
    """0 if all is well; else, the worst first: 2 a file is broken, 1 one changed or its function is wrong, 3 one needs
    its candidate or kernels that are not here, a file, or more time.
    """
    statuses = {result.status for result in results}
    return next((code for status, code in _CODES.items() if status in statuses), 0)


def needed(results: Iterable[Replayed]) -> dict[str, int]:
    """The candidates, by the names that entries recorded, that were not there, and the number of entries of each."""
    names = [result.entry.candidate for result in results if result.status == "needs candidate" and result.entry]
    return dict(Counter(name for name in names if name is not None))
