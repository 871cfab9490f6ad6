"""What is printed of a search, and of one case that is measured: verdict, value, limit, witness, who is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from diffuzz import corpus, formats, report
from diffuzz.candidate import named
from diffuzz.pair import Agreement, agreement
from diffuzz.search import SearchResult
from diffuzz.target import Bound, Measurement, Params, Target
from diffuzz.verdict import Verdict


def number(value: float) -> str:
    """A value as people read it: seven significant digits."""
    return f"{value:.7g}"


def headline(claim: str, verdict: Verdict, value: float, limit: float, bound: Bound | None) -> str:
    """The verdict, the claim and the two numbers that decide it."""
    if verdict is Verdict.CONFIRMED:
        why = f"{number(value)} > {number(limit)}, as the witness shows"
    elif verdict is Verdict.FALSIFIED and bound is not None:
        why = f"never more than {number(bound.ceiling)}, which is proven; the question was {number(limit)}"
    else:
        why = f"no more than {number(value)} was found, and nothing proves that {number(limit)} is not exceeded"
    return f"{verdict.value}: {claim} ({why})."


def params_text(params: Params) -> str:
    """``n=7, max_abs=10, ...``"""
    return ", ".join(f"{name}={plain(value)}" for name, value in params.items())


def _asked(target: Target, params: Params, contract: bool) -> Params:
    """The parameters that the question is about: without those that only say how a candidate is called, if none is."""
    return {one.name: params[one.name] for one in target.parameters if contract or not one.of_candidate}


def plain(value: Any) -> str:
    """A parameter as it is given on the command line."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def search_json(result: SearchResult, witness: Path | None) -> dict[str, Any]:
    """The object of ``search --json``: the keys of the contract, and a few more."""
    return {
        "target": result.target.name,
        "params": dict(result.params),
        "engine": result.engine,
        "seed": result.seed,
        "budget_s": result.budget_s,
        "evaluations": result.evaluations,
        "evaluations_per_s": round(result.evaluations / max(result.seconds, 1e-9), 1),
        "value": report.json_number(result.value),
        "measure": result.measurement.measure,
        **bound_json(result.bound),
        "efficiency": None if result.efficiency is None else report.json_number(result.efficiency),
        "limit": report.json_number(result.limit),
        "verdict": result.verdict.value,
        "witness": str(witness) if witness else None,
        "environment": corpus.environment() | corpus.device() | dict(result.libraries),
        "candidate": result.candidate,
        "kernels": None if result.kernels is None else list(result.kernels),
        "agreement": None if (how := _agreement(result)) is None else how.value,
        "failure": result.failure,
        "passing_failure": result.passing,
        "unsteady": None
        if result.unsteady is None
        else {
            "in_a_batch": report.json_number(result.unsteady.found.value),
            "alone": report.json_number(result.unsteady.again),
        },
        "claim": result.target.claim,
        "detail": {name: report.json_number(value) for name, value in result.measurement.detail.items()},
        "stopped_by": result.stopped,
        "seconds": round(result.seconds, 3),
        "largest_before_minimising": report.json_number(result.largest),
    }


def bound_json(bound: Bound | None) -> dict[str, Any]:
    """``bound``, a number or null, its derivation, and what rounding may add to it, relative."""
    if bound is None:
        return {"bound": None}
    value, rounding = report.json_number(bound.value), report.json_number(bound.rounding)
    return {"bound": value, "bound_because": bound.because, "bound_rounding": rounding}


