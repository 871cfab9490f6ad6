"""The report of a search, for people: verdict, value beside threshold and bound, the case, and what it shows."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from diffuzz.cli.options import report
from diffuzz.cli.search_json import compiled_json, dims, reading, weights_json
from diffuzz.cli.tables import bound_text, libraries_text, number, params_text

if TYPE_CHECKING:
    from diffuzz.cases.space import Space
    from diffuzz.judging.company import Company
    from diffuzz.judging.evidence import Compared, Judged
    from diffuzz.judging.verdict import Verdict
    from diffuzz.searching.result import SearchResult
    from diffuzz.targets.outcome import Bound

# Where less of the results could be judged, a report says so.
_MOSTLY_JUDGED = 0.5
# Sizes that are listed, where each is compiled.
_MOST_SAID = 64


def headline(claim: str, verdict: Verdict, value: float, threshold: float, bound: Bound | None) -> str:
    """The verdict, the claim and the two numbers that decide it."""
    from diffuzz.judging.verdict import Verdict

    if verdict is Verdict.CONFIRMED:
        why = f"{number(value)} > {number(threshold)}, as the witness shows"
    elif verdict is Verdict.FALSIFIED and bound is not None:
        why = f"never more than {number(bound.ceiling)}, which is proven; the threshold is {number(threshold)}"
    else:
        why = f"no more than {number(value)} was found, and nothing proves that {number(threshold)} is not exceeded"
    return f"{verdict.value}: {claim} ({why})."


def _weights(result: SearchResult) -> list[str]:
    """Where weights were taken from, and which of them the case has."""
    found = weights_json(result)
    if found is None:
        return []
    case = "" if found["case"] is None else f"; of the case: {found['case']}"
    return [f"  weights        {found['from']} ({found['format']}){case}"]


def search_text(
    result: SearchResult, witness: Path | None, *, unused: list[str] | None = None, verbose: bool = False
) -> str:
    """The report of a search: verdict, value beside threshold and bound, witness, how to repeat it.

    Of functions that were not found wrong it has two lines, unless it is ``verbose``.
    """
    from diffuzz.cases.text import space_text
    from diffuzz.judging.verdict import Verdict

    judges, right = result.problem.judges, result.problem.judges and result.verdict is Verdict.UNRESOLVED
    lines = [_judged_headline(result) if right else headline(
        result.problem.claim, result.verdict, result.value, result.threshold, result.bound
    )]  # fmt: skip
    if right and not verbose and result.passing is None and result.unsteady is None:
        lines.append(" ".join([f"Searched {_searched(result)}: {_effort(result)}", *_seen(result)]))
        lines += [*_arrays(result), *libraries_text(result.libraries)]
        lines += [f"Saved in {witness}."] if witness else []
        lines += _unused(unused)
        return report(lines)
    share = "" if result.efficiency is None else f"  ({100 * result.efficiency:.2f} % of the bound)"
    lines += [
        "",
        _found(result, share),
        *_before(result),
        *([] if judges else [f"  proven bound   {bound_text(result.bound)}"]),
        f"  measure        {result.measurement.measure}",
        f"  {'parameters' if judges else 'domain    '}     {params_text(result.params)}",
        *([f"  domain         {_domain(result)}"] if judges else []),
        *_weights(result),
        *([f"  inputs         {space_text(result.problem.space)}"] if not judges and _sizes_unsaid(result) else []),
    ]
    terms = result.measurement.evidence.as_dict()
    if terms and not judges:
        lines.append(f"  made of        {', '.join(f'{name} {number(value)}' for name, value in terms.items())}")
    lines += [*_excess(result), *_unused(unused), "", *_case(result, witness), *_shown(result)]
    if result.unminimised is not None:
        lines += ["", f"The case is as it was found, since minimising it failed: {result.unminimised}."]
    if result.passing is not None:
        lines += [
            "",
            f"Once the candidate failed, and not again on the same cases in a fresh process: {result.passing}.",
        ]
    lines += ["", *_arrays(result), *libraries_text(result.libraries), _effort(result)]
    lines += [*_compiled(result), *_skipped(result)] if result.stopped == "witness" else _seen(result)
    return report(lines)


def _sizes_unsaid(result: SearchResult) -> bool:
    """Whether the parameters of a claim do not say how large its arrays are, as those of an operation do not."""
    return any(dim.name not in result.params for dim in result.problem.space.free)


def _domain(result: SearchResult) -> str:
    """What a function is called with."""
    from diffuzz.cases.text import space_text

    contract = result.target.contract
    return space_text(result.problem.space, {} if contract is None else contract.domain(result.params))


def _searched(result: SearchResult) -> str:
    """What a function was called with, where the report has no list of parameters: with the choices among them, but
    those that follow from others.
    """
    from diffuzz.targets.derived import AUTO

    contract = result.target.contract
    options = () if contract is None else (one.name for one in contract.parameters if one.options)
    said = ", ".join(f"{name}={result.params[name]}" for name in options if result.params[name] != AUTO)
    return "; ".join(filter(None, [_domain(result), said]))


def _judged_headline(result: SearchResult) -> str:
    """A search that found nothing wrong does not call anything wrong."""
    from diffuzz.judging.question import Compare

    fixed = result.problem.tolerance == 0
    if isinstance(result.problem.question, Compare):
        a, b = result.problem.question.kernels
        most = "every result agrees" if fixed else f"at most {number(result.value)} of what rounding allows"
        differ = "to differ" if fixed else "to differ by more than rounding"
        return f"UNRESOLVED: {a} and {b} were not found {differ} ({most}); that is no proof that they never do."
    most = "every result agrees" if fixed else f"at most {number(result.value)} of its a-priori bound"
    return f"UNRESOLVED: {result.candidate} was not found to be wrong ({most}); that is no proof that it is right."


def _found(result: SearchResult, share: str) -> str:
    """The value; of a search that went on to look for a larger one, as the largest."""
    if result.stopped == "witness":
        return f"  value          {number(result.value)}{share}"
    return f"  largest found  {number(result.value)}{share}"


def _coverage(result: SearchResult) -> list[str]:
    """Which sizes were looked at."""
    from diffuzz.cases.domain import BATCH

    said = []
    for dim in dims(result):
        seen = result.coverage.sizes.get(dim.name, frozenset())
        if len(seen) < 2:
            continue
        shares = [] if dim.name == BATCH else [(*result.coverage.of_models(dim), "that models have")]
        shares.append((*result.coverage.edges(dim), "at powers of two"))
        known = ", ".join(f"{count} of {whole} {which}" for count, whole, which in shares if whole)
        if result.problem.compiles and len(seen) <= _MOST_SAID:
            known = ", ".join(map(str, sorted(seen)))
        what = "batch sizes" if dim.name == BATCH else f"sizes of {dim.name}"
        said.append(f"{len(seen)} {what} from {min(seen)} to {max(seen)}" + (f" ({known})" if known else ""))
    return [f"Looked at {'; '.join(said)}."] if said else []


def _unjudged(result: SearchResult) -> list[str]:
    """How much could not be judged, where it is most of what was looked at."""
    if result.judged is None or result.judged >= _MOSTLY_JUDGED:
        return []
    share = f"{100 * result.judged:.2g} %"
    return [f"Only {share} of the numbers in the results were judged: nothing is promised of the others."]


def _seen(result: SearchResult) -> list[str]:
    """What was looked at, and what was not."""
    return [*_coverage(result), *_compiled(result), *_unjudged(result), *_skipped(result)]


def _arrays(result: SearchResult) -> list[str]:
    """What the candidate was called with, if not with arrays of NumPy."""
    judge = result.problem.judge
    if judge is None or not (about := judge.handing.about()):
        return []
    versions = "".join(f" {about[package]}" for package in judge.handing.packages)
    return [f"It was called with arrays of {judge.handing.arrays}{versions} on {judge.handing.device}."]


def _compiled(result: SearchResult) -> list[str]:
    """For how many shapes a candidate was compiled."""
    if compiled_json(result) is None:
        return []
    taken = result.problem.warm_ups
    shapes = "1 shape" if len(taken) == 1 else f"{len(taken)} shapes"
    return [f"It compiles for each shape: {shapes}, in {sum(taken):.1f} s, which the budget does not count."]


def _skipped(result: SearchResult) -> list[str]:
    """How many cases a program did not take, and why, as it says."""
    if not result.skips:
        return []
    cases = "1 case" if result.skips == 1 else f"{result.skips:,} cases"
    return [f"It skipped {cases}, of which nothing is known; the last time it said: {result.skipping}."]


def _before(result: SearchResult) -> list[str]:
    """Simpler cases may have larger values, which the engine did not find."""
    if not result.value > result.largest * (1 + 1e-3):
        return []
    return [f"  before         {number(result.largest)}  (minimising made it larger)"]


def _unused(names: list[str] | None) -> list[str]:
    if not names:
        return []
    verb = "plays" if len(names) == 1 else "play"
    return [f"Not used: {', '.join(names)} {verb} no part in this question."]


def _case(result: SearchResult, witness: Path | None) -> list[str]:
    """The case, under what it is: only what confirms a claim is a witness."""
    from diffuzz.cases.text import case_text
    from diffuzz.judging.verdict import Verdict

    if result.case is None:
        return ["No case had a value above zero."]
    confirmed = result.verdict is Verdict.CONFIRMED
    what = "The case" if not result.replays else "Witness" if confirmed else "Best case found"
    lines = [what + (f", in {witness}" if witness else ""), ""]
    contract = result.target.contract if result.problem.judges else None
    instead = (
        {} if contract is None else contract.instead(result.params, result.problem.space.filled(result.case.batch()))
    )
    lines += ["  " + line for line in case_text(result.problem.space, result.case, instead).splitlines()]
    lines += ["  " + line for line in reading(result)]
    return lines + company_text(result.problem.space, result.company, result.problem.scalars)


def company_text(space: Space, company: Company | None, scalars: Collection[str]) -> list[str]:
    """The rows beside which a case has its value, where it needs any: equal ones are written once, and ``scalars``,
    which are those of the case, not at all.
    """
    from diffuzz.cases.space import Space
    from diffuzz.cases.text import case_text
    from diffuzz.judging.company import runs

    if company is None:
        return []
    lines: list[str] = []
    for side, cases in (("before", company.before), ("after", company.after)):
        for count, row in runs(cases):
            lines += ["", f"  in a batch, {side} it: " + ("a row of" if count == 1 else f"{count:,} rows of")]
            without = Space(tuple(spec for spec in space.tensors if spec.name not in scalars))
            lines += ["    " + line for line in case_text(without, row).splitlines()]
    return lines


def _shown(result: SearchResult) -> list[str]:
    """What the case shows of the functions that were judged."""
    from diffuzz.judging.evidence import Agreement, Compared, Judged
    from diffuzz.judging.question import Compare

    found, asked = result.measurement.evidence, result.problem.question
    lines = [*_unsteady(result), *_by_chance(result)]
    if isinstance(asked, Compare) and result.agreement is Agreement.BITS:
        a, b = asked.kernels
        return [*lines, "", f"{a} and {b} agree to the bit, as far as was seen."]
    if isinstance(found, Compared):
        return [*lines, "", *_two_kernels(result, found)]
    if isinstance(found, Judged):
        return [*lines, "", *_three_ways(result, found)]
    return lines


_FAILED = {
    "crashed": "crashed:",
    "hung": "hung:",
    "out of memory": "ran out of memory:",
    "raised": "raised",
    "garbage": "returned something of the wrong kind:",
    "skipped": "skipped the case:",
}


def _unsteady(result: SearchResult) -> list[str]:
    """A value that did not come again, and what that says."""
    if result.unsteady is None:
        return []
    from diffuzz.judging.company import times

    unsteady, wrong = result.unsteady, result.verdict.value == "CONFIRMED"
    if wrong and result.replays:
        # What is wrong for certain is the news.
        return []
    lines = [
        "",
        f"The function returned a result outside its bound, {number(unsteady.found.value)}, "
        f"{'at least ' if wrong else ''}{times(unsteady.seen)}. The case had no more than {number(unsteady.again)} "
        f"when it was called again, {times(unsteady.calls)}.",
        "So the function keeps a state between calls (a cache, a file, a seed), or fails more rarely by chance.",
    ]
    if not wrong:
        lines.append("Seen once, it is not called wrong: search longer, or with another seed.")
    elif result.case is not None:
        lines.append("Nothing is saved: it would not replay.")
    return lines


def _by_chance(result: SearchResult) -> list[str]:
    """How often the case shows that the function is wrong, where it does not show it every time."""
    if result.chance is None:
        return []
    beside = "" if result.company is None else " beside those rows"
    return [
        "",
        f"This is left to chance, or to the calls before: {result.chance} of a fresh process with this case{beside}. "
        f"A replay repeats it up to {result.chance.patience} times.",
    ]


def _place(result: SearchResult, element: int) -> str:
    """An element of the result; of blocks, the field that the byte belongs to."""
    from diffuzz import formats

    contract = result.target.contract
    if contract is None or result.case is None:
        return f"element {element}"
    if contract.result_format is None:
        return contract.place(result.params, result.problem.space.filled(result.case.batch()), element)
    return f"byte {element} ({formats.get(contract.result_format(result.params)).field_at(element)})"


def _three_ways(result: SearchResult, found: Judged) -> list[str]:
    """Exact, reference and candidate at the worst element: who is wrong, and would ggml's own test have seen it."""
    if found.failure is not None:
        how = _FAILED[found.failure.kind]
        if found.failure.kind == "garbage" and not found.failure.text.startswith("returns "):
            # It did something else that it must not.
            how = "failed: it"
        lines = [f"On the witness it {how} {found.failure.text}."]
        if found.failure.kind == "raised":
            contract = result.target.contract
            names = ", ".join(() if contract is None else contract.narrowable(result.params))
            lines.append(f"If it is not made for such a call, narrow {names} with --fix, --range or --multiple.")
        return [*lines, *_wrote(result)]
    lines = [f"At {_place(result, found.element)}:"]
    if result.company is not None and result.chance is None:
        lines = ["This is so beside those rows: the function mixes up the rows of a batch, or loses some.", *lines]
    if found.alone is not None:
        lines = [
            "This is so in a batch, beside rows of the largest numbers, of the smallest, of zeros and of others; "
            f"alone the case has {number(found.alone)}. The function mixes up the rows of a batch.",
            *lines,
        ]
    for name in ("exact", "reference", "candidate", "allowance"):
        if (value := getattr(found, name)) is not None:
            lines.append(f"  {name:10} {value:.9g}")
    if found.wrong in ("reference", "both"):
        who = "The reference is" if found.wrong == "reference" else "Both the candidate and the reference are"
        lines.append(f"{who} wrong. The reference is a part of diffuzz: please report this.")
    else:
        lines.append("The candidate is wrong." if found.wrong else "The candidate is not wrong here.")
    if found.nmse is not None and found.nmse_limit is not None and found.wrong is not None:
        seen = found.nmse > found.nmse_limit
        lines.append(
            f"On this case ggml's test-backend-ops would {'' if seen else 'not '}have seen it: "
            f"NMSE {found.nmse:.2e} against its limit {found.nmse_limit:.0e}."
        )
    return lines + _policies(result)


