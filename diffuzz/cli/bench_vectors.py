"""``diffuzz bench vectors``: how many of the mutants the exported vectors kill."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from diffuzz.cli.options import (
    CONFIRMED,
    JSON,
    SEED,
    VERBOSITY,
    completed,
    print_json,
    print_text,
    unfinished,
)
from diffuzz.cli.tables import table

if TYPE_CHECKING:
    from diffuzz.studies.vectors.scoring import Row


@click.command("vectors")
@click.argument("names", metavar="[TARGET]...", nargs=-1, shell_complete=completed("targets"))
@click.option("--cases", type=click.IntRange(1, 1000), default=64, show_default=True, help="Cases of a file, at most.")
@click.option("--seed", type=SEED, default=0, show_default=True, help="Random seed.")
@VERBOSITY
@JSON
def command(names: tuple[str, ...], cases: int, seed: int, as_json: bool) -> int:
    """Call wrong kernels (and correct ones) with exported vectors: how many are killed, is a right one flagged."""
    from diffuzz.cli.progress import line_printer
    from diffuzz.studies.vectors import scoring

    say = line_printer()
    planned = len(scoring.groups(names or None))
    on_row = None if say is None else lambda row: say(f"{_name(row)}: {row.killed} of {row.mutants}")
    rows = scoring.score(names or None, cases=cases, seed=seed, on_row=on_row)
    interrupted = len(rows) < planned
    if as_json:
        print_json(vectors_json(rows, interrupted=interrupted))
    elif rows:
        print_text(vectors_text(rows))
    if interrupted:
        return unfinished(len(rows), planned, "files of vectors")
    return 0 if _passes(rows) else CONFIRMED


def _name(row: Row) -> str:
    return " ".join([row.target, *(f"{name}={value}" for name, value in row.params.items())])


def _passes(rows: list[Row]) -> bool:
    """Whether each operation has its share of killed mutants, and no control is flagged."""
    from diffuzz.studies.vectors.scoring import MARK, of_target

    return all(
        sum(one.killed for one in own) >= MARK * sum(one.mutants for one in own) and not any(one.flagged for one in own)
        for own in of_target(rows).values()
    )


def vectors_json(rows: list[Row], *, interrupted: bool = False) -> dict[str, object]:
    """The counts of each operation and of all, and every row."""
    import attrs

    from diffuzz.studies.vectors.scoring import MARK, of_target

    return {
        "mark": MARK,
        "passed": _passes(rows),
        "total": _counts([one for one in rows if not one.refused]),
        "operations": {name: _counts(own) for name, own in of_target(rows).items()},
        "rows": [attrs.asdict(row) | {"killed": row.killed} for row in rows],
        "interrupted": interrupted,
    }


def _counts(rows: list[Row]) -> dict[str, int]:
    return {
        "files": len(rows),
        "mutants": sum(row.mutants for row in rows),
        "killed": sum(row.killed for row in rows),
        "held_out": sum(row.held_out for row in rows),
        "controls": sum(row.controls for row in rows),
        "flagged": sum(len(row.flagged) for row in rows),
        "largest": max((row.nbytes for row in rows), default=0),
    }


def vectors_text(rows: list[Row]) -> str:
    """A line for each operation, the mutants that are left, and the total."""
    from diffuzz.studies.vectors.scoring import of_target

    headings = ("", "files", "killed", "", "held out", "controls flagged", "largest file", "not killed")
    cells = []
    for name, own in of_target(rows).items():
        counts = _counts(own)
        cells.append(
            (
                name,
                str(counts["files"]),
                f"{counts['killed']} of {counts['mutants']}",
                _share(counts["killed"], counts["mutants"]),
                _share(counts["held_out"], counts["mutants"]),
                f"{counts['flagged']} of {counts['controls']}",
                f"{counts['largest']:,}",
                ", ".join(one for row in own for one in (*row.alive, *(f"FLAGGED {each}" for each in row.flagged))),
            )
        )
    total = _counts([one for one in rows if not one.refused])
    refused = [row for row in rows if row.refused]
    lines = [
        *table(headings, cells, width=150),
        "",
        f"{total['killed']} of {total['mutants']} mutants killed ({_share(total['held_out'], total['mutants'])} by "
        f"cases chosen for others), {total['flagged']} of {total['controls']} controls flagged",
    ]
    if refused:
        lines.append(
            f"{len(refused)} parameters of {', '.join(sorted({row.target for row in refused}))} have no vectors"
        )
    return "\n".join(lines) + "\n"


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.0%}" if whole else ""
