"""``diffuzz bench faults``: planted faults, and who names them."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from diffuzz.cli.options import FILE, JSON, SECONDS, SEED, VERBOSITY, print_json, print_text
from diffuzz.cli.tables import table
from diffuzz.corpus.spelling import json_number

if TYPE_CHECKING:
    from diffuzz.studies.faults.scoring import Rate, Row

_LEVELS = ("all taps", "f16 taps", "six taps", "l_out")


@click.command("faults")
@click.option("--faults", "count", type=click.IntRange(1, 100_000), default=120, show_default=True, help="Of each row.")
@click.option("--model", "path", type=FILE, help="A GGUF model [a small random one, made from the seed].")
@click.option("--architecture", type=click.Choice(("qwen2", "llama", "gemma3")), default="qwen2", show_default=True,
              help="Of the random model.")  # fmt: skip
@click.option("--level", "levels", multiple=True, type=click.Choice(_LEVELS), help="What is dumped (repeatable) [all].")
@click.option("--budget", type=SECONDS, default="1h", show_default=True, help="Time for all of it.")
@click.option("--seed", type=SEED, default=0, show_default=True, help="Random seed.")
@VERBOSITY
@JSON
def command(
    count: int, path: Path | None, architecture: str, levels: tuple[str, ...], budget: float, seed: int, as_json: bool
) -> int:
    """Plant faults in runs of simulated engines: does `check` name them, and does it flag right runs."""
    from diffuzz.models import model as models
    from diffuzz.models import random_model
    from diffuzz.studies.faults import scoring
    from diffuzz.telling import Count, Phase, tell

    settings = tuple(each for each in scoring.SETTINGS if not levels or each.level in levels)
    ends, planned = time.monotonic() + budget, count * len(settings)
    tell(Phase("planting faults"))
    with tempfile.TemporaryDirectory() as folder:
        if path is None:
            path = Path(folder) / "random.gguf"
            random_model.write(path, architecture=architecture, seed=seed)
        rows = []
        try:
            for row in scoring.score(
                models.open(path), count=count, seed=seed, settings=settings, finished=lambda: time.monotonic() > ends
            ):
                rows.append(row)
                tell(Count(min(len(rows), planned), planned))
        except KeyboardInterrupt:
            ends = 0.0
    rates = scoring.rates(rows, settings)
    unfinished = time.monotonic() > ends
    if as_json:
        print_json(faults_json(rates, rows, unfinished=unfinished))
    elif rates:
        print_text(faults_text(rates, rows))
    return 0 if rates and not unfinished and all(rate.met for rate in rates) else 1


def faults_json(rates: list[Rate], rows: list[Row], *, unfinished: bool = False) -> dict[str, object]:
    """The rates, and every run; ``unfinished`` if the time did not suffice."""
    import attrs

    return {
        "settings": [
            attrs.asdict(rate, filter=lambda field, _: field.name != "setting")
            | {"setting": rate.setting.name, "mark": rate.setting.mark, "met": rate.met}
            for rate in rates
        ],
        "rows": [
            attrs.asdict(row)
            | {key: json_number(getattr(row, key)) for key in ("effect", "logits", "floor")}
            | {"control": row.control}
            for row in rows
        ],
        "met": bool(rates) and not unfinished and all(rate.met for rate in rates),
        "unfinished": unfinished,
    }


def faults_text(rates: list[Rate], rows: list[Row]) -> str:
    """The table of rates, and what was missed."""
    methods = tuple(rates[0].others)
    headings = ("", "planted", "named", "", "mark", "below the floor", "controls flagged", *methods)
    cells = [
        (
            rate.setting.name,
            str(rate.planted),
            str(rate.named),
            f"{100 * rate.named / max(rate.planted, 1):.1f} %",
            f"{100 * rate.setting.mark:.0f} %" + ("" if rate.met else " missed"),
            f"{rate.named_below_floor} of {rate.below_floor}",
            f"{rate.flagged} of {rate.controls}",
            *(str(rate.others[name]) for name in methods),
        )
        for rate in rates
    ]
    missed = [
        f"{row.setting}: {row.engine}: {' and '.join(row.faults) or 'right'} "
        f"{' '.join(row.taps)} (effect {row.effect:.1g}), named: {' '.join(row.culprits[:4]) or 'nothing'}"
        for row in rows
        if not row.named
    ]
    return "\n".join([*table(headings, cells, width=170), *([""] if missed else []), *missed]) + "\n"
