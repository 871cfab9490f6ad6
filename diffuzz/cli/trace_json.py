"""The object of ``trace --json``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from diffuzz.cli.check_json import culprit_json, judged_json, model_json, not_finite_json, texts
from diffuzz.cli.trace_answer import SIDES, answer, labelled, prices
from diffuzz.corpus.spelling import json_number

if TYPE_CHECKING:
    import numpy as np

    from diffuzz.models.running import Opened
    from diffuzz.models.tracing import Attributed, Side, Trace
    from diffuzz.models.tracing.drift import Drift


def trace_json(traced: Trace, found: Opened, tokens: tuple[int, ...]) -> dict[str, object]:
    """The object of ``trace --json``."""
    from diffuzz.corpus.environment import environment

    return {
        "answer": answer(traced),
        "wrong": [label for label, side in labelled(traced) if side.wrong],
        "same": traced.same,
        "sides": {label: side_json(side, found) for label, side in labelled(traced)},
        "model": model_json(found.model),
        "tokens": list(tokens),
        "texts": texts(found.model, tokens),
        "taps": [_drift_json(traced, each) for each in traced.drifts],
        "isolated_by_engine": traced.by_engine,
        "only_in_one": list(traced.only),
        "outputs": _outputs_json(traced, found),
        "attribution": _attribution_json(traced.attributed),
        "environment": environment(),
    }


def side_json(side: Side, found: Opened) -> dict[str, object]:
    """One of ``sides`` of ``trace --json``."""
    from diffuzz.models.checking import places

    return {
        "run": side.run.name,
        "engine": dict(side.run.dump.metadata),
        "verdict": side.report.verdict,
        "steps": side.report.steps,
        "checked": side.report.checked,
        "policies": dict(side.report.policies),
        "price": prices(side),
        "floor": side.floor is not None,
        "missing": list(side.report.missing),
        "not_finite": not_finite_json(side.odd),
        "culprits": [
            culprit_json(culprit, places.of(found.model, side.run.dump, culprit), None)
            for culprit in side.report.culprits
        ],
        "judged": judged_json(side.report),
    }


def _drift_json(traced: Trace, each: Drift) -> dict[str, object]:
    floor = traced.floor_of(each.step.tap)
    return {
        "tap": each.step.tap,
        "layer": each.step.layer,
        "op": each.step.op,
        "accumulated": _list(each.accumulated),
        "isolated": None if each.isolated is None else _list(each.isolated),
        "floor": None if floor is None else _list(floor),
        "massive": each.massive.nonzero()[0].tolist(),
    }


def _outputs_json(traced: Trace, found: Opened) -> dict[str, object] | None:
    said = traced.outputs
    if said is None:
        return None
    noise = {
        label: [
            {"kl": _list(each.kl), "variation": _list(each.variation), "flips": each.flips.nonzero()[0].tolist()}
            for each in side.floor.outputs
        ]
        for label, side in labelled(traced)
        if side.floor is not None
    }
    # Of the run that was not moved, and of those that were.
    tops = {
        label: [side.floor.outputs[0].top_a.tolist(), *(each.top_b.tolist() for each in side.floor.outputs)]
        for label, side in labelled(traced)
        if side.floor is not None
    }
    return {
        "tokens": list(traced.output_tokens),
        "kl": _list(said.kl),
        "variation": _list(said.variation),
        "top_a": said.top_a.tolist(),
        "top_b": said.top_b.tolist(),
        "texts_a": texts(found.model, said.top_a.tolist()),
        "texts_b": texts(found.model, said.top_b.tolist()),
        "margin_a": _list(said.margin_a),
        "margin_b": _list(said.margin_b),
        "replicates": noise,
        "replicates_top": tops,
    }


def _attribution_json(found: Attributed | str | None) -> dict[str, object] | None:
    if found is None or isinstance(found, str):
        return None if found is None else {"error": found}
    own, again = found.own, found.replica
    return {
        "side": SIDES[found.side],
        "relative": json_number(own.relative),
        "sum_of_shares": float(own.shares.sum()),
        "sum_of_energies": float(own.energies.sum()),
        "steps": [
            {"tap": step.tap, "energy": energy, "share": share, "share_by_token": _list(by_token)}
            for step, energy, share, by_token in zip(
                own.steps, own.energies.tolist(), own.shares.tolist(), own.shares_by_token, strict=True
            )
        ],
        "by_op": {"energy": own.by(own.energies, "op"), "share": own.by(own.shares, "op")},
        "by_layer": {"energy": own.by(own.energies, "layer"), "share": own.by(own.shares, "layer")},
        "replicate": {
            "relative": json_number(again.relative),
            "by_op": {"energy": again.by(again.energies, "op"), "share": again.by(again.shares, "op")},
            "by_layer": {"energy": again.by(again.energies, "layer"), "share": again.by(again.shares, "layer")},
        },
    }


def _list(numbers: np.ndarray) -> list[object]:
    """Numbers for JSON: null for what a run does not have."""
    return list(_values(numbers.tolist()))


def _values(numbers: Sequence[float]) -> Iterator[object]:
    for number in numbers:
        yield None if number != number else json_number(number)
