"""From the objects that ``search``, ``replay``, ``check``, ``matrix``, ``claims`` and others print with ``--json`` to
findings.

The lines may come from anywhere: what is not such an object is a ResultError, one line, and nothing in it is run.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs

from diffuzz.escaping import unwrapped
from diffuzz.reporting.finding import Finding, Level, Place, place_of_function

_LONGEST = 2000
_RESULT = "what search, replay, check, matrix, claims or campaign print with --json is needed"
# By the status of a replayed entry: how bad it is, and the exit code.
_STATUSES: dict[str, tuple[Level, int]] = {
    "as recorded": ("none", 0),
    "right": ("none", 0),
    "changed": ("error", 1),
    "wrong": ("error", 1),
    "broken": ("error", 2),
    "needs candidate": ("warning", 3),
    "needs arrays": ("warning", 3),
    "needs kernels": ("warning", 3),
    "needs file": ("warning", 3),
    "needs time": ("warning", 3),
}


class ResultError(ValueError):
    """A text that is not what a command prints with ``--json``; one line."""


@attrs.frozen(eq=False)
class Read:
    """An object and its findings; ``place`` is the line that it is from, in words."""

    place: str
    result: Mapping[str, Any]
    findings: list[Finding]


def read(text: str, name: str) -> list[Read]:
    """The objects of lines of JSON; ``name`` is where they come from. Raises ResultError, which begins with it."""
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            result = json.loads(line)
            found.append(Read(f"{name}: line {number}", result, findings(result)))
        except ResultError as error:
            raise ResultError(f"{name}: line {number}: {error}") from error
        except (ValueError, RecursionError) as error:
            raise ResultError(f"{name}: line {number}: is no JSON; lines that --json printed are needed") from error
    if not found:
        raise ResultError(f"{name}: has no result, so there is nothing to report")
    return found


def findings(result: object) -> list[Finding]:
    """The findings of one object. Raises ResultError."""
    if not isinstance(result, Mapping):
        raise ResultError(f"is no object; {_RESULT}")
    try:
        if "replayed" in result:
            return [_replayed(entry) for entry in _items(result["results"])]
        if "campaign" in result:
            return [_of_job(job) for job in _items(result["jobs"]) if job.get("status") is not None]
        if "culprits" in result:
            return list(_checked(result))
        if "cells" in result:
            return [_compared(result, cell) for cell in _items(result["cells"])]
        if "implementations" in result:
            return list(_kept(result))
        if "claims" in result:
            return [_claimed(claim) for claim in _items(result["claims"])]
        if "verdict" in result and "target" in result:
            return [_searched(result)]
    except KeyError as error:
        raise ResultError(f"has no {error.args[0]}; {_RESULT}") from error
    raise ResultError(f"is of another command; {_RESULT}")


def _replayed(entry: Mapping[str, Any]) -> Finding:
    status, path = _text(entry, "status"), _text(entry, "path")
    if status not in _STATUSES:
        raise ResultError(f"status {status[:80]!r} is none that a replay gives")
    level, code = _STATUSES[status]
    candidate, file = _text(entry, "candidate", None), Place(path, 1)
    function = None if candidate is None else place_of_function(candidate)
    # What is wrong is the function; what has changed, or cannot be read, the entry.
    first, other = (function or file, file) if status == "wrong" else (file, function)
    message = _text(entry, "message").removeprefix(f"{path}: ")
    return Finding(
        rule=_text(entry, "target", None) or "corpus",
        level=level,
        subject=candidate if status in ("wrong", "right") and candidate else path,
        message=message if status == "wrong" else f"{status}: {message}",
        code=code,
        place=first,
        others=(other,) if other is not None and other != first else (),
        command=f"python -m diffuzz show {shlex.quote(path)}",
    )


def _searched(result: Mapping[str, Any]) -> Finding:
    target, verdict = _text(result, "target"), _text(result, "verdict")
    candidate, witness = _text(result, "candidate", None), _text(result, "witness", None)
    kernels = result.get("kernels")
    subject = candidate or (" against ".join(map(str, kernels)) if isinstance(kernels, list) else target)
    level: Level = "none"
    if verdict == "CONFIRMED":
        level, message = "error", _confirmed(result, subject)
    elif seen := result.get("unsteady") or result.get("passing_failure"):
        level, message = "note", f"{subject} was not found to be wrong, but failed once: {_seen(seen)}"
    elif verdict == "FALSIFIED":
        message = f"never more than {_number(result, 'bound')}, which is proven"
    else:
        count = result.get("evaluations")
        message = f"at most {_number(result, 'value')}, where {_number(result, 'threshold')} is allowed; {count} cases"
    place, others = _places(candidate, witness)
    return Finding(
        rule=target,
        level=level,
        subject=subject,
        message=message,
        code=int(level == "error"),
        place=place,
        others=others,
        command=_text(result, "command", None),
    )


def _places(function: str | None, witness: str | None) -> tuple[Place | None, tuple[Place, ...]]:
    """Where to look first, and what else belongs to it: the function, and the witness, as far as there are any."""
    both = (place_of_function(function) if function else None, Place(witness, 1) if witness else None)
    known = [place for place in both if place is not None]
    return (known[0] if known else None), tuple(known[1:])


def _confirmed(result: Mapping[str, Any], subject: str) -> str:
    """What a witness shows."""
    if failure := _text(result, "failure", None):
        return f"{subject} is wrong: it {failure}" if result.get("candidate") else f"{subject}: {failure}"
    detail = result.get("detail")
    shown = detail if isinstance(detail, Mapping) else {}
    value = _number(result, "value")
    if result.get("candidate") and {"candidate", "worst element", "exact", "allowance"} <= set(shown):
        return (
            f"{subject} is wrong: element {_number(shown, 'worst element')} is {_number(shown, 'candidate')}, where "
            f"{_number(shown, 'exact')} is exact and an error of {_number(shown, 'allowance')} is allowed"
            + ("" if value == "inf" else f", {value} times that far off")
        )
    if result.get("candidate"):
        return f"{subject} is wrong: {_text(result, 'measure', None) or 'its value'} is {value}"
    claim = _text(result, "claim", None) or subject
    return f"{claim}: {value}, where the threshold is {_number(result, 'threshold')}"


def _seen(seen: object) -> str:
    if isinstance(seen, Mapping):
        return f"{_number(seen, 'in_a_batch')}, and {_number(seen, 'alone')} when it was called again"
    return _short(seen)


def _checked(result: Mapping[str, Any]) -> Iterator[Finding]:
    engine = result.get("engine")
    subject = _text(engine, "engine", None) if isinstance(engine, Mapping) else None
    subject = subject or "a run of a model"
    culprits = _items(result["culprits"])
    if not culprits:
        message = f"{_number(result, 'checked')} of {_number(result, 'steps')} steps keep their bounds"
        yield Finding("check", "none", subject, message)
    for culprit in culprits:
        certain, witness = bool(culprit.get("certain")), _text(culprit, "witness", None)
        layer = "" if culprit.get("layer") is None else f"layer {_number(culprit, 'layer')}, "
        yield Finding(
            rule=f"check-{_text(culprit, 'op')}",
            level="error" if certain else "warning",
            subject=subject,
            message=f"{layer}{_text(culprit, 'op')} is {'wrong' if certain else 'suspect'}: "
            f"{_number(culprit, 'ratio')} times its {'allowance' if certain else 'usual error'}; "
            f"{_text(culprit, 'because', None) or ''}".removesuffix("; "),
            code=int(certain),
            place=Place(witness, 1) if witness else None,
        )


def _of_job(job: Mapping[str, Any]) -> Finding:
    """A job of a campaign: an error where it is a new finding, a warning where it is a known one or was not asked."""
    target, status, title = _text(job, "target"), _text(job, "status"), _text(job, "title")
    why, witness = _text(job, "why", None), _text(job, "witness", None)
    if job.get("value") is not None and job.get("finding"):
        said = _confirmed({**job, "candidate": job.get("function")}, title)
    else:
        said = f"{title}: {job.get('verdict')}; {why}" if why else f"{title}: {job.get('verdict')}"
    level: Level = "none"
    code = 0
    if status == "failed":
        level, code, said = "warning", 3 if job.get("code") == 3 else 2, f"{title}: could not be asked: {why}"
    elif job.get("finding"):
        new = bool(job.get("new"))
        level, code = ("error", 1) if new else ("warning", 0)
        said = f"{'new' if new else 'known'}: {said}"
    place, others = _places(_text(job, "function", None), witness)
    return Finding(
        rule=target,
        level=level,
        subject=title,
        message=said,
        code=code,
        place=place,
        others=others,
        command=_text(job, "command", None),
    )


def _compared(result: Mapping[str, Any], cell: Mapping[str, Any]) -> Finding:
    """A pair of a matrix: an error where at least one of the two is outside its bound."""
    names, agreement = cell["kernels"], _text(cell, "agreement")
    subject = " against ".join(map(_short, names)) if isinstance(names, list) else _short(names)
    failure, witness = _text(cell, "failure", None), _text(cell, "witness", None)
    said = f"they agree {agreement}: {_number(cell, 'value')}, as far as was seen"
    outside = agreement == "not at all"
    if outside:
        said = f"they do not agree: {failure or _number(cell, 'value')}"
    return Finding(
        rule=_text(result, "target"),
        level="error" if outside else "none",
        subject=subject,
        message=said,
        code=int(outside),
        place=Place(witness, 1) if witness else None,
    )


def _kept(result: Mapping[str, Any]) -> Iterator[Finding]:
    """The properties of implementations: an error is what is broken, or required and not kept."""
    required = result.get("required")
    for one in _items(result["implementations"]):
        name = _text(one, "name")
        for asked in _items(one["properties"]):
            about, status, witness = _text(asked, "property"), _text(asked, "status"), _text(asked, "witness", None)
            findings, message = _items(asked["findings"]), f"{about} {status}"
            level: Level = "none"
            if status in ("broken", "not invariant"):
                promised = isinstance(required, list) and about in required
                level = "error" if status == "broken" or promised else "note"
                message += f": {_text(findings[0], 'text')}" if findings else ""
            places = [place_of_function(name), Place(witness, 1) if witness else None]
            known = [place for place in places if place is not None]
            yield Finding(
                rule=_text(result, "target"),
                level=level,
                subject=name,
                message=message,
                code=int(level == "error"),
                place=known[0] if known else None,
                others=tuple(known[1:]),
                command=_text(findings[0], "command", None) if findings else None,
            )


def _claimed(claim: Mapping[str, Any]) -> Finding:
    """A published claim: whether it holds is a result, and no problem."""
    witness = _text(claim, "witness", None)
    return Finding(
        rule="claims",
        level="none",
        subject=_text(claim, "claim"),
        message=f"{_text(claim, 'verdict')}: {_number(claim, 'found')} was found",
        place=Place(witness, 1) if witness else None,
    )


def _items(value: object) -> Sequence[Mapping[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(one, Mapping) for one in value):
        raise ResultError("a list of objects is needed for its results")
    return value


_NEEDED = object()


def _text(holder: Mapping[str, Any], name: str, default: object = _NEEDED) -> Any:
    """The text of a name, on one line; ``default``, if it is given, where there is none."""
    value = holder[name] if default is _NEEDED else holder.get(name)
    if value is None and default is not _NEEDED:
        return default
    if not isinstance(value, str):
        raise ResultError(f"{name}: a text is needed")
    return _short(value)


def _short(value: object) -> str:
    line = unwrapped(str(value))
    return line if len(line) <= _LONGEST else line[:_LONGEST] + "..."


def _number(holder: Mapping[str, Any], name: str) -> str:
    """A number as people read it; infinities are text in JSON."""
    value = holder.get(name)
    try:
        return f"{value:.7g}" if isinstance(value, (int, float)) else _short("unknown" if value is None else value)
    except OverflowError:
        # JSON has integers of any length.
        raise ResultError(f"{name}: is too large for a number") from None
