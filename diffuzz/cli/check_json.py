"""The object of ``check --json``, and the parts of it that ``trace --json`` has, too."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from diffuzz.cli.check_text import headline, worst_of_layers
from diffuzz.corpus.spelling import json_number

if TYPE_CHECKING:
    from diffuzz.models.checking import Report
    from diffuzz.models.checking.culprits import Culprit
    from diffuzz.models.checking.places import Places
    from diffuzz.models.dump import Dump
    from diffuzz.models.model import Model
    from diffuzz.models.not_finite import NotFinite


def check_json(
    found: Report,
    odd: NotFinite | None,
    model: Model,
    dump: Dump,
    where: Iterable[Places],
    witnesses: Iterable[str | None],
) -> dict[str, object]:
    """The object of ``check --json``."""
    from diffuzz.corpus.environment import environment

    return {
        "verdict": found.verdict,
        "answer": headline(found, odd),
        "steps": found.steps,
        "checked": found.checked,
        "policies": dict(found.policies),
        "missing": list(found.missing),
        "not_finite": not_finite_json(odd),
        "culprits": [
            culprit_json(culprit, place, witness)
            for culprit, place, witness in zip(found.culprits, where, witnesses, strict=True)
        ],
        "layers": [
            {"layer": layer, "op": worst.span.last.op, "ratio": json_number(worst.worst)}
            for layer, worst in worst_of_layers(found).items()
        ],
        "judged": judged_json(found),
        "model": model_json(model),
        "engine": dict(dump.metadata),
        "tokens": dump.tokens.tolist(),
        "texts": texts(model, dump.tokens.tolist()),
        "unknown": list(found.unknown),
        "environment": environment(),
    }


def not_finite_json(odd: NotFinite | None) -> dict[str, object] | None:
    """Where a run has NaN or infinity; None if it has neither."""
    if odd is None:
        return None
    return {"tap": odd.step.tap, "kind": odd.kind, "due": odd.due, "logits": list(odd.logits)}


def judged_json(found: Report) -> list[dict[str, object]]:
    """Every step, or steps that are one span, and how far it is from the bound of its arithmetic."""
    return [
        {
            "tap": judged.span.last.tap,
            "layer": judged.span.last.layer,
            "op": judged.span.last.op,
            "span": list(judged.span.ops),
            "arithmetic": judged.arithmetics[judged.span.last.op],
            "ratio": json_number(judged.worst),
            "relative": json_number(judged.relative),
        }
        for judged in found.judged
    ]


def model_json(model: Model) -> dict[str, object]:
    """Which model a run was of."""
    return {"file": model.path.name, "architecture": model.architecture}


def texts(model: Model, tokens: Sequence[int]) -> list[str] | None:
    """The text of each token by the model's own vocabulary; None where that has none."""
    from diffuzz.models.model import ModelError
    from diffuzz.models.text import pieces_of

    try:
        return pieces_of(model, tokens)
    except (ModelError, ImportError):
        return None


def culprit_json(culprit: Culprit, place: Places, witness: str | None) -> dict[str, object]:
    """One of ``culprits`` of ``check --json``."""
    return {
        "layer": culprit.layer,
        "op": culprit.op,
        "span": list(culprit.span),
        "tokens": list(place.tokens),
        "heads": None if place.heads is None else list(place.heads),
        "rows": list(place.rows),
        "ratio": json_number(culprit.ratio),
        "certain": culprit.certain,
        "because": culprit.because,
        "arithmetic": culprit.judged.arithmetics[culprit.op],
        "relative": json_number(culprit.judged.relative),
        "got": json_number(place.got),
        "expected": json_number(place.expected),
        "allowed": json_number(place.allowed),
        "witness": witness,
    }
