"""Plans: the jobs of a campaign, as the product of what a user names.

    budget = "2h"                      time of all searches together
    slice = "5s"                       what each job gets in the first round
    seed = 1
    into = "campaign"                  folder of the journal
    corpus = "corpus"                  where witnesses are saved

    [[jobs]]
    targets = ["matvec", "dequantize"]
    formats = ["q4_K", "q6_K"]         or "all", as of targets, kernels and properties
    kernels = ["ggml", "libggml"]      every pair of them
    params = {k = [256, 4096]}

    [[jobs]]
    targets = ["rmsnorm"]
    candidates = ["kernels.py:norm", "fast=build/kernels.so:norm"]
    properties = ["batch"]
    require = ["repeat"]

Of a target a product has the formats and parameters that it declares, and the kernels that have its operation. What a
part names and no target of it takes is an error; what cannot be asked of one of them, or is not installed, is left out,
and said. Without candidates and kernels the target's own claim is asked.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import combinations, product
from pathlib import Path
from typing import Any

import attrs

from diffuzz import formats, kernels, targets
from diffuzz.campaigns.job import Job
from diffuzz.cases import domain
from diffuzz.corpus.candidates import parse as parse_candidates
from diffuzz.corpus.spelling import seconds
from diffuzz.escaping import escaped
from diffuzz.judging import properties
from diffuzz.judging.opening import check_handing
from diffuzz.judging.pair import EXACT, implementations
from diffuzz.judging.question import Judge, QuestionError
from diffuzz.registry import UnknownNameError
from diffuzz.targets.target import Target

ALL = "all"
_LARGEST_FILE = 2**20
# Of a complaint that is quoted, such as one that lists all formats.
_LONGEST = 120
MOST_JOBS = 100_000


class PlanError(ValueError):
    """A plan that is none; one line with the file, the key, and what is needed."""


def _words(given: object) -> tuple[str, ...]:
    """A name, or a list of them."""
    found = [given] if isinstance(given, str) else given
    if not isinstance(found, list | tuple) or not all(isinstance(one, str) and one.strip() for one in found):
        raise ValueError("a name, or a list of names, is needed")
    return tuple(dict.fromkeys(one.strip() for one in found))


def _settings(given: object) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Parameters, each with a value or a list of values."""
    if not isinstance(given, Mapping):
        raise ValueError("a table is needed, such as {n = [7, 64]}")
    found = []
    for name, values in given.items():
        listed = values if isinstance(values, list | tuple) else [values]
        if not listed or not all(isinstance(one, str | int | float) for one in listed):
            raise ValueError(f"{name}: a number or a word, or a list of them, is needed")
        found.append((str(name), tuple(dict.fromkeys(_plain(one) for one in listed))))
    return tuple(found)


