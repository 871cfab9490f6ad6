"""``diffuzz trace``: two runs of one model over the same tokens; is one wrong, and what is their difference worth?"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from diffuzz.cli.check import culprit_json, judged_json, model_json, name_of, policies_text, texts, times
from diffuzz.cli.options import (
    BAD_INPUT,
    CONFIRMED,
    JSON,
    MODEL,
    SECONDS,
    SEED,
    SEQUENCE,
    complain,
    print_json,
    print_text,
    report,
    sequence,
)
from diffuzz.cli.saving import HTML, check_writable, command_line, written
from diffuzz.cli.tables import json_number, table

if TYPE_CHECKING:
    import numpy as np

    from diffuzz.models.dump import Dump
    from diffuzz.models.running import Opened
    from diffuzz.models.step import Step
    from diffuzz.models.tracing import Attributed, Side, Trace
    from diffuzz.models.tracing.drift import Drift
    from diffuzz.models.tracing.outputs import Outputs

_SIDES = ("A", "B")
# Tokens, layers and ops of a list that are printed; the JSON object has all.
_MOST = 8
# A drift up to so many times the floor is noise: tokens differ, and so do replicates.
_NOISE = 4.0


@click.command("trace")
@MODEL
@SEQUENCE
@click.option(
    "--engines",
    multiple=True,
    metavar="A,B",
    help="Two engines, or one that is held against --dumps. For names with commas give the option twice.",
)
@click.option(
    "--dumps", multiple=True, metavar="A,B", help="Two dumps, or one that is held against --engines, as A and B."
)
@click.option(
    "--isolate",
    is_flag=True,
    help="Run B once more with A's taps in the place of its own: its own steps on A's inputs.",
)
@click.option("--attribute", is_flag=True, help="Say which ops and layers the drift from the exact logits comes from.")
@click.option("--timeout", type=SECONDS, help="Time that one run may take [default: the engine's].")
@click.option("--seed", type=SEED, default=0, show_default=True, help="Random seed, of moves by one ULP.")
@click.option("--verbose", is_flag=True, help="Print a line for each tap.")
@HTML
@JSON
def command(
    model: Path,
    tokens: tuple[int, ...] | None,
    prompt: str | None,
    engines: tuple[str, ...],
    dumps: tuple[str, ...],
    isolate: bool,
    attribute: bool,
    timeout: float | None,
    seed: int,
    verbose: bool,
    html: Path | None,
    as_json: bool,
) -> int:
    """Hold two runs against each other: by tap, by token, beside the noise of their arithmetic; and check both."""
    from diffuzz.models import running, tracing
    from diffuzz.models.model import ModelError
    from diffuzz.models.tracing import Run

    engine_names, dump_files = _pair(engines), _pair(dumps)
    if html is not None:
        check_writable("--html", html, model, *map(Path, dump_files))
    if len(engine_names) + len(dump_files) != 2:
        raise click.UsageError("give two runs: --engines A,B, --dumps A,B, or one of each")
    if isolate and len(dump_files) and len(engine_names) < 2:
        raise click.UsageError("--isolate runs B again, so B has to be an engine: give --engines A,B")
    about = str(model)
    try:
        found = running.opened(model)
        runs = []
        for name in dump_files:
            about = name
            runs.append(Run(name, _read(Path(name), found)))
        about = str(model)
        if runs and (tokens is not None or prompt is not None):
            raise click.UsageError("the dumps say which tokens they are of: leave out --tokens and --prompt")
        chosen = tuple(runs[0].dump.tokens.tolist()) if runs else sequence(found.model, tokens, prompt)
        ran, isolated = _ran(model, engine_names, chosen, timeout, isolate)
        # An engine that a dump is held against is the reference.
        both = [*(Run(name, dump) for name, dump in zip(engine_names, ran, strict=True)), *runs]
        about = ""
        traced = tracing.compare(found, both[0], both[1], isolated=isolated, attribute=attribute, seed=seed)
    except ModelError as error:
        return complain(f"{about}: {error}" if about else str(error), BAD_INPUT)
    if as_json:
        print_json(trace_json(traced, found, chosen))
    else:
        print_text(trace_text(traced, found, chosen, verbose))
    if html is not None:
        from diffuzz.pages import trace as pages

        given = [word for option, names in (("--engines", engine_names), ("--dumps", dump_files))
                 for name in names for word in (option, name)]  # fmt: skip
        over = () if runs else ("--tokens", ",".join(map(str, chosen)))
        flags = [f"--{name}" for name, wanted in (("isolate", isolate), ("attribute", attribute)) if wanted]
        again = command_line("trace", "--model", model, *given, *over, *flags)
        failed = written("--html", html, pages.page(trace_json(traced, found, chosen), again))
        if failed:
            return failed
    return CONFIRMED if traced.wrong else 0


def _pair(given: tuple[str, ...]) -> tuple[str, ...]:
    """Names of runs: of one option those between commas, but not before another option of an engine."""
    if len(given) != 1:
        return given
    names: list[str] = []
    for part in given[0].split(","):
        if names and re.match(r"\s*\w+=", part):
            names[-1] += f",{part}"
        else:
            names.append(part.strip())
    if not all(names):
        raise click.UsageError(f"{given[0]!r:.80} are not names of runs, such as apr,llama.cpp")
    return tuple(names)


def _read(path: Path, found: Opened) -> Dump:
    from diffuzz.models import dump as dumps

    read = dumps.read(path)
    dumps.check_against(read, found.model)
    return read


def _ran(
    model: Path, names: Sequence[str], tokens: tuple[int, ...], timeout: float | None, isolate: bool
) -> tuple[list[Dump], Dump | None]:
    """The dumps of the engines, and that of the last one with the first one's taps."""
    from diffuzz.cli.progress import line_printer
    from diffuzz.models import engines

    say = line_printer()
    made: list[Dump] = []
    isolated = None
    runs = [engines.get(name) for name in names]
    for name, run in zip(names, runs, strict=True):
        limit = {} if timeout is None or "timeout" not in engines.options_of(run) else {"timeout": timeout}
        with engines.opened(name, model, **limit) as running:
            made.append(running.run(tokens))
            if isolate and len(made) == 2:
                isolated = running.run(tokens, made[0])
        if say is not None:
            say(f"ran {name}")
    return made, isolated


