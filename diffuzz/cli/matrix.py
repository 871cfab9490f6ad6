"""``diffuzz matrix``: every pair of the implementations of an operation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from diffuzz.cli.options import (
    A_CANDIDATE,
    ARRAYS,
    BAD_INPUT,
    CONFIRMED,
    FOLDER,
    JSON,
    LIBRARY,
    PARAMS,
    SECONDS,
    SEED,
    TARGET,
    TIMEOUT,
    VERBOSITY,
    answer_of,
    check_arrays,
    complain,
    completed,
    given_parameters,
    print_json,
    print_text,
    report,
    target_named,
    unfinished,
)
from diffuzz.cli.saving import HTML, check_writable, files_named, written
from diffuzz.cli.tables import at_most, libraries_text, table
from diffuzz.corpus.spelling import command_line, given_words, json_number
from diffuzz.escaping import escaped

if TYPE_CHECKING:
    from diffuzz.judging.question import Judge
    from diffuzz.searching.matrix import Cell
    from diffuzz.targets.target import Target

# Columns of the triangle, at most.
_WIDTH = 200


@click.command("matrix")
@TARGET
@PARAMS
@click.option(
    "--kernels",
    "chosen",
    metavar="A,B,...",
    shell_complete=completed("kernels"),
    help="Which implementations [default: all that are here].",
)
@A_CANDIDATE
@ARRAYS
@TIMEOUT
@LIBRARY
@click.option("--budget", type=SECONDS, default="5s", show_default=True, help="Time to search for each pair.")
@click.option("--seed", type=SEED, default=0, show_default=True, help="Random seed.")
@click.option(
    "--corpus",
    type=FOLDER,
    help="Save there the witnesses of pairs that differ by more than rounding [default: nowhere].",
)
@click.option("--why", is_flag=True, help="Say in what the arithmetic of those that differ differs (see fingerprint).")
@HTML
@VERBOSITY
@JSON
def command(
    target_name: str,
    settings: tuple[tuple[str, str], ...],
    chosen: str | None,
    candidate: str | None,
    arrays: str | None,
    device: str | None,
    timeout: float,
    library: str | None,
    budget: float,
    seed: int,
    corpus: Path | None,
    why: bool,
    html: Path | None,
    as_json: bool,
) -> int:
    """Search every pair of implementations: who agrees with whom to the bit, to rounding, by policy, or not at all."""
    from diffuzz import kernels
    from diffuzz.corpus import files as store
    from diffuzz.corpus.record import Keeper
    from diffuzz.judging.opening import check_handing
    from diffuzz.judging.question import Judge
    from diffuzz.kernels.names import MissingKernelsError
    from diffuzz.searching import matrix

    if html is not None:
        said = (target_name, candidate, library, *(value for _, value in settings))
        check_writable("--html", html, *files_named(*said))
    target, given = target_named(target_name), given_parameters(settings)
    named = [] if chosen is None else [name.strip() for name in chosen.split(",")]
    if not all(named):
        raise click.UsageError(f"--kernels {chosen}: not a list of names: exact,apr,ggml is")
    wanted = [kernels.load(name) for name in named]
    check_arrays(candidate, arrays, device)
    judged = None if candidate is None else Judge(candidate, timeout=timeout, arrays=arrays, device=device)
    if judged is not None and candidate is not None:
        # At once, and not when its first pair comes.
        check_handing(candidate, judged.handing)
        judged.handing.check_installed()
    absent = matrix.names(target, given, wanted, judged)[1]
    planned, left_out = len(matrix.pairs(target, given, wanted, judged)), list[str]()
    keeper = None if corpus is None else Keeper(corpus)
    if corpus is not None:
        store.check_writable(corpus / target.name)
    cells = matrix.matrix(
        target,
        given,
        seconds=budget,
        seed=seed,
        chosen=wanted,
        library=library,
        candidate=judged,
        save=keeper,
        on_cell=matrix_progress(),
        on_missing=left_out.append,
    )
    planned -= len(left_out)
    absent += dict.fromkeys(left_out)
    if not planned:
        raise MissingKernelsError(absent[-1])
    interrupted = len(cells) < planned
    reasons = _reasons(target, given, cells, library, judged) if why and not interrupted else []
    others = {"kernels": chosen, "candidate": candidate, "arrays": arrays, "device": device, "library": library}
    again: dict[str, object] = {"command": _command(target_name, settings, others, budget, seed)}
    again |= {"why": reasons} if why else {}
    if as_json:
        print_json(matrix_json(target, given, cells, absent, interrupted=interrupted) | again)
    elif cells:
        text = matrix_text(cells, absent) + (report(["", *reasons]) if reasons else "")
        print_text(answer_of(text, quiet=False))
    if html is not None:
        from diffuzz.pages import matrix as pages

        text = pages.page(matrix_json(target, given, cells, absent, interrupted=interrupted) | again)
        if failed := written("--html", html, text):
            return failed
    code = unfinished(len(cells), planned, "pairs") if interrupted else 0
    if keeper is not None and keeper.failures:
        return complain("; ".join(keeper.failures), BAD_INPUT)
    return CONFIRMED if matrix.outside(cells) else code


def _reasons(
    target: Target, given: Mapping[str, object], cells: Sequence[Cell], library: str | None, candidate: Judge | None
) -> list[str]:
    """Why the results of pairs differ: in what their fingerprints do, where both have one."""
    from diffuzz.fingerprinting.differing import explained, fingerprints
    from diffuzz.judging.evidence import Agreement

    pairs = [(cell.a, cell.b) for cell in cells if cell.agreement is not Agreement.BITS]
    names = dict.fromkeys(name for pair in pairs for name in pair)
    try:
        found, missing = fingerprints(target, given, names, library, candidate)
    except KeyboardInterrupt:
        # What the searches found is printed.
        return ["The user interrupted the search for reasons."]
    return [*explained(found, pairs), *(f"No fingerprint of {name}: {text}." for name, text in missing.items())]


def _command(
    target: str, settings: tuple[tuple[str, str], ...], others: Mapping[str, str | None], budget: float, seed: int
) -> str:
    """The command line that makes this matrix again, with ``others`` of its options."""
    words = ["matrix", "--target", target, *given_words(settings, others)]
    return command_line(*words, "--budget", f"{budget:g}s", "--seed", seed)


def matrix_progress() -> Callable[[Cell], None] | None:
    """What prints a line on stderr for each pair, or None if that is no terminal."""
    from diffuzz.cli.progress import line_printer

    say = line_printer()
    return None if say is None else lambda cell: say(f"{cell.a}, {cell.b}: {cell.agreement.value}")


def matrix_json(
    target: Target,
    given: Mapping[str, object],
    cells: Sequence[Cell],
    absent: Sequence[str],
    *,
    interrupted: bool = False,
) -> dict[str, object]:
    """Every cell, with its value, agreement, the numbers at the worst element and its witness; ``interrupted`` if some
    are missing.
    """
    from diffuzz.corpus.environment import environment

    return {
        "target": target.name,
        "params": dict(target.contract_params(given)),
        "cells": [
            {
                "kernels": list(cell.result.kernels or (cell.a, cell.b)),
                "value": json_number(cell.value),
                "measure": cell.result.measurement.measure,
                "agreement": cell.agreement.value,
                "detail": {
                    name: json_number(value) for name, value in cell.result.measurement.evidence.as_dict().items()
                },
                "failure": cell.result.failure,
                "evaluations": cell.result.evaluations,
                "witness": None if cell.witness is None else str(cell.witness),
            }
            for cell in cells
        ],
        "missing": list(absent),
        "interrupted": interrupted,
        "environment": environment() | {k: v for cell in cells for k, v in cell.result.libraries.items()},
    }


def matrix_text(cells: Sequence[Cell], absent: Sequence[str]) -> str:
    """The triangle of values, with how each pair agrees, and a line for each that disagrees."""
    from diffuzz.judging.evidence import Agreement

    found = {(cell.a, cell.b): cell for cell in cells}
    names = list(dict.fromkeys(name for pair in found for name in pair))
    rows = [[escaped(a), *(_cell_text(found.get((a, b))) for b in names[1:])] for a in names[:-1]]
    headings = ["", *map(escaped, names[1:])]
    lines = table(headings, rows, width=_WIDTH, wraps=False)
    if max(map(len, lines)) > at_most(_WIDTH):
        # Its words would be broken: each pair has a line of its own instead.
        pairs = [(report([f"{cell.a}, {cell.b}"]).rstrip(), _cell_text(cell)) for cell in cells]
        wide = max((len(pair) for pair, _ in pairs), default=0)
        lines = [f"  {pair:{wide}}  {text}" for pair, text in pairs]
    if cells:
        lines += ["", f"Values: {cells[0].result.measurement.measure}. How they agree is as far as was seen."]
    for cell in cells:
        if cell.agreement is Agreement.OUTSIDE:
            why = cell.result.failure or _errors(cell)
            where = f"; witness in {cell.witness}" if cell.witness else ""
            lines.append(f"{cell.a} and {cell.b} do not agree: {why}{where}.")
    libraries = {name: text for cell in cells for name, text in cell.result.libraries.items()}
    return report([*lines, *libraries_text(libraries), *(f"Not here: {line}." for line in absent)])


def _cell_text(cell: Cell | None) -> str:
    return "" if cell is None else f"{cell.value:.3g}, {cell.agreement.value}"


def _errors(cell: Cell) -> str:
    from diffuzz.judging.evidence import Compared

    found = cell.result.measurement.evidence
    if not isinstance(found, Compared):
        raise TypeError("a pair that does not agree has evidence")
    if found.errors is None:
        exact = "" if found.exact is None else f", where {found.exact:.9g} is exact"
        return f"{cell.value:g} elements differ, the first is {found.a:.9g} against {found.b:.9g}{exact}"
    a, b = found.errors
    return f"{cell.a} has {a:.3g} of its a-priori bound, {cell.b} {b:.3g}"