def search_text(result: SearchResult, witness: Path | None) -> str:
    """The report of a search: verdict, value beside limit and bound, witness, how to repeat it."""
    contract = result.candidate is not None or result.kernels is not None
    asked = params_text(_asked(result.target, result.params, contract))
    lines = [
        _candidate_headline(result)
        if result.candidate is not None and result.verdict is Verdict.UNRESOLVED
        else headline(result.target.claim, result.verdict, result.value, result.limit, result.bound),
        "",
        f"  largest found  {number(result.value)}{_share(result)}",
        *([] if contract else [f"  proven limit   {bound_text(result.bound)}"]),
        f"  measure        {result.measurement.measure}",
        f"  {'parameters' if contract else 'domain    '}     {asked}",
        *([f"  domain         {report.space_text(result.target.space(result.params))}"] if contract else []),
    ]
    if result.measurement.detail and result.candidate is None and result.kernels is None:
        detail = ", ".join(f"{name} {number(value)}" for name, value in result.measurement.detail.items())
        lines.append(f"  made of        {detail}")
    lines += _excess(result)
    if result.case is not None:
        lines += ["", ("Witness" if result.replays else "The case") + (f", in {witness}" if witness else ""), ""]
        text = report.case_text(result.target.space(result.params), result.case)
        lines += ["  " + line for line in text.splitlines()]
    else:
        lines += ["", "No admissible case had a value above zero."]
    if result.unsteady is not None:
        lines += ["", *_unsteady(result)]
    if not result.measurement.detail:
        # Nothing was found, or nothing that is so again: there is no element to look at.
        pass
    elif result.kernels is not None:
        lines += ["", *_two_kernels(result)]
    elif result.candidate is not None:
        lines += ["", *_three_ways(result)]
    if result.passing is not None:
        lines += [
            "",
            f"Once the candidate failed, and not again on the same cases in a fresh process: {result.passing}.",
        ]
    lines += ["", _effort(result)]
    return "\n".join(lines) + "\n"


def _candidate_headline(result: SearchResult) -> str:
    """A search that found nothing wrong does not call anything wrong."""
    most = "every result agrees" if result.limit == 0 else f"at most {number(result.value)} of its a-priori bound"
    return f"UNRESOLVED: {result.candidate} was not found to be wrong ({most}); that is no proof that it is right."


def _share(result: SearchResult) -> str:
    return "" if result.efficiency is None else f"  ({100 * result.efficiency:.2f} % of the limit)"


def bound_text(bound: Bound | None) -> str:
    if bound is None:
        return "none known"
    rounding = f", up to {bound.rounding:.1e} more by rounding" if bound.rounding else ""
    return f"{number(bound.value)}  ({bound.because}{rounding})"


_FAILED = {
    "crashed": "crashed:",
    "hung": "hung:",
    "out of memory": "ran out of memory:",
    "raised": "raised",
    "garbage": "returned garbage:",
}


def _unsteady(result: SearchResult) -> list[str]:
    """A value that did not come again, and what that says."""
    if result.unsteady is None:
        return []
    found, again = result.unsteady.found.value, result.unsteady.again
    lines = [
        f"In a batch one case had {number(found)}, and {number(again)} when it was measured again, alone and beside "
        "two other rows.",
        "So the function mixes up the rows of a batch, keeps a state from one call to the next, or is left to chance.",
    ]
    if not result.replays and result.case is not None:
        lines.append("Nothing is saved: it would not replay. Call the function twice with the same batch to see which.")
    return lines


def _place(result: SearchResult, element: int) -> str:
    """An element of the result; of blocks, the field that the byte belongs to."""
    contract, p = result.target.contract, result.params
    if contract is None or contract.result_format is None:
        return f"element {element}"
    return f"byte {element} ({formats.get(contract.result_format(p)).field_at(element)})"


def _three_ways(result: SearchResult) -> list[str]:
    """Exact, reference and candidate at the worst element: who is wrong, and would ggml's own test have seen it."""
    detail = result.measurement.detail
    if result.failure is not None:
        return [f"On the witness it {_FAILED[result.failure.partition(':')[0]]}{result.failure.partition(':')[2]}."]
    element = int(detail.get("worst element", detail.get("first element", 0)))
    lines = [f"At {_place(result, element)}:"]
    if "alone" in detail:
        lines = [
            f"This is so in a batch, beside a row of the largest numbers and one of the least; alone the case has "
            f"{number(detail['alone'])}. Rows of a batch get mixed up.",
            *lines,
        ]
    for name in ("exact", "reference", "candidate", "allowance"):
        if name in detail:
            lines.append(f"  {name:10} {detail[name]:.9g}")
    wrong = named(detail, result.value, result.limit)
    if wrong in ("reference", "both"):
        who = "the reference" if wrong == "reference" else "both the candidate and the reference"
        lines.append(f"Wrong is {who}: the reference is a part of diffuzz, please report this.")
    else:
        lines.append(f"Wrong is {'the candidate' if wrong else 'none of them'}.")
    if "nmse" in detail and wrong is not None:
        seen = detail["nmse"] > detail["ggml nmse limit"]
        lines.append(
            f"On this case ggml's test-backend-ops would {'' if seen else 'not '}have seen it: "
            f"NMSE {detail['nmse']:.2e} against its limit {detail['ggml nmse limit']:.0e}."
        )
    return lines


