"""``diffuzz bench kernelbench``: KernelBench's level 1, judged by bounds derived from its own references."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import click

from diffuzz.cli.options import JSON, SEED, VERBOSITY, print_json, print_text, unfinished
from diffuzz.cli.tables import table
from diffuzz.corpus.spelling import json_number

if TYPE_CHECKING:
    from diffuzz.studies.kernelbench.judging import Row, Seen


@click.command("kernelbench")
@click.argument("numbers", nargs=-1, type=int, metavar="[NUMBER]...")
@click.option("--seed", type=SEED, default=0, show_default=True, help="Random seed of weights and inputs.")
@VERBOSITY
@JSON
def command(numbers: tuple[int, ...], seed: int, as_json: bool) -> int:
    """Judge torch's results, and wrong ones, of KernelBench's level 1 by derived bounds. Needs the extra "torch"."""
    try:
        from diffuzz.studies.kernelbench import judging
        from diffuzz.studies.kernelbench.problems import PROBLEMS
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise ImportError("PyTorch is missing: install diffuzz with the extra torch") from error

    planned = len(numbers) or len(PROBLEMS)
    rows = judging.judged(numbers, seed=seed)
    interrupted = len(rows) < planned
    if as_json:
        print_json(kernelbench_json(rows, seed=seed, interrupted=interrupted))
    elif rows:
        print_text(kernelbench_text(rows))
    return unfinished(len(rows), planned, "problems") if interrupted else 0


def kernelbench_json(rows: list[Row], *, seed: int, interrupted: bool = False) -> dict[str, object]:
    """The counts, and every row; ``interrupted`` if some are missing."""
    import attrs
    import torch

    from diffuzz.corpus.environment import environment

    numbers = ("allowed", "wider", "float32", "bfloat16", "visible")
    return {
        "seed": seed,
        "problems": len(rows),
        "analysed": sum(row.problem is None for row in rows),
        "float32_inside": sum(row.float32 <= 1 for row in rows),
        "bfloat16_inside": sum(row.bfloat16 <= 1 for row in rows),
        **{
            f"{name}_found_by_{judge}": sum(getattr(getattr(row, name), judge) for row in rows if row.problem is None)
            for name in ("zeros", "rounded", "shifted")
            for judge in ("bound", "tolerance")
        },
        "rows": [attrs.asdict(row) | {name: json_number(getattr(row, name)) for name in numbers} for row in rows],
        "interrupted": interrupted,
        "environment": environment() | {"torch": torch.__version__},
    }


def kernelbench_text(rows: list[Row]) -> str:
    """The table, and a line for each question."""
    headings = (
        "",
        "problem",
        "allowed",
        "1e-4 / bound",
        "float32",
        "bfloat16",
        "zeros",
        "rounded",
        "off by 1 %",
        "visible",
    )
    cells = [(str(row.number), row.title, *_cells(row)) for row in rows]
    return "\n".join([*table(headings, cells, width=140), "", *_summary(rows)]) + "\n"


def _cells(row: Row) -> tuple[str, ...]:
    if row.problem is not None or row.zeros is None or row.rounded is None or row.shifted is None:
        return (row.problem or "", *[""] * 7)
    share = "" if math.isnan(row.visible) else f"{100 * row.visible:.0f} %"
    seen = (_seen(each) for each in (row.zeros, row.rounded, row.shifted))
    wider = f"{row.wider:,.2g}" if row.wider < 100 else f"{row.wider:,.0f}" if row.wider < math.inf else ""
    return f"{row.allowed:.1e}", wider, _number(row.float32), _number(row.bfloat16), *seen, share


def _number(ratio: float) -> str:
    return "" if math.isnan(ratio) else f"{ratio:.3f}"


def _seen(seen: Seen) -> str:
    """Who finds it: the bound, KernelBench's tolerance."""
    return {(True, True): "both", (True, False): "bound", (False, True): "tolerance", (False, False): "neither"}[
        seen.bound, seen.tolerance
    ]


def _summary(rows: list[Row]) -> list[str]:
    analysed = [row for row in rows if row.problem is None]
    narrow = [row for row in analysed if not math.isnan(row.bfloat16)]
    lines = [
        f"analysed    {len(analysed)} of {len(rows)}",
        f"inside      torch's float32 on {sum(row.float32 <= 1 for row in analysed)}, its bfloat16 on "
        f"{sum(row.bfloat16 <= 1 for row in narrow)} of the {len(narrow)} that it has kernels for",
    ]
    for name, text in (("zeros", "zeros"), ("rounded", "rounded"), ("shifted", "off by 1 %")):
        found = [getattr(row, name) for row in analysed]
        lines.append(
            f"{text:<11} the bound finds {sum(each.bound for each in found)}, "
            f"KernelBench's tolerance of 1e-4 {sum(each.tolerance for each in found)}"
        )
    return lines
