"""Runs of simulated engines, right ones and with faults, and what they dump."""

from __future__ import annotations

from collections.abc import Mapping

import attrs
import numpy as np

from diffuzz.models.dump import Dump
from diffuzz.models.forward import Weights
from diffuzz.models.model import Model
from diffuzz.models.operations.product import Product
from diffuzz.models.sequence import Sequence
from diffuzz.models.step import Step
from diffuzz.studies.faults.engines import Engine
from diffuzz.studies.faults.site import Fault, Site

Taps = Mapping[str, np.ndarray]
ALL, HALF, SIX, OUTPUTS = "all taps", "f16 taps", "six taps", "l_out"
LEVELS = (ALL, HALF, SIX, OUTPUTS)
# Taps that every choice of six has: without them nothing tells layers apart.
_OUTSIDE = ("embd", "final_norm", "logits")
# What engines show of a layer, six taps in several tastes.
_SIXES = (
    ("q_rope", "k_rope", "v", "attn", "ffn_inp", "l_out"),
    ("attn_norm", "attn", "ffn_inp", "ffn_norm", "glu", "l_out"),
    ("q", "k", "v", "attn_out", "down", "l_out"),
    ("attn_norm", "scores", "attn_out", "ffn_inp", "gate", "l_out"),
    ("attn_norm", "attn_out", "ffn_inp", "ffn_norm", "down", "l_out"),
)


@attrs.frozen(eq=False)
class Planted:
    """The taps of a run, and what its fault changed: by the largest of tokens, relative to its size, the tap that it is
    in.
    """

    taps: Taps
    effect: float


def run(
    steps: tuple[Step, ...],
    sequence: Sequence,
    engine: Engine,
    weights: Weights,
    *,
    before: Taps | None = None,
    faults: Mapping[str, tuple[Fault, np.random.Generator]] | None = None,
) -> Planted | None:
    """A run of an engine with faults by tap. ``before`` is the same run without them, of which all taps before the
    first are taken. None where a fault cannot be in its place.
    """
    faults = faults or {}
    by_tap = {step.tap: step for step in steps}
    taps: dict[str, np.ndarray] = {}
    effect, touched = np.inf, False
    for step in steps:
        if before is not None and not touched and step.tap not in faults:
            taps[step.tap] = before[step.tap]
            continue
        touched = True
        site = Site(
            engine, step, tuple(taps[tap] for tap in step.inputs), taps, by_tap, sequence, weights,
            np.random.default_rng(0),
        )  # fmt: skip
        if step.tap not in faults:
            taps[step.tap] = site.computed()
            continue
        fault, rng = faults[step.tap]
        made = fault.plant(attrs.evolve(site, rng=rng))
        if made is None:
            return None
        right = site.computed() if before is None else before[step.tap] if len(faults) == 1 else site.computed()
        effect = min(effect, _effect(right, made))
        taps[step.tap] = np.asarray(made, np.float32)
    return Planted(taps, effect)


def _effect(right: np.ndarray, made: np.ndarray) -> float:
    """The largest change of a number, over the root mean square of those of its token."""
    with np.errstate(all="ignore"):
        size = np.sqrt(np.mean(right.astype(np.float64) ** 2, axis=-1, keepdims=True))
        change = np.abs(made.astype(np.float64) - right) / np.maximum(size, 1e-300)
        # What is no number in a right step, because its input is none, hides a fault.
        change = np.where(np.isfinite(right), np.where(np.isnan(change), np.inf, change), 0.0)
    return float(change.max())


def dump(model: Model, sequence: Sequence, engine: Engine, taps: Taps, level: str, seed: int) -> Dump:
    """What is dumped of a run at a level."""
    kept = dict(taps)
    if level == SIX:
        six = _SIXES[seed % len(_SIXES)]
        kept = {tap: array for tap, array in taps.items() if tap in _OUTSIDE or tap.rpartition(".")[2] in six}
    elif level == OUTPUTS:
        kept = {tap: array for tap, array in taps.items() if tap == "logits" or tap.endswith(".l_out")}
    elif level == HALF:
        with np.errstate(over="ignore"):
            kept = {tap: array.astype(np.float16) for tap, array in taps.items()}
    metadata = {"format": "diffuzz-dump", "version": "1", "engine": engine.name, "arch": model.architecture}
    return Dump(metadata, sequence.tokens, sequence.positions, kept)


def prepared(steps: tuple[Step, ...]) -> Weights:
    """Weights that stay."""
    size = sum(8 * int(np.prod(s.operation.weight.shape)) for s in steps if isinstance(s.operation, Product))
    return Weights(size)
