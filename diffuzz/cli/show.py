"""``diffuzz show``: an entry for people."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import click

from diffuzz.cli.options import (
    CANDIDATE,
    JSON,
    PLACE,
    answer_of,
    completed,
    files,
    print_text,
    report,
)
from diffuzz.cli.search_text import company_text
from diffuzz.cli.tables import params_text

if TYPE_CHECKING:
    from diffuzz.corpus.entry import Counterexample
    from diffuzz.corpus.lost import Lost


@click.command("show")
@click.argument("entry", type=PLACE, shell_complete=completed("entries"))
@click.option(
    "--python",
    "as_program",
    is_flag=True,
    help="Print a program that needs NumPy only: it calls the function, and shows how far the result is off.",
)
@CANDIDATE
@files
@JSON
def command(entry: Path, as_program: bool, candidates: tuple[str, ...], as_json: bool) -> int:
    """Show a corpus entry: the witness, what it confirms, and how it was found."""
    from diffuzz.corpus import files as store
    from diffuzz.corpus import lost
    from diffuzz.corpus.entry import dumps

    if as_program and as_json:
        raise click.UsageError("--python and --json: give one of them")
    if candidates and not as_program:
        raise click.UsageError("--candidate: it is for --python; a report needs no function")
    loaded = store.load_any(entry)
    if isinstance(loaded, lost.Lost):
        if as_program:
            # Says why.
            store.load(entry)
        text = answer_of(lost_text(loaded, entry), quiet=False)
        print_text(lost.dumps(loaded, indent=None) + "\n" if as_json else text)
        return 0
    if as_program:
        from diffuzz.corpus.candidates import by_name, function_for, parse
        from diffuzz.corpus.snippet import snippet

        given = by_name(parse(candidates), (loaded.candidate,))
        print_text(snippet(loaded, function_for(given, loaded.candidate)))
        return 0
    print_text(dumps(loaded, indent=None) + "\n" if as_json else answer_of(entry_text(loaded, entry), quiet=False))
    return 0


def lost_text(entry: Lost, path: Path) -> str:
    """What an entry of a property says, how it was found, where it was seen."""
    from diffuzz.judging.handing import Handing

    found = ", ".join(f"{name} {value}" for name, value in entry.found.items() if name != "command")
    arrays, measured = Handing.recorded(entry.environment), entry.environment
    who = f"  candidate     {entry.candidate}" if entry.candidate else f"  kernels       {entry.kernels}"
    numbers = {**entry.sizes, **entry.numbers}
    lines = [
        str(path),
        "",
        f"{entry.status}: {entry.target}, property {entry.name}, {entry.way}",
        "",
        *(f"  {line}" for line in entry.seen.split("; ")),
        "",
        who,
        *([] if arrays == Handing() else [f"  called with   arrays of {arrays}"]),
        f"  parameters    {params_text(entry.params)}",
        f"  integers      {', '.join(f'{name}={number}' for name, number in numbers.items())}",
        *(f"  {name:13} from {file}" for name, file in entry.files.items()),
        "",
        f"  found by      {found}",
        f"  command       {entry.found.get('command', '')}",
        f"  measured on   {measured.get('cpu', '')}, diffuzz {measured.get('diffuzz', '')}, "
        f"numpy {measured.get('numpy', '')}",
        f"  digest        {entry.digest[:12]}",
    ]
    return report(lines)


def entry_text(entry: Counterexample, path: Path) -> str:
    """What an entry shows, the case, how it was found, where it was measured."""
    from diffuzz import targets
    from diffuzz.cases.text import case_text
    from diffuzz.judging.handing import Handing

    bound = "none known" if entry.bound is None else f"{entry.bound.value:.7g}  ({entry.bound.because})"
    found = ", ".join(f"{name} {value}" for name, value in entry.found.items() if name != "command")
    judged = [f"  candidate     {entry.candidate}"] if entry.candidate else []
    arrays = Handing.recorded(entry.environment)
    judged += [] if arrays == Handing() else [f"  called with   arrays of {arrays}"]
    judged += [f"  result of     {entry.result.engine}"] if entry.result else []
    judged += [f"  kernels       {' against '.join(entry.kernels)}"] if entry.kernels else []
    measured = entry.environment
    contract = targets.get(entry.target).contract if entry.judges else None
    instead = {} if contract is None else contract.instead(entry.params, entry.space.filled(entry.case.batch()))
    scalars = () if contract is None else tuple(scalar.array for scalar in contract.scalars)
    lines = [
        str(path),
        "",
        f"{entry.verdict.value}: {entry.target}, value > {entry.threshold:.7g}",
        "",
        f"  value         {entry.value:.9g}" + (f"  ({entry.value.hex()})" if math.isfinite(entry.value) else ""),
        f"  proven bound  {bound}",
        f"  measure       {entry.measure}",
        f"  {'parameters' if judged else 'domain    '}    {params_text(entry.params)}",
        *judged,
        *(f"  {name:13} from {file}" for name, file in entry.files.items()),
        "",
        *("  " + line for line in case_text(entry.space, entry.case, instead).splitlines()),
        *company_text(entry.space, entry.company, scalars),
        *([] if entry.chance is None else ["", f"  by chance     {entry.chance}, in a fresh process"]),
        "",
        f"  found by      {found}",
        f"  command       {entry.found.get('command', '')}",
        f"  measured on   {measured.get('cpu', '')}, diffuzz {measured.get('diffuzz', '')}, "
        f"numpy {measured.get('numpy', '')}",
        f"  digest        {entry.digest[:12]}",
    ]
    return report(lines)