def answer(traced: Trace) -> str:
    """What two runs are to each other, in one line."""
    wrong = [f"{label} is wrong at {_where(side)}" for label, side in _labelled(traced) if side.wrong]
    if wrong:
        return f"{' and '.join(wrong)}."
    if traced.same:
        return f"both runs are the same, bit for bit, at all {len(traced.drifts)} taps that both have."
    suspects = [f"{name_of(side.report.culprits[0])} of {label} is suspect"
                for label, side in _labelled(traced) if side.report.culprits]  # fmt: skip
    steps = traced.sides[0].report.steps
    judged = min(side.report.checked for side in traced.sides)
    kept = "both keep their bounds"
    if judged < steps:
        kept += f", in the {judged} of {steps} steps that their taps show"
    return f"{kept}{', but ' + ' and '.join(suspects) if suspects else ''}: {_because(traced)}."


def _because(traced: Trace) -> str:
    a, b = (prices(side) for side in traced.sides)
    only = [(label, [price for price in mine if price not in others])
            for label, mine, others in (("A", a, b), ("B", b, a))]  # fmt: skip
    parts = [f"{_and(mine)} in {label}" for label, mine in only if mine]
    shared = [price for price in a if price in b]
    if parts:
        price = f"the difference is the price of {' and of '.join(parts)}"
        small = shared and traced.excess is not None and traced.excess <= _NOISE
        return f"{price}, within the noise of {_and(shared)}, which both have" if small else price
    times_it = f"{traced.excess:.2g} times " if traced.excess is not None and traced.excess > _NOISE else ""
    if a:
        return f"the difference is {times_it}the noise of {_and(a)}, which both have"
    return f"the difference is {times_it or 'that of '}float32 rounding"


