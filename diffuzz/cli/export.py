"""``diffuzz export``: conformance vectors, for tests in any language."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import click

from diffuzz.cli.options import (
    FOLDER,
    JSON,
    PARAMS,
    SEED,
    TARGET,
    VERBOSITY,
    answer_of,
    given_parameters,
    print_json,
    print_text,
    report,
)
from diffuzz.cli.tables import params_text
from diffuzz.replacing import replace

if TYPE_CHECKING:
    from diffuzz.studies.vectors.choosing import Chosen


@click.command("export")
@click.argument("folder", metavar="DIR", type=FOLDER)
@TARGET
@PARAMS
@click.option("--cases", type=click.IntRange(1, 1000), default=64, show_default=True, help="Number of cases, at most.")
@click.option("--seed", type=SEED, default=0, show_default=True, help="Random seed.")
@VERBOSITY
@JSON
def command(
    folder: Path,
    target_name: str,
    settings: tuple[tuple[str, str], ...],
    cases: int,
    seed: int,
    quiet: bool,
    as_json: bool,
) -> int:
    """Write conformance vectors of an operation: chosen inputs, exact results, and what each element may be off by."""
    from diffuzz.cli.options import target_named
    from diffuzz.studies.vectors.choosing import choose

    target = target_named(target_name)
    given = given_parameters(settings)
    folder.mkdir(parents=True, exist_ok=True)
    chosen = choose(target, target.contract.with_scalars(given) if target.contract else given, cases=cases, seed=seed)
    path = folder / f"{_stem(target.name, given)}.safetensors"
    beside = path.with_suffix(".json")
    content = chosen.vectors.packed()
    replace(path, (content,))
    replace(beside, (chosen.vectors.sidecar(),))
    if as_json:
        print_json(export_json(chosen, path, beside, len(content)))
    else:
        print_text(answer_of(export_text(chosen, path, beside, len(content)), quiet))
    return 0


def _stem(target: str, given: dict[str, str]) -> str:
    """The name of the file without its suffix: the target, and the parameters that were given."""
    parts = [target, *(f"{name}={value}" for name, value in sorted(given.items()))]
    return re.sub(r"[^\w.=-]", "-", "-".join(parts))


def export_json(chosen: Chosen, path: Path, beside: Path, nbytes: int) -> dict[str, object]:
    """Where the files are, and what is in them."""
    vectors = chosen.vectors
    return {
        "file": str(path),
        "sidecar": str(beside),
        "target": vectors.target,
        "parameters": dict(vectors.params),
        "seed": vectors.seed,
        "cases": len(vectors.cases),
        "bytes": nbytes,
        "mutants": len(chosen.mutants),
        "killed": chosen.killed,
    }


def export_text(chosen: Chosen, path: Path, beside: Path, nbytes: int) -> str:
    """The same in words."""
    vectors = chosen.vectors
    why = (
        f"chosen for {len(chosen.mutants)} wrong implementations, of which they tell {chosen.killed} from a right one"
        if chosen.mutants
        else "structured cases of small sizes: no wrong implementations with these parameters are known here"
    )
    return report(
        [
            f"{path}: {len(vectors.cases)} cases, {nbytes} bytes; {why}.",
            f"  signature   {vectors.signature}",
            f"  parameters  {params_text(vectors.params)}",
            f"  described   {beside}",
        ]
    )
