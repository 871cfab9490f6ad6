"""``diffuzz show``: an entry for people."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from diffuzz.cli.options import JSON, files, print_text
from diffuzz.cli.tables import params_text

if TYPE_CHECKING:
    from diffuzz.corpus.entry import Counterexample


@click.command("show")
@click.argument("entry", type=click.Path(path_type=Path))
@files
@JSON
def command(entry: Path, as_json: bool) -> int:
    """Show a corpus entry: the witness, what it confirms, and how it was found."""
    from diffuzz.corpus import files as store
    from diffuzz.corpus.entry import dumps

    loaded = store.load(entry)
    print_text(dumps(loaded, indent=None) + "\n" if as_json else entry_text(loaded, entry))
    return 0


def entry_text(entry: Counterexample, path: Path) -> str:
    """What an entry shows, the case, how it was found, where it was measured."""
    from diffuzz.cases.text import case_text, printable

    bound = "none known" if entry.bound is None else f"{entry.bound.value:.7g}  ({entry.bound.because})"
    found = ", ".join(f"{name} {value}" for name, value in entry.found.items() if name != "command")
    judged = [f"  candidate     {entry.candidate}"] if entry.candidate else []
    judged += [f"  kernels       {' against '.join(entry.kernels)}"] if entry.kernels else []
    measured = entry.environment
    lines = [
        printable(str(path)),
        "",
        f"{entry.verdict.value}: {entry.target}, value > {entry.threshold:.7g}",
        "",
        f"  value         {entry.value:.9g}  ({entry.value.hex()})",
        f"  proven bound  {bound}",
        f"  measure       {entry.measure}",
        f"  {'parameters' if judged else 'domain    '}    {params_text(entry.params)}",
        *judged,
        *(f"  {name:13} from {file}" for name, file in entry.files.items()),
        "",
        *("  " + line for line in case_text(entry.space, entry.case).splitlines()),
        "",
        f"  found by      {found}",
        f"  command       {entry.found.get('command', '')}",
        f"  measured on   {measured.get('cpu', '')}, diffuzz {measured.get('diffuzz', '')}, "
        f"numpy {measured.get('numpy', '')}",
        f"  digest        {entry.digest[:12]}",
    ]
    return "\n".join(lines) + "\n"
