"""Places in which slices are done by functions of tests."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from concurrent.futures import Executor, Future
from hashlib import sha256
from typing import Any

from diffuzz.campaigns.places import Place

Outcome = dict[str, Any]


def searched(task: dict[str, Any]) -> Outcome:
    """What a search might say, as a function of the task alone: the value grows with each slice."""
    digits = int(sha256(json.dumps([task["job"], task["seed"]]).encode()).hexdigest()[:8], 16)
    before = 0.0 if task["state"] is None else float(base64.b64decode(task["state"]))
    value = max(before, (digits % 1000) / 100)
    return {
        "status": "searched", "value": value, "bound": 10.0, "threshold": 5.0, "verdict": "UNRESOLVED",
        "judges": False, "finding": False, "stopped": "work", "spent": task["seconds"], "evaluations": digits % 97,
        "entry": None, "state": base64.b64encode(repr(value).encode()).decode(),
    }  # fmt: skip


class Raw(str):
    """What comes back, as it is."""


class _Now(Executor):
    """Does what it is given at once, in this thread."""

    def __init__(self, do: Callable[[dict[str, Any]], Outcome]) -> None:
        self.do = do

    def submit(self, function: Any, /, text: str, limit: float) -> Future[str]:  # type: ignore[override]
        future: Future[str] = Future()
        try:
            found = self.do(json.loads(text))
            future.set_result(found if isinstance(found, Raw) else json.dumps(found))
        except Exception as error:
            future.set_exception(error)
        return future


def place(do: Callable[[dict[str, Any]], Outcome] = searched, slots: int = 3) -> Place:
    """A place that does slices by a function of the task."""
    return Place("made up", slots, lambda: (_Now(do), lambda: None))
