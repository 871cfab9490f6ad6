"""An entry of the corpus as text: what is written down of a witness, and how it is read back without trust.

Concrete bits, never choice sequences or pickles: target, parameters, arrays, measure, value, bound, verdict, how it was
found, and what a replay must give. Reading runs no code and is strict: an unknown or missing field, a wrong type, a
shape outside the space, or a digest or a seal that does not match is an error. The digest is over what was measured,
and names the entry; the seal is over all of it, so that no edit goes unseen.
"""

from __future__ import annotations

import json
import math
import shlex
import sys
from collections.abc import Mapping
from hashlib import sha256
from itertools import pairwise
from typing import Any

import attrs
import numpy as np

from diffuzz import kernels as modules
from diffuzz import targets
from diffuzz.cases import encoding
from diffuzz.cases.case import Case
from diffuzz.cases.encoding import EncodingError, hex_float, parse_hex_float
from diffuzz.cases.space import Space
from diffuzz.corpus.strict import (
    LONGEST_TEXT,
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
from diffuzz.judging.company import MOST_COMPANY, MOST_DIFFERENT, Chance, Company, runs
from diffuzz.judging.handing import Handing
from diffuzz.judging.opening import is_python
from diffuzz.judging.question import Claim, Compare, Judge, Question
from diffuzz.judging.verdict import Verdict
from diffuzz.targets.outcome import Bound
from diffuzz.targets.parameter import Params
from diffuzz.targets.target import LARGEST_TOLERANCE, Target

# Fields that an entry has only if there is something to say.
_OPTIONAL = {"kernels": list, "files": dict, "company": dict, "chance": dict, "result": dict}
# Elements of the result of a case.
LARGEST_RESULT = 2**20


class EditedError(ValueError):
    """An entry whose seal does not match: ``entry`` as it is now, which says nothing that can be trusted."""

    def __init__(self, entry: Counterexample) -> None:
        super().__init__("seal: does not match, so the file was edited after it was saved")
        self.entry = entry


class NeedsCandidateError(ValueError):
    """An entry that was found with a candidate, which a corpus file alone never runs; one line."""


class NeedsLibraryError(ImportError):
    """An entry that compares a build of libggml that has to be named again; one line."""


@attrs.frozen(eq=False)
class Recorded:
    """What ``engine`` computed of a case in the run of a model: float32, as a function returns it for one case."""

    engine: str
    array: np.ndarray

    def question(self, *, batched: bool) -> Judge:
        """Whether it keeps the contract: a function is judged that always returns it."""

        def recorded(*inputs: np.ndarray, **parameters: object) -> np.ndarray:
            return np.repeat(self.array[None], len(inputs[0]), axis=0) if batched else self.array

        return Judge(recorded, name=self.engine)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Recorded) and self.engine == other.engine and _same_bits(self.array, other.array)

    def __hash__(self) -> int:
        return hash((self.engine, self.array.tobytes()))


