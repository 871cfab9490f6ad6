"""An entry of the corpus as text: what is written down of a witness, and how it is read back without trust.

Concrete bits, never choice sequences or pickles: target, parameters, arrays, measure, value, bound, verdict, how it was
found, and what a replay must give. Reading runs no code and is strict: an unknown or missing field, a wrong type, a
shape outside the space, or a digest that does not match is an error.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

import attrs
import numpy as np

from diffuzz import encoding, targets
from diffuzz.case import Case
from diffuzz.encoding import EncodingError, hex_float, parse_hex_float
from diffuzz.space import Space
from diffuzz.target import Params, Target
from diffuzz.verdict import Verdict

SCHEMA = 1
_DIGEST12 = re.compile(r"[0-9a-f]{12}")


class _FieldError(ValueError):
    """A field that is not as it must be."""


@attrs.frozen
class Counterexample:
    """One entry. ``value`` and ``noise`` are the measurement when it was saved, which a replay must give again within
    ``tolerance``.

    ``bound`` is ``{"value", "rounding", "because"}`` or None; ``found`` says how: engine, seed, evaluations, command;
    ``candidate`` is the ``FILE.py:FUNCTION`` that it was found with, if any, and ``kernels`` the two implementations
    that it compares.
    """

    target: str
    params: Mapping[str, Any]
    case: Case
    measure: str
    value: float
    noise: float
    limit: float
    bound: Mapping[str, Any] | None
    verdict: Verdict
    tolerance: float
    found: Mapping[str, Any]
    environment: Mapping[str, Any]
    candidate: str | None = None
    kernels: tuple[str, str] | None = None

    @property
    def digest(self) -> str:
        """SHA-256 over target, parameters, candidate, kernels if any, and the case's own digest, in hexadecimal."""
        key: list[Any] = [self.target, sorted(self.recorded.items()), self.candidate, self.case.digest]
        if self.kernels is not None:
            key.append(list(self.kernels))
        return sha256(json.dumps(key).encode()).hexdigest()

    @property
    def recorded(self) -> dict[str, Any]:
        """The parameters that are written down: all of them where functions were judged, else those of the target's
        own question.
        """
        recorded = _recorded(targets.get(self.target), contract=self.contract)
        return {name: value for name, value in self.params.items() if name in recorded}

    @property
    def contract(self) -> bool:
        """Whether the case is one of the target's contract: found with a candidate, or with a pair of kernels."""
        return self.candidate is not None or self.kernels is not None

    @property
    def name(self) -> str:
        """``<target>/<digest12>.json``."""
        return f"{self.target}/{self.digest[:12]}.json"


def dumps(entry: Counterexample, indent: int | None = 1) -> str:
    """The entry as JSON text; floats are hexadecimal, with the decimal beside the value for people."""
    stored = {
        "diffuzz": SCHEMA,
        "target": entry.target,
        "params": entry.recorded,
        "candidate": entry.candidate,
        **({} if entry.kernels is None else {"kernels": list(entry.kernels)}),
        "verdict": entry.verdict.value,
        "measure": entry.measure,
        "value": {"decimal": _decimal(entry.value), "hex": _float_text(entry.value)},
        "noise": _float_text(entry.noise),
        "limit": _float_text(entry.limit),
        "bound": None if entry.bound is None else dict(entry.bound),
        "tolerance": entry.tolerance,
        "arrays": {name: encoding.encode(array) for name, array in entry.case.arrays.items()},
        "found": dict(entry.found),
        "environment": dict(entry.environment),
        "digest": entry.digest,
    }
    return json.dumps(stored, indent=indent, allow_nan=False)


def _float_text(value: float) -> str:
    return hex_float(value) if math.isfinite(value) else str(value)


def _decimal(value: float) -> str:
    return f"{value:.9g}"


def loads(text: str, stem: str) -> Counterexample:
    """Inverse of ``dumps``; a stem like a digest must be the entry's. Raises ValueError or RecursionError."""
    stored = json.loads(
        text, object_pairs_hook=_no_duplicates, parse_constant=_no_constant, parse_float=_finite_from_text
    )
    return _from_json(stored, stem)


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _FieldError("a field is there twice")
    return found


def _no_constant(text: str) -> Any:
    raise _FieldError(f"{text} is not a JSON number")


