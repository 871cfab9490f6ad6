"""``diffuzz claims``: the published claims, reproduced, searched and judged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from diffuzz.cli.options import (
    BAD_INPUT,
    FOLDER,
    JSON,
    PLACE,
    SECONDS,
    SEED,
    SEQUENCE,
    VERBOSITY,
    complain,
    print_json,
    print_text,
    sequence,
    unfinished,
)
from diffuzz.cli.saving import HTML, check_writable, written
from diffuzz.cli.tables import columns, folded, number, table
from diffuzz.corpus.spelling import command_line, json_number

if TYPE_CHECKING:
    from diffuzz.studies.claims.model import Subject
    from diffuzz.studies.claims.settling import Settled


# Columns of the table, and the fewest in which it can be read.
_WIDTH, _NARROWEST = 150, 100


@click.command("claims")
@click.option("--budget", type=SECONDS, default="5s", show_default=True, help="Time to search for each claim.")
@click.option("--seed", type=SEED, default=0, show_default=True, help="Random seed.")
@click.option("--model", type=PLACE, help="A GGUF or an .apr file, for the claims about a model.")
@SEQUENCE
@click.option("--corpus", type=FOLDER, help="Save the witnesses there [default: nowhere].")
@HTML
@VERBOSITY
@JSON
def command(
    budget: float,
    seed: int,
    model: Path | None,
    tokens: tuple[int, ...] | None,
    prompt: str | None,
    corpus: Path | None,
    html: Path | None,
    as_json: bool,
) -> int:
    """Reproduce the published claims, search each one, and judge it."""
    from diffuzz.corpus import files as store
    from diffuzz.corpus.record import Keeper
    from diffuzz.studies.claims import settling

    if html is not None:
        check_writable("--html", html, *([] if model is None else [model]))
    # Looked at before the searches, so that a wrong model does not cost their time.
    subject = _subject(model, tokens, prompt, seed)
    if corpus is not None:
        store.check_writable(corpus)
    keeper = None if corpus is None else Keeper(corpus)
    settled = settling.settle(budget, seed, save=keeper, subject=subject, on_row=claims_progress())
    again = {"budget_s": budget, "seed": seed, "command": _command(budget, seed, model, tokens, prompt)}
    if as_json:
        print_json(claims_json(settled, subject) | again)
    elif settled:
        print_text(claims_text(settled, subject))
    if html is not None:
        from diffuzz.pages import claims as pages

        text = pages.page(claims_json(settled, subject) | again)
        if failed := written("--html", html, text):
            return failed
    if keeper is not None and keeper.failures:
        return complain("; ".join(keeper.failures), BAD_INPUT)
    planned = len(settling.rows(model=model is not None))
    return unfinished(len(settled), planned, "claims") if len(settled) < planned else 0


def _command(budget: float, seed: int, model: Path | None, tokens: tuple[int, ...] | None, prompt: str | None) -> str:
    """The command line that settles the claims again."""
    words: list[object] = ["claims", "--budget", f"{budget:g}s", "--seed", seed]
    words += [] if model is None else ["--model", model]
    words += [] if tokens is None else ["--tokens", ",".join(map(str, tokens))]
    words += [] if prompt is None else ["--prompt", prompt]
    return command_line(*words)


def _subject(path: Path | None, tokens: tuple[int, ...] | None, prompt: str | None, seed: int) -> Subject | None:
    if path is None:
        if tokens is not None or prompt is not None:
            raise click.UsageError("--tokens and --prompt are for --model, which is not given")
        return None
    from diffuzz.studies.claims import model

    subject = model.opened(path, seed=seed)
    if tokens is None and prompt is None:
        return subject
    return model.opened(path, sequence(subject.model, tokens, prompt))


def claims_progress() -> Callable[[Settled], None] | None:
    """What prints a line on stderr for each settled claim, or None if that is no terminal."""
    from diffuzz.cli.progress import line_printer

    say = line_printer()
    return None if say is None else lambda one: say(f"{one.row.id}  {one.row.claim}: {one.verdict}")


def claims_json(settled: list[Settled], subject: Subject | None = None) -> dict[str, object]:
    """``{"claims": [...], "variants": [...], "interrupted": false}``: the published rows, the same operations asked
    otherwise, and whether some are missing; and where that was. With a model also ``model``: its path, architecture,
    digest and tokens.
    """
    from diffuzz.corpus.environment import environment
    from diffuzz.studies.claims.settling import rows as planned

    def rows(variant: bool) -> list[dict[str, object]]:
        return [
            {
                "id": one.row.id,
                "claim": one.row.claim,
                "published": one.row.published,
                "reproduced": {name: _json_figure(value) for name, value in one.reproduced.items()},
                "found": None if one.found is None else json_number(one.found),
                "bound": None if one.bound is None else json_number(one.bound),
                "measure": one.measure,
                "verdict": one.verdict,
                "witness": str(one.witness) if one.witness else None,
            }
            for one in settled
            if one.row.variant is variant
        ]

    about = {} if subject is None else {"model": _model_json(subject)}
    interrupted = len(settled) < len(planned(model=subject is not None))
    return about | {
        "claims": rows(False),
        "variants": rows(True),
        "interrupted": interrupted,
        "environment": environment(),
    }


def _model_json(subject: Subject) -> dict[str, object]:
    return {
        "path": str(subject.path),
        "architecture": subject.model.architecture,
        "sha256": subject.model.sha256,
        "tokens": subject.tokens.tokens.tolist(),
    }


def _json_figure(value: object) -> object:
    # A model's weights may be anything, and so the figures that are made of them.
    return json_number(value) if isinstance(value, float) else value


def claims_text(settled: list[Settled], subject: Subject | None = None) -> str:
    """The table of the claims: published, reproduced, found, bound, verdict; and what a model ran over."""
    rows = [
        (
            f"{'' if one.row.variant else one.row.id.removeprefix('FFN-GGUF-') + ' '}{one.row.claim}",
            one.row.published,
            "\n".join(f"{name} {_figure(value)}" for name, value in one.reproduced.items()),
            "" if one.found is None else number(one.found),
            "" if one.bound is None else number(one.bound),
            one.verdict,
        )
        for one in settled
    ]
    headings = ("claim", "published", "reproduced", "largest found", "bound", "verdict")
    lines = table(headings, rows, width=_WIDTH) if columns() >= _NARROWEST else folded(_one_by_one(headings, rows))
    if subject is not None:
        tokens = ",".join(map(str, subject.tokens.tokens.tolist()))
        lines += folded([
            f"Model: {subject.path}, {subject.model.architecture}, {len(subject.opened.steps)} steps. Tokens: {tokens}."
        ])  # fmt: skip
    return "\n".join(lines) + "\n"


def _one_by_one(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """What a row of the table has, for a terminal that is too narrow for it: the claim, and below it the rest."""
    lines: list[str] = []
    for claim, *cells in rows:
        said = [(name, cell.replace("\n", ", ")) for name, cell in zip(headings[1:], cells, strict=True) if cell]
        lines += [claim, *(f"  {name:13}  {cell}" for name, cell in said), ""]
    return lines


def _figure(value: object) -> str:
    return f"{value:.5g}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)
