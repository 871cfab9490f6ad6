"""What every file of the corpus has in common, read without trust: JSON of which each field is known, targets and
parameters of which each is there and of its type, names of files that are only said, and the seal over all of it.
"""

from __future__ import annotations

import json
import math
import re
import shlex
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

from diffuzz import formats, targets
from diffuzz import kernels as modules
from diffuzz.cases import domain
from diffuzz.targets.parameter import Params
from diffuzz.targets.target import Target

# Schema 1 called the threshold "limit", and had parameters that play no part in the question. Schema 2 had no seal.
SCHEMA, READABLE = 3, (1, 2, 3)
# Of a text other than the numbers of an array: what others look for in a list of names takes time.
LONGEST_TEXT = 2**14
# Commas and colons of a file. Parsed, each value takes a hundred times the memory and the time of its characters.
MOST_VALUES = 2**17
_DIGEST12 = re.compile(r"[0-9a-f]{12}")

Scalar: TypeAlias = int | float | bool | str
# An object of a file: its values may be anything until check_fields has looked at each.
Json: TypeAlias = dict[str, Any]
Kinds: TypeAlias = type | tuple[type, ...]


class FieldError(ValueError):
    """A field that is not as it must be."""


class NeedsFileError(ImportError):
    """A target, a format or kernels of the entry came from a file, which has to be named again: its ``option`` with
    ``file``, as the entry has it.
    """

    def __init__(self, option: str, file: str, name: str) -> None:
        super().__init__(f"{option} {name!r} came from a file: give --{option} {shlex.quote(file)}")
        self.option, self.file = option, file


def parsed(text: str) -> object:
    """The values of a file. Raises ValueError, RecursionError."""
    return json.loads(
        checked_length(text), object_pairs_hook=_no_duplicates, parse_constant=_no_constant,
        parse_float=_finite_from_text,
    )  # fmt: skip


def checked_length(text: str) -> str:
    """``text``. Raises ValueError if it has more values than any entry."""
    if text.count(",") + text.count(":") > MOST_VALUES:
        raise FieldError(f"more than {MOST_VALUES} values, so no corpus entry")
    return text


def _no_duplicates(pairs: list[tuple[str, object]]) -> Json:
    found: Json = {}
    for name, value in pairs:
        if name in found:
            raise FieldError(f"duplicate field {name!r}")
        found[name] = value
    return found


def _no_constant(text: str) -> NoReturn:
    raise FieldError(f"{text} is not a JSON number")