def prices(side: Side) -> list[str]:
    """What a run does otherwise than in float32, in words."""
    from diffuzz.models.tracing import floor

    given = floor.arithmetics_of(side.report)
    steps = {step.tap: step for judged in side.report.judged for step in judged.span.steps}
    found = [_price(steps[tap], name) for tap, name in given.items() if name != "f32"]
    found += [f"an arithmetic of {group.partition(' ')[0]} that is not described"
              for group, name in side.report.policies.items() if name.startswith("not described")]  # fmt: skip
    return list(dict.fromkeys(found))


def _price(step: Step, name: str) -> str:
    from diffuzz.models.operations.attention import Mixture, Scores
    from diffuzz.models.operations.embedding import Embedding
    from diffuzz.models.operations.glu import Glu
    from diffuzz.models.operations.norm import Norm
    from diffuzz.models.operations.product import Product
    from diffuzz.models.operations.sum import Sum

    kind = name.partition(" ")[0]
    if isinstance(step.operation, Product):
        return "q8 activations with scales in f32" if name == "q8, f32 scale" else f"{name} activations"
    if isinstance(step.operation, Scores | Mixture):
        return f"an {kind} KV cache" if kind == "f16" else f"a {kind} KV cache"
    if isinstance(step.operation, Glu):
        return f"an f16 table of {step.operation.activation}"
    if isinstance(step.operation, Norm | Sum):
        return f"an {kind} residual" if kind == "f16" else f"a {kind} residual"
    return f"a {kind} scale of the embeddings" if isinstance(step.operation, Embedding) else f"{step.op} in {name}"


def _and(words: Sequence[str]) -> str:
    return f"{', '.join(words[:-1])} and {words[-1]}" if len(words) > 1 else "".join(words)


def _where(side: Side) -> str:
    certain = [culprit for culprit in side.report.culprits if culprit.certain]
    more = f", and at {len(certain) - 1} more" if len(certain) > 1 else ""
    return f"{name_of(certain[0])}: {times(certain[0].ratio)} its allowance{more}"


def _labelled(traced: Trace) -> list[tuple[str, Side]]:
    return list(zip(_SIDES, traced.sides, strict=True))


def output_lines(traced: Trace, pieces: Sequence[str]) -> list[str]:
    """What the difference does to the next token."""
    said = traced.outputs
    if said is None:
        return ["next token      not known: not both runs have logits"]
    tokens = traced.output_tokens
    flipped = [i for i, flips in enumerate(said.flips.tolist()) if flips]
    lines = []
    if not flipped:
        lines.append(f"top-1           the same after each of {len(tokens)} tokens")
    else:
        lines.append(f"top-1           differs after {len(flipped)} of {len(tokens)} tokens")
        lines += [
            f"                after token {tokens[i]}: A says {pieces[said.top_a[i]]}, ahead by "
            f"{said.margin_a[i]:.2g}; B {pieces[said.top_b[i]]}, by {said.margin_b[i]:.2g}"
            for i in flipped[:_MOST]
        ]
    worst = int(said.kl.argmax())
    lines.append(f"KL(A || B)      largest {said.kl[worst]:.2g} nats, after token {tokens[worst]}; "
                 f"after the last {said.kl[-1]:.2g}")  # fmt: skip
    lines.append(f"total variation largest {said.variation.max():.2g}; after the last {said.variation[-1]:.2g}")
    for label, own in _floors(traced):
        flips = sum(bool(each.flips.any()) for each in own)
        most = max(float(each.kl.max()) for each in own)
        lines.append(
            f"noise of {label:6} of {len(own)} runs with embeddings moved by one ULP, {flips} "
            f"{'has' if flips == 1 else 'have'} another top-1 after some token; KL up to {most:.2g} nats"
        )
        for i in flipped[:_MOST]:
            # The run that was not moved, and those that were.
            tops = [int(own[0].top_a[tokens[i]]), *(int(each.top_b[tokens[i]]) for each in own)]
            like_a, like_b = tops.count(int(said.top_a[i])), tops.count(int(said.top_b[i]))
            others = len(tops) - like_a - like_b
            lines.append(
                f"                after token {tokens[i]} of all {len(tops)}: {like_a} say what A says, {like_b} what "
                f"B says, {others} something else"
            )
    return lines


