"""An entry of a property that an implementation does not keep (see diffuzz.judging.properties), as text.

It has no case, and no value: what shows is a change of integers. So it has the property, the way in which it was asked,
the sizes and the other integers, the seed of the numbers and their digest, and is read like any entry, without trust.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from hashlib import sha256
from typing import Literal

import attrs

from diffuzz import kernels as modules
from diffuzz.corpus.entry import NeedsCandidateError, NeedsLibraryError
from diffuzz.corpus.strict import (
    SCHEMA,
    FieldError,
    Json,
    Kinds,
    Scalar,
    check_digest,
    check_fields,
    check_kernels,
    files_of,
    object_of,
    of_older_entries,
    params_of,
    parsed,
    seal,
    target_of,
)
from diffuzz.judging.handing import Handing
from diffuzz.judging.opening import is_python
from diffuzz.judging.question import Judge, Keep
from diffuzz.targets.parameter import Params

Status = Literal["not invariant", "broken"]
# The field that no other entry has.
FIELD = "property"
_LARGEST = 2**40
_DIGEST = re.compile(r"[0-9a-f]{64}")


@attrs.frozen
class Lost:
    """One entry. ``name`` of the property was not kept by ``candidate`` or ``kernels``, in ``way``, in a call of
    ``sizes`` with ``numbers`` (integers of the way), whose arrays were drawn with ``seed`` and have the digest
    ``drawn``. ``status`` is whether it was broken, and ``seen`` what was seen, in words.
    """

    target: str
    params: Params
    name: str
    way: str
    sizes: Mapping[str, int]
    numbers: Mapping[str, int]
    seed: int
    drawn: str
    status: Status
    seen: str
    found: Mapping[str, Scalar]
    environment: Mapping[str, Scalar]
    candidate: str | None = None
    kernels: str | None = None
    files: Mapping[str, str] = attrs.field(factory=dict)

    @property
    def digest(self) -> str:
        """SHA-256, in hexadecimal, over what is asked again: all but what was seen, and how it was found."""
        key: list[object] = [
            self.target,
            sorted(of_older_entries(self.target, self.params).items()),
            self.candidate,
            self.kernels,
            self.name,
            self.way,
            sorted(self.sizes.items()),
            sorted(self.numbers.items()),
            self.drawn,
        ]
        return sha256(json.dumps(key).encode()).hexdigest()

    @property
    def path(self) -> str:
        """``<target>/<digest12>.json``."""
        return f"{self.target}/{self.digest[:12]}.json"

    def is_at_least(self, other: Lost) -> bool:
        """Whether ``other`` adds nothing to it: the same is lost in the same way, in calls that are no smaller."""

        def asked(one: Lost) -> tuple[object, ...]:
            return one.target, dict(one.params), one.candidate, one.kernels, one.name, one.way, one.status

        sizes = all(self.sizes.get(name, 0) <= size for name, size in other.sizes.items())
        return asked(self) == asked(other) and sizes

    def asked_again(self, candidate: Judge | None, library: str | None) -> Keep:
        """What was asked, with the implementation and the library that the caller names: an entry alone runs neither.

        Raises NeedsCandidateError, NeedsLibraryError: it takes one, and the caller names none.
        """
        if self.kernels is not None:
            if library is None and self.kernels != modules.base(self.kernels):
                raise NeedsLibraryError(f"kernels {self.kernels}: give the folder of that library with --library")
            name = self.kernels if library is None else modules.located(modules.base(self.kernels), library)
            return Keep(kernels=name, properties=(self.name,))
        if candidate is None:
            raise NeedsCandidateError(f"found with a candidate: give --candidate {shlex.quote(str(self.candidate))}")
        if not isinstance(candidate.implementation, str) or is_python(candidate.implementation):
            candidate = candidate.as_recorded(Handing.recorded(self.environment))
        return Keep(
            candidate.implementation, properties=(self.name,), timeout=candidate.timeout, arrays=candidate.arrays,
            device=candidate.device,
        )  # fmt: skip


def dumps(entry: Lost, indent: int | None = 1) -> str:
    """The entry as JSON text."""
    stored: Json = {
        "diffuzz": SCHEMA,
        "target": entry.target,
        "params": dict(entry.params),
        "candidate": entry.candidate,
        "kernels": entry.kernels,
        **({} if not entry.files else {"files": dict(entry.files)}),
        FIELD: entry.name,
        "way": entry.way,
        "sizes": dict(entry.sizes),
        "numbers": dict(entry.numbers),
        "seed": entry.seed,
        "drawn": entry.drawn,
        "status": entry.status,
        "seen": entry.seen,
        "found": dict(entry.found),
        "environment": dict(entry.environment),
        "digest": entry.digest,
    }
    return json.dumps(stored | {"seal": seal(stored)}, indent=indent, allow_nan=False)


def is_lost(stored: object) -> bool:
    """Whether the values of a file are of an entry of this kind."""
    return isinstance(stored, dict) and FIELD in stored


def loads(text: str, stem: str) -> Lost:
    """Inverse of ``dumps``; a stem like a digest must be the entry's. Raises ValueError, RecursionError,
    NeedsFileError.
    """
    return of_json(parsed(text), stem)


def of_json(stored: object, stem: str) -> Lost:
    """The entry of the values of a file; see ``loads``."""
    stored = object_of(stored)
    wanted: dict[str, Kinds] = {
        FIELD: str, "diffuzz": int, "target": str, "params": dict, "candidate": (str, type(None)),
        "kernels": (str, type(None)), "way": str, "sizes": dict, "numbers": dict, "seed": int, "drawn": str,
        "status": str, "seen": str, "found": dict, "environment": dict, "digest": str, "seal": str,
    }  # fmt: skip
    wanted |= {"files": dict} if "files" in stored else {}
    check_fields(stored, wanted, "the entry")
    files = files_of(stored.get("files", {}))
    target = target_of(stored["target"], files)
    if target.contract is None:
        raise FieldError(f"property: target {target.name} has no contract whose implementations have any")
    params, others = params_of(target, stored["params"], contract=True, files=files)
    if others:
        raise FieldError(f"params: {next(iter(others))} plays no part in the question")
    for group in ("found", "environment"):
        check_fields(stored[group], dict.fromkeys(stored[group], (str, int, float)), group)
    for group in ("sizes", "numbers"):
        check_fields(stored[group], dict.fromkeys(stored[group], int), group)
        if not all(0 <= number <= _LARGEST for number in stored[group].values()):
            raise FieldError(f"{group}: a number is not between 0 and {_LARGEST}")
    if stored["status"] not in ("not invariant", "broken"):
        raise FieldError(f"status: {stored['status']!r} is none of 'not invariant', 'broken'")
    if not 0 <= stored["seed"] < 2**63 or not _DIGEST.fullmatch(stored["drawn"]):
        raise FieldError("seed, drawn: a number from 0 to 2^63 and a SHA-256 are needed")
    if (stored["candidate"] is None) == (stored["kernels"] is None):
        raise FieldError("candidate, kernels: one of them is needed, and not both")
    kernels = stored["kernels"]
    if kernels is not None:
        check_kernels((kernels,), target.contract.kernels(params), files, f"kernels: {kernels!r} is none of")
    entry = Lost(
        target=target.name,
        params=params,
        name=stored[FIELD],
        way=stored["way"],
        sizes=stored["sizes"],
        numbers=stored["numbers"],
        seed=stored["seed"],
        drawn=stored["drawn"],
        status="broken" if stored["status"] == "broken" else "not invariant",
        seen=stored["seen"],
        found=stored["found"],
        environment=stored["environment"],
        candidate=stored["candidate"],
        kernels=kernels,
        files=files,
    )
    Handing.recorded(entry.environment)
    check_digest(entry.digest, stored, stem, "what is asked")
    if stored["seal"] != seal(stored):
        raise FieldError("seal: does not match, so the file was edited after it was saved")
    return entry
