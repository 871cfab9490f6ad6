"""The report of a trace, for people: the answer first, then each run by itself, the next token, and drift by layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from diffuzz.cli.check_text import how_much, in_order, in_what, name_of, policies_text
from diffuzz.cli.options import report
from diffuzz.cli.tables import bare_table, fitting, folded
from diffuzz.cli.trace_answer import SIDES, answer, labelled

if TYPE_CHECKING:
    from diffuzz.models.running import Opened
    from diffuzz.models.tracing import Trace
    from diffuzz.models.tracing.drift import Drift
    from diffuzz.models.tracing.outputs import Outputs

# Tokens, layers and ops of a list that are printed; the JSON object has all.
_MOST = 8
# Columns that a narrow terminal does without, one after the other.
_SPARE = ("/ floor", "at")


def trace_text(traced: Trace, found: Opened, tokens: tuple[int, ...], verbose: bool) -> str:
    """The report: the answer first."""
    pieces = _Pieces(found)
    lines = [answer(traced), ""]
    for label, side in labelled(traced):
        lines.append(f"  {label}  {side.run.name}: {side.run.dump.metadata['engine']}")
        checked = in_what(side.report) or f"all {side.report.steps} steps"
        lines.append(f"     {policies_text(side.report.policies)}; checked: {checked}")
        for culprit in in_order(side.report)[:_MOST]:
            what = "wrong" if culprit.certain else "suspect"
            lines.append(f"     {name_of(culprit)}: {what}, {how_much(culprit)}; {culprit.because}")
        if len(side.report.culprits) > _MOST:
            lines.append(f"     and {len(side.report.culprits) - _MOST} more; --json has them all")
    lines += ["", f"  tokens  {len(tokens)}: {','.join(map(str, tokens[:16]))}{',...' if len(tokens) > 16 else ''}"]
    if traced.only:
        lines.append(
            f"  taps    {len(traced.drifts)} in both; {len(traced.only)} in one run only, which are not compared"
        )
    lines += ["", *(f"  {line}" for line in output_lines(traced, pieces)), ""]
    lines += ["  relative L2 of a token: the median and the largest of all tokens but massive ones"]
    lines = [*folded(lines), "", *(_tap_table(traced) if verbose else _layer_table(traced)), ""]
    lines += folded(f"  {line}" for line in _notes(traced))
    if traced.attributed is not None:
        lines += ["", *_attribution_lines(traced)]
    return report(lines)


def output_lines(traced: Trace, pieces: Sequence[str]) -> list[str]:
    """What the difference does to the next token."""
    said = traced.outputs
    if said is None:
        return [_entry("next token", "not known: there is no token whose logits both runs have in numbers")]
    tokens = traced.output_tokens
    flipped = [i for i, flips in enumerate(said.flips.tolist()) if flips]
    every = f"{len(tokens)} token{'s' if len(tokens) > 1 else ''}"
    if any(side.odd is not None and side.odd.logits for side in traced.sides):
        every += " whose logits are numbers"
    if not flipped:
        lines = [_entry("top-1", f"the same after {'each of ' if len(tokens) > 1 else ''}{every}")]
    else:
        lines = [_entry("top-1", f"differs after {len(flipped)} of {every}")]
        lines += [
            _entry("", f"after token {tokens[i]}: A says {pieces[said.top_a[i]]}, ahead by {said.margin_a[i]:.2g}; "
                       f"B {pieces[said.top_b[i]]}, by {said.margin_b[i]:.2g}")
            for i in flipped[:_MOST]
        ]  # fmt: skip
        if len(flipped) > _MOST:
            lines.append(_entry("", f"and after {len(flipped) - _MOST} more; --json has them all"))
    worst = int(said.kl.argmax())
    lines += [
        _entry("KL(A || B)", f"largest {said.kl[worst]:.2g} nats, after token {tokens[worst]}; "
                             f"after the last {said.kl[-1]:.2g}"),
        _entry("total variation", f"largest {said.variation.max():.2g}; after the last {said.variation[-1]:.2g}"),
    ]  # fmt: skip
    for label, own in _floors(traced):
        flips = sum(bool(each.flips.any()) for each in own)
        most = max(float(each.kl.max()) for each in own)
        have = "none has" if not flips else "1 has" if flips == 1 else f"{flips} have"
        some = "some" if flips else "any"
        lines.append(_entry(
            f"noise of {label}", f"of {len(own)} runs with embeddings moved by one ULP, {have} another top-1 after "
                                 f"{some} token; KL up to {most:.2g} nats"
        ))  # fmt: skip
        for i in flipped[:_MOST]:
            # The run that was not moved, and those that were.
            tops = [int(own[0].top_a[tokens[i]]), *(int(each.top_b[tokens[i]]) for each in own)]
            like_a, like_b = tops.count(int(said.top_a[i])), tops.count(int(said.top_b[i]))
            others = len(tops) - like_a - like_b
            lines.append(_entry(
                "", f"after token {tokens[i]} of all {len(tops)}: {like_a} say what A says, {like_b} what B says, "
                    f"{others} something else"
            ))  # fmt: skip
    return lines


def _entry(label: str, text: str) -> str:
    return f"{label:17}{text}"


def _floors(traced: Trace) -> list[tuple[str, tuple[Outputs, ...]]]:
    """What replicates say, with the sides that it is of."""
    a, b = (side.floor for side in traced.sides)
    if a is not None and a is b:
        return [("both", a.outputs)]
    return [(label, found.outputs) for label, found in zip(SIDES, (a, b), strict=True) if found is not None]


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
        "median, largest: how far apart the two runs are. isolated: the same step on A's inputs in both.",
        "floor: of a run from itself, embeddings moved by one ULP (median of 8). A drift that is not above the floor "
        "is no evidence of a fault.",
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
    return fitting(("layer", "median", "largest", "at", "massive", "floor", "/ floor", "isolated (op)"), rows, _SPARE)


def _tap_table(traced: Trace) -> list[str]:
    rows = [(each.step.tap, *_numbers(traced, each), f"{_worst_alone(each):.2g}" if each.isolated is not None else "")
            for each in traced.drifts]  # fmt: skip
    return fitting(("tap", "median", "largest", "at", "massive", "floor", "/ floor", "isolated"), rows, _SPARE)


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
    name = SIDES[found.side]
    lines = folded([
        f"  where the drift of {name}'s logits from the exact ones comes from ({own.relative:.3g}; a replicate "
        f"{again.relative:.3g}).",
        "  Energies are stable from run to run; signed shares are not. Beside each stands that of a replicate, whose "
        "embeddings were moved by one ULP.",
    ])  # fmt: skip
    for key in ("op", "layer"):
        columns = [each.by(numbers, key) for each in (own, again) for numbers in (each.energies, each.shares)]
        names = sorted(set(columns[0]) | set(columns[2]), key=lambda op: -columns[0].get(op, 0.0))
        rows = [
            (op, *(f"{columns[i].get(op, 0.0):{'+' if i % 2 else ''}.3f}" for i in (0, 2, 1, 3)))
            for op in (names if key == "op" else names[: 2 * _MOST])
        ]
        sums = [sum(column.values()) for column in columns]
        rows.append(("sum", *(f"{sums[i]:{'+' if i % 2 else ''}.3f}" for i in (0, 2, 1, 3))))
        lines += ["", *bare_table((key, "energy", "replicate", "share", "replicate "), rows)]
    return lines
