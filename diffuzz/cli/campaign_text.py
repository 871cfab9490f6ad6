"""What ``campaign`` and ``campaign status`` print for people, of the object that they print with --json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diffuzz.cli.options import report
from diffuzz.cli.progress_text import duration
from diffuzz.cli.tables import fitting, number

Object = Mapping[str, Any]
# Findings that are new, and those that were known before and lines about what was left out, that are told without
# --verbose.
_MANY, _FEW = 20, 10
# Cases that say little.
_LITTLE = 100
HEADINGS = ("target", "jobs", "done", "found", "largest", "of", "share", "by")


def campaign_text(said: Object, *, verbose: bool = False) -> str:
    """The answer, a row for each target, and what was found, what has changed, and what was not done."""
    lines = [answer(said), ""]
    rows = [target_row(one) for one in said["targets"]]
    if rows:
        lines += [*fitting(HEADINGS, rows, ("by", "of", "done")), ""]
    lines += _findings(said, verbose)
    lines += [_change(change) for change in said["changes"] if change["how"] != "new"]
    lines += [*_kept(said), *_agreeing(said)]
    few = sum(
        one["status"] == "searched" and not one["settled"] and one["evaluations"] < _LITTLE for one in said["jobs"]
    )
    if few:
        lines.append(
            f"{_count(few, 'job')} of those that go on looked at fewer than {_LITTLE} cases: longer slices look at more"
        )
    failed: dict[str, list[str]] = {}
    for one in said["jobs"]:
        if one["status"] == "failed":
            failed.setdefault(one["why"], []).append(one["title"])
    for why, titles in failed.items():
        lines.append(f"failed  {titles[0]}" + (f" and {len(titles) - 1} more" if len(titles) > 1 else "") + f": {why}")
    for what, found in (("left out", said["left_out"]), ("again", said["retried"]), ("broken", said["broken_lines"])):
        lines += [f"{what}  {line}" for line in (found if verbose else found[:_FEW])]
        if len(found) > _FEW and not verbose:
            lines.append(f"{what}  {len(found) - _FEW} more (--verbose)")
    if said["broken_lines"]:
        lines.append("What broken lines of a journal say is lost; its slices are done again by the next run.")
    return report(lines).rstrip("\n") + "\n"


def answer(said: Object) -> str:
    """One line: what was found, in how many jobs, for how much."""
    begun, planned, known = said["begun"], said["planned"], said["findings"] - said["new"]
    count = _count(begun, "job") if begun == planned else f"{begun:,} of {_count(planned, 'job')}"
    found = "nothing new" if not said["new"] else _count(said["new"], "new finding")
    found += f", {known} known" if known else ""
    clock = "" if said["seconds"] is None else f" in {duration(said['seconds'])}"
    how = f"night {said['night']}, {duration(said['spent_s'])} of search{clock}, "
    how += f"{_count(said['evaluations_tonight'], 'case')}, seed {said['seed']}"
    rest = ""
    if said["interrupted"]:
        rest = "; interrupted: the same command goes on"
    elif not said["finished"] and said["night"]:
        rest = "; not finished: the same command goes on"
    return f"{found} in {count} ({how}){rest}"


def _count(count: int, what: str) -> str:
    return f"{count:,} {what}" + ("" if count == 1 else "s")


def _kept(said: Object) -> list[str]:
    """A line for each implementation that was asked for properties: which it keeps, and which it does not."""
    found: dict[str, dict[str, list[str]]] = {}
    for one in said["jobs"]:
        if one["property"] is not None and one["status"] == "searched":
            who = one["title"].removesuffix(f" {one['property']}")
            found.setdefault(who, {}).setdefault(one["verdict"], []).append(one["property"])
    return [
        f"properties  {who}: " + "; ".join(f"{status} {', '.join(names)}" for status, names in sorted(by.items()))
        for who, by in found.items()
    ]


def _agreeing(said: Object) -> list[str]:
    """A line for each target of which kernels were compared: how many pairs agree in which way, as far as was seen."""
    found: dict[str, dict[str, int]] = {}
    for one in said["jobs"]:
        if one["agreement"] is not None:
            by = found.setdefault(one["target"], {})
            by[one["agreement"]] = by.get(one["agreement"], 0) + 1
    return [
        f"pairs  {target}: " + ", ".join(f"{count:,} agree {how}" for how, count in by.items())
        for target, by in found.items()
    ]


def target_row(one: Object) -> tuple[str, ...]:
    """The cells of a target, below HEADINGS."""
    most = one["largest"]
    found = f"{one['findings']}" + (f" ({one['new']} new)" if one["new"] else "")
    head = (str(one["target"]), f"{one['jobs']:,}", f"{one['settled']:,}", found)
    if most is None:
        return (*head, "", "", "", "")
    against = most["bound"] if most["bound"] is not None else most["threshold"]
    return (
        *head,
        _number(most["value"]),
        "" if against is None else _number(against),
        "" if one["share"] is None else f"{100 * one['share']:.4g} %",
        str(most["title"]).removeprefix(str(one["target"])).strip(),
    )


def _findings(said: Object, verbose: bool) -> list[str]:
    """What was found, what is new first, and functions that are wrong before claims."""
    lines: list[str] = []
    for how, most in (("new", _MANY), ("known", _FEW)):
        found = [one for one in said["jobs"] if one["finding"] and one["new"] == (how == "new")]
        found.sort(key=lambda one: not one["judges"])
        for one in found if verbose else found[:most]:
            told = _finding(how, one)
            lines += told if verbose or how == "new" else told[:1]
        if len(found) > most and not verbose:
            lines.append(f"{how}  {len(found) - most} more (--verbose)")
    return lines


def _finding(how: str, one: Object) -> list[str]:
    if one["status"] == "died":
        return [f"{how}  {one['title']}: its process {one['why']}"]
    value = "" if one["value"] is None else f" {_number(one['value'])}"
    than = ""
    if one["value"] is not None and one["threshold"] is not None:
        than = f", where {_allowed(one)}"
    why = f": {one['why']}" if one["why"] else ""
    said = f"they agree {one['agreement']}," if one["agreement"] else one["verdict"]
    lines = [f"{how}  {one['title']}: {said}{value}{than}{why}"]
    lines += [f"       witness: {one['witness']}"] if one["witness"] else []
    return lines + ([f"       {one['command']}"] if one["command"] else [])


def _allowed(one: Object) -> str:
    threshold = _number(one["threshold"])
    return f"at most {threshold} is allowed" if one["judges"] else f"the claim is more than {threshold}"


def _change(change: Object) -> str:
    before = "not asked" if change["before"] is None else _told(change["before"])
    return f"{change['how']}  {change['title']}: {before} before, {_told(change['now'])} now"


def _told(one: Object) -> str:
    return str(one["verdict"]) if one["value"] is None else f"{_number(one['value'])} {one['verdict']}"


def _number(value: float | str) -> str:
    return number(float(value))