def _floors(traced: Trace) -> list[tuple[str, tuple[Outputs, ...]]]:
    """What replicates say, with the sides that it is of."""
    a, b = (side.floor for side in traced.sides)
    if a is not None and a is b:
        return [("both", a.outputs)]
    return [(label, found.outputs) for label, found in zip(_SIDES, (a, b), strict=True) if found is not None]


def trace_text(traced: Trace, found: Opened, tokens: tuple[int, ...], verbose: bool) -> str:
    """The report: the answer first."""
    pieces = _Pieces(found)
    lines = [answer(traced), ""]
    for label, side in _labelled(traced):
        checked = f"{side.report.checked} of {side.report.steps} steps checked"
        lines.append(f"  {label}  {side.run.name}: {side.run.dump.metadata['engine']}")
        lines.append(f"     {policies_text(side.report.policies)}; {checked}")
        for culprit in side.report.culprits[:_MOST]:
            what = "wrong" if culprit.certain else "suspect"
            lines.append(f"     {name_of(culprit)}: {what}, {times(culprit.ratio)} "
                         f"{'its allowance' if culprit.certain else 'what is usual'}; {culprit.because}")  # fmt: skip
        if len(side.report.culprits) > _MOST:
            lines.append(f"     and {len(side.report.culprits) - _MOST} more; --json has them all")
    lines += ["", f"  tokens  {len(tokens)}: {','.join(map(str, tokens[:16]))}{',...' if len(tokens) > 16 else ''}"]
    if traced.only:
        lines.append(
            f"  taps    {len(traced.drifts)} in both; {len(traced.only)} in one run only, which are not compared"
        )
    lines += ["", *(f"  {line}" for line in output_lines(traced, pieces)), ""]
    lines += ["  relative L2 of a token: the median and the largest of all tokens but massive ones"]
    lines += _tap_table(traced) if verbose else _layer_table(traced)
    lines += [f"  {line}" for line in _notes(traced)]
    if traced.attributed is not None:
        lines += ["", *_attribution_lines(traced)]
    return report(lines)


class _Pieces(Sequence[str]):
    """Tokens in words where the file has them: quoted, with their number."""

    def __init__(self, found: Opened) -> None:
        self._found = found

    def __len__(self) -> int:
        return int(self._found.model.tensors["token_embd.weight"].rows)

    def __getitem__(self, token: int) -> str:  # type: ignore[override]
        from diffuzz.models.model import ModelError
        from diffuzz.models.text import pieces_of

        try:
            return f"{int(token)} '{pieces_of(self._found.model, [int(token)])[0]}'"
        except (ModelError, ImportError):
            return str(int(token))


def _notes(traced: Trace) -> list[str]:
    """What the columns are."""
    notes = [
        "accumulated: of the two runs. isolated: of the same step on A's inputs in both. floor: of a run from itself,",
        "embeddings moved by one ULP (median of 8). A drift that is not above the floor is no evidence of a fault.",
    ]
    massive = sorted({int(i) for each in traced.drifts for i in each.massive.nonzero()[0]})
    if massive:
        notes.append(f"massive: token {', '.join(map(str, massive[:_MOST]))}, whose activations are over 10 times the "
                     "median token's at some taps; there it stands apart.")  # fmt: skip
    return notes


