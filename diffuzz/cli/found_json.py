"""What a page shows of a search or an entry: the object of ``search --json``, and what is drawn of the case."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from diffuzz.cli.tables import bound_json, params_text
from diffuzz.corpus.spelling import json_number

if TYPE_CHECKING:
    from diffuzz.corpus.candidates import Candidates
    from diffuzz.corpus.entry import Counterexample
    from diffuzz.corpus.replay import Replayed
    from diffuzz.judging.evidence import Evidence
    from diffuzz.searching.result import SearchResult

# What the entry of a search adds to what it printed.
_OF_WITNESS = ("drawn", "entry", "program", "parameters", "domain", "status")
# A program that is longer is no longer to be read; `show --python` prints it.
_LONGEST_PROGRAM = 2**16


def of_search(result: SearchResult, witness: Path | None) -> dict[str, object]:
    """What a page shows of a search: the object that it prints with --json, and what is drawn."""
    from diffuzz.cases.text import space_text
    from diffuzz.cli.drawn_json import drawn_json
    from diffuzz.cli.search_json import search_json

    problem = result.problem
    contract = problem.target.contract if problem.judges else None
    shown = search_json(result, witness) | {
        "parameters": params_text(result.params),
        "domain": space_text(problem.space, {} if contract is None else contract.domain(result.params)),
    }
    if result.case is not None:
        elements = getattr(result.measurement.evidence, "elements", None)
        shown["drawn"] = drawn_json(contract, result.params, problem.space, result.case, elements)
    return shown | ({} if witness is None else _held(result, witness))


def _held(result: SearchResult, witness: Path) -> dict[str, object]:
    """The entry that a search saved, and its program. One to which it added nothing is of another case."""
    from diffuzz.corpus import files
    from diffuzz.corpus.record import record

    entry = files.load(witness)
    return _kept(entry) if entry.digest == record(result).digest else {}


def _kept(entry: Counterexample) -> dict[str, object]:
    from diffuzz.corpus.entry import dumps
    from diffuzz.corpus.snippet import snippet

    found: dict[str, object] = {"entry": json.loads(dumps(entry))}
    program = snippet(entry)
    return found | ({"program": program} if len(program) <= _LONGEST_PROGRAM else {})


def of_entry(
    replayed: Replayed, candidates: Candidates | None, library: str | None, *, longest: float
) -> dict[str, object] | None:
    """What a page shows of an entry that was replayed; None of one that could not be read, or is of a property.

    The case is measured once more, to say where the error sits. Where that needs a function that is not given, or more
    time than ``longest``, what is known without is shown.
    """
    from diffuzz import targets
    from diffuzz.cases.text import space_text
    from diffuzz.cli.drawn_json import drawn_json, expected
    from diffuzz.corpus.entry import Counterexample

    entry = replayed.entry
    if not isinstance(entry, Counterexample):
        return None
    target = targets.get(entry.target)
    contract = target.contract if entry.judges else None
    evidence = _evidence(replayed, candidates, library)
    elements = getattr(evidence, "elements", None)
    if elements is None and contract is not None and replayed.status != "needs time":
        elements = expected(contract, entry.params, entry.space, entry.case)
    bound, found = entry.bound, entry.found
    said = replayed.message.removeprefix(f"{replayed.path}: ")
    if replayed.status not in ("right", "wrong"):
        said = f"{replayed.status}: {said}"
    return {
        "target": entry.target,
        "params": dict(entry.params),
        "parameters": params_text(entry.params),
        "domain": space_text(entry.space, {} if contract is None else contract.domain(entry.params)),
        "engine": found.get("engine"),
        "seed": found.get("seed"),
        "evaluations": found.get("evaluations"),
        "value": json_number(entry.value),
        "measure": entry.measure,
        **bound_json(bound),
        "efficiency": None if bound is None or not bound.value > 0 else json_number(entry.value / bound.value),
        "threshold": json_number(entry.threshold),
        "verdict": entry.verdict.value,
        "witness": str(replayed.path),
        "environment": dict(entry.environment),
        "candidate": entry.candidate,
        "kernels": None if entry.kernels is None else list(entry.kernels),
        "run": None if entry.result is None else entry.result.engine,
        "failure": found.get("failure"),
        "company": None if entry.company is None else entry.company.rows,
        "chance": None if entry.chance is None else {"seen": entry.chance.seen, "calls": entry.chance.calls},
        "claim": target.claim,
        "detail": {} if evidence is None else {name: json_number(one) for name, one in evidence.as_dict().items()},
        "command": found.get("command"),
        "status": said,
        "drawn": drawn_json(contract, entry.params, entry.space, entry.case, elements),
        **_kept(entry),
    }


def _evidence(replayed: Replayed, candidates: Candidates | None, library: str | None) -> Evidence | None:
    """What the case of an entry shows now; None where it could not be measured."""
    from diffuzz import targets
    from diffuzz.corpus.candidates import function_for
    from diffuzz.corpus.entry import Counterexample
    from diffuzz.judging.problem import open_problem

    entry = replayed.entry
    if not isinstance(entry, Counterexample) or replayed.value is None:
        return None
    try:
        question = entry.asked_again(function_for(candidates, entry.candidate), library)
        with open_problem(targets.get(entry.target), entry.params, question) as problem:
            return problem.measured(entry.case, company=entry.company).evidence
    except Exception:  # what cannot be measured shows nothing; the replay has said why
        return None


def with_witness(found: Mapping[str, object], of_witness: Mapping[str, object] | None) -> dict[str, object]:
    """What search printed of a result, with what is drawn of the entry in its file, if that is of the same case."""
    same = of_witness is not None and all(
        found.get(name) == of_witness[name] for name in ("target", "value", "candidate")
    )
    if of_witness is None or not same:
        return dict(found)
    return dict(found) | {name: of_witness[name] for name in _OF_WITNESS if name in of_witness}