def _finite_from_text(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise FieldError(f"{text} is not a finite number")
    return number


def seal(stored: Json) -> str:
    """SHA-256, in hexadecimal, over all fields of an entry but the seal, as canonical JSON: keys sorted, no spaces."""
    rest = {name: value for name, value in stored.items() if name != "seal"}
    return sha256(json.dumps(rest, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()).hexdigest()


def object_of(stored: object) -> Json:
    """The object that an entry is. Raises FieldError for anything else, and for one of another schema."""
    if not isinstance(stored, dict):
        raise FieldError("the entry: an object is needed")
    schema: Any = stored.get("diffuzz")
    # First, since another schema may have other fields; True is 1, and not meant.
    if type(schema) is int and schema not in READABLE:
        readable = f"{', '.join(map(str, READABLE[:-1]))} and {READABLE[-1]}"
        raise FieldError(f"diffuzz: schema {schema}, where this version reads {readable}")
    return stored


def check_digest(digest: str, stored: Json, stem: str, of: str) -> None:
    """Raises FieldError unless the digest of an entry is the one that was stored, and its file is called by it."""
    if digest != stored["digest"]:
        raise FieldError(f"digest: does not match {of}; the file was edited")
    if _DIGEST12.fullmatch(stem) and not digest.startswith(stem):
        raise FieldError(f"the file's name is not the digest {digest[:12]}")


def check_kernels(names: Sequence[str], known: Sequence[str], files: Mapping[str, str], wrong: str) -> None:
    """Raises FieldError, which begins with ``wrong``, for a name that is none of those that are ``known``; one for a
    path; NeedsFileError for one of a file.
    """
    for name in names:
        if modules.base(name) not in known and not modules.KernelName.parse(name).from_outside:
            if "kernels" in files:
                named = files["kernels"].split(",")
                module = modules.KernelName.parse(name).module
                file = next((file for file in named if Path(file.partition(".py")[0]).name == module), named[0])
                raise NeedsFileError("kernels", file, name)
            raise FieldError(f"{wrong} {', '.join(known)}")
    # A path would be a library to load: the caller has to name it.
    if any("/" in name or "\\" in name for name in names):
        raise FieldError(f"kernels: {', '.join(map(repr, names))} name a path")


def check_lengths(stored: Json, where: str) -> None:
    """Raise FieldError for a text that is longer than any name, path or command."""
    for name, value in stored.items():
        if len(name) > LONGEST_TEXT or (isinstance(value, str) and len(value) > LONGEST_TEXT):
            raise FieldError(f"{where}: {name[:40]!r} has more than {LONGEST_TEXT} characters")


def check_fields(stored: Json, wanted: Mapping[str, Kinds], where: str) -> None:
    unknown, missing = sorted(set(stored) - set(wanted)), sorted(set(wanted) - set(stored))
    if unknown or missing:
        what = f"unknown field {unknown[0]!r}" if unknown else f"missing field {missing[0]!r}"
        raise FieldError(f"{where}: {what}")
    check_lengths(stored, where)
    for name, kinds in wanted.items():
        if not isinstance(stored[name], kinds) or isinstance(stored[name], bool):
            raise FieldError(f"{where}: {name} has the wrong type, {type(stored[name]).__name__}")
        # What is shown on a terminal must not control it.
        if not name.isprintable() or (isinstance(stored[name], str) and not stored[name].isprintable()):
            raise FieldError(f"{where}: {name!r} has characters that cannot be printed")


def files_of(stored: Json) -> dict[str, str]:
    """What the entry says of where the target, a format and kernels came from: only said to a user, never loaded."""
    check_fields(stored, dict.fromkeys(set(stored) & {"target", "format", "kernels"}, str), "files")
    return stored


def target_of(name: str, files: Mapping[str, str]) -> Target:
    """Raises NeedsFileError for a target that came from a file which nobody has named again."""
    if "target" in files and not targets.known(name):
        raise NeedsFileError("target", files["target"], name)
    return targets.get(name)


def params_of(target: Target, stored: Json, *, contract: bool, files: Mapping[str, str]) -> tuple[Params, Params]:
    """The parameters of the question, all of them and of their types; and others that the target has."""
    check_lengths(stored, "params")
    name = stored.get("format")
    if "format" in files and isinstance(name, str) and name.isprintable() and not formats.REGISTRY.known(name):
        raise NeedsFileError("format", files["format"], name)
    _check_models(target, stored)
    params = target.contract_params(stored) if contract else target.params(stored)
    known = {one.name: one.parse(stored[one.name]) for one in target.declared if one.name in stored}
    later = {one.name for one in target.declared if one.later}
    for name in params:
        if name not in stored and name not in later:
            raise FieldError(f"params: {name} is missing")
    known |= {name: value for name, value in params.items() if domain.is_domain(name)}
    for name, value in known.items():
        if type(stored[name]) is not type(value) or stored[name] != value:
            raise FieldError(f"params: {name} is not of its parameter's type, {type(value).__name__}")
    return params, {name: value for name, value in stored.items() if name not in params}


def _check_models(target: Target, stored: Json) -> None:
    """Raises NeedsFileError for a model that nobody has named again: the entry has its name and digest only."""
    for name in (one.name for one in target.declared if one.names is not None):
        from diffuzz.models import named

        model = stored.get(name)
        if isinstance(model, str) and model.isprintable() and not named.known(model):
            raise NeedsFileError(name, named.file_of(model), model)


def of_older_entries(target: str, params: Params) -> dict[str, int | float | bool | str]:
    """``params`` without those at their defaults that the target got later (see Parameter.later)."""
    later = {one.name: one.default for one in targets.get(target).declared if one.later}
    return {name: value for name, value in params.items() if name not in later or value != later[name]}
