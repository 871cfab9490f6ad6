"""``diffuzz measure``: the value of one case."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from diffuzz.cli.options import (
    CONFIRMED,
    FORMAT_FILES,
    JSON,
    LONGEST,
    MISSING,
    MODEL_FILES,
    PARAMS,
    PLACE,
    THRESHOLD,
    VERBOSITY,
    answer_of,
    complain,
    completed,
    given_parameters,
    load_files,
    name_models,
    print_json,
    print_text,
    report,
    target_named,
)
from diffuzz.cli.search_text import headline
from diffuzz.cli.tables import bound_json, bound_text, number, params_text
from diffuzz.corpus.spelling import json_number

if TYPE_CHECKING:
    from diffuzz.cases.case import Case
    from diffuzz.judging.problem import Measurement, Problem


@click.command("measure")
@click.argument("case_file", metavar="CASE", type=PLACE, shell_complete=completed("entries"))
@click.option(
    "--target",
    "target_name",
    metavar="NAME",
    shell_complete=completed("targets"),
    help="What to measure, a name or FILE.py:NAME [default: the entry's].",
)
@PARAMS
@FORMAT_FILES
@MODEL_FILES
@THRESHOLD
@LONGEST
@VERBOSITY
@JSON
def command(
    case_file: Path,
    target_name: str | None,
    settings: tuple[tuple[str, str], ...],
    formats: tuple[str, ...],
    models: tuple[str, ...],
    threshold: float | None,
    longest: float,
    quiet: bool,
    as_json: bool,
) -> int:
    """Measure one case: a corpus entry (.json), or named arrays (.npz, .safetensors)."""
    from diffuzz.corpus.replay import NeedsTimeError
    from diffuzz.judging.problem import open_problem
    from diffuzz.judging.verdict import Verdict

    load_files((), formats, ())
    name_models(models)
    target = None if target_name is None else target_named(target_name)
    given: dict[str, object] = dict(given_parameters(settings))
    if case_file.suffix == ".json":
        try:
            name, recorded, recorded_threshold, case = _entry(case_file, longest)
        except NeedsTimeError as error:
            return complain(f"{case_file}: {error}", MISSING)
        target = target or target_named(name)
        if target.name == name:
            threshold = recorded_threshold if threshold is None and not given else threshold
            given = recorded | given
        problem = open_problem(target, given, threshold=threshold)
    else:
        if target is None:
            raise click.UsageError(f"{case_file}: arrays alone do not say what to measure: give --target")
        from diffuzz.corpus.arrays import load_arrays

        problem = open_problem(target, given, threshold=threshold)
        case = load_arrays(case_file, problem.space)
    measured = problem.measured(case)
    if as_json:
        print_json(measurement_json(problem, measured))
    else:
        print_text(answer_of(measurement_text(problem, measured), quiet))
    return CONFIRMED if problem.verdict(measured) is Verdict.CONFIRMED else 0


def _entry(file: Path, longest: float) -> tuple[str, dict[str, object], float, Case]:
    """Target, parameters, threshold and case of an entry of a claim. Raises click.UsageError for any other,
    NeedsTimeError for one that takes longer.
    """
    from diffuzz.corpus import files as store
    from diffuzz.corpus.replay import check_time
    from diffuzz.corpus.strict import NeedsFileError

    try:
        entry = store.load(file)
    except NeedsFileError as error:
        if error.option != "kernels":
            raise
        raise click.UsageError(f"{file}: compares kernels: replay it, with --kernels {error.file}") from error
    if entry.candidate is not None:
        option = f"--candidate {entry.candidate}"
        raise click.UsageError(f"{file}: found with a candidate; measure it with: diffuzz replay {file} {option}")
    if entry.result is not None:
        raise click.UsageError(f"{file}: judges what {entry.result.engine} computed: replay it")
    if entry.kernels is not None:
        raise click.UsageError(f"{file}: compares {' and '.join(entry.kernels)}: replay it")
    check_time(entry, longest)
    return entry.target, dict(entry.params), entry.threshold, entry.case


def measurement_json(problem: Problem, measured: Measurement) -> dict[str, object]:
    """The object of ``measure --json``."""
    from diffuzz.corpus.environment import environment

    return {
        "target": problem.target.name,
        "params": dict(problem.params),
        "value": json_number(measured.value),
        "noise": json_number(measured.noise),
        "measure": measured.measure,
        "detail": {name: json_number(value) for name, value in measured.evidence.as_dict().items()},
        **bound_json(problem.bound),
        "threshold": json_number(problem.threshold),
        # The name of the threshold in version 0.1.
        "limit": json_number(problem.threshold),
        "verdict": problem.verdict(measured).value,
        "environment": environment(),
    }


def measurement_text(problem: Problem, measured: Measurement) -> str:
    """The report of ``measure``. One case alone can confirm a claim; only a bound can falsify it."""
    verdict = problem.verdict(measured)
    lines = [
        headline(problem.claim, verdict, measured.value, problem.threshold, problem.bound),
        "",
        f"  value         {number(measured.value)}  (known to within {measured.noise:.1e})",
        f"  proven bound  {bound_text(problem.bound)}",
        f"  measure       {measured.measure}",
        f"  domain        {params_text(problem.params)}",
    ]
    lines += [f"  {name:13} {number(value)}" for name, value in measured.evidence.as_dict().items()]
    return report(lines)
