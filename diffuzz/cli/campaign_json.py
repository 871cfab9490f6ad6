"""The object of ``campaign --json`` and ``campaign status --json``."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diffuzz.campaigns.comparing import Change
    from diffuzz.campaigns.job import Job
    from diffuzz.campaigns.journal import Record
    from diffuzz.campaigns.ledger import Ledger

Object = dict[str, Any]


def campaign_json(
    folder: Path,
    ledgers: Sequence[Ledger],
    *,
    planned: int,
    left_out: Iterable[str] = (),
    broken: Iterable[str] = (),
    retried: Iterable[str] = (),
    changes: Iterable[Change] = (),
    interrupted: bool = False,
    seconds: float | None = None,
) -> Object:
    """What a campaign of so many ``planned`` jobs has found, job by job and target by target."""
    from diffuzz.corpus.environment import environment

    results = [_result(ledger, name) for ledger in ledgers for name in ledger.jobs]
    begun = [one for one in results if one["status"] is not None]
    found = [one for one in begun if one["finding"]]
    return {
        "campaign": str(folder),
        "night": max((ledger.night for ledger in ledgers), default=0),
        "seed": next((ledger.begun["seed"] for ledger in ledgers if ledger.begun), None),
        "finished": bool(ledgers) and not any(ledger.unfinished for ledger in ledgers) and not interrupted,
        "interrupted": interrupted,
        "planned": planned,
        "begun": len(begun),
        "settled": sum(one["settled"] for one in begun),
        "spent_s": round(sum(ledger.spent() for ledger in ledgers), 3),
        "seconds": None if seconds is None else round(seconds, 3),
        "evaluations": sum(one["evaluations"] for one in begun),
        "evaluations_tonight": sum(
            int(one["evaluations"]) for ledger in ledgers for name in ledger.jobs for one in ledger.tonight(name)
        ),
        "baseline": next((ledger.begun.get("baseline") for ledger in ledgers if ledger.begun), None),
        "findings": len(found),
        "new": sum(one["new"] for one in found),
        "failed": sum(one["status"] == "failed" for one in begun),
        "targets": _targets(begun),
        "jobs": results,
        "changes": [_change(one) for one in changes],
        "left_out": list(left_out),
        "broken_lines": list(broken),
        "retried": list(retried),
        "environment": environment(),
    }


def _result(ledger: Ledger, name: str) -> Object:
    from diffuzz.campaigns.ledger import OVER

    job, slices = ledger.jobs[name], ledger.slices.get(name, [])
    last: Record = slices[-1] if slices else {}
    # A slice that only made the case simpler, or failed tonight, says less of what was found than the one before.
    said: Mapping[str, Any] = (ledger.last(name) or last) if last.get("status") == "searched" else last
    finding = bool(said.get("finding"))
    witness = ledger.witness(name)
    return {
        "job": name,
        "title": job.title,
        "target": job.target,
        "status": said.get("status"),
        "verdict": said.get("verdict"),
        "agreement": said.get("agreement"),
        "value": said.get("value"),
        "measure": said.get("measure"),
        "bound": said.get("bound"),
        "threshold": said.get("threshold"),
        "judges": said.get("judges"),
        "finding": finding,
        "new": finding and said.get("night") == ledger.night and not ledger.is_known(dict(said)),
        "settled": said.get("stopped") in OVER,
        "property": job.keeps,
        "why": said.get("failure") or said.get("why"),
        "failure": said.get("failure"),
        "detail": said.get("detail"),
        "code": said.get("code"),
        "witness": witness,
        "command": _command(job, witness) or said.get("command"),
        "search": said.get("command"),
        "candidate": job.called or job.candidate,
        "function": job.candidate,
        "slices": len(slices),
        "seconds": round(sum(float(one["spent"]) for one in slices), 3),
        "evaluations": sum(int(one["evaluations"]) for one in slices),
    }


def _command(job: Job, witness: str | None) -> str | None:
    """The command that asks whether the witness still shows it, or else shows the witness."""
    from diffuzz.corpus.spelling import command_line

    if witness is None:
        return None
    if job.candidate is None:
        return command_line("show", witness)
    named = job.candidate if job.called is None else f"{job.called}={job.candidate}"
    return command_line("replay", "--judge", witness, "--candidate", named)


def share(result: Mapping[str, Any]) -> float:
    """How large a value is, against its bound or, without one or of a function, its threshold; 0 where nothing says."""
    against = result["threshold"] if result["judges"] or not result["bound"] else result["bound"]
    value = float(result["value"] or 0.0)
    if not isinstance(against, int | float) or not 0 < against < math.inf:
        return value if result["judges"] else 0.0
    return value / against


def _targets(results: Sequence[Object]) -> list[Object]:
    """For each target its jobs, and of those that have a value the one that is largest for what is allowed."""
    found = []
    for target in dict.fromkeys(one["target"] for one in results):
        own = [one for one in results if one["target"] == target]
        most = max((one for one in own if one["value"] is not None), key=share, default=None)
        found.append(
            {
                "target": target,
                "jobs": len(own),
                "settled": sum(one["settled"] for one in own),
                "findings": sum(one["finding"] for one in own),
                "new": sum(one["new"] for one in own),
                "largest": None if most is None else {k: most[k] for k in ("title", "value", "bound", "threshold")},
                # Of a bound: a value of a function that is judged is a share itself.
                "share": share(most) if most is not None and most["bound"] and not most["judges"] else None,
                "evaluations": sum(one["evaluations"] for one in own),
            }
        )
    return found


def _change(one: Change) -> Object:
    from diffuzz.campaigns.comparing import COMPARED

    before = None if one.before is None else {key: one.before.get(key) for key in COMPARED}
    now = {key: one.now.get(key) for key in COMPARED}
    return {"how": one.how, "job": one.job, "title": one.title, "before": before, "now": now}
