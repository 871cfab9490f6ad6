"""``diffuzz search``: the largest value of a question, its case minimised, judged and saved."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from diffuzz.cli.options import (
    BAD_INPUT,
    CONFIRMED,
    DEFAULT_CORPUS,
    INTERRUPTED,
    JSON,
    KERNELS,
    LIBRARY,
    PARAMS,
    SECONDS,
    SEED,
    SHARE,
    TARGET,
    THRESHOLD,
    TIMEOUT,
    complain,
    given_parameters,
    print_json,
    print_text,
    target_named,
)
from diffuzz.cli.tables import bound_json, bound_text, json_number, number, params_text

if TYPE_CHECKING:
    from diffuzz.judging.evidence import Compared, Judged
    from diffuzz.judging.question import Question
    from diffuzz.judging.verdict import Verdict
    from diffuzz.searching.result import SearchResult
    from diffuzz.targets.outcome import Bound


@click.command("search")
@TARGET
@PARAMS
@click.option(
    "--engine",
    default="auto",
    show_default=True,
    metavar="NAME",
    help="auto, random, pbt, gradient, evolution, shapes, or FILE.py:NAME; auto,FILE.py:NAME lets auto use it, too.",
)
@click.option("--budget", type=SECONDS, default="10s", show_default=True, help="Time to search: 10s, 500ms, 2min.")
@click.option("--seed", type=SEED, help="Random seed [default: a random one, which is printed].")
@THRESHOLD
@click.option(
    "--keep", type=SHARE, default=0.999, show_default=True, help="Share of the value that minimising must keep."
)
@click.option("--first", is_flag=True, help="Stop at the first witness, instead of looking for the largest value.")
@click.option("--candidate", metavar="FILE.py:FUNCTION", help="Test this function in the place of the implementation.")
@TIMEOUT
@click.option(
    "--kernels", type=KERNELS, help="Compare two implementations of the operation; see `targets`. One may be FILE.py."
)
@LIBRARY
@click.option(
    "--corpus",
    type=click.Path(path_type=Path, file_okay=False),
    default=DEFAULT_CORPUS,
    show_default=True,
    help="Where witnesses are saved.",
)
@click.option("--save", "wanted", is_flag=True, help="Save the best case found of functions that are not wrong, too.")
@click.option("--no-save", is_flag=True, help="Save nothing.")
@click.option("--verbose", is_flag=True, help="Print the best case found of functions that are not wrong, too.")
@JSON
def command(
    target_name: str,
    settings: tuple[tuple[str, str], ...],
    engine: str,
    budget: float,
    seed: int | None,
    threshold: float | None,
    keep: float,
    first: bool,
    candidate: str | None,
    timeout: float,
    kernels: tuple[str, str] | None,
    library: str | None,
    corpus: Path,
    wanted: bool,
    no_save: bool,
    verbose: bool,
    as_json: bool,
) -> int:
    """Search for the largest value, minimise the case that has it, judge the claim, save the witness."""
    from diffuzz.cli.progress import searching
    from diffuzz.corpus import files as store
    from diffuzz.corpus.record import record
    from diffuzz.judging.verdict import Verdict
    from diffuzz.searching.search import search

    if wanted and no_save:
        raise click.UsageError("--save and --no-save: give one of them")
    target, given = target_named(target_name), given_parameters(settings)
    question = _question(candidate, timeout, kernels, library)
    if not no_save:
        store.check_writable(corpus / target.name)
    with searching(target.name, budget) as progress:
        result = search(
            target,
            given,
            question,
            engine=_engine(engine),
            seconds=budget,
            seed=seed,
            threshold=threshold,
            keep=keep,
            first=first,
            on_found=progress.on_found,
            on_smaller=progress.on_smaller,
        )
    path, failure = None, None
    shown = wanted or not result.problem.judges or result.verdict is Verdict.CONFIRMED
    if shown and not no_save and result.replays:
        try:
            path = store.save(record(result), corpus)
        except store.CorpusError as error:
            # What was found is printed all the same.
            failure = str(error)
    if as_json:
        print_json(search_json(result, path))
    else:
        print_text(
            search_text(result, path, unused=[name for name in given if name not in result.params], verbose=verbose)
        )
    interrupted = result.stopped == "interrupted"
    if failure is None and result.evaluations == 0 and result.verdict is Verdict.UNRESOLVED and not interrupted:
        failure = f"{budget:g} s were over before the first evaluation; compiling alone takes seconds: try --budget 10s"
    if failure is not None:
        return complain(failure, BAD_INPUT)
    if result.case is None and interrupted:
        return INTERRUPTED
    return CONFIRMED if result.verdict is Verdict.CONFIRMED else 0


def _question(candidate: str | None, timeout: float, names: tuple[str, str] | None, library: str | None) -> Question:
    """What the options ask. Raises QuestionError, RegistryError."""
    from diffuzz import kernels
    from diffuzz.judging.question import Claim, Compare, Judge, QuestionError

    judged = None if candidate is None else Judge(candidate, timeout=timeout)
    if library is not None and not any(kernels.KernelName.parse(name).is_library for name in names or ()):
        raise QuestionError(
            f"library {library}: it stands for libggml, which is not one of the kernels; give --kernels"
        )
    if names is not None:
        a, b = (kernels.load(name) for name in names)
        return Compare(a, b, library, candidate=judged)
    return judged or Claim()


def _engine(text: str) -> str:
    """The engine to run; those after a comma are made known, so that auto uses them. Raises RegistryError."""
    from diffuzz.searching import engines

    names = [engines.load(name.strip()) for name in text.split(",")]
    if len(names) > 1 and names[0] != "auto":
        raise click.UsageError(f"--engine {text}: only auto runs more than one; write auto,{text}")
    return names[0]


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


def search_json(result: SearchResult, witness: Path | None) -> dict[str, object]:
    """The object of ``search --json``: the keys of the contract, and a few more."""
    from diffuzz.corpus.environment import device, environment

    found, unsteady = result.measurement.evidence, result.unsteady
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
        "environment": environment() | device() | dict(result.libraries),
        "candidate": result.candidate,
        "kernels": None if result.kernels is None else list(result.kernels),
        "agreement": None if result.agreement is None else result.agreement.value,
        "failure": result.failure,
        "passing_failure": result.passing,
        "unsteady": None
        if unsteady is None
        else {"in_a_batch": json_number(unsteady.found.value), "alone": json_number(unsteady.again)},
        "claim": result.problem.claim,
        "detail": {name: json_number(value) for name, value in found.as_dict().items()},
        "stopped_by": result.stopped,
        "seconds": round(result.seconds, 3),
        "largest_before_minimising": json_number(result.largest),
    }


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
        lines.append(f"Searched {space_text(result.problem.space)}: {_effort(result)}")
        lines += [f"Saved in {witness}."] if witness else []
        lines += _unused(unused)
        return "\n".join(lines) + "\n"
    share = "" if result.efficiency is None else f"  ({100 * result.efficiency:.2f} % of the bound)"
    lines += [
        "",
        f"  largest found  {number(result.value)}{share}",
        *_before(result),
        *([] if judges else [f"  proven bound   {bound_text(result.bound)}"]),
        f"  measure        {result.measurement.measure}",
        f"  {'parameters' if judges else 'domain    '}     {params_text(result.params)}",
        *([f"  domain         {space_text(result.problem.space)}"] if judges else []),
    ]
    terms = result.measurement.evidence.as_dict()
    if terms and not judges:
        lines.append(f"  made of        {', '.join(f'{name} {number(value)}' for name, value in terms.items())}")
    lines += [*_excess(result), *_unused(unused), "", *_case(result, witness), *_shown(result)]
    if result.passing is not None:
        lines += [
            "",
            f"Once the candidate failed, and not again on the same cases in a fresh process: {result.passing}.",
        ]
    lines += ["", _effort(result)]
    return "\n".join(lines) + "\n"


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
    return lines + ["  " + line for line in case_text(result.problem.space, result.case).splitlines()]


def _shown(result: SearchResult) -> list[str]:
    """What the case shows of the functions that were judged."""
    from diffuzz.judging.evidence import Agreement, Compared, Judged
    from diffuzz.judging.question import Compare

    found, asked = result.measurement.evidence, result.problem.question
    lines = _unsteady(result)
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
}


def _unsteady(result: SearchResult) -> list[str]:
    """A value that did not come again, and what that says."""
    if result.unsteady is None:
        return []
    found, again = result.unsteady.found.value, result.unsteady.again
    lines = [
        "",
        f"In a batch one case had {number(found)}, and {number(again)} when it was measured again, alone and beside "
        "two other rows.",
        "So the function mixes up the rows of a batch, keeps a state from one call to the next, or depends on chance.",
    ]
    if not result.replays and result.case is not None:
        lines.append("Nothing is saved: it would not replay. Call the function twice with the same batch to see which.")
    return lines


def _place(result: SearchResult, element: int) -> str:
    """An element of the result; of blocks, the field that the byte belongs to."""
    from diffuzz import formats

    contract = result.target.contract
    if contract is None or contract.result_format is None:
        return f"element {element}"
    return f"byte {element} ({formats.get(contract.result_format(result.params)).field_at(element)})"


def _three_ways(result: SearchResult, found: Judged) -> list[str]:
    """Exact, reference and candidate at the worst element: who is wrong, and would ggml's own test have seen it."""
    if found.failure is not None:
        return [f"On the witness it {_FAILED[found.failure.kind]} {found.failure.text}."]
    lines = [f"At {_place(result, found.element)}:"]
    if found.alone is not None:
        lines = [
            "This is so in a batch, beside a row of the largest numbers and one of the smallest; alone the case has "
            f"{number(found.alone)}. The function mixes up the rows of a batch.",
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
    return lines


def _two_kernels(result: SearchResult, found: Compared) -> list[str]:
    """A and B at the worst element, and how they agree."""
    from diffuzz.judging.question import Compare

    if result.failure is not None:
        return [f"On the witness {result.failure}."]
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
        f"seed {result.seed}; {end}."
    )


def _engines(result: SearchResult) -> str:
    """The engine, and those of files that auto used."""
    from diffuzz.searching import engines

    others = [name for name in engines.names() if engines.REGISTRY.source(name)] if result.engine == "auto" else []
    return " with ".join([result.engine, *([", ".join(others)] if others else [])])
