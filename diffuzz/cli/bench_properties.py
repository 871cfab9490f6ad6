"""``diffuzz bench properties``: which functions are found not to keep a property."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from diffuzz.cli.options import (
    JSON,
    SECONDS,
    SEED,
    VERBOSITY,
    print_json,
    print_text,
    unfinished,
)
from diffuzz.cli.tables import table

if TYPE_CHECKING:
    from diffuzz.studies.properties.scoring import Row


@click.command("properties")
@click.argument("names", nargs=-1)
@click.option("--budget", type=SECONDS, default="10s", show_default=True, help="Time to search for each function.")
@click.option("--seed", type=SEED, default=0, show_default=True, help="Random seed.")
@VERBOSITY
@JSON
def command(names: tuple[str, ...], budget: float, seed: int, as_json: bool) -> int:
    """Ask functions that lose one property, and functions that keep all, as `search --property all` does.

    NAMES are those of functions, such as batch/one-row, or of properties, or control.
    """
    from diffuzz.cli.progress import line_printer
    from diffuzz.studies.properties import scoring

    say = line_printer()
    planned = len(scoring.named(names or None))
    rows = scoring.score(
        budget, seed, names or None, on_row=None if say is None else lambda row: say(f"{row.name}: {_found(row)}")
    )
    interrupted = len(rows) < planned
    if as_json:
        print_json(properties_json(rows, interrupted=interrupted))
    elif rows:
        print_text(properties_text(rows))
    return unfinished(len(rows), planned, "functions") if interrupted else 0


def properties_json(rows: list[Row], *, interrupted: bool = False) -> dict[str, object]:
    """The counts, and every row; ``interrupted`` if some are missing."""
    import attrs

    from diffuzz.studies.properties.scoring import apart

    wrong, right = apart(rows)
    return {
        "mutants": len(wrong),
        "killed": sum(row.killed for row in wrong),
        "controls": len(right),
        "flagged": sum(row.killed for row in right),
        "rows": [attrs.asdict(row) | {"killed": row.killed} for row in rows],
        "interrupted": interrupted,
    }


def properties_text(rows: list[Row]) -> str:
    """The table, and the counts by property."""
    from diffuzz.studies.properties.scoring import apart

    cells = [
        (row.name, row.target, row.wrong, "yes" if row.killed else "no", _found(row), _sizes(row), f"{row.seconds:.1f}")
        for row in rows
    ]
    headings = ("", "target", "wrong", "found", "not kept", "smallest sizes", "seconds")
    wrong, right = apart(rows)
    lines = [*table(headings, cells, width=190), ""]
    for name in dict.fromkeys(row.loses for row in wrong):
        own = [row for row in wrong if row.loses == name]
        lines.append(f"{name:<8}  {sum(row.killed for row in own)} of {len(own)} mutants killed")
    lines.append(
        f"all       {sum(row.killed for row in wrong)} of {len(wrong)} mutants killed, "
        f"{sum(row.killed for row in right)} of {len(right)} controls flagged"
    )
    return "\n".join(lines) + "\n"


def _found(row: Row) -> str:
    return ", ".join(f"{name}{' (broken)' if how == 'broken' else ''}" for name, how in row.found.items())


def _sizes(row: Row) -> str:
    return ", ".join(
        f"{name}={size}" + (f" (not {row.not_at[name]})" if name in row.not_at else "")
        for name, size in row.sizes.items()
    )
