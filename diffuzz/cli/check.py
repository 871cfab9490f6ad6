"""``diffuzz check``: every step of a run of a model, recomputed from the run's own inputs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from diffuzz.cli.options import (
    BAD_INPUT,
    CONFIRMED,
    DEFAULT_CORPUS,
    FILE,
    FOLDER,
    JSON,
    MODEL,
    SEED,
    complain,
    print_json,
    print_text,
    report,
)
from diffuzz.cli.saving import HTML, check_writable, command_line, written
from diffuzz.cli.tables import json_number, table

if TYPE_CHECKING:
    from diffuzz.models.checking import Report
    from diffuzz.models.checking.culprits import Culprit
    from diffuzz.models.checking.judging import Judged
    from diffuzz.models.checking.places import Places
    from diffuzz.models.dump import Dump
    from diffuzz.models.model import Model

# Culprits, tokens and rows that are printed; the JSON object has all.
_MOST = 8


@click.command("check")
@MODEL
@click.option("--dump", "dump_file", required=True, type=FILE, metavar="FILE", help="What an engine computed.")
@click.option("--suspects", is_flag=True, help="Exit with 1 if a step is only suspect, too.")
@click.option("--seed", type=SEED, default=0, show_default=True, help="Random seed, of replicates moved by an ULP.")
@click.option(
    "--corpus", type=FOLDER, default=DEFAULT_CORPUS, show_default=True, help="Where witnesses of wrong steps are saved."
)
@click.option("--save/--no-save", default=True, help="Save a witness of each wrong step that a target can judge.")
@click.option("--verbose", is_flag=True, help="Print a line for each layer even if nothing is wrong.")
@HTML
@JSON
def command(
    model: Path,
    dump_file: Path,
    suspects: bool,
    seed: int,
    corpus: Path,
    save: bool,
    verbose: bool,
    html: Path | None,
    as_json: bool,
) -> int:
    """Judge every step of a run by the bound of its own arithmetic, on the inputs that the run itself dumped."""
    from diffuzz.models import architectures, checking
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
        print_json(check_json(found, opened, dump, where, witnesses))
    else:
        print_text(check_text(found, dump, where, witnesses, verbose))
    if html is not None:
        from diffuzz.pages import check as pages

        again = command_line("check", "--model", model, "--dump", dump_file)
        failed = written("--html", html, pages.page(check_json(found, opened, dump, where, witnesses), again))
        if failed:
            return failed
    return CONFIRMED if found.verdict == checking.WRONG or (suspects and found.culprits) else 0


def check_json(
    found: Report, model: Model, dump: Dump, where: Iterable[Places], witnesses: Iterable[str | None]
) -> dict[str, object]:
    """The object of ``check --json``."""
    from diffuzz.corpus.environment import environment

    return {
        "verdict": found.verdict,
        "answer": headline(found),
        "steps": found.steps,
        "checked": found.checked,
        "policies": dict(found.policies),
        "missing": list(found.missing),
        "culprits": [
            culprit_json(culprit, place, witness)
            for culprit, place, witness in zip(found.culprits, where, witnesses, strict=True)
        ],
        "layers": [
            {"layer": layer, "op": worst.span.last.op, "ratio": json_number(worst.worst)}
            for layer, worst in _worst_of_layers(found).items()
        ],
        "judged": judged_json(found),
        "model": model_json(model),
        "engine": dict(dump.metadata),
        "tokens": dump.tokens.tolist(),
        "texts": texts(model, dump.tokens.tolist()),
        "unknown": list(found.unknown),
        "environment": environment(),
    }


def judged_json(found: Report) -> list[dict[str, object]]:
    """Every step, or steps that are one span, and how far it is from the bound of its arithmetic."""
    return [
        {
            "tap": judged.span.last.tap,
            "layer": judged.span.last.layer,
            "op": judged.span.last.op,
            "span": list(judged.span.ops),
            "arithmetic": judged.arithmetics[judged.span.last.op],
            "ratio": json_number(judged.worst),
            "relative": json_number(judged.relative),
        }
        for judged in found.judged
    ]


def model_json(model: Model) -> dict[str, object]:
    """Which model a run was of."""
    return {"file": model.path.name, "architecture": model.architecture}


def texts(model: Model, tokens: Sequence[int]) -> list[str] | None:
    """The text of each token by the model's own vocabulary; None where that has none."""
    from diffuzz.models.model import ModelError
    from diffuzz.models.text import pieces_of

    try:
        return pieces_of(model, tokens)
    except (ModelError, ImportError):
        return None


def culprit_json(culprit: Culprit, place: Places, witness: str | None) -> dict[str, object]:
    """One of ``culprits`` of ``check --json``."""
    return {
        "layer": culprit.layer,
        "op": culprit.op,
        "span": list(culprit.span),
        "tokens": list(place.tokens),
        "heads": None if place.heads is None else list(place.heads),
        "rows": list(place.rows),
        "ratio": json_number(culprit.ratio),
        "certain": culprit.certain,
        "because": culprit.because,
        "arithmetic": culprit.judged.arithmetics[culprit.op],
        "relative": json_number(culprit.judged.relative),
        "got": json_number(place.got),
        "expected": json_number(place.expected),
        "allowed": json_number(place.allowed),
        "witness": witness,
    }