def _same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two arrays are the same to the bit."""
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


@attrs.frozen
class Counterexample:
    """One entry. ``value`` and ``noise`` are the measurement when it was saved, which a replay must give again within
    the tolerance of the question; ``tolerance`` is what that was.

    ``params`` are those of the question, ``others`` what an older version wrote down beside them. ``bound`` is
    the proven bound when it was saved, or None; ``found`` says how: engine, seed, evaluations, command; ``candidate``
    is the name of the candidate that it was found with, if any, and ``kernels`` the two implementations that it
    compares. ``company`` are the rows beside which the case has its value, if it needs any, and ``chance`` says how
    often it was seen, if not every time: then the value is that of one such call. ``files`` names, by option, the
    files that the target, a format and kernels (two with a comma between them) came from. ``result`` is what an engine
    computed of the case in the run of a model, for an entry that judges that instead of a function. ``schema`` is that
    of the file that it was read from; it is written in the current one.
    """

    target: str
    params: Params
    case: Case
    measure: str
    value: float
    noise: float
    threshold: float
    bound: Bound | None
    verdict: Verdict
    tolerance: float
    found: Mapping[str, Scalar]
    environment: Mapping[str, Scalar]
    candidate: str | None = None
    kernels: tuple[str, str] | None = None
    files: Mapping[str, str] = attrs.field(factory=dict)
    others: Params = attrs.field(factory=dict)
    company: Company | None = None
    chance: Chance | None = None
    result: Recorded | None = None
    schema: int = attrs.field(default=SCHEMA, eq=False)

    @property
    def digest(self) -> str:
        """SHA-256 over target, parameters, candidate, kernels if any, and the case's own digest, in hexadecimal.

        A parameter that the target got later does not count at its default, so older entries keep their digests.
        """
        key: list[object] = [
            self.target,
            sorted({**of_older_entries(self.target, self.params), **self.others}.items()),
            self.candidate,
            self.case.digest,
        ]
        if self.kernels is not None:
            key.append(list(self.kernels))
        if self.result is not None:
            key.append([self.result.engine, Case({"result": self.result.array.view(np.int32)}).digest])
        if self.company is not None:
            sides = (self.company.before, self.company.after)
            key.append([[[count, case.digest] for count, case in runs(side)] for side in sides])
        return sha256(json.dumps(key).encode()).hexdigest()

    @property
    def judges(self) -> bool:
        """Whether the target's contract was asked for: of a candidate, of kernels, or of a result."""
        return self.candidate is not None or self.kernels is not None or self.result is not None

    @property
    def given_threshold(self) -> float | None:
        """The threshold that the command line gave which found the entry; None if that left it to the question."""
        try:
            words = shlex.split(str(self.found.get("command", "")))
            given = [value for name, value in pairwise(words) if name in ("--threshold", "--limit")]
            return float(given[-1]) if given else None
        except ValueError:
            return None

    def asked_again(self, candidate: Judge | None, library: str | None) -> Question:
        """What was asked, with the implementation and the library that the caller names: an entry alone runs neither.
        A function of Python gets arrays as the entry recorded, unless the caller wants others.

        Raises NeedsCandidateError, NeedsLibraryError: it takes one, and the caller names none.
        """
        if self.result is not None:
            contract = targets.get(self.target).contract
            return self.result.question(batched=contract is not None and contract.batched)
        if self.candidate is None:
            candidate = None
        elif candidate is None:
            raise NeedsCandidateError(f"found with a candidate: give --candidate {shlex.quote(self.candidate)}")
        elif not isinstance(candidate.implementation, str) or is_python(candidate.implementation):
            candidate = candidate.as_recorded(Handing.recorded(self.environment))
        if self.kernels is None:
            return candidate or Claim()
        for name in self.kernels:
            if library is None and name != modules.base(name):
                raise NeedsLibraryError(f"kernels {name}: give the folder of that library with --library")
        a, b = self.kernels if library is None else (modules.base(name) for name in self.kernels)
        return Compare(a, b, library, candidate=candidate)

    @property
    def space(self) -> Space:
        """The space of the case."""
        target = targets.get(self.target)
        return target.contract.space(self.params) if self.judges and target.contract else target.space(self.params)

    @property
    def name(self) -> str:
        """``<target>/<digest12>.json``."""
        return f"{self.target}/{self.digest[:12]}.json"


def dumps(entry: Counterexample, indent: int | None = 1) -> str:
    """The entry as JSON text; floats are hexadecimal, with the decimal beside the value for people."""
    stored = {
        "diffuzz": SCHEMA,
        "target": entry.target,
        "params": {**entry.params, **entry.others},
        "candidate": entry.candidate,
        **({} if entry.kernels is None else {"kernels": list(entry.kernels)}),
        **({} if not entry.files else {"files": dict(entry.files)}),
        "verdict": entry.verdict.value,
        "measure": entry.measure,
        "value": {"decimal": _decimal(entry.value), "hex": _float_text(entry.value)},
        "noise": _float_text(entry.noise),
        "threshold": _float_text(entry.threshold),
        "bound": None if entry.bound is None else attrs.asdict(entry.bound),
        "tolerance": entry.tolerance,
        "arrays": _case_json(entry.case),
        **({} if entry.company is None else {"company": _company_json(entry.company)}),
        **({} if entry.chance is None else {"chance": attrs.asdict(entry.chance)}),
        **({} if entry.result is None else {"result": _result_json(entry.result)}),
        "found": dict(entry.found),
        "environment": dict(entry.environment),
        "digest": entry.digest,
    }
    return json.dumps(stored | {"seal": seal(stored)}, indent=indent, allow_nan=False)


def _case_json(case: Case) -> Json:
    return {name: encoding.encode(array) for name, array in case.arrays.items()}


def _result_json(result: Recorded) -> Json:
    # As bits, because a wrong result may be no number.
    return {"engine": result.engine, "bits": encoding.encode(result.array.view(np.int32))}


