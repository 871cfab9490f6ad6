"""What a search found, as an entry of the corpus; and an entry, made simpler."""

from __future__ import annotations

import math
import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from diffuzz import formats, kernels, targets
from diffuzz.cases import domain
from diffuzz.corpus import files as store
from diffuzz.corpus.entry import Counterexample
from diffuzz.corpus.environment import arrays_of, device, environment
from diffuzz.corpus.lost import Lost
from diffuzz.corpus.replay import LONGEST, check_time
from diffuzz.corpus.spelling import command_line
from diffuzz.corpus.strict import LONGEST_TEXT, Scalar
from diffuzz.escaping import escaped
from diffuzz.judging.evidence import Judged
from diffuzz.judging.handing import CPU, Handing
from diffuzz.judging.problem import open_problem
from diffuzz.judging.question import Judge, Keep, QuestionError
from diffuzz.minimising.minimise import minimise
from diffuzz.registry import one_line
from diffuzz.searching import engines
from diffuzz.searching.keeping import Finding, Kept, Report, seen_again
from diffuzz.searching.reproduction import CALLS, counted, in_company
from diffuzz.searching.result import SearchResult
from diffuzz.searching.search import failing_alike
from diffuzz.targets.parameter import Params
from diffuzz.targets.target import Target

# Seconds for what shows by chance to show once more.
_SHOWING = 5.0


@attrs.frozen
class Keeper:
    """Saves what searches found in the corpus ``directory``; ``failures`` says what could not be saved, one line each.

    What a search has found is not lost because saving it fails, in whatever way.
    """

    directory: Path
    failures: list[str] = attrs.field(init=False, factory=list)

    def __call__(self, result: SearchResult) -> Path | None:
        """The file of the entry, or None if there is none."""
        try:
            return store.save(record(result), self.directory)
        except store.CorpusError as error:
            self.failures.append(str(error))
        except Exception as error:
            self.failures.append(f"{self.directory}: not saved: {escaped(one_line(error))}")
        return None


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
    if result.state.searches > 1:
        found["searches before"] = result.state.searches - 1
    if result.problem.weights is not None:
        found["weights"] = result.problem.weights.given
    if result.failure is not None:
        found["failure"] = result.failure
    if isinstance(evidence := result.measurement.evidence, Judged) and evidence.alone is not None:
        found["alone"] = evidence.alone
    return Counterexample(
        target=result.target.name,
        params=result.params,
        case=result.problem.space.written(result.case),
        measure=escaped(result.measurement.measure),
        value=result.value,
        noise=result.measurement.noise,
        threshold=result.threshold,
        bound=None if result.bound is None else attrs.evolve(result.bound, because=escaped(result.bound.because)),
        verdict=result.verdict,
        tolerance=result.problem.tolerance,
        found=_escaped(found),
        environment=_escaped(environment() | device() | arrays_of(result.problem.judge) | dict(result.libraries)),
        candidate=None if result.candidate is None else escaped(result.candidate),
        kernels=None if result.kernels is None else (escaped(result.kernels[0]), escaped(result.kernels[1])),
        files=_escaped(_files(result)),
        company=result.company,
        chance=result.chance,
    )


def lost(kept: Kept, report: Report, finding: Finding, asked: Keep, command: str) -> Lost | None:
    """The corpus entry of a property that is not kept, as it shows once more in a process of its own; None where it
    does not. Raises what ``seen_again`` raises.
    """
    again = attrs.evolve(asked, properties=(report.name,))
    sizes, numbers = dict(finding.sizes), dict(finding.numbers)
    shown = seen_again(kept.target, kept.params, again, finding.way, sizes, numbers, seed=kept.seed, seconds=_SHOWING)
    if shown.finding is None:
        return None
    seen = attrs.evolve(shown.finding, below=finding.below)
    return Lost(
        target=kept.target.name,
        params=kept.params,
        name=report.name,
        way=finding.way,
        sizes=sizes,
        numbers=numbers,
        seed=kept.seed,
        drawn=shown.drawn,
        status="broken" if seen.broken else "not invariant",
        seen=escaped(seen.text)[:LONGEST_TEXT],
        found=_escaped({"seed": kept.seed, "calls": report.calls, "command": command}),
        environment=_escaped(environment() | device() | asked.handing.about()),
        candidate=None if asked.kernels is not None else escaped(kept.name),
        kernels=None if asked.kernels is None else escaped(kept.name),
        files=_escaped(_sources(kept.target, kept.params, () if asked.kernels is None else (asked.kernels,))),
    )


