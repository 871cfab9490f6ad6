"""What the command line prints: progress on a terminal, results as text, results as JSON."""

from __future__ import annotations

import io
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from diffuzz import corpus, formats, report, targets
from diffuzz.candidate import named
from diffuzz.claims import Settled
from diffuzz.entry import Counterexample, space
from diffuzz.kernels import missing
from diffuzz.matrix import Cell
from diffuzz.objective import Found
from diffuzz.pair import Agreement, agreement, implementations
from diffuzz.replay import Replayed
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
    return ", ".join(f"{name}={_plain(value)}" for name, value in params.items())


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


@contextmanager
def progress(label: str, seconds: float) -> Iterator[Callable[[Found], None]]:
    """A live line on stderr, if that is a terminal, and what to call with each improvement."""
    console = Console(stderr=True)
    with Progress(*_columns(), console=console, transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task(label, total=seconds, found="starting")
        with _ticking(bar, task, seconds):
            yield lambda found: bar.update(
                task, found=f"{number(found.value)} by {found.engine} after {found.evaluations:,} evaluations"
            )


def _columns() -> tuple[ProgressColumn, ...]:
    return (
        TextColumn("[bold]{task.description}"),
        BarColumn(bar_width=24),
        TimeElapsedColumn(),
        TextColumn("largest so far: {task.fields[found]}"),
    )


@contextmanager
def _ticking(bar: Progress, task: TaskID, seconds: float) -> Iterator[None]:
    """Moves the bar with the clock, from rich's own refresh thread's point of view, while the search works."""
    if bar.disable:
        yield
        return
    done = threading.Event()

    def tick() -> None:
        elapsed = 0.0
        while not done.wait(0.1):
            elapsed += 0.1
            bar.update(task, completed=min(elapsed, seconds))

    thread = threading.Thread(target=tick, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


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
        **_bound_json(result.bound),
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


def _bound_json(bound: Bound | None) -> dict[str, Any]:
    """``bound``, a number or null, its derivation, and what rounding may add to it, relative."""
    if bound is None:
        return {"bound": None}
    value, rounding = report.json_number(bound.value), report.json_number(bound.rounding)
    return {"bound": value, "bound_because": bound.because, "bound_rounding": rounding}


def search_text(result: SearchResult, witness: Path | None) -> str:
    """The report of a search: verdict, value beside limit and bound, witness, how to repeat it."""
    contract = result.candidate is not None or result.kernels is not None
    lines = [
        _candidate_headline(result)
        if result.candidate is not None and result.verdict is Verdict.UNRESOLVED
        else headline(result.target.claim, result.verdict, result.value, result.limit, result.bound),
        "",
        f"  largest found  {number(result.value)}{_share(result)}",
        *([] if contract else [f"  proven limit   {_bound_text(result.bound)}"]),
        f"  measure        {result.measurement.measure}",
        f"  {'parameters' if contract else 'domain    '}     {params_text(result.params)}",
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


def _bound_text(bound: Bound | None) -> str:
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
        f"In a batch one case had {number(found)}, and {number(again)} when it was measured again, alone and between "
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
            "This is so in a batch, after a row of the largest numbers and before one of the least; alone the case has "
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
        **_bound_json(target.bound(params)),
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
        f"  proven limit  {_bound_text(target.bound(params))}",
        f"  measure       {measured.measure}",
        f"  domain        {params_text(params)}",
    ]
    lines += [f"  {name:13} {number(value)}" for name, value in measured.detail.items()]
    return "\n".join(lines) + "\n"


def entry_text(entry: Counterexample, path: Path) -> str:
    """The report of ``show``."""
    contract = entry.candidate is not None or entry.kernels is not None
    shown = space(targets.get(entry.target), entry.params, contract=contract)
    return f"{corpus.printable(str(path))}\n\n{report.entry_text(entry, shown)}"


def target_json(target: Target) -> dict[str, Any]:
    """One entry of ``targets --json``."""
    params = target.params()
    return {
        "name": target.name,
        "summary": target.summary,
        "claim": target.claim,
        "measure": target.measure(params),
        "limit": report.json_number(target.limit(params)),
        **_bound_json(target.bound(params)),
        "candidate": target.contract.signature if target.contract else None,
        "kernels": dict(zip(("here", "missing"), _kernels_of(target), strict=True)),
        "parameters": [
            {
                "name": parameter.name,
                "default": parameter.default,
                "type": type(parameter.default).__name__,
                "low": parameter.low,
                "high": parameter.high,
                "choices": list(parameter.choices),
                "help": parameter.help,
            }
            for parameter in target.parameters
        ],
    }


def _kernels_of(target: Target) -> tuple[list[str], list[str]]:
    """Names of the implementations that are here, with default parameters, and of those that are not."""
    names = implementations(target, target.params())
    return [name for name in names if not missing(name)], [name for name in names if missing(name)]


def targets_text(listed: list[Target]) -> str:
    """The list of ``targets``."""
    lines = []
    for target in listed:
        lines += [f"{target.name}", f"    {target.summary}"]
        bound = target.bound(target.params())
        if bound is not None:
            lines.append(f"    limit {number(bound.value)}: {bound.because}")
        if target.contract is not None:
            lines.append(f"    --candidate {target.contract.signature}")
            here, away = _kernels_of(target)
            lines.append(f"    --kernels two of {', '.join(here)}" + "".join(f"; not here: {name}" for name in away))
        for parameter in target.parameters:
            choice = f" ({'|'.join(parameter.choices)})" if parameter.choices else ""
            lines.append(f"      {parameter.name}={_plain(parameter.default)}  {parameter.help}{choice}")
        lines.append("")
    return "\n".join(lines)


def claims_progress() -> Callable[[Settled], None] | None:
    """What prints a line on stderr for each settled claim, or None if that is no terminal."""
    console = Console(stderr=True)
    if not sys.stderr.isatty():
        return None
    return lambda settled: console.print(f"{settled.row.id}  {settled.row.claim}: {settled.verdict}", highlight=False)


def matrix_progress() -> Callable[[Cell], None] | None:
    """What prints a line on stderr for each pair, or None if that is no terminal."""
    if not sys.stderr.isatty():
        return None
    console = Console(stderr=True)
    return lambda cell: console.print(f"{cell.a}, {cell.b}: {cell.agreement.value}", highlight=False)


def claims_text(settled: list[Settled]) -> str:
    """The table of the claims: published, reproduced, found, bound, verdict."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("claim", "published", "reproduced", "largest found", "limit", "verdict"):
        table.add_column(heading, overflow="fold")
    for one in settled:
        table.add_row(
            f"{'' if one.row.variant else one.row.id.removeprefix('FFN-GGUF-') + ' '}{one.row.claim}",
            one.row.published,
            "\n".join(f"{name} {_figure(value)}" for name, value in one.reproduced.items()),
            "" if one.found is None else number(one.found),
            "" if one.bound is None else number(one.bound),
            one.verdict,
        )
    console = Console(width=150, file=io.StringIO(), color_system=None)
    console.print(table)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines()) + "\n"  # type: ignore[attr-defined]


def _figure(value: Any) -> str:
    return f"{value:.5g}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)


def replay_json(results: list[Replayed]) -> dict[str, Any]:
    """The object of ``replay --json``."""
    return {
        "replayed": len(results),
        "as_recorded": sum(result.status == "as recorded" for result in results),
        "results": [
            {
                "path": str(result.path),
                "status": result.status,
                "message": result.message,
                "value": None if result.value is None else report.json_number(result.value),
                "verdict": None if result.verdict is None else result.verdict.value,
            }
            for result in results
        ],
    }


def replay_text(results: list[Replayed]) -> str:
    """One line for each entry, whatever its file is called, and a count."""
    width = max(len(str(result.path)) for result in results)
    lines = [corpus.printable(f"{result.status:12} {result.path!s:{width}}  {result.message}") for result in results]
    good = sum(result.status == "as recorded" for result in results)
    seconds = sum(result.seconds for result in results)
    lines.append(f"{good} of {len(results)} entries replayed as recorded, in {seconds:.2f} s")
    return "\n".join(lines) + "\n"


def junit(results: list[Replayed]) -> str:
    """JUnit XML: a test case for each entry; a changed one is a failure, one that could not be replayed an error."""
    suite = ElementTree.Element(
        "testsuite",
        name="diffuzz replay",
        tests=str(len(results)),
        failures=str(sum(result.status == "changed" for result in results)),
        errors=str(sum(result.status not in ("as recorded", "changed") for result in results)),
        time=f"{sum(result.seconds for result in results):.3f}",
    )
    for result in results:
        case = ElementTree.SubElement(
            suite,
            "testcase",
            classname=corpus.printable(result.path.parent.name),
            name=corpus.printable(result.path.stem),
            time=f"{result.seconds:.3f}",
        )
        if result.status != "as recorded":
            kind = "failure" if result.status == "changed" else "error"
            ElementTree.SubElement(case, kind, message=corpus.printable(result.message))
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(suite, encoding="unicode") + "\n"