def _finite_from_text(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise _FieldError(f"{text} is not a finite number")
    return number


def _from_json(stored: Any, stem: str) -> Counterexample:
    wanted = {
        "diffuzz": int, "target": str, "params": dict, "candidate": (str, type(None)), "verdict": str, "measure": str,
        "value": dict, "noise": str, "limit": str, "bound": (dict, type(None)), "tolerance": (int, float),
        "arrays": dict, "found": dict, "environment": dict, "digest": str,
    }  # fmt: skip
    if isinstance(stored, dict) and "kernels" in stored:
        wanted["kernels"] = list
    _check_fields(stored, wanted, "the entry")
    if stored["diffuzz"] != SCHEMA:
        raise _FieldError(f"diffuzz: schema {stored['diffuzz']}, where this version reads {SCHEMA}")
    target = targets.get(stored["target"])
    contract = stored["candidate"] is not None or stored.get("kernels") is not None
    params = _params(target, stored["params"], contract=contract)
    if stored["candidate"] is not None and target.contract is None:
        raise _FieldError(f"candidate: target {target.name} takes none")
    kernels = _kernels(target, params, stored.get("kernels"))
    if not 0 <= stored["tolerance"] <= 1e-3:
        raise _FieldError(f"tolerance: {stored['tolerance']} is not between 0 and 0.001")
    for group in ("found", "environment"):
        _check_fields(stored[group], dict.fromkeys(stored[group], (str, int, float)), group)
    if stored["verdict"] not in Verdict.__members__:
        raise _FieldError(f"verdict: {stored['verdict']!r} is none of {', '.join(Verdict.__members__)}")
    entry = Counterexample(
        target=target.name,
        params=params,
        case=_case(target, params, stored["arrays"], contract=contract),
        measure=stored["measure"],
        value=_value(stored["value"]),
        noise=_float_of(stored["noise"], "noise"),
        limit=_float_of(stored["limit"], "limit"),
        bound=_bound(stored["bound"]),
        verdict=Verdict(stored["verdict"]),
        tolerance=float(stored["tolerance"]),
        found=stored["found"],
        environment=stored["environment"],
        candidate=stored["candidate"],
        kernels=kernels,
    )
    if entry.digest != stored["digest"]:
        raise _FieldError("digest: does not match target, params and arrays; the file was edited")
    if _DIGEST12.fullmatch(stem) and not entry.digest.startswith(stem):
        raise _FieldError(f"the file's name is not the digest {entry.digest[:12]}")
    return entry


def _check_fields(stored: Any, wanted: Mapping[str, Any], where: str) -> None:
    if not isinstance(stored, dict):
        raise _FieldError(f"{where}: an object is needed")
    unknown, missing = sorted(set(stored) - set(wanted)), sorted(set(wanted) - set(stored))
    if unknown or missing:
        what = f"unknown field {unknown[0]!r}" if unknown else f"missing field {missing[0]!r}"
        raise _FieldError(f"{where}: {what}")
    for name, kinds in wanted.items():
        if not isinstance(stored[name], kinds) or isinstance(stored[name], bool):
            raise _FieldError(f"{where}: {name} has the wrong type, {type(stored[name]).__name__}")
        # What is shown on a terminal must not control it.
        if not name.isprintable() or (isinstance(stored[name], str) and not stored[name].isprintable()):
            raise _FieldError(f"{where}: {name!r} has characters that cannot be printed")


def _recorded(target: Target, *, contract: bool) -> list[str]:
    """Names of the parameters that an entry has; see diffuzz.target.Parameter."""
    return [parameter.name for parameter in target.parameters if parameter.recorded or contract]


def _params(target: Target, stored: dict[str, Any], *, contract: bool) -> Params:
    params, recorded = target.params(stored), _recorded(target, contract=contract)
    for name in stored:
        if name not in recorded:
            raise _FieldError(f"params: {name} is about candidates, and the entry has none")
    for name in recorded:
        value = params[name]
        if name not in stored:
            raise _FieldError(f"params: {name} is missing")
        if type(stored[name]) is not type(value) or stored[name] != value:
            raise _FieldError(f"params: {name} is not of its parameter's type, {type(value).__name__}")
    return params


def _kernels(target: Target, params: Params, stored: list[Any] | None) -> tuple[str, str] | None:
    if stored is None:
        return None
    known = (*(target.contract.kernels(params) if target.contract else ()), "candidate")
    names = [name for name in stored if isinstance(name, str) and name.isprintable()]
    if len(stored) != 2 or names != stored or any(name.partition("@")[0] not in known for name in names):
        raise _FieldError(f"kernels: {stored!r} are not two of {', '.join(known)}")
    # A path would be a library to load: the caller has to name it.
    if any("/" in name or "\\" in name for name in names):
        raise _FieldError(f"kernels: {stored!r} name a path")
    return names[0], names[1]


def _value(stored: dict[str, Any]) -> float:
    _check_fields(stored, {"decimal": str, "hex": str}, "value")
    value = _float_of(stored["hex"], "value")
    if stored["decimal"] != _decimal(value):
        raise _FieldError(f"value: decimal {stored['decimal']} is not {_decimal(value)}, which hex says")
    return value


def _bound(stored: dict[str, Any] | None) -> dict[str, Any] | None:
    if stored is None:
        return None
    _check_fields(stored, {"value": (int, float), "rounding": (int, float), "because": str}, "bound")
    if not 0 <= stored["value"] <= sys.float_info.max or not 0 <= stored["rounding"] <= sys.float_info.max:
        raise _FieldError("bound: value and rounding are not finite numbers of at least 0")
    return {"value": float(stored["value"]), "rounding": float(stored["rounding"]), "because": stored["because"]}


def _case(target: Target, params: Params, stored: dict[str, Any], *, contract: bool) -> Case:
    admissible = space(target, params, contract=contract)
    _check_fields(stored, {spec.name: dict for spec in admissible.tensors}, "arrays")
    arrays = {}
    for spec in admissible.tensors:
        try:
            # The shape first: a few characters may ask for any amount of memory.
            spec.sizes(np.broadcast_to(np.float32(0), encoding.decoded_shape(stored[spec.name])))
            arrays[spec.name] = encoding.decode(stored[spec.name])
        except EncodingError as error:
            raise _FieldError(f"arrays.{spec.name}: {error}") from error
    case = Case(arrays)
    admissible.check(case)
    return case


def space(target: Target, params: Params, *, contract: bool) -> Space:
    """The space of the cases of an entry: the contract's, where it was found with a candidate or compares kernels."""
    if contract and target.contract is not None and target.contract.space is not None:
        return target.contract.space(params)
    return target.space(params)


def _float_of(text: str, where: str) -> float:
    if text == "inf":
        return math.inf
    try:
        return parse_hex_float(text)
    except EncodingError as error:
        raise _FieldError(f"{where}: {error}") from error