def check_text(found: Report, dump: Dump, where: list[Places], witnesses: Iterable[str | None], verbose: bool) -> str:
    """The report: the answer first."""
    lines = [headline(found), ""]
    lines += [f"  {name:13} {text}" for name, text in _about(found, dump)]
    for culprit, place, witness in list(zip(found.culprits, where, witnesses, strict=True))[:_MOST]:
        lines += ["", *_culprit_lines(culprit, place, witness)]
    if len(found.culprits) > _MOST:
        lines += ["", f"  and {len(found.culprits) - _MOST} more; --json has them all"]
    if verbose or found.culprits:
        lines += ["", *_layers(found)]
    return report(lines)


def headline(found: Report) -> str:
    """What a check found, in one line."""
    certain = [culprit for culprit in found.culprits if culprit.certain]
    if certain:
        worst = certain[0]
        others = f", and {len(certain) - 1} more" if len(certain) > 1 else ""
        return f"{found.verdict}: {name_of(worst)} is wrong, {how_much(worst)}{others}."
    judged = f"{found.checked} of {found.steps} steps" if found.checked < found.steps else f"all {found.steps} steps"
    if found.culprits:
        first = found.culprits[0]
        others = f", and {len(found.culprits) - 1} more" if len(found.culprits) > 1 else ""
        return f"{found.verdict}: {judged} keep their bounds; {name_of(first)} is suspect{others}."
    return f"{found.verdict}: {judged} keep the bounds of their arithmetic."


def name_of(culprit: Culprit) -> str:
    """The tap of a culprit, with the other steps that it may be if the taps between are missing."""
    tap = culprit.judged.span.last.tap
    others = [op for op in culprit.span if op != culprit.op]
    return f"{tap} (or {', '.join(others)} before it)" if others else tap


def how_much(culprit: Culprit) -> str:
    """How far off a culprit is, in words."""
    if culprit.ratio == float("inf") and not culprit.judged.relative < float("inf"):
        return "no number where one is due"
    return f"{times(culprit.ratio)} its {'allowance' if culprit.certain else 'usual error'}"


def times(ratio: float) -> str:
    """How many times, for people."""
    if ratio >= 1e6:
        return "over a million times"
    return f"{float(f'{ratio:.3g}'):,.0f} times" if ratio >= 1000 else f"{ratio:.3g} times"


def _about(found: Report, dump: Dump) -> list[tuple[str, str]]:
    lines = [
        ("engine", dump.metadata["engine"]),
        ("tokens", f"{len(dump.tokens)}"),
        ("arithmetic", policies_text(found.policies)),
    ]
    if found.missing:
        layers = {tap.rpartition(".")[2] for tap in found.missing}
        lines.append(("missing taps", f"{len(found.missing)} ({', '.join(sorted(layers))})"))
    if found.unknown:
        lines.append(("ignored", f"{', '.join(found.unknown[:6])}: names that are not understood"))
    return lines


def policies_text(policies: Mapping[str, str]) -> str:
    """The arithmetics, each once, with what is computed in it; what is all float32 is said last and briefly."""
    by_name: dict[str, list[str]] = {}
    for group, name in policies.items():
        by_name.setdefault(name, []).append(group)
    others = [f"{name}: {', '.join(groups)}" for name, groups in by_name.items() if name != "f32"]
    if not others:
        return "all f32"
    return "; ".join([*others, "the rest f32"] if "f32" in by_name else others)


def _culprit_lines(culprit: Culprit, place: Places, witness: str | None) -> list[str]:
    what = "wrong" if culprit.certain else "suspect"
    heads = "" if place.heads is None else f", heads {_some(place.heads)}"
    lines = [
        f"  {name_of(culprit)}: {what}, {culprit.because}",
        f"    error         {how_much(culprit)}; relative L2 {culprit.judged.relative:.3g}",
        f"    where         tokens {_some(place.tokens)}{heads}, elements {_some(place.rows)}",
        f"    the worst     got {place.got:.9g}, expected {place.expected:.9g} within {place.allowed:.3g}",
    ]
    if witness is not None:
        lines.append(f"    witness       {witness}")
    return lines


def _some(indices: tuple[int, ...]) -> str:
    """Indices, with runs of them as ranges."""
    runs: list[list[int]] = []
    for index in indices:
        if runs and index == runs[-1][1] + 1:
            runs[-1][1] = index
        else:
            runs.append([index, index])
    shown = [f"{first}" if first == last else f"{first}-{last}" for first, last in runs[:_MOST]]
    return ", ".join(shown) + (f" and others, {len(indices)} in all" if len(runs) > _MOST else "")


def _worst_of_layers(found: Report) -> dict[int | None, Judged]:
    worst: dict[int | None, Judged] = {}
    for judged in found.judged:
        layer = judged.span.last.layer
        if layer not in worst or judged.worst > worst[layer].worst:
            worst[layer] = judged
    return worst


def _layers(found: Report) -> list[str]:
    flagged: dict[int | None, list[str]] = {}
    for culprit in found.culprits:
        flagged.setdefault(culprit.layer, []).append(f"{culprit.op} {'wrong' if culprit.certain else 'suspect'}")
    rows = []
    for layer, worst in _worst_of_layers(found).items():
        name = "outside" if layer is None else str(layer)
        rows.append((name, worst.span.last.op, f"{worst.worst:.3g}", ", ".join(flagged.get(layer, []))))
    return ["  " + line for line in table(("layer", "closest to its bound", "error / allowed", ""), rows) if line]
