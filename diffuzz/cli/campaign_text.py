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
HEADINGS = ("target", "jobs", "over", "found", "largest", "of", "share", "by")


def campaign_text(said: Object, *, verbose: bool = False) -> str:
    """The answer, a row for each target, and what was found, what has changed, and what was not done."""
    lines = [answer(said), ""]
    rows = [target_row(one) for one in said["targets"]]
    if rows:
        lines += [*fitting(HEADINGS, rows, ("by", "of", "over")), ""]
    lines += _findings(said, verbose)
    for change in said["changes"] or ():
        lines += [] if change["how"] == "new" else [_change(change)]
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
    count = (
        f"{said['begun']:,} of {said['planned']:,} jobs"
        if said["begun"] < said["planned"]
        else f"{said['begun']:,} jobs"
    )
    known = said["findings"] - said["new"]
    found = "nothing new" if not said["new"] else f"{said['new']} new finding" + "s" * (said["new"] > 1)
    found += f", {known} known" if known else ""
    how = f"night {said['night']}, {duration(said['spent_s'])} of search, {said['evaluations']:,} cases"
    how += f", seed {said['seed']}"
    rest = ""
    if said["interrupted"]:
        rest = "; interrupted: the same command goes on"
    elif not said["finished"] and said["begun"]:
        rest = "; not finished: the same command goes on"
    return f"{found} in {count} ({how}){rest}"


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
        than = f", where {'at most' if one['judges'] else 'the claim is more than'} {_number(one['threshold'])}"
    why = f": {one['why']}" if one["why"] else ""
    said = f"they agree {one['agreement']}," if one["agreement"] else one["verdict"]
    lines = [f"{how}  {one['title']}: {said}{value}{than}{why}"]
    lines += [f"       witness: {one['witness']}"] if one["witness"] else []
    return lines + ([f"       {one['command']}"] if one["command"] else [])


def _change(change: Object) -> str:
    before, now = change["before"], change["now"]
    said = _told(now) if now["kept"] is None or change["how"] == "gone" else _number(now["kept"])
    return f"{change['how']}  {change['title']}: {_told(before)} before, {said} now"


def _told(one: Object) -> str:
    return str(one["verdict"]) if one["value"] is None else f"{_number(one['value'])} {one['verdict']}"


def _number(value: float | str) -> str:
    return number(float(value))