def again(one: Report, finding: Finding, kept: Kept, command: Sequence[str]) -> str:
    """A command that shows the finding again: the same numbers, and no larger sizes."""
    words: list[object] = [*command, "--property", one.name, "--seed", kept.seed]
    dims = kept.target.contract.space(kept.params).dims if kept.target.contract is not None else ()
    known = {dim.name: dim for dim in dims}
    said = set()
    for name, size in finding.sizes.items():
        dim = known.get(name)
        if dim is not None and (dim.fixed or size > dim.highest):
            # There is but one size; or more rows than a search for values has, which cannot be asked for.
            continue
        said.add(name)
        if name in finding.asked or name == domain.BATCH:
            words += domain.option(f"range:{name}", f"{1 if dim is None else dim.lowest}:{size}")
        else:
            words += domain.option(f"fix:{name}", size)
    for key, value in kept.params.items():
        kind, _, name = key.partition(":")
        # Multiples narrow a range further; another range or size would contradict those of the finding.
        if domain.is_domain(key) and (kind == "multiple" or name not in said):
            words += domain.option(key, value)
    return command_line(*words)


def still_lost(entry: Lost, asked: Keep) -> bool:
    """Whether an entry of the corpus shows of what is asked now."""
    again, target = attrs.evolve(asked, properties=(entry.name,)), targets.get(entry.target)
    try:
        shown = seen_again(
            target, entry.params, again, entry.way, entry.sizes, entry.numbers, seed=entry.seed, seconds=_SHOWING
        )
    except QuestionError:
        return False
    return shown.finding is not None and shown.drawn == entry.drawn


def _escaped(texts: Mapping[str, Scalar]) -> dict[str, Any]:
    """What an entry says of others, such as the message of an exception: it is printable, and no longer than it may
    be.
    """
    return {
        escaped(name): escaped(value)[:LONGEST_TEXT] if isinstance(value, str) else value
        for name, value in texts.items()
    }


def _files(result: SearchResult) -> dict[str, str]:
    """By option, the files that the target, the format and the kernels of a search came from."""
    return _sources(result.target, result.params, result.kernels or ())


def _sources(target: Target, params: Params, names: Sequence[str]) -> dict[str, str]:
    of_kernels = [file for name in names if (file := kernels.source(name)) is not None]
    sources = {
        "target": targets.REGISTRY.source(target.name),
        "format": formats.REGISTRY.source(str(params.get("format"))),
        "kernels": ",".join(dict.fromkeys(of_kernels)) or None,
    }
    return {option: file for option, file in sources.items() if file is not None}