def _result(stored: Json | None) -> Recorded | None:
    if stored is None:
        return None
    check_fields(stored, {"engine": str, "bits": dict}, "result")
    try:
        size = math.prod(encoding.decoded_shape(stored["bits"]))
        if size > LARGEST_RESULT:
            raise FieldError(f"result: {size} elements, where at most {LARGEST_RESULT} are kept")
        bits = encoding.decode(stored["bits"])
    except EncodingError as error:
        raise FieldError(f"result: {error}") from error
    if bits.dtype != np.int32:
        raise FieldError(f"result: bits are {bits.dtype}, where int32 is needed")
    return Recorded(stored["engine"], bits.view(np.float32))


def _company_json(company: Company) -> Json:
    """Each row with the number of times that it stands there, one after the other."""
    sides = {"before": company.before, "after": company.after}
    return {
        side: [{"times": count, "arrays": _case_json(case)} for count, case in runs(cases)]
        for side, cases in sides.items()
    }


def _float_text(value: float) -> str:
    return hex_float(value) if math.isfinite(value) else str(value)


def _decimal(value: float) -> str:
    return f"{value:.9g}"


def loads(text: str, stem: str) -> Counterexample:
    """Inverse of ``dumps``; a stem like a digest must be the entry's. Raises ValueError or RecursionError; EditedError,
    one of them, if all is as it must be but the seal.
    """
    return of_json(parsed(text), stem)


def of_json(stored: object, stem: str) -> Counterexample:
    """The entry of the values of a file; see ``loads``."""
    wanted: dict[str, Kinds] = {
        "diffuzz": int, "target": str, "params": dict, "candidate": (str, type(None)), "verdict": str, "measure": str,
        "value": dict, "noise": str, "threshold": str, "bound": (dict, type(None)), "tolerance": (int, float),
        "arrays": dict, "found": dict, "environment": dict, "digest": str, "seal": str,
    }  # fmt: skip
    stored = object_of(stored)
    schema: Any = stored.get("diffuzz")
    wanted |= {name: kind for name, kind in _OPTIONAL.items() if name in stored}
    if type(schema) is int and schema < 3:
        del wanted["seal"]
    if type(schema) is int and schema == 1:
        wanted["limit"] = wanted.pop("threshold")
    check_fields(stored, wanted, "the entry")
    named = files_of(stored.get("files", {}))
    target = target_of(stored["target"], named)
    contract = any(stored.get(name) is not None for name in ("candidate", "kernels", "result"))
    if contract and target.contract is None:
        raise FieldError(f"candidate: target {target.name} takes none")
    params, others = params_of(target, stored["params"], contract=contract, files=named)
    kernels = _kernels(target, params, stored.get("kernels"), named)
    most = max(LARGEST_TOLERANCE, target.tolerance)
    if not 0 <= stored["tolerance"] <= most:
        raise FieldError(f"tolerance: {stored['tolerance']} is not between 0 and {most}")
    for group in ("found", "environment"):
        check_fields(stored[group], dict.fromkeys(stored[group], (str, int, float)), group)
    if stored["verdict"] not in Verdict.__members__:
        raise FieldError(f"verdict: {stored['verdict']!r} is none of {', '.join(Verdict.__members__)}")
    threshold = "limit" if "limit" in stored else "threshold"
    entry = Counterexample(
        target=target.name,
        params=params,
        case=_case(target, params, stored["arrays"], contract=contract),
        measure=stored["measure"],
        value=_value(stored["value"]),
        noise=_float_of(stored["noise"], "noise"),
        threshold=_float_of(stored[threshold], threshold),
        bound=_bound(stored["bound"]),
        verdict=Verdict(stored["verdict"]),
        tolerance=float(stored["tolerance"]),
        found=stored["found"],
        environment=stored["environment"],
        candidate=stored["candidate"],
        kernels=kernels,
        files=named,
        others=others,
        schema=schema,
        company=_company(target, params, stored.get("company"), contract=contract),
        chance=_chance(stored.get("chance")),
        result=_result(stored.get("result")),
    )
    Handing.recorded(entry.environment)
    if entry.result is not None and (entry.candidate or entry.kernels or entry.company or entry.chance):
        raise FieldError("result: an entry that has one has no candidate, kernels, company or chance")
    if not entry.judges and (entry.company or entry.chance):
        raise FieldError("company, chance: only functions that are judged have them")
    if entry.company is not None:
        # It has to fit the case before anything is called with it.
        scalars = target.contract.scalars if target.contract else ()
        each = Company(*(tuple(case for _, case in runs(side)) for side in (entry.company.before, entry.company.after)))
        each.around(entry.case.batch(), [scalar.array for scalar in scalars])
    check_digest(entry.digest, stored, stem, "target, params and arrays")
    if schema >= 3 and stored["seal"] != seal(stored):
        raise EditedError(entry)
    return entry


