"""What a search found, or an entry has, as parts of a page; of the object that ``search --json`` prints, in which an
entry has fewer keys, and ``drawn``, where the case is known: what is drawn of it.
"""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Mapping
from typing import Any

from diffuzz.pages import witness
from diffuzz.pages.charts import over_time, scale_of
from diffuzz.pages.document import Data, behind, facts_list, kept, section, table
from diffuzz.pages.figures import plain, real, short, times
from diffuzz.pages.markup import Child, Markup, element, joined

_DIGITS = 7
TONES = {"CONFIRMED": "odd", "FALSIFIED": "good", "UNRESOLVED": "open"}
_NOT_CALLED = "The function was not called for this page: give it with --candidate, and report calls it."
# How a search ended.
_ENDS = {
    "bound reached": "the bound was reached", "witness": "it stopped at the first witness",
    "work": "the budget’s work was done", "clock": "time was up", "interrupted": "it was interrupted",
    "ideas": "the engine had no more ideas",
}  # fmt: skip


def subject_of(found: Data) -> str:
    """What was looked at: a function, two kernels, or a target."""
    if found.get("kernels"):
        return " against ".join(_kernels(found))
    return str(found.get("run") or found.get("candidate") or found["target"])


def kind_of(found: Data) -> str:
    """The kind of question: "claim", "candidate", "kernels"; "run", of a result that an engine gave."""
    if found.get("run"):
        return "run"
    return "kernels" if found.get("kernels") else "candidate" if found.get("candidate") else "claim"


def _kernels(found: Data) -> list[str]:
    candidate = found.get("candidate")
    return [str(candidate) if name == "candidate" and candidate else str(name) for name in found["kernels"]]


def answer_of(found: Data) -> str:
    """The answer in one line."""
    verdict, kind, value = found["verdict"], kind_of(found), real(found["value"])
    if kind == "claim":
        return str(found.get("claim") or found["target"])
    if kind == "kernels":
        a, b = _kernels(found)
        agreement = found.get("agreement")
        if verdict != "CONFIRMED":
            return f"{a} and {b} were not found to differ"
        return f"{a} and {b} differ{', by policy' if agreement == 'by policy' else ''}"
    name = subject_of(found)
    if verdict != "CONFIRMED":
        return f"{name} was not found to be wrong"
    if found.get("failure"):
        return f"{name} is wrong: it {found['failure']}"
    if not math.isfinite(value):
        detail = found.get("detail") or {}
        got, due = (real(detail.get(key)) for key in ("candidate", "exact"))
        if math.isfinite(got) and math.isfinite(due):
            return f"{name} is wrong: {plain(got)} where {plain(due)} is due"
        return f"{name} is wrong: no number where one is due"
    if _fixed(found):
        return (
            f"{name} is wrong: {short(value, 3)} element{'' if value == 1 else 's'} differ{'s' if value == 1 else ''}"
        )
    return f"{name} is wrong: {times(value)} what is allowed"


def _fixed(found: Data) -> bool:
    return str(found["measure"]).startswith("elements ")


def verdict_of(found: Data) -> tuple[str, str]:
    """The verdict in words with what decides it, and its tone."""
    verdict, value, threshold = found["verdict"], found["value"], plain(found["threshold"], _DIGITS)
    tone = "bad" if verdict == "CONFIRMED" and kind_of(found) in ("candidate", "run") else TONES.get(verdict, "open")
    if verdict == "CONFIRMED":
        return f"CONFIRMED: {_plain(value)} > {threshold}", tone
    if verdict == "FALSIFIED" and found.get("bound") is not None:
        return f"FALSIFIED: never more than {plain(found['bound'], _DIGITS)}, which is proven", tone
    return f"{verdict}: at most {_plain(value)} was found, and {threshold} is asked for", tone


def _plain(value: object) -> str:
    return plain(value, _DIGITS)