def command_of(result: SearchResult) -> str:
    """The command line that makes this search again."""
    files = _files(result)
    words = ["python", "-m", "diffuzz", "search", "--target", files.get("target", result.target.name)]
    for name, value in result.params.items():
        if domain.is_domain(name):
            words += domain.option(name, value)
        elif value != _default(result.target, name):
            shown = str(value).lower() if isinstance(value, bool) else value
            if _names(result.target, name):
                # A command that is written down says nothing of where a file is.
                from diffuzz.models.named import file_of

                shown = file_of(str(value))
            words += domain.option(name, files.get("format", shown) if name == "format" else shown)
    if result.problem.weights is not None:
        words += ["--weights", result.problem.weights.given]
    budget = np.format_float_positional(result.budget_s, trim="-")
    engine = engines.REGISTRY.source(result.engine) or result.engine
    # It used all that had been loaded.
    others = engines.names() if engine == "auto" else ()
    engine = ",".join([engine, *filter(None, map(engines.REGISTRY.source, others))])
    words += ["--engine", engine, "--seed", str(result.seed), "--budget", f"{budget}s"]
    if not result.default_threshold:
        words += ["--threshold", f"{result.threshold!r}"]
    if result.first != result.problem.judges:
        words.append("--first" if result.first else "--largest")
    if (candidate := _candidate(result)) is not None:
        words += ["--candidate", candidate]
    if (judge := result.problem.judge) is not None and judge.handing != Handing():
        words += ["--arrays", judge.handing.arrays]
        words += ["--device", judge.handing.device] if judge.handing.device != CPU else []
    if result.kernels is not None:
        words += ["--kernels", ",".join(kernels.source(name) or name for name in result.kernels)]
    return " ".join(map(_quoted, words))


def _candidate(result: SearchResult) -> str | None:
    """The candidate as it was given, which its name may only resemble."""
    judged = result.problem.judge
    if judged is None:
        return None
    return judged.implementation if isinstance(judged.implementation, str) else judged.name


def _quoted(word: str) -> str:
    """A word of a command line; what cannot be printed as bash and zsh read it, ``$'a\\nb'``."""
    if word.isprintable():
        return shlex.quote(word)
    letters = []
    for letter in word:
        if letter in "\\'":
            letters.append(f"\\{letter}")
        elif letter.isprintable():
            letters.append(letter)
        else:
            letters += [f"\\x{byte:02x}" for byte in os.fsencode(letter)]
    return f"$'{''.join(letters)}'"


def _names(target: Target, name: str) -> bool:
    """Whether a parameter is the name of a file."""
    return next(parameter.names for parameter in target.declared if parameter.name == name) is not None


def _default(target: Target, name: str) -> object:
    return next(parameter.default for parameter in target.declared if parameter.name == name)


def minimised(
    entry: Counterexample,
    keep: float,
    seconds: float = 10.0,
    *,
    candidate: Judge | None = None,
    library: str | None = None,
    longest: float = LONGEST,
) -> Counterexample:
    """``entry`` with a simpler case of the same verdict and at least ``keep`` of the value; itself if there is none.

    ``candidate`` is the function, for an entry that was found with one; ``library`` the folder or file that ``libggml``
    stands for; ``longest`` the time in seconds that its case may be expected to take. Raises NeedsCandidateError,
    NeedsLibraryError, NeedsTimeError.
    """
    question = entry.asked_again(candidate, library)
    check_time(entry, longest)
    with open_problem(targets.get(entry.target), entry.params, question, threshold=entry.threshold) as problem:
        if entry.result is not None or (entry.chance is not None and not entry.chance.often):
            # What an engine computed of another case is not known.
            return entry
        own = entry.company is not None or entry.chance is not None
        evaluate = in_company(problem, entry.company, entry.chance) if own else None
        alike = failing_alike(problem, entry.case, evaluate) if math.isinf(entry.value) else evaluate
        case = minimise(problem, entry.case, keep=keep, seconds=seconds, evaluate=alike, apart=own).case
        written = problem.space.written(case)
        if entry.case in (case, written):
            return entry
        company = None if entry.company is None else entry.company.fitted(case, problem.scalars)
        where = environment() | arrays_of(problem.judge) | problem.environment()
        simpler = attrs.evolve(entry, case=written, company=company, environment=where)
        if entry.chance is not None:
            found = counted(problem, case, company, CALLS, lambda: True)
            if found.chance is None:
                return entry
            return attrs.evolve(simpler, value=found.value, noise=found.noise, chance=found.chance)
        measured = problem.measured(case, company=company, explained=False)
        return attrs.evolve(simpler, value=measured.value, noise=measured.noise, verdict=problem.verdict(measured))
