"""What a check found, as parts of a page: its culprits, all steps beside their bounds, and the arithmetics."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from diffuzz.pages import by_layer
from diffuzz.pages.charts import allowance
from diffuzz.pages.document import Data, behind, facts_list, table
from diffuzz.pages.figures import Levels, ranges, real, short, times
from diffuzz.pages.markup import Child, Markup, element, joined

# Culprits that have a card of their own; the table has all.
_CARDS = 12
# Tokens of a culprit that are told with their text.
_TEXTS = 6
# A step at a hundredth of its bound and one at a hundred-thousandth are alike: as right as can be.
_SHARES = Levels((0.001, 0.01, 0.03, 0.1, 0.3, 1.0))


def verdict_of(data: Data) -> tuple[str, str]:
    """The verdict of a check in words, and its tone."""
    certain = sum(each["certain"] for each in data["culprits"])
    if certain:
        return f"CONFIRMED: {certain} {'step is' if certain == 1 else 'steps are'} wrong", "bad"
    if data["culprits"]:
        return f"FALSIFIED: nothing is wrong, {len(data['culprits'])} suspect", "odd"
    return "FALSIFIED: nothing is wrong", "good"


def tap_of(culprit: Data) -> str:
    """The tap of a culprit."""
    return str(culprit["op"]) if culprit["layer"] is None else f"blk.{culprit['layer']}.{culprit['op']}"


def culprits(data: Data, texts: Sequence[str] | None) -> Markup:
    """A card for each step that is wrong or suspect: where, how much, and the witness."""
    found = data["culprits"]
    cards = [_card(each, texts) for each in found[:_CARDS]]
    if len(found) <= _CARDS:
        return joined(cards)
    rows = [
        (tap_of(each), "wrong" if each["certain"] else "suspect", short(real(each["ratio"]), 3), each["because"])
        for each in found
    ]
    label = f"All {len(found)} culprits"
    return joined(cards, behind(label, table(label, ("tap", "", "times", "why"), rows, tall=True)))


def _card(culprit: Data, texts: Sequence[str] | None) -> Markup:
    tap, certain = tap_of(culprit), culprit["certain"]
    others = [op for op in culprit["span"] if op != culprit["op"]]
    ratio, got = real(culprit["ratio"]), real(culprit["got"])
    expected, allowed = real(culprit["expected"]), real(culprit["allowed"])
    if math.isinf(ratio):
        much = "no number where one is due" if not math.isfinite(got) else "where nothing is allowed"
    else:
        much = f"{times(ratio)} its {'allowance' if certain else 'usual error'}"
    tokens = ranges(culprit["tokens"])
    if texts is not None and len(culprit["tokens"]) <= _TEXTS:
        tokens = ", ".join(f"{place} “{texts[place]}”" for place in culprit["tokens"])
    facts: list[tuple[str, Child]] = [("why", culprit["because"]), ("tokens", tokens)]
    if others:
        facts.insert(0, ("or", f"{', '.join(others)}, before it: the taps between are missing"))
    if culprit["heads"] is not None:
        facts.append(("heads", ranges(culprit["heads"])))
    facts += [
        ("elements", ranges(culprit["rows"])),
        ("the worst", f"got {short(got, 9)}, expected {short(expected, 9)} within {short(allowed, 3)}"),
        ("arithmetic", culprit["arithmetic"]),
        ("relative L2", short(real(culprit["relative"]), 3)),
    ]
    if culprit["witness"] is not None:
        facts.append(("witness", _witness(culprit["witness"])))
    return element(
        "div",
        element("h3", element("code", tap), " is ", element("strong", "wrong" if certain else "suspect",
                                                             class_="bad" if certain else "odd"), f": {much}"),
        allowance.chart(abs(got - expected), allowed) if certain else None,
        facts_list(facts),
        class_=f"card {'bad' if certain else 'odd'}",
    )  # fmt: skip


def _witness(path: str) -> list[Child]:
    replay = shlex.join(("python", "-m", "diffuzz", "replay", path))
    return [element("code", path), "; without the model: ", element("code", replay)]


def steps(data: Data, name: str = "") -> Markup:
    """Every step beside its bound: ops by layers, and the numbers behind the picture."""
    of = f" of {name}" if name else ""
    caption = (
        f"Error of each step{of}, as a share of what its arithmetic allows on the inputs that the run itself had. "
        "Up to 1 a step is right."
    )
    numbers = {(each["op"], each["layer"]): real(each["ratio"]) for each in data["judged"]}
    marks = {(each["op"], each["layer"]): "wrong" if each["certain"] else "suspect" for each in data["culprits"]}
    return by_layer.figure(f"Error over allowance{of}", caption, numbers, _SHARES, marks)


def arithmetics(sides: Mapping[str, Mapping[str, str]]) -> Markup:
    """The arithmetic of each op by run, as it was found; what all runs compute in float32 is said in one line."""
    groups = list(dict.fromkeys(group for policies in sides.values() for group in policies))
    plain = [group for group in groups if all(policies.get(group) == "f32" for policies in sides.values())]
    rows = [
        (group, *(policies.get(group, "–") for policies in sides.values())) for group in groups if group not in plain
    ]
    heads = ("operation, weights", *(name or "arithmetic" for name in sides))
    shown = table("The arithmetic of each operation", heads, rows) if rows else None
    rest = f"{'The rest is' if rows else 'All is'} computed in float32: {', '.join(plain)}." if plain else None
    return joined(shown, element("p", rest, class_="small soft") if rest else None)


def run_facts(side: Any) -> list[tuple[str, Child]]:
    """What was looked at of a run."""
    facts: list[tuple[str, Child]] = [
        ("engine", side["engine"]["engine"]),
        ("steps", f"{side['checked']} of {side['steps']} judged"),
    ]
    if side["missing"]:
        ops = sorted({tap.rpartition(".")[2] for tap in side["missing"]})
        facts.append(("missing taps", f"{len(side['missing'])} ({', '.join(ops)})"))
    return facts