def facts(found: Data) -> list[tuple[str, Child]]:
    """What was asked: of whom, where, and by what measure."""
    rows: list[tuple[str, Child]] = []
    if kind_of(found) != "claim":
        rows.append(("operation", str(found["target"])))
    rows.append(("measure", str(found["measure"])))
    if params := found.get("parameters"):
        rows.append(("parameters", str(params)))
    if domain := found.get("domain"):
        rows.append(("inputs", str(domain)))
    if weights := found.get("weights"):
        rows.append(
            (
                "weights",
                f"{weights['from']} ({weights['format']})" + (f"; {weights['case']}" if weights["case"] else ""),
            )
        )
    rows.append(("value", _value(found)))
    if kind_of(found) == "claim":
        rows.append(("proven bound", _bound(found)))
    if status := found.get("status"):
        rows.append(("measured again", str(status)))
    return rows


def _value(found: Data) -> list[Child]:
    share = found.get("efficiency")
    said: list[Child] = [element("b", _plain(found["value"]))]
    if share is not None and math.isfinite(real(share)):
        said.append(f", {100 * real(share):.2f} % of the bound")
    return said


def _bound(found: Data) -> str:
    if found.get("bound") is None:
        return "none known"
    return f"{_plain(found['bound'])} ({found.get('bound_because') or 'no reason given'})"


def parts(found: Data, level: int = 2) -> Markup:
    """The sections of one result, under headings of this ``level``."""
    drawn = found.get("drawn")
    case = "The witness" if found["verdict"] == "CONFIRMED" else "The case"
    judged = kind_of(found) != "claim"
    return joined(
        section("Value against bound", _beside(found), level=level),
        _error(found, drawn, level) if judged else None,
        section(case, _case(found, drawn), level=level),
        None if judged else section("What the value is made of", _terms(found), level=level),
        section("Run it again", _again(found), level=level),
    )


def _beside(found: Data) -> list[Child]:
    history = [(real(one["seconds"]), real(one["value"])) for one in found.get("history") or []]
    bound = None if found.get("bound") is None else real(found["bound"])
    value, threshold = real(found["value"]), real(found["threshold"])
    limits = f"threshold {plain(threshold, 4)}" + ("" if bound is None else f", proven bound {plain(bound, 4)}")
    if not history:
        said = f"The value, {_plain(value)}, beside the threshold{'' if bound is None else ' and what is proven'}."
        return [element("figure", element("figcaption", said), scale_of.chart(value, threshold, bound))]
    count = len(history)
    said = (
        f"Largest value so far, over the time of the search: {count} improvement{'' if count == 1 else 's'}, the last "
        f"after {_seconds(history[-1][0])}. {limits[:1].upper()}{limits[1:]}."
    )
    if bound is not None and math.isfinite(bound):
        said += " Grey: proven never to be reached."
    rows = [
        (_seconds(real(one["seconds"])), f"{one['evaluations']:,}", plain(one["value"]), str(one["engine"]))
        for one in found["history"]
    ]
    label = f"Value over time: {_plain(history[0][1])} after {_seconds(history[0][0])}, {_plain(history[-1][1])} after "
    label += f"{_seconds(history[-1][0])}; {limits}"
    heads = ("after", "evaluations", "value", "engine")
    return [
        element(
            "figure",
            element("figcaption", said),
            over_time.chart(label, history, real(found["seconds"]), value, threshold, bound),
            behind("Numbers: value over time", table("Value over time", heads, rows, tall=True)),
        ),
        element("p", _effort(found), class_="small soft"),
    ]


def _seconds(seconds: float) -> str:
    return f"{short(seconds * 1000, 3)} ms" if seconds < 1 else f"{short(seconds, 3)} s"


def _effort(found: Data) -> str:
    end = _ENDS.get(found["stopped_by"], str(found["stopped_by"]))
    took = f"{found['evaluations']:,} evaluations in {short(real(found['seconds']), 3)} s"
    said = f"{took} by {found['engine']}, seed {found['seed']}; {end}."
    before = found.get("largest_before_minimising")
    if before is not None and found.get("history"):
        said += f" The case was then made simpler; its value is {_plain(found['value'])}."
    return said


def sides_of(found: Data) -> dict[str, str]:
    """By the names of their numbers, what the implementations are called."""
    if kind_of(found) == "kernels":
        a, b = _kernels(found)
        return {"A": a, "B": b}
    return {"reference": "reference", "candidate": "run" if kind_of(found) == "run" else "candidate"}