def _policies(result: SearchResult) -> list[str]:
    """The choices that would explain the case, and what to type to have the function judged by one of them."""
    if not result.policies:
        return []
    declared = {parameter.name: parameter for parameter in result.target.declared}
    lines = ["On this case it is within the bound of another choice. If that is what it is meant to compute, try:"]
    for policy in result.policies:
        settings = " ".join(f"--param {name}={value}" for name, value in policy.items())
        meanings = "; ".join(filter(None, (declared[name].meaning(value) for name, value in policy.items())))
        lines.append(f"  {settings}" + (f"  ({meanings})" if meanings else ""))
    return [*lines, "Other cases may still show it to be wrong."]


def _wrote(result: SearchResult) -> list[str]:
    """The end of the log of a function that failed."""
    return ["It wrote last:", *(f"  {line}" for line in result.wrote)] if result.wrote else []


def _two_kernels(result: SearchResult, found: Compared) -> list[str]:
    """A and B at the worst element, and how they agree."""
    from diffuzz.judging.question import Compare

    if result.failure is not None:
        return [f"On the witness {result.failure}.", *_wrote(result)]
    asked = result.problem.question
    a, b = asked.kernels if isinstance(asked, Compare) else ("A", "B")
    shown = {a: found.a, b: found.b, "exact": found.exact, "rounding": found.rounding}
    if found.errors is not None:
        shown |= {f"{name}'s error / a-priori bound": error for name, error in zip((a, b), found.errors, strict=True)}
    width = max(len(name) for name, value in shown.items() if value is not None)
    lines = [f"At {_place(result, found.element)}:"]
    lines += [f"  {name:{width}} {value:.9g}" for name, value in shown.items() if value is not None]
    return [*lines, f"They agree {found.agreement(result.value).value}, as far as was seen."]


