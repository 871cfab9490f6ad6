"""The report of a check, for people: the answer first, the arithmetics, and what is wrong, where and by how much."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from diffuzz.cli.options import report
from diffuzz.cli.tables import bare_table, folded

if TYPE_CHECKING:
    from diffuzz.models.checking import Report
    from diffuzz.models.checking.culprits import Culprit
    from diffuzz.models.checking.judging import Judged
    from diffuzz.models.checking.places import Places
    from diffuzz.models.dump import Dump
    from diffuzz.models.not_finite import NotFinite

# Culprits, tokens and rows that are printed; the JSON object has all.
_MOST = 8
# Steps that may be wrong instead of the one whose tap is off, by name.
_OTHERS = 6


def check_text(
    found: Report,
    odd: NotFinite | None,
    dump: Dump,
    where: list[Places],
    witnesses: Iterable[str | None],
    verbose: bool,
) -> str:
    """The report: the answer first."""
    lines = [headline(found, odd), ""]
    lines += [f"  {name:13}  {text}" for name, text in _about(found, dump)]
    about = {id(culprit): (place, witness)
             for culprit, place, witness in zip(found.culprits, where, witnesses, strict=True)}  # fmt: skip
    for culprit in in_order(found)[:_MOST]:
        lines += ["", *_culprit_lines(culprit, *about[id(culprit)])]
    if len(found.culprits) > _MOST:
        lines += ["", f"  and {len(found.culprits) - _MOST} more; --json has them all"]
    return report([*folded(lines), *(["", *_layers(found)] if verbose or found.culprits else [])])


def headline(found: Report, odd: NotFinite | None) -> str:
    """What a check found, in one line; ``odd`` is the first step of the run that makes NaN or infinity."""
    first = first_wrong(found)
    if first is not None:
        return f"{found.verdict}: {name_of(first)} is wrong, {wrong_text(found, first)}{odd_text(odd, first)}."
    spans = [each.span for each in found.judged if not each.blank]
    one = len(spans) == 1
    kept = f"{in_what(found) or _of_steps(found)} {'keeps its bound' if one else 'keep their bounds'}"
    if not spans:
        kept = "no step could be judged"
    elif found.culprits:
        suspect, more = found.culprits[0], len(found.culprits) - 1
        others = f", and so {'is 1 more' if more == 1 else f'are {more} more'}" if more else ""
        kept += f"; {name_of(suspect)} is suspect{others}"
    elif any(len(span.steps) > 1 for span in spans):
        # The bound of many steps in a row promises next to nothing.
        kept += f" and {'lies near its' if one else 'lie near their'} replicates"
    else:
        kept = kept.replace("their bounds", "the bounds of their arithmetic")
    return f"{found.verdict}: {kept}{odd_text(odd, None)}."


def _of_steps(found: Report) -> str:
    """How many steps were judged, alone or in spans; those of which no number is due were not."""
    judged = len({step.tap for each in found.judged if not each.blank for step in each.span.steps})
    return f"all {found.steps} steps" if judged == found.steps else f"{judged} of {found.steps} steps"


def in_what(found: Report) -> str:
    """The steps that were judged: empty if these are all, each by itself."""
    spans = [each.span for each in found.judged if not each.blank]
    if any(len(span.steps) > 1 for span in spans):
        held = f"{len(spans)} spans that hold" if len(spans) > 1 else "one span that holds"
        return f"{held} {_of_steps(found)}"
    steps = _of_steps(found)
    return "" if steps.startswith("all") else steps


def first_wrong(found: Report) -> Culprit | None:
    """The wrong step that comes first in the run; what comes after it has inputs that are wrong."""
    return next((culprit for culprit in in_order(found) if culprit.certain), None)


def in_order(found: Report) -> list[Culprit]:
    """Culprits in the order of the steps, those that are wrong before those that are suspect."""
    order = {each.span.last.tap: index for index, each in enumerate(found.judged)}
    return sorted(found.culprits, key=lambda each: (not each.certain, order[each.judged.span.last.tap]))


def wrong_text(found: Report, first: Culprit) -> str:
    """How far off the first wrong step is, how many more are wrong, and which is farthest off where that is another."""
    certain = [culprit for culprit in found.culprits if culprit.certain]
    text = how_much(first)
    if len(certain) > 1:
        text += f", and so {'is 1 more' if len(certain) == 2 else f'are {len(certain) - 1} more'}"
        worst = max(certain, key=lambda culprit: culprit.ratio)
        if worst.ratio > first.ratio:
            text += f"; {name_of(worst)} is farthest off, {how_much(worst)}"
    return text


def odd_text(odd: NotFinite | None, named: Culprit | None) -> str:
    """Where NaN or infinity comes from, after what is said of the step that is ``named``; empty if there is none."""
    if odd is None:
        return ""
    text = ""
    if named is None or named.judged.span.last.tap != odd.step.tap:
        why = {
            True: "where a number is due",
            False: "whose exact result is no number either",
            None: "a step that cannot be judged",
        }
        text = f"; {odd.kind} first comes in {odd.step.tap}, {why[odd.due]}"
    if odd.logits:
        every = len(odd.logits) == odd.count
        after = f"all {odd.count}" if every else f"{len(odd.logits)} of {odd.count}"
        text += f"; the logits are no numbers after {after} token{'s' if odd.count > 1 else ''}"
    return text


def name_of(culprit: Culprit) -> str:
    """The tap of a culprit, with the other steps that it may be if the taps between are missing."""
    tap = culprit.judged.span.last.tap
    others = [op for op in culprit.span if op != culprit.op]
    if len(others) > _OTHERS:
        return f"{tap} (or one of {len(others)} steps before it)"
    return f"{tap} (or {', '.join(others)} before it)" if others else tap


def how_much(culprit: Culprit) -> str:
    """How far off a culprit is, in words."""
    if culprit.ratio == float("inf") and (culprit.judged.broken or not culprit.judged.relative < float("inf")):
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
        f"    error          {how_much(culprit)}; relative L2 {culprit.judged.relative:.3g}",
        f"    where          tokens {_some(place.tokens)}{heads}, elements {_some(place.rows)}",
        f"    the worst      got {place.got:.9g}, expected {place.expected:.9g} within {place.allowed:.3g}",
    ]
    if witness is not None:
        lines.append(f"    witness        {witness}")
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


def worst_of_layers(found: Report) -> dict[int | None, Judged]:
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
    for layer, worst in worst_of_layers(found).items():
        name = "outside" if layer is None else str(layer)
        rows.append((name, worst.span.last.op, f"{worst.worst:.3g}", ", ".join(flagged.get(layer, []))))
    return bare_table(("layer", "closest to its bound", "error / allowed", ""), rows)