def _layer_table(traced: Trace) -> list[str]:
    """The last tap of each layer that both have, with the op of it whose isolated drift is largest."""
    layers: dict[str, list[Drift]] = {}
    for each in traced.drifts:
        layers.setdefault(each.step.op if each.step.layer is None else str(each.step.layer), []).append(each)
    rows = []
    for name, drifts in layers.items():
        worst = max(drifts, key=_worst_alone)
        alone = f"{_worst_alone(worst):.2g} {worst.step.op}" if worst.isolated is not None else ""
        rows.append((name, *_numbers(traced, drifts[-1]), alone))
    return table(("layer", "median", "largest", "at", "massive", "floor", "/ floor", "isolated (op)"), rows)


def _tap_table(traced: Trace) -> list[str]:
    rows = [(each.step.tap, *_numbers(traced, each), f"{_worst_alone(each):.2g}" if each.isolated is not None else "")
            for each in traced.drifts]  # fmt: skip
    return table(("tap", "median", "largest", "at", "massive", "floor", "/ floor", "isolated"), rows)


def _numbers(traced: Trace, each: Drift) -> tuple[str, ...]:
    """Accumulated drift: median, largest and its token, that of massive tokens; the floor, and how many times it."""
    import numpy as np

    usual = ~each.massive & ~np.isnan(each.accumulated)
    huge = each.massive & ~np.isnan(each.accumulated)
    if not usual.any():
        return ("", "", "", "", "", "")
    shares = np.where(usual, each.accumulated, -np.inf)
    massive = f"{each.accumulated[huge].max():.2g}" if huge.any() else ""
    floor = traced.floor_of(each.step.tap)
    ends: tuple[str, str] = ("", "")
    if floor is not None:
        middle = float(np.median(floor[usual]))
        ends = f"{middle:.2g}", _over(float(np.median(each.accumulated[usual])), middle)
    median = f"{np.median(each.accumulated[usual]):.2g}"
    return (median, f"{shares.max():.2g}", str(int(shares.argmax())), massive, *ends)


def _over(drift: float, floor: float) -> str:
    return "0" if drift == 0 else "inf" if floor == 0 else f"{drift / floor:.2g}"


def _worst_alone(each: Drift) -> float:
    """The largest isolated drift of a token."""
    import numpy as np

    return 0.0 if each.isolated is None or np.isnan(each.isolated).all() else float(np.nanmax(each.isolated))


def _attribution_lines(traced: Trace) -> list[str]:
    found = traced.attributed
    if found is None or isinstance(found, str):
        return [f"  attribution     not possible: {found}"]
    own, again = found.own, found.replica
    name = _SIDES[found.side]
    lines = [
        f"  where the drift of {name}'s logits from the exact ones comes from ({own.relative:.3g}; a replicate "
        f"{again.relative:.3g}).",
        "  Energies are stable from run to run; signed shares are not. Beside each stands that of a replicate, whose",
        "  embeddings were moved by one ULP.",
    ]
    for key in ("op", "layer"):
        columns = [each.by(numbers, key) for each in (own, again) for numbers in (each.energies, each.shares)]
        names = sorted(set(columns[0]) | set(columns[2]), key=lambda op: -columns[0].get(op, 0.0))
        rows = [
            (op, *(f"{columns[i].get(op, 0.0):{'+' if i % 2 else ''}.3f}" for i in (0, 2, 1, 3)))
            for op in (names if key == "op" else names[: 2 * _MOST])
        ]
        sums = [sum(column.values()) for column in columns]
        rows.append(("sum", *(f"{sums[i]:{'+' if i % 2 else ''}.3f}" for i in (0, 2, 1, 3))))
        lines += table((key, "energy", "replicate", "share", "replicate "), rows)
    return lines


def trace_json(traced: Trace, found: Opened, tokens: tuple[int, ...]) -> dict[str, object]:
    """The object of ``trace --json``."""
    from diffuzz.corpus.environment import environment

    return {
        "answer": answer(traced),
        "wrong": [label for label, side in _labelled(traced) if side.wrong],
        "same": traced.same,
        "sides": {label: side_json(side, found) for label, side in _labelled(traced)},
        "model": model_json(found.model),
        "tokens": list(tokens),
        "texts": texts(found.model, tokens),
        "taps": [_drift_json(traced, each) for each in traced.drifts],
        "isolated_by_engine": traced.by_engine,
        "only_in_one": list(traced.only),
        "outputs": _outputs_json(traced, found),
        "attribution": _attribution_json(traced.attributed),
        "environment": environment(),
    }


