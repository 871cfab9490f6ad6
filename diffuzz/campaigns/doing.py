"""A slice of a job: plain data in, plain data out, so that it may be done anywhere.

    {"job": ..., "seconds": 5, "seed": 1, "state": base64, "final": false}  ->  {"status": "searched", "value": ...}

A slice of a value is a search that goes on where the one before stopped; a ``final`` one makes the case of a claim
simpler, so that it can be kept. A slice of a property asks for it with other numbers. What a user can get wrong has the
status ``failed`` and says why: it is not raised, because the next slice is another job's.
"""

from __future__ import annotations

import base64
import json
import traceback
from collections.abc import Mapping
from typing import Any

import attrs

from diffuzz import formats
from diffuzz.campaigns.job import Job
from diffuzz.cases import domain
from diffuzz.corpus import lost, record
from diffuzz.corpus.entry import dumps
from diffuzz.corpus.spelling import given_words, json_number
from diffuzz.judging.evidence import Agreement
from diffuzz.judging.question import Compare, Judge
from diffuzz.judging.verdict import Verdict
from diffuzz.registry import one_line, place_of
from diffuzz.searching.keeping import keeping
from diffuzz.searching.result import SearchResult
from diffuzz.searching.search import search
from diffuzz.searching.state import State, StateError

# Exit codes of a command that fails alike: bad input, something that is missing, a defect of diffuzz.
BAD_INPUT, MISSING, DEFECT = 2, 3, 70
Outcome = dict[str, Any]


def done(text: str) -> str:
    """What came of a slice, as JSON; ``text`` says what it is. Raises nothing but KeyboardInterrupt."""
    try:
        task = json.loads(text)
        job = Job.of_json(task["job"])
        return json.dumps(_of_property(job, task) if job.keeps else _of_value(job, task), allow_nan=False)
    except ImportError as error:
        return json.dumps(_failed(str(error), MISSING))
    except OSError as error:
        name = f"{error.filename}: " if isinstance(error.filename, str) else ""
        return json.dumps(_failed(f"{name}{error.strerror or error}", BAD_INPUT))
    except MemoryError:
        return json.dumps(_failed("not enough memory; choose smaller parameters", BAD_INPUT))
    except Exception as error:
        place = place_of(error)
        if place is None and not isinstance(error, ValueError):
            return json.dumps(_failed(f"a defect of diffuzz: {traceback.format_exc(limit=-3)}", DEFECT))
        said = one_line(error) if place is not None else str(error)
        return json.dumps(_failed(f"{place}: {said}" if place is not None else said, BAD_INPUT))


def _failed(why: str, code: int) -> Outcome:
    return {"status": "failed", "why": " ".join(why.split()), "code": code}


def _given(job: Job) -> dict[str, str]:
    """The parameters; a format may be in a file. Raises RegistryError."""
    return {name: formats.load(value) if name == "format" else value for name, value in job.params}


def _of_value(job: Job, task: Mapping[str, Any]) -> Outcome:
    target, given, question, final = job.loaded(), _given(job), job.question(), bool(task.get("final"))

    # Two kernels may differ by policy, and be wrong somewhere else.
    compares = isinstance(question, Compare)

    def searched(seconds: float, state: State | None, *, minimising: bool) -> SearchResult:
        return search(
            target, given, question, engine=job.engine, seconds=seconds, seed=int(task["seed"]), largest=compares,
            threshold=job.threshold, state=state, minimise_best=False, minimising=minimising,
        )  # fmt: skip

    result = searched(
        float(task["seconds"]), _state(task.get("state")), minimising=final or isinstance(question, Judge)
    )
    judges, spent, kept = result.problem.judges, _spent(result), result.kept
    outside = result.agreement is Agreement.OUTSIDE
    if not final and (outside or (not judges and result.stopped in ("bound reached", "ideas") and result.value > 0)):
        # There will be no other slice.
        final, found = True, result
        result = attrs.evolve(searched(1.0, result.state, minimising=True), stopped=result.stopped)
        outside = result.agreement is Agreement.OUTSIDE
        result = attrs.evolve(result, evaluations=result.evaluations + found.evaluations)
    wrong = outside if compares else result.verdict is Verdict.CONFIRMED
    keeps = result.replays and (wrong if judges else final and result.value > 0)
    bound = None if result.bound is None else json_number(result.bound.value)
    detail = {name: json_number(one) for name, one in result.measurement.evidence.as_dict().items()} if wrong else None
    return {
        "status": "searched",
        "value": json_number(max(result.value, result.largest) if not judges else result.value),
        # What the best case of the slice before, or of another campaign, has now.
        "kept": None if kept is None else json_number(max(kept, 0.0)),
        "measure": result.measurement.measure,
        "threshold": json_number(result.threshold),
        "bound": bound,
        "verdict": result.verdict.value,
        "judges": judges,
        "agreement": None if result.agreement is None else result.agreement.value,
        "finding": wrong,
        # A case that needs others beside it, or luck, is not had again by itself.
        "beside": result.company is not None or result.chance is not None or result.unsteady is not None,
        "failure": result.failure,
        "stopped": "witness" if wrong and judges else result.stopped,
        "spent": spent,
        "evaluations": result.evaluations,
        # What goes on from an earlier slice is not had again by a command.
        "command": record.command_of(result) if result.state.searches == 1 else None,
        "detail": detail,
        "entry": dumps(record.record(result)) if keeps else None,
        "state": base64.b64encode(result.state.dumps()).decode(),
    }


def _spent(result: SearchResult) -> float:
    """Seconds of the budget that a slice takes, the same on all machines but where the clock ended it."""
    return result.budget_s if result.stopped in ("work", "clock") else min(result.work_s, result.budget_s)


def _state(text: object) -> State | None:
    """The state that a task has. Of one that cannot be read, as after a crash, a search begins anew."""
    if not isinstance(text, str):
        return None
    try:
        return State.loads(base64.b64decode(text))
    except (StateError, ValueError):
        return None


def _of_property(job: Job, task: Mapping[str, Any]) -> Outcome:
    asked = job.keep()
    kept = keeping(job.loaded(), _given(job), asked, seconds=float(task["seconds"]), seed=int(task["seed"]))
    (report,) = kept.reports
    finding = report.status == "broken" or (report.status == "not invariant" and job.required)
    entry, said = None, None
    if report.findings:
        said = record.again(report, report.findings[0], kept, _words(job))
        found = record.lost(kept, report, report.findings[0], asked, said) if finding else None
        entry = None if found is None else lost.dumps(found)
    return {
        "status": "searched",
        "verdict": report.status,
        "why": report.why or (report.findings[0].text if report.findings else None),
        "judges": True,
        # What did not show again in a process of its own is none.
        "finding": entry is not None,
        "stopped": "witness" if report.findings else "ideas" if report.status == "not asked" else "clock",
        "spent": min(float(task["seconds"]), report.seconds) if report.findings else float(task["seconds"]),
        "evaluations": report.calls,
        "command": said,
        "entry": entry,
        "state": None,
    }


def _words(job: Job) -> list[str]:
    """The words of a command that asks for a property, but for its name and the domain."""
    named = {
        "candidate": job.candidate, "kernels": ",".join(job.kernels * 2) or None, "library": job.library,
        "arrays": job.arrays, "device": job.device,
    }  # fmt: skip
    plain = [(key, value) for key, value in job.params if not domain.is_domain(key)]
    return ["search", "--target", job.target, *given_words(plain, named)]