def _plain(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _text(given: object) -> str:
    if not isinstance(given, str) or not given:
        raise ValueError("a text is needed")
    return given


def _seed(given: object) -> int:
    if isinstance(given, bool) or not isinstance(given, int) or not 0 <= given < 2**63:
        raise ValueError("an integer of at least 0 is needed")
    return given


@attrs.frozen
class Part:
    """One product: what is asked of which targets; see the module's docstring."""

    targets: tuple[str, ...] = attrs.field(default=(), converter=_words)
    formats: tuple[str, ...] = attrs.field(default=(), converter=_words)
    params: tuple[tuple[str, tuple[str, ...]], ...] = attrs.field(factory=dict, converter=_settings)
    candidates: tuple[str, ...] = attrs.field(default=(), converter=_words)
    kernels: tuple[str, ...] = attrs.field(default=(), converter=_words)
    properties: tuple[str, ...] = attrs.field(default=(), converter=_words)
    require: tuple[str, ...] = attrs.field(default=(), converter=_words)
    library: str | None = attrs.field(default=None, converter=attrs.converters.optional(_text))
    arrays: str | None = attrs.field(default=None, converter=attrs.converters.optional(_text))
    device: str | None = attrs.field(default=None, converter=attrs.converters.optional(_text))
    timeout: float = attrs.field(default=10.0, converter=seconds)
    engine: str = attrs.field(default="auto", converter=_text)


@attrs.frozen
class Jobs:
    """The jobs of a plan, in its order, each once; and what was left out, a line each."""

    jobs: tuple[Job, ...]
    left_out: tuple[str, ...]


@attrs.frozen
class Plan:
    """What a user plans: the parts, and of time and chance what the plan says; None is left to the caller."""

    parts: tuple[Part, ...]
    budget: float | None = None
    slice: float | None = None
    seed: int | None = None
    into: Path | None = None
    corpus: Path | None = None

    def jobs(self) -> Jobs:
        """All jobs. Raises PlanError where there are none; RegistryError, UnknownNameError, QuestionError."""
        found: dict[str, list[Job]] = {}
        gathered = _Gathered()
        for part in self.parts:
            for job in _jobs(part, gathered):
                _add(found.setdefault(job.name, []), job)
                if len(found) > MOST_JOBS:
                    raise PlanError(f"the plan has more than {MOST_JOBS} jobs; name fewer things")
        if not found:
            why = f": {next(iter(gathered.left_out))}" if gathered.left_out else ""
            raise PlanError(f"the plan has no job{why}")
        # Of several builds of one thing each is a job.
        jobs = [attrs.evolve(job, spelled=len(alike) > 1) for alike in found.values() for job in alike]
        return Jobs(tuple(jobs), tuple(gathered.left_out))


_KEYS: dict[str, Callable[[object], Any]] = {
    "budget": seconds, "slice": seconds, "seed": _seed,
    "into": lambda given: Path(_text(given)), "corpus": lambda given: Path(_text(given)),
}  # fmt: skip


def read(path: Path) -> Plan:
    """The plan in a file of TOML. Raises PlanError, OSError."""
    with path.open("rb") as file:
        raw = file.read(_LARGEST_FILE + 1)
    if len(raw) > _LARGEST_FILE:
        raise PlanError(f"{path}: is larger than {_LARGEST_FILE} bytes, so no plan")
    try:
        stored = tomllib.loads(raw.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise PlanError(f"{path}: is no TOML ({escaped(str(error)) or type(error).__name__})") from error
    parts = stored.pop("jobs", None)
    if not isinstance(parts, list) or not parts or not all(isinstance(one, dict) for one in parts):
        raise PlanError(f"{path}: has no [[jobs]]; at least one, with targets = [...], is needed")
    _check_keys(stored, _KEYS, f"{path}")
    given: dict[str, Any] = {}
    for key, convert in _KEYS.items():
        if key in stored:
            try:
                given[key] = convert(stored[key])
            except ValueError as error:
                raise PlanError(f"{path}: {key}: {error}") from error
    return Plan(tuple(part(one, f"{path}: [[jobs]] {number}") for number, one in enumerate(parts, 1)), **given)


def part(given: Mapping[str, Any], where: str) -> Part:
    """A part of what a user gives by name; ``where`` begins a complaint. Raises PlanError."""
    fields = {field.name: field for field in attrs.fields(Part)}
    _check_keys(given, fields, where)
    if not given.get("targets"):
        raise PlanError(f'{where}: targets: at least one name, or "{ALL}", is needed')
    for name, value in given.items():
        try:
            Part(**{"targets": ("x",), name: value})
        except ValueError as error:
            raise PlanError(f"{where}: {name}: {error}") from error
    found = Part(**given)
    if (found.properties or found.require) and not (found.candidates or found.kernels):
        raise PlanError(f"{where}: properties: give candidates or kernels, whose properties they are")
    if (found.arrays or found.device) and not found.candidates:
        raise PlanError(f"{where}: arrays: they are for candidates, of which there are none")
    return found


def _check_keys(given: Mapping[str, Any], known: Iterable[str], where: str) -> None:
    for key in given:
        if key not in known:
            raise PlanError(f"{where}: there is no key '{escaped(key)}'; there are {', '.join(known)}")


def _add(alike: list[Job], job: Job) -> None:
    """Add a job to those of its name, unless it asks of the same files; what one of two requires is required."""
    for place, other in enumerate(alike):
        if attrs.evolve(job, required=other.required, timeout=other.timeout) == other:
            alike[place] = attrs.evolve(other, required=job.required or other.required)
            return
    alike.append(job)


@attrs.frozen
class _Gathered:
    """What was left out of a plan, a line each, and the kernels of its parts that a target has."""

    left_out: dict[str, None] = attrs.field(factory=dict)
    taken: set[str] = attrs.field(factory=set)


def _jobs(part: Part, gathered: _Gathered) -> Iterator[Job]:
    named = list(targets.names()) if part.targets == (ALL,) else list(part.targets)
    chosen = list(formats.names()) if part.formats == (ALL,) else list(part.formats)
    used: set[str] = set()
    for name in named:
        target = targets.get(targets.load(name))
        own = {one.name for one in target.declared}
        settings = [(key, values) for key, values in part.params if domain.is_domain(key) or key in own]
        if "format" in own and chosen:
            settings.append(("format", tuple(chosen)))
        used |= {key for key, _ in settings}
        for values in product(*(values for _, values in settings)):
            params = tuple(zip((key for key, _ in settings), values, strict=True))
            yield from _of_target(part, name, target, params, gathered)
    for one in part.kernels:
        if one != ALL and kernels.base(kernels.load(one)) not in gathered.taken:
            raise PlanError(f"kernels {one}: none of the targets {', '.join(named)} has such an implementation")
    for key in (*(key for key, _ in part.params), *(("format",) if chosen else ())):
        if key not in used:
            raise PlanError(f"{key}: none of the targets {', '.join(named)} has this parameter")


def _of_target(
    part: Part, name: str, target: Target, params: tuple[tuple[str, str], ...], gathered: _Gathered
) -> Iterator[Job]:
    """The jobs of a target with these parameters."""
    given = {key: formats.load(value) if key == "format" else value for key, value in params}
    job = Job(name, params, library=part.library, timeout=part.timeout, engine=part.engine)
    judged = bool(part.candidates or part.kernels)
    try:
        if not judged:
            target.params(given)
            yield job
            return
        if target.contract is None:
            raise QuestionError(f"target {target.name} judges no implementation: its claim is about the arithmetic")
        target.contract_params(given)
        pairs, single = _kernels(part, target, given, gathered)
    except UnknownNameError:
        raise
    except ValueError as error:
        said = " ".join(f"{key}={value}" for key, value in params)
        why = str(error)
        gathered.left_out[
            f"{name} {said}".strip() + f": {why if len(why) <= _LONGEST else why[:_LONGEST] + ' ...'}"
        ] = None
        return
    wanted, required = _properties(part)
    for function, called in _candidates(part):
        own = attrs.evolve(job, candidate=function, called=called, arrays=part.arrays, device=part.device)
        yield own
        yield from (attrs.evolve(own, keeps=one, required=one in required) for one in wanted)
    for pair in pairs:
        yield attrs.evolve(job, kernels=pair)
    for kernel in single:
        yield from (attrs.evolve(job, kernels=(kernel,), keeps=one, required=one in required) for one in wanted)


def _candidates(part: Part) -> Iterator[tuple[str, str | None]]:
    """Each function, and what it is called, if the plan says so. Raises CandidateError, HandingError."""
    for text in part.candidates:
        found = parse_candidates([text], part.timeout, part.arrays, part.device)
        named = {None: found} if isinstance(found, Judge) else dict(found or {})
        for called, judge in named.items():
            check_handing(str(judge.implementation), judge.handing)
            yield str(judge.implementation), called


def _kernels(
    part: Part, target: Target, given: Mapping[str, str], gathered: _Gathered
) -> tuple[Sequence[tuple[str, str]], Sequence[str]]:
    """(the pairs that are compared, the kernels whose properties are asked for). Raises QuestionError."""
    if not part.kernels:
        return (), ()
    known = implementations(target, target.contract_params(given))
    asked = known if part.kernels == (ALL,) else tuple(map(kernels.load, part.kernels))
    chosen = [one for one in asked if kernels.base(one) in known or kernels.KernelName.parse(one).from_outside]
    gathered.taken.update(map(kernels.base, chosen))
    here, missing = _here(chosen, part.library)
    gathered.left_out.update(dict.fromkeys(missing))
    absent = [one for one in asked if one not in chosen]
    if len(here) < 2 and not (part.properties or part.require):
        said = f", not {', '.join(absent)}" if absent else ""
        raise QuestionError(f"two kernels are needed, and it has {', '.join(here) or 'none of them'} here{said}")
    gathered.left_out.update({f"{target.name}: {one}, which it does not have": None for one in absent})
    # A mathematical function in float64 keeps no promise of bits.
    return list(combinations(here, 2)), [name for name in here if name != EXACT]


def _here(names: Iterable[str], library: str | None) -> tuple[list[str], list[str]]:
    """(those that can be loaded, what to do for the others)."""
    found, missing = [], []
    for name in names:
        remedy = kernels.missing(kernels.located(name, library))
        if remedy:
            missing.append(remedy)
        else:
            found.append(name)
    return found, missing


def _properties(part: Part) -> tuple[tuple[str, ...], frozenset[str]]:
    """(all that are asked for, those that are required), in the order of diffuzz. Raises UnknownNameError."""
    known = properties.names()

    def named(chosen: Sequence[str]) -> set[str]:
        return {one for name in chosen for one in (known if name == ALL else (properties.get(name).name,))}

    required = named(part.require)
    wanted = named(part.properties) | required
    return tuple(name for name in known if name in wanted), frozenset(required)
