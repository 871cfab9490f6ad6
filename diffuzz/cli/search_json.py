"""The object of ``search --json``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from diffuzz.cli.tables import bound_json
from diffuzz.corpus.spelling import json_number

if TYPE_CHECKING:
    from diffuzz.cases.space import Dim
    from diffuzz.searching.result import SearchResult


# Improvements that are told: what a picture shows of them.
_MOST_IMPROVEMENTS = 200


def search_json(result: SearchResult, witness: Path | None) -> dict[str, object]:
    """The object of ``search --json``: the keys of the contract, and a few more."""
    import attrs

    from diffuzz.corpus.environment import arrays_of, device, environment
    from diffuzz.corpus.record import command_of

    found, unsteady, judge = result.measurement.evidence, result.unsteady, result.problem.judge
    return {
        "target": result.target.name,
        "params": dict(result.params),
        "engine": result.engine,
        "seed": result.seed,
        "budget_s": result.budget_s,
        "evaluations": result.evaluations,
        "evaluations_per_s": round(result.evaluations / max(result.seconds, 1e-9), 1),
        "value": json_number(result.value),
        "measure": result.measurement.measure,
        **bound_json(result.bound),
        "efficiency": None if result.efficiency is None else json_number(result.efficiency),
        "threshold": json_number(result.threshold),
        # The name of the threshold in version 0.1.
        "limit": json_number(result.threshold),
        "verdict": result.verdict.value,
        "witness": str(witness) if witness else None,
        "environment": environment() | device() | arrays_of(judge) | dict(result.libraries),
        "weights": weights_json(result),
        "candidate": result.candidate,
        "arrays": None if judge is None else judge.handing.arrays,
        "device": None if judge is None else judge.handing.device,
        "kernels": None if result.kernels is None else list(result.kernels),
        "agreement": None if result.agreement is None else result.agreement.value,
        "failure": result.failure,
        "within_policies": [dict(policy) for policy in result.policies],
        "failure_output": list(result.wrote),
        "passing_failure": result.passing,
        "skipped": result.skips,
        "skipped_because": result.skipping,
        "unminimised": result.unminimised,
        "unsteady": None
        if unsteady is None
        else {
            "in_a_batch": json_number(unsteady.found.value),
            "alone": json_number(unsteady.again),
            "seen": unsteady.seen,
            "calls": unsteady.calls,
        },
        "chance": None if result.chance is None else attrs.asdict(result.chance),
        "company": None if result.company is None else result.company.rows,
        "claim": result.problem.claim,
        "coverage": _coverage_json(result),
        "compiled": compiled_json(result),
        "judged": result.judged,
        "detail": {name: json_number(value) for name, value in found.as_dict().items()},
        **({} if result.target.reading is None else {"reading": reading(result)}),
        "stopped_by": result.stopped,
        "minimising_timed_out": result.minimising_timed_out,
        "seconds": round(result.seconds, 3),
        "command": command_of(result),
        "largest_before_minimising": json_number(result.largest),
        "history": _history_json(result),
    }


def _history_json(result: SearchResult) -> list[dict[str, object]]:
    """Each improvement, oldest first; of very many as many as are told, among them the first and the last."""
    found = result.history
    last = len(found) - 1
    if len(found) > _MOST_IMPROVEMENTS:
        found = tuple(found[last * place // (_MOST_IMPROVEMENTS - 1)] for place in range(_MOST_IMPROVEMENTS))
    return [
        {
            "seconds": round(one.seconds, 6),
            "evaluations": one.evaluations,
            "value": json_number(one.value),
            "engine": one.engine,
        }
        for one in found
    ]


def weights_json(result: SearchResult) -> dict[str, object] | None:
    """The rows that weights were taken from, how many choices they are, and the choice of the case."""
    weights = result.problem.weights
    if weights is None:
        return None
    from diffuzz.judging.holding import place_of

    return {
        "from": weights.given,
        "tensor": weights.tensor,
        "format": weights.format,
        "choices": sum(len(one.among.arrays) for one in result.problem.space.tensors if one.among is not None),
        "case": None if result.case is None else place_of(result.problem, result.case.arrays),
    }


def dims(result: SearchResult) -> list[Dim]:
    """The dimensions of which several sizes were looked at, and the number of cases in a call, if it is one of many."""

    cases = result.problem.batch
    return [*result.problem.space.free, *([cases] if cases is not None and cases.lowest < cases.highest else [])]


def compiled_json(result: SearchResult) -> dict[str, object] | None:
    """How many shapes a candidate was compiled for, and the seconds of that; None if it does not compile."""
    if not result.problem.compiles or result.problem.candidate is None:
        return None
    taken = result.problem.warm_ups
    return {"shapes": len(taken), "seconds": round(sum(taken), 3)}


def _coverage_json(result: SearchResult) -> dict[str, object]:
    found: dict[str, object] = {}
    for dim in dims(result):
        seen = result.coverage.sizes.get(dim.name, frozenset())
        found[dim.name] = {
            "sizes": len(seen),
            "least": min(seen, default=None),
            "largest": max(seen, default=None),
            # Few, where each is compiled.
            **({"all": sorted(seen)} if result.problem.compiles else {}),
            "of_models": list(result.coverage.of_models(dim)),
            "beside_powers_of_two": list(result.coverage.edges(dim)),
        }
    return found


def reading(result: SearchResult) -> list[str]:
    """What the case means, where the target says it."""
    read = result.target.reading
    return [] if read is None or result.case is None else read(result.params, result.case.arrays)
