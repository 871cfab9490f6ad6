"""A log in SARIF 2.1.0 (OASIS, "Static Analysis Results Interchange Format"), as code scanning takes it.

One rule for each target, and a result for each problem. What is well is counted and not listed: GitHub shows every
result as an alert, whatever its ``kind`` (PSRule issue 955).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from diffuzz import __version__, targets
from diffuzz.escaping import escaped
from diffuzz.registry import RegistryError
from diffuzz.reporting.finding import Finding, Place, problems

_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
_HELP = (
    "The witness is the input on which it shows. `python -m diffuzz show FILE` prints it, `show FILE --python` as a "
    "program that needs NumPy only, and `python -m diffuzz replay FILE` measures it again."
)


def log(findings: Sequence[Finding], root: Path) -> dict[str, Any]:
    """The log of what was found; files below ``root``, which is that of the repository, are named from there."""
    found = problems(findings)
    rules = list(dict.fromkeys(one.rule for one in findings))
    return {
        "$schema": _SCHEMA,
        "version": "2.1.0",
        "runs": [
            {
                "tool": {
                    "driver": {
                        "name": "diffuzz",
                        "semanticVersion": __version__,
                        "rules": [_rule(rule) for rule in rules],
                    }
                },
                "columnKind": "unicodeCodePoints",
                "results": [_result(one, rules.index(one.rule), root) for one in found],
                "properties": {"examined": len(findings), "problems": len(found)},
            }
        ],
    }


def relative(file: str, root: Path) -> str | None:
    """A file as it is named from ``root``, with slashes; None if it is not below."""
    try:
        return Path(file).absolute().resolve().relative_to(root.resolve()).as_posix()
    except (ValueError, OSError):
        return None


def _rule(rule: str) -> dict[str, Any]:
    summary = _summary(rule)
    return {
        "id": escaped(rule),
        "name": escaped(rule),
        "shortDescription": {"text": summary},
        "fullDescription": {"text": summary},
        "help": {"text": _HELP, "markdown": _HELP},
        "defaultConfiguration": {"level": "error"},
        "properties": {"tags": ["correctness"]},
    }


def _summary(rule: str) -> str:
    """What a target says of itself; of what is none here, such as one in a file, its name."""
    if rule == "corpus":
        return "Entries of the corpus can be read, and replay as recorded."
    if rule.startswith("check"):
        return "Each step of a model's run keeps the bound of its arithmetic."
    try:
        return escaped(targets.get(rule).summary) + "."
    except (RegistryError, ImportError):
        return f"Results of {escaped(rule)} keep their bounds."


def _result(one: Finding, index: int, root: Path) -> dict[str, Any]:
    text = escaped(one.message) + (f"\n\nTo see it: {escaped(one.command)}" if one.command else "")
    # The same problem of another run: neither the numbers nor the case.
    told = "\0".join([one.rule, one.subject, "" if one.place is None else one.place.file, one.level])
    return {
        "ruleId": escaped(one.rule),
        "ruleIndex": index,
        "kind": "fail",
        "level": one.level,
        "message": {"text": text},
        "locations": _locations([] if one.place is None else [one.place], root),
        "relatedLocations": _locations(one.others, root),
        "partialFingerprints": {"diffuzz/v1": hashlib.sha256(told.encode(errors="backslashreplace")).hexdigest()[:32]},
    }


def _locations(places: Iterable[Place], root: Path) -> list[dict[str, Any]]:
    return [
        {
            "physicalLocation": {
                "artifactLocation": _artifact(place.file, root),
                "region": {"startLine": place.line or 1},
            }
        }
        for place in places
    ]


def _artifact(file: str, root: Path) -> dict[str, str]:
    near = relative(file, root)
    if near is None:
        return {"uri": "file://" + quote(Path(file).absolute().as_posix().encode(errors="surrogateescape"))}
    return {"uri": quote(near.encode(errors="surrogateescape")), "uriBaseId": "%SRCROOT%"}