def _excess(result: SearchResult) -> list[str]:
    """A value above a proven bound is a defect of diffuzz, and it says so."""
    from diffuzz import targets

    if result.bound is None or not result.value - result.measurement.noise > result.bound.ceiling * (1 + 1e-9):
        return []
    whose = targets.REGISTRY.source(result.target.name)
    wrong = f"the bound of {whose} is" if whose else "the derivation or an implementation in diffuzz is"
    report = "" if whose else " Please report this case."
    return ["", f"  ABOVE ITS PROVEN BOUND: {wrong} wrong.{report}"]


_ENDS = {
    "bound reached": "the bound was reached",
    "witness": "it stopped at the first witness",
    "work": "the budget's work was done",
    "clock": "time was up (another run may get further or less far)",
    "interrupted": "it was interrupted",
    "ideas": "the engine had no more ideas",
}


def _effort(result: SearchResult) -> str:
    rate = result.evaluations / max(result.seconds, 1e-9)
    end = "nothing is larger" if result.bound is None and result.stopped == "bound reached" else _ENDS[result.stopped]
    return (
        f"{result.evaluations:,} evaluations in {result.seconds:.1f} s ({rate:,.0f} per second) by {_engines(result)}, "
        f"seed {result.seed}; {end}{_minimising(result)}."
    )


def _minimising(result: SearchResult) -> str:
    if not result.minimising_timed_out:
        return ""
    return "; time was up before the case was as simple as can be (another run may get further or less far)"


def _engines(result: SearchResult) -> str:
    """The engine, and those of files that auto used."""
    from diffuzz.searching import engines

    others = [name for name in engines.names() if engines.REGISTRY.source(name)] if result.engine == "auto" else []
    return " with ".join([result.engine, *([", ".join(others)] if others else [])])
