"""``diffuzz minimise``: a simpler witness of an entry."""

from __future__ import annotations

from pathlib import Path

import click

from diffuzz.cli.options import (
    ARRAYS,
    BAD_INPUT,
    CANDIDATE,
    JSON,
    LIBRARY,
    LONGEST,
    MISSING,
    PLACE,
    SHARE,
    TIMEOUT,
    VERBOSITY,
    answer_of,
    check_arrays,
    complain,
    completed,
    files,
    print_json,
    print_text,
)
from diffuzz.cli.show import entry_text
from diffuzz.corpus.spelling import json_number


@click.command("minimise")
@click.argument("entry", type=PLACE, shell_complete=completed("entries"))
@click.option("--keep", type=SHARE, default=0.9, show_default=True, help="Share of the value to keep.")
@CANDIDATE
@ARRAYS
@TIMEOUT
@LIBRARY
@LONGEST
@files
@VERBOSITY
@JSON
def command(
    entry: Path,
    keep: float,
    candidates: tuple[str, ...],
    arrays: str | None,
    device: str | None,
    timeout: float,
    library: str | None,
    longest: float,
    quiet: bool,
    as_json: bool,
) -> int:
    """Make the witness of a corpus entry simpler, and save it as another entry in the same corpus (or beside it)."""
    from diffuzz.corpus import files as store
    from diffuzz.corpus.candidates import by_name, function_for, parse
    from diffuzz.corpus.entry import NeedsCandidateError
    from diffuzz.corpus.record import minimised
    from diffuzz.corpus.replay import NeedsTimeError

    check_arrays(candidates, arrays, device)
    old = store.load(entry)
    folder = entry.resolve().parent
    corpus = folder.parent if folder.name == old.target else folder
    store.check_writable(corpus / old.target)
    judged = function_for(by_name(parse(candidates, timeout, arrays, device), (old.candidate,)), old.candidate)
    try:
        new = minimised(old, keep, candidate=judged, library=library, longest=longest)
    except (NeedsCandidateError, NeedsTimeError) as error:
        return complain(f"{entry}: {error}", MISSING)
    path, failure = entry, None
    if new != old:
        try:
            path = store.save(new, corpus, always=True)
        except store.CorpusError as error:
            # What was found is printed all the same.
            failure = str(error)
    if as_json:
        written = None if failure is not None else str(path)
        print_json({"entry": str(entry), "minimised": written, "value": json_number(new.value)})
    else:
        head = "Nothing simpler was found.\n\n" if new == old else ""
        print_text(answer_of(head + entry_text(new, path if failure is None else Path("(not saved)")), quiet))
    return 0 if failure is None else complain(failure, BAD_INPUT)