def _agreement(result: SearchResult) -> Agreement | None:
    return None if result.kernels is None else agreement(result.value, result.measurement.detail)


def _two_kernels(result: SearchResult) -> list[str]:
    """A and B at the worst element, and how they agree."""
    detail, (a, b) = result.measurement.detail, result.kernels or ("", "")
    if result.failure is not None:
        return [f"On the witness {result.failure}."]
    if not detail:
        return [f"{a} and {b} agree to the bit, as far as was seen."]
    element = int(detail.get("worst element", detail.get("first element", 0)))
    lines = [f"At {_place(result, element)}:"]
    shown = {a: "A", b: "B", "exact": "exact", "rounding": "rounding"}
    shown |= {
        f"{name}'s error / a-priori bound": f"{side} error / a-priori bound" for side, name in (("A", a), ("B", b))
    }
    width = max(len(name) for name, key in shown.items() if key in detail)
    lines += [f"  {name:{width}} {detail[key]:.9g}" for name, key in shown.items() if key in detail]
    return [*lines, f"They agree {agreement(result.value, detail).value}, as far as was seen."]


def _excess(result: SearchResult) -> list[str]:
    """A value above a proven bound is a defect of diffuzz, and it says so."""
    if result.bound is None or not result.value - result.measurement.noise > result.bound.ceiling * (1 + 1e-9):
        return []
    return [
        "",
        "  ABOVE ITS PROVEN LIMIT: the derivation or an implementation in diffuzz is wrong. Please report this case.",
    ]


def _effort(result: SearchResult) -> str:
    ends = {
        "limit": "the limit was reached",
        "witness": "the first witness ended it",
        "work": "the budget's work was done",
        "clock": "time was up (another run may get further or less far)",
        "interrupted": "it was interrupted",
        "ideas": "the engine had no more ideas",
    }
    rate = result.evaluations / max(result.seconds, 1e-9)
    return (
        f"{result.evaluations:,} evaluations in {result.seconds:.1f} s ({rate:,.0f} per second) by {result.engine}, "
        f"seed {result.seed}; {ends[result.stopped]}."
    )


def measurement_json(
    target: Target, params: Params, measured: Measurement, limit: float, verdict: Verdict
) -> dict[str, Any]:
    """The object of ``measure --json``."""
    return {
        "target": target.name,
        "params": dict(params),
        "value": report.json_number(measured.value),
        "noise": report.json_number(measured.noise),
        "measure": measured.measure,
        "detail": {name: report.json_number(value) for name, value in measured.detail.items()},
        **bound_json(target.bound(params)),
        "limit": report.json_number(limit),
        "verdict": verdict.value,
        "environment": corpus.environment(),
    }


def measurement_text(target: Target, params: Params, measured: Measurement, limit: float, verdict: Verdict) -> str:
    """The report of ``measure``. One case alone can confirm a claim; only a bound can falsify it."""
    lines = [
        headline(target.claim, verdict, measured.value, limit, target.bound(params)),
        "",
        f"  value         {number(measured.value)}  (known to within {measured.noise:.1e})",
        f"  proven limit  {bound_text(target.bound(params))}",
        f"  measure       {measured.measure}",
        f"  domain        {params_text(_asked(target, params, contract=False))}",
    ]
    lines += [f"  {name:13} {number(value)}" for name, value in measured.detail.items()]
    return "\n".join(lines) + "\n"