def _error(found: Data, drawn: Data | None, level: int) -> Markup:
    """What the functions did: how one failed, or where the error sits."""
    detail, sides = found.get("detail") or {}, sides_of(found)
    result = drawn["result"] if drawn else None
    if found.get("failure"):
        log = found.get("failure_output") or []
        return section(
            "What it did",
            element("p", f"On the witness {subject_of(found)} {found['failure']}."),
            [element("p", "It wrote last:"), element("pre", witness.lines(log))] if log else None,
            level=level,
        )
    index = real(detail.get("worst element", detail.get("first element")))
    place = "the worst element" if math.isnan(index) else f"element {index:.0f}"
    if result and result["worst"]:
        place = result["worst"][0]["place"]
    shown = witness.three_ways(detail, sides, place)
    called = shown or (result and set(result["sides"]) != {"reference"})
    return section(
        "Where the error sits",
        shown,
        witness.result(result, sides) if result and (result["elements"] > 1 or not shown) else None,
        None if called else element("p", _NOT_CALLED),
        [element("p", line) for line in _remarks(found, detail)],
        level=level,
    )


def _remarks(found: Data, detail: Mapping[str, Any]) -> list[str]:
    """What else is known of the witness."""
    said = []
    fault = real(detail.get("reference error / a-priori bound", 0.0))
    if fault > 1:
        said.append("The reference is outside its bound, too. It is a part of diffuzz: please report this.")
    nmse, limit = detail.get("nmse"), detail.get("ggml nmse limit")
    if nmse is not None and limit is not None and found["verdict"] == "CONFIRMED":
        seen = "would" if real(nmse) > real(limit) else "would not"
        numbers = f"NMSE {short(real(nmse), 3)} against its limit {short(real(limit), 1)}"
        said.append(f"On this case ggml’s test-backend-ops {seen} have seen it: {numbers}.")
    if "alone" in detail:
        said.append(
            f"This is so in a batch, beside other rows; alone the case has {_plain(detail['alone'])}. The function "
            "mixes up the rows of a batch."
        )
    if found.get("company"):
        said.append(f"It shows beside {found['company']} other rows of a batch.")
    if chance := found.get("chance"):
        said.append(
            f"It is left to chance: seen in {chance['seen']} of {chance['calls']} calls."
            if {"seen", "calls"} <= set(chance)
            else "It is left to chance."
        )
    for policy in found.get("within_policies") or []:
        choice = " ".join(f"--param {name}={value}" for name, value in policy.items())
        said.append(f"On this case it is within the bound of another choice: {choice}.")
    if found.get("agreement"):
        said.append(f"They agree {found['agreement']}, as far as was seen.")
    return said


def _case(found: Data, drawn: Data | None) -> list[Child]:
    if drawn:
        return [witness.arrays(drawn)]
    if found.get("witness"):
        return [
            element("p", "It is in ", element("code", str(found["witness"])), ", which was not at hand for this page.")
        ]
    return [element("p", "The case was not saved: the command below finds it again.")]


def _terms(found: Data) -> list[Child]:
    rows: list[tuple[str, Child]] = [(str(name), plain(number)) for name, number in (found.get("detail") or {}).items()]
    return [facts_list(rows) if rows else None, [element("p", line) for line in found.get("reading") or []]]


def _again(found: Data) -> list[Child]:
    """How to find it again, and how to measure the witness, with diffuzz and without."""
    entry = found.get("witness")
    said: list[Child] = (
        [element("p", "Search for it again:"), element("pre", found["command"])] if found.get("command") else []
    )
    if entry:
        given = f" --candidate {shlex.quote(str(found['candidate']))}" if found.get("candidate") else ""
        at = shlex.quote(str(entry))
        measure = [f"python -m diffuzz replay {at}{given}", f"python -m diffuzz show {at} --python > witness.py"]
        said += [element("p", "Measure the witness again, and make it a program that needs NumPy only:"),
                 element("pre", witness.lines(measure))]  # fmt: skip
    held = found.get("entry")
    if held:
        name = f"{str(held['digest'])[:12]}.json"
        said.append(element("p", "The page holds the entry: ", kept(name, json.dumps(held, indent=1)), class_="screen"))
    if program := found.get("program"):
        said.append(behind("The program, which needs NumPy only", element("pre", witness.lines(program.split("\n")))))
    return said