def side_json(side: Side, found: Opened) -> dict[str, object]:
    """One of ``sides`` of ``trace --json``."""
    from diffuzz.models.checking import places

    return {
        "run": side.run.name,
        "engine": dict(side.run.dump.metadata),
        "verdict": side.report.verdict,
        "steps": side.report.steps,
        "checked": side.report.checked,
        "policies": dict(side.report.policies),
        "price": prices(side),
        "floor": side.floor is not None,
        "missing": list(side.report.missing),
        "culprits": [
            culprit_json(culprit, places.of(found.model, side.run.dump, culprit), None)
            for culprit in side.report.culprits
        ],
        "judged": judged_json(side.report),
    }


def _drift_json(traced: Trace, each: Drift) -> dict[str, object]:
    floor = traced.floor_of(each.step.tap)
    return {
        "tap": each.step.tap,
        "layer": each.step.layer,
        "op": each.step.op,
        "accumulated": _list(each.accumulated),
        "isolated": None if each.isolated is None else _list(each.isolated),
        "floor": None if floor is None else _list(floor),
        "massive": each.massive.nonzero()[0].tolist(),
    }


def _outputs_json(traced: Trace, found: Opened) -> dict[str, object] | None:
    said = traced.outputs
    if said is None:
        return None
    noise = {
        label: [
            {"kl": _list(each.kl), "variation": _list(each.variation), "flips": each.flips.nonzero()[0].tolist()}
            for each in side.floor.outputs
        ]
        for label, side in _labelled(traced)
        if side.floor is not None
    }
    # Of the run that was not moved, and of those that were.
    tops = {
        label: [side.floor.outputs[0].top_a.tolist(), *(each.top_b.tolist() for each in side.floor.outputs)]
        for label, side in _labelled(traced)
        if side.floor is not None
    }
    return {
        "tokens": list(traced.output_tokens),
        "kl": _list(said.kl),
        "variation": _list(said.variation),
        "top_a": said.top_a.tolist(),
        "top_b": said.top_b.tolist(),
        "texts_a": texts(found.model, said.top_a.tolist()),
        "texts_b": texts(found.model, said.top_b.tolist()),
        "margin_a": _list(said.margin_a),
        "margin_b": _list(said.margin_b),
        "replicates": noise,
        "replicates_top": tops,
    }


def _attribution_json(found: Attributed | str | None) -> dict[str, object] | None:
    if found is None or isinstance(found, str):
        return None if found is None else {"error": found}
    own, again = found.own, found.replica
    return {
        "side": _SIDES[found.side],
        "relative": json_number(own.relative),
        "sum_of_shares": float(own.shares.sum()),
        "sum_of_energies": float(own.energies.sum()),
        "steps": [
            {"tap": step.tap, "energy": energy, "share": share, "share_by_token": _list(by_token)}
            for step, energy, share, by_token in zip(
                own.steps, own.energies.tolist(), own.shares.tolist(), own.shares_by_token, strict=True
            )
        ],
        "by_op": {"energy": own.by(own.energies, "op"), "share": own.by(own.shares, "op")},
        "by_layer": {"energy": own.by(own.energies, "layer"), "share": own.by(own.shares, "layer")},
        "replicate": {
            "relative": json_number(again.relative),
            "by_op": {"energy": again.by(again.energies, "op"), "share": again.by(again.shares, "op")},
            "by_layer": {"energy": again.by(again.energies, "layer"), "share": again.by(again.shares, "layer")},
        },
    }


def _list(numbers: np.ndarray) -> list[object]:
    """Numbers for JSON: null for what a run does not have."""
    return list(_values(numbers.tolist()))


def _values(numbers: Sequence[float]) -> Iterator[object]:
    for number in numbers:
        yield None if number != number else json_number(number)
