"""``diffuzz check``: every step of a run of a model, recomputed from the run's own inputs."""

from __future__ import annotations

from pathlib import Path

import click

from diffuzz.cli.check_json import check_json
from diffuzz.cli.check_text import check_text
from diffuzz.cli.options import (
    BAD_INPUT,
    CONFIRMED,
    DEFAULT_CORPUS,
    FILE,
    FOLDER,
    JSON,
    MODEL,
    SEED,
    VERBOSITY,
    answer_of,
    complain,
    print_json,
    print_text,
)
from diffuzz.cli.saving import HTML, check_writable, written
from diffuzz.corpus.spelling import command_line


@click.command("check")
@MODEL
@click.option("--dump", "dump_file", required=True, type=FILE, metavar="FILE", help="What an engine computed.")
@click.option("--suspects", is_flag=True, help="Exit with 1 if a step is only suspect, too.")
@click.option("--seed", type=SEED, default=0, show_default=True, help="Random seed, of replicates moved by an ULP.")
@click.option(
    "--corpus", type=FOLDER, default=DEFAULT_CORPUS, show_default=True, help="Where witnesses of wrong steps are saved."
)
@click.option("--save/--no-save", default=True, help="Save a witness of each wrong step that a target can judge.")
@HTML
@VERBOSITY
@JSON
def command(
    model: Path,
    dump_file: Path,
    suspects: bool,
    seed: int,
    corpus: Path,
    save: bool,
    quiet: bool,
    verbose: bool,
    html: Path | None,
    as_json: bool,
) -> int:
    """Judge every step of a run by the bound of its own arithmetic, on the inputs that the run itself dumped."""
    from diffuzz.models import architectures, checking, not_finite
    from diffuzz.models import dump as dumps
    from diffuzz.models import model as models
    from diffuzz.models.checking import places
    from diffuzz.models.model import ModelError

    if html is not None:
        check_writable("--html", html, model, dump_file)
    about = model
    try:
        opened = models.open(model)
        architectures.steps(opened)
        about = dump_file
        dump = dumps.read(dump_file)
        found = checking.check(opened, dump, seed=seed)
        odd = not_finite.first(architectures.steps(opened), dump, found)
        where = [places.of(opened, dump, culprit) for culprit in found.culprits]
    except ModelError as error:
        return complain(f"{about}: {error}", BAD_INPUT)
    witnesses: list[str | None] = [None] * len(where)
    if save:
        from diffuzz.corpus import files as store
        from diffuzz.corpus import of_step

        for index, (culprit, place) in enumerate(zip(found.culprits, where, strict=True)):
            if not culprit.certain:
                continue
            try:
                witnesses[index] = of_step.saved(opened, dump, culprit, place, corpus)
            except store.CorpusError as error:
                # What was found is said all the same.
                complain(str(error), BAD_INPUT)
                break
    if as_json:
        print_json(check_json(found, odd, opened, dump, where, witnesses))
    else:
        print_text(answer_of(check_text(found, odd, dump, where, witnesses, verbose), quiet))
    if html is not None:
        from diffuzz.pages import check as pages

        again = command_line("check", "--model", model, "--dump", dump_file)
        failed = written("--html", html, pages.page(check_json(found, odd, opened, dump, where, witnesses), again))
        if failed:
            return failed
    return CONFIRMED if found.verdict == checking.WRONG or (suspects and found.culprits) else 0
