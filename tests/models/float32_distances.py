"""How near float32 engines are to the exact result, beside how near a float32 run is to itself."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import attrs
import numpy as np

from diffuzz.cli.trace_answer import NOISE
from diffuzz.models import checking, running
from diffuzz.models.checking import known
from diffuzz.models.dump import Dump
from diffuzz.models.tracing import drift, floor


@attrs.frozen
class Distance:
    """The tap and the token at which a run is farthest from the exact one, relative L2; and, of all taps, the most
    times that it is as far as the floor of the tap's op.
    """

    tap: str
    token: int
    relative: float
    floors: float


def distances(path: Path, exact: Dump, runs: Mapping[str, Dump]) -> tuple[dict[str, Distance], float]:
    """Of each run; and the largest floor. The floor of an op is the farthest that any token of any layer is, if numbers
    of the embeddings move by one unit in the last place, in eight replicates of our own float32 pass.
    """
    found = running.opened(path)
    report = checking.check(found.model, runs["apr"])
    floors: dict[str, float] = {}
    for tap, apart in floor.of(found, known.sequence_of(exact), report, {}, 0).taps.items():
        op = tap.rpartition(".")[2]
        floors[op] = max(floors.get(op, 0.0), float(apart.max()))
    measured = {}
    for name, run in runs.items():
        taps = [each for each in drift.of_taps(found, exact, run) if each.step.op != "embd"]
        worst = max(taps, key=lambda each: float(np.nanmax(each.accumulated)))
        measured[name] = Distance(
            worst.step.tap,
            int(np.nanargmax(worst.accumulated)),
            float(np.nanmax(worst.accumulated)),
            max(float(np.nanmax(each.accumulated)) / floors[each.step.op] for each in taps),
        )
    return measured, max(floors.values())


def check_alike(path: Path, exact: Dump, runs: Mapping[str, Dump]) -> None:
    """Raise AssertionError unless every step of every run keeps its bound, and no run is farther from the exact one
    than what ``trace`` calls noise, at any tap.
    """
    found = running.opened(path)
    for name, run in runs.items():
        report = checking.check(found.model, run)
        assert (report.verdict, report.culprits) == (checking.RIGHT, ()), name
        assert report.checked == report.steps == len(run.taps), name
        assert set(report.policies.values()) == {"f32"}, name
    measured, _ = distances(path, exact, runs)
    assert {name: each for name, each in measured.items() if each.floors > NOISE} == {}