def _kernels(
    target: Target, params: Params, stored: list[object] | None, files: Mapping[str, str]
) -> tuple[str, str] | None:
    if stored is None:
        return None
    known = (*(target.contract.kernels(params) if target.contract else ()), "candidate")
    names = [name for name in stored if isinstance(name, str) and name.isprintable() and len(name) <= LONGEST_TEXT]
    if len(stored) != 2 or names != stored:
        raise FieldError(f"kernels: {stored!r} are not two of {', '.join(known)}")
    check_kernels(names, known, files, f"kernels: {stored!r} are not two of")
    return names[0], names[1]


def _value(stored: Json) -> float:
    check_fields(stored, {"decimal": str, "hex": str}, "value")
    value = _float_of(stored["hex"], "value")
    if stored["decimal"] != _decimal(value):
        raise FieldError(f"value: decimal {stored['decimal']} is not {_decimal(value)}, which hex says")
    return value


def _bound(stored: Json | None) -> Bound | None:
    if stored is None:
        return None
    check_fields(stored, {"value": (int, float), "rounding": (int, float), "because": str}, "bound")
    if not 0 <= stored["value"] <= sys.float_info.max or not 0 <= stored["rounding"] <= sys.float_info.max:
        raise FieldError("bound: value and rounding are not finite numbers of at least 0")
    return Bound(float(stored["value"]), stored["because"], rounding=float(stored["rounding"]))


def _case(target: Target, params: Params, stored: Json, *, contract: bool) -> Case:
    admissible = target.contract.space(params) if contract and target.contract else target.space(params)
    there = [spec for spec in admissible.tensors if spec.absent is None or spec.name in stored]
    check_fields(stored, {spec.name: dict for spec in there}, "arrays")
    arrays = {}
    for spec in there:
        try:
            # The shape first: a few characters may ask for any amount of memory.
            spec.sizes(np.broadcast_to(np.float32(0), encoding.decoded_shape(stored[spec.name])))
            arrays[spec.name] = encoding.decode(stored[spec.name])
        except EncodingError as error:
            raise FieldError(f"arrays.{spec.name}: {error}") from error
    case = Case(arrays)
    admissible.check(case)
    return case


def _company(target: Target, params: Params, stored: Json | None, *, contract: bool) -> Company | None:
    if stored is None:
        return None
    check_fields(stored, {"before": list, "after": list}, "company")
    rows = [*stored["before"], *stored["after"]]
    if not 1 <= len(rows) <= MOST_DIFFERENT:
        raise FieldError(f"company: {len(rows)} different rows, where 1 to {MOST_DIFFERENT} are kept")
    for row in rows:
        if not isinstance(row, dict):
            raise FieldError("company: an object is needed for each row")
        check_fields(row, {"times": int, "arrays": dict}, "company")
    if not all(row["times"] >= 1 for row in rows) or sum(row["times"] for row in rows) > MOST_COMPANY:
        raise FieldError(f"company: 1 to {MOST_COMPANY} rows are kept")

    def side(name: str) -> tuple[Case, ...]:
        kept = ((row["times"], _case(target, params, row["arrays"], contract=contract)) for row in stored[name])
        return tuple(case for count, case in kept for _ in range(count))

    return Company(side("before"), side("after"))


def _chance(stored: Json | None) -> Chance | None:
    if stored is None:
        return None
    check_fields(stored, {"seen": int, "calls": int}, "chance")
    if not 1 <= stored["seen"] <= stored["calls"]:
        raise FieldError(f"chance: seen {stored['seen']} times in {stored['calls']} calls")
    return Chance(stored["seen"], stored["calls"])


def _float_of(text: str, where: str) -> float:
    if text == "inf":
        return math.inf
    try:
        return parse_hex_float(text)
    except EncodingError as error:
        raise FieldError(f"{where}: {error}") from error
