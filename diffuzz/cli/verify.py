"""``diffuzz verify``: results that were computed elsewhere, held against conformance vectors."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from diffuzz.cli.options import CONFIRMED, FILE, JSON, VERBOSITY, answer_of, print_json, print_text, report
from diffuzz.cli.tables import number
from diffuzz.corpus.spelling import json_number

if TYPE_CHECKING:
    from diffuzz.vectors.vectors import Vectors
    from diffuzz.vectors.verifying import Verification, Worst


@click.command("verify")
@click.argument("file", metavar="FILE", type=FILE)
@click.argument("results", metavar="RESULT.safetensors", type=FILE)
@VERBOSITY
@JSON
def command(file: Path, results: Path, quiet: bool, as_json: bool) -> int:
    """Hold results that were computed elsewhere against the vectors in FILE (see `export`)."""
    from diffuzz.vectors import vectors, verifying

    expected = vectors.read(file)
    verification = verifying.verify(expected, verifying.results_of(results), name=str(results))
    if as_json:
        print_json(verify_json(expected, verification))
    else:
        print_text(answer_of(verify_text(expected, verification, results), quiet))
    return 0 if verification.right else CONFIRMED


def verify_json(vectors: Vectors, found: Verification) -> dict[str, object]:
    """The counts, and the worst element."""
    worst = found.worst
    return {
        "verdict": "UNRESOLVED" if found.right else "CONFIRMED",
        "target": vectors.target,
        "parameters": dict(vectors.params),
        "cases": found.cases,
        "elements": found.elements,
        "judged": found.judged,
        "wrong": found.wrong,
        "wrong_cases": list(found.wrong_cases),
        "worst": worst
        and {
            "case": worst.case,
            "result": worst.result,
            "index": list(worst.index),
            "got": json_number(worst.got),
            "exact": json_number(worst.exact),
            "allowance": json_number(worst.allowance),
            "ratio": json_number(worst.ratio),
        },
    }


def verify_text(vectors: Vectors, found: Verification, results: Path) -> str:
    """The verdict in one line, and the worst element."""
    if found.worst is None or not found.elements:
        return report([f"UNRESOLVED: {results} has nothing that is judged."])
    if found.right:
        return report(
            [
                f"UNRESOLVED: {results} is right in all {found.cases} cases of {vectors.target} (at most "
                f"{number(found.worst.ratio)} of what is allowed, {found.judged} elements); that is no proof that the "
                "function is right."
            ]
        )
    cases = ", ".join(found.wrong_cases[:8]) + (", ..." if len(found.wrong_cases) > 8 else "")
    return report(
        [
            f"CONFIRMED: {results} is wrong in {len(found.wrong_cases)} of {found.cases} cases of {vectors.target} "
            f"({found.wrong} of {found.judged} elements).",
            "",
            *_worst(vectors, found.worst),
            f"  wrong cases  {cases}",
        ]
    )


def _worst(vectors: Vectors, worst: Worst) -> list[str]:
    import numpy as np

    case = vectors.cases[worst.case]
    given = [*case.positional.items(), *case.named.items()]
    said = [
        f"{name} {value.dtype}{list(value.shape)}" if isinstance(value, np.ndarray) else f"{name} {value}"
        for name, value in given
    ]
    place = ", ".join(map(str, worst.index))
    return [
        f"At element [{place}] of {worst.case}/result/{worst.result}, called with {', '.join(said)}:",
        f"  exact        {worst.exact!r}",
        f"  got          {worst.got!r}",
        f"  allowance    {number(worst.allowance)}",
        f"  value        {number(worst.ratio)} (|got - exact| / allowance; more than 1 is wrong)",
    ]
