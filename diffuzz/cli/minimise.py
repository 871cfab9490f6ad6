"""``diffuzz minimise``: a simpler witness of an entry."""

from __future__ import annotations

from pathlib import Path

import click

from diffuzz.cli.options import CANDIDATE, JSON, LIBRARY, SHARE, TIMEOUT, files, print_json, print_text
from diffuzz.cli.show import entry_text
from diffuzz.cli.tables import json_number


@click.command("minimise")
@click.argument("entry", type=click.Path(path_type=Path))
@click.option("--keep", type=SHARE, default=0.9, show_default=True, help="Share of the value to keep.")
@CANDIDATE
@TIMEOUT
@LIBRARY
@files
@JSON
def command(entry: Path, keep: float, candidate: str | None, timeout: float, library: str | None, as_json: bool) -> int:
    """Make the witness of a corpus entry simpler, and save it as another entry in the same corpus (or beside it)."""
    from diffuzz.corpus import files as store
    from diffuzz.corpus.record import minimised
    from diffuzz.judging.question import Judge

    old = store.load(entry)
    folder = entry.resolve().parent
    corpus = folder.parent if folder.name == old.target else folder
    store.check_writable(corpus / old.target)
    judged = None if candidate is None else Judge(candidate, timeout=timeout)
    new = minimised(old, keep, candidate=judged, library=library)
    path = entry if new == old else store.save(new, corpus, always=True)
    if as_json:
        print_json({"entry": str(entry), "minimised": str(path), "value": json_number(new.value)})
    else:
        print_text(("Nothing simpler was found.\n\n" if new == old else "") + entry_text(new, path))
    return 0
