"""The page of ``diffuzz campaign``: what is new, what each target has reached, and every job."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diffuzz.pages.document import Data, behind, document, ending, heading, section, table
from diffuzz.pages.figures import plain
from diffuzz.pages.markup import Child, Markup, element

_KIND = "diffuzz campaign: many searches, night after night"
_HOW = {"new": "bad", "worse": "odd", "unsure": "odd", "gone": "good", "better": "good"}


def page(data: Data) -> str:
    """The text of the file, of the object that ``campaign --json`` and ``campaign status --json`` print."""
    jobs = list(data["jobs"])
    found = sorted((one for one in jobs if one["finding"]), key=lambda one: not one["new"])
    new = int(data["new"])
    known = len(found) - new
    answer = f"{new} new finding{'s' * (new != 1)}" if new else "nothing new"
    answer += f", {known} known" if known else ""
    answer += f" in {data['begun']} job{'s' * (data['begun'] != 1)}"
    facts: list[tuple[str, Child]] = [
        ("jobs", f"{data['planned']:,} planned, {data['begun']:,} begun, {data['settled']:,} done"),
        ("findings", f"{data['findings']:,}, of which {new:,} are new"),
        ("search", f"{data['spent_s']:,.0f} s in night {data['night']}, {data['evaluations']:,} cases in all nights"),
        ("seed", str(data["seed"])),
    ]
    if not data["finished"]:
        facts.append(("not finished", "the same command goes on"))
    verdict = f"{new} new" if new else f"{len(found)} known" if found else "nothing found"
    return document(
        f"diffuzz campaign: {answer}",
        heading(_KIND, answer, verdict, "bad" if new else "odd" if found else "good", facts),
        section("What was found", _findings(found)) if found else None,
        section("What has changed", _changes(data["changes"])) if data["changes"] else None,
        section("What each target has reached", _targets(data["targets"])),
        section("What could not be asked", _failed(jobs)) if any(one["status"] == "failed" for one in jobs) else None,
        section("Left out", _lines(data["left_out"])) if data["left_out"] else None,
        section("Every job", behind(f"{len(jobs)} jobs", _jobs(jobs))),
        ending(f"python -m diffuzz campaign status {data['campaign']}", "diffuzz-campaign.json", data),
    )  # fmt: skip


def _lines(lines: list[str]) -> Markup:
    return element("ul", [element("li", line) for line in lines])


def _findings(found: list[Data]) -> Markup:
    rows = [
        (
            element("span", "new" if one["new"] else "known", class_="bad" if one["new"] else "odd"),
            str(one["title"]), str(one["verdict"] or one["status"]), _value(one["value"]), _value(one["threshold"]),
            str(one["why"] or ""), str(one["witness"] or ""),
        )
        for one in found
    ]  # fmt: skip
    return table("Findings", ("", "job", "verdict", "value", "threshold", "how", "witness"), rows)


def _changes(changes: list[Data]) -> Markup:
    rows = [
        (element("span", str(one["how"]), class_=_HOW.get(str(one["how"]), "odd")), str(one["title"]),
         _told(one["before"]), _told(one["now"]))
        for one in changes
    ]  # fmt: skip
    return table("Changes", ("", "job", "before", "now"), rows)


def _told(one: Mapping[str, Any] | None) -> str:
    if one is None:
        return "–"
    return " ".join(filter(None, (_value(one["value"]), str(one["verdict"] or ""))))


def _targets(targets: list[Data]) -> Markup:
    rows = []
    for one in targets:
        most = one["largest"]
        against = None if most is None else most["bound"] if most["bound"] is not None else most["threshold"]
        rows.append(
            (str(one["target"]), f"{one['jobs']:,}", f"{one['settled']:,}", f"{one['findings']:,}", f"{one['new']:,}",
             "" if most is None else _value(most["value"]), _value(against),
             "" if one["share"] is None else f"{100 * one['share']:.4g} %",
             "" if most is None else str(most["title"]).removeprefix(str(one["target"])).strip())
        )  # fmt: skip
    heads = ("target", "jobs", "done", "findings", "new", "largest value", "of", "share", "by the job")
    return table("Targets", heads, rows)


def _failed(jobs: list[Data]) -> Markup:
    rows = [(str(one["title"]), str(one["why"])) for one in jobs if one["status"] == "failed"]
    return table("Failed", ("job", "why"), rows)


def _jobs(jobs: list[Data]) -> Markup:
    rows = [
        (str(one["title"]), str(one["agreement"] or one["verdict"] or one["status"] or "not begun"),
         _value(one["value"]), _value(one["bound"]), _value(one["threshold"]),
         "done" if one["settled"] else "", f"{one['slices']:,}",
         f"{one['seconds']:,.1f}", f"{one['evaluations']:,}")
        for one in jobs
    ]  # fmt: skip
    heads = ("job", "verdict", "value", "bound", "threshold", "", "slices", "seconds", "cases")
    return table("Jobs", heads, rows, tall=True)


def _value(value: Any) -> str:
    return "" if value is None else plain(value, 6)
