"""The noise floor of a run: how far it is from itself if its embeddings move by one unit in the last place.

A pass that quantises activations is a step function: a number beside the edge between two codes takes the other one
after the smallest of moves, and whatever reads it is another by a whole step. So a difference of 1e-7 grows to percents
within ten layers. A drift that is not larger than this is no evidence of anything.

Eight replicates and the pass itself are run at once, by our own pass in the arithmetic that the check found.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import attrs
import numpy as np

from diffuzz.models import forward
from diffuzz.models.checking import Report, known
from diffuzz.models.dump import Dump
from diffuzz.models.operations.product import CODES
from diffuzz.models.running import Opened
from diffuzz.models.sequence import Sequence
from diffuzz.models.tracing import drift, outputs
from diffuzz.models.tracing.outputs import Outputs

if TYPE_CHECKING:
    from jaxtyping import Float32, Float64

REPLICATES = 8


@attrs.frozen(eq=False)
class Floor:
    """By tap, the relative L2 of each token of the replicates from the pass; and what it does to the output."""

    taps: Mapping[str, Float64[np.ndarray, "8 n"]]
    outputs: tuple[Outputs, ...]


def arithmetics_of(report: Report) -> dict[str, str]:
    """The arithmetic of each tap that a check settled."""
    return {step.tap: judged.arithmetics[step.op] for judged in report.judged for step in judged.span.steps}


def pass_of(report: Report) -> str:
    """The pass that has the arithmetics which a check found in what it did not settle."""
    return "ggml" if quantises(report) else "apr"


def quantises(report: Report) -> bool:
    """Whether a run quantised activations."""
    return any(name in CODES for name in arithmetics_of(report).values())


def of(found: Opened, sequence: Sequence, report: Report, past: Mapping[str, np.ndarray], seed: int) -> Floor:
    """The floor of the arithmetic that a check found. ``past`` is what the run had in its cache."""
    rng = np.random.default_rng(seed)
    taps: dict[str, np.ndarray] = {}
    *steps, head = found.steps
    final = np.zeros(0)
    started = {"embd": moved(found, sequence, rng), **past}
    given = arithmetics_of(report)
    name = pass_of(report)
    for step, made in forward.run(tuple(steps), sequence, name, weights=found.weights, taps=started, arithmetics=given):
        taps[step.tap] = drift.relative(made[0], made[1:], step, sequence)
        final = made
    pieces, apart = [], []
    for rows in outputs.pieces(len(sequence.tokens), head, REPLICATES + 1):
        reads = {head.inputs[0]: final[:, rows]}
        logits = next(made for _, made in forward.run((head,), sequence, name, weights=found.weights, taps=reads,
                                                      arithmetics=given))  # fmt: skip
        apart.append(drift.relative(logits[0], logits[1:], head, sequence))
        pieces.append([outputs.compare(logits[0], each) for each in logits[1:]])
    taps[head.tap] = np.concatenate(apart, axis=1)
    return Floor(taps, tuple(outputs.joined(each) for each in zip(*pieces, strict=True)))


def replica(found: Opened, sequence: Sequence, report: Report, dump: Dump, seed: int) -> Dump:
    """One more run of the kind of ``dump``: our own pass in the arithmetic that a check found, embeddings moved."""
    past = drift.cached(dump, found)
    embd = moved(found, sequence, np.random.default_rng(seed))[1]
    passed = forward.run(found.steps, sequence, pass_of(report), weights=found.weights,
                         taps={"embd": embd, **past}, arithmetics=arithmetics_of(report))  # fmt: skip
    names = known.names(dump)
    taps = {"embd": embd, **{step.tap: made for step, made in passed}}
    # As many taps as the run has, stored as it stored them.
    taps = {tap: made.astype(dump.taps[tap].dtype) if tap in dump.taps else made
            for tap, made in taps.items() if tap in names}  # fmt: skip
    own = {key: value for key, value in dump.metadata.items() if key != "rope_layout"}
    return Dump(own, sequence.tokens, sequence.positions, {**taps, **past})


def moved(found: Opened, sequence: Sequence, rng: np.random.Generator) -> Float32[np.ndarray, "9 n d"]:
    """The embeddings, and eight times with each number moved up or down by one unit in the last place."""
    embd = found.steps[0].operation.value((), "f32", sequence).astype(np.float32)
    up = rng.integers(0, 2, (REPLICATES, *embd.shape)).astype(np.bool_)
    return np.concatenate((embd[None], np.nextafter(embd, np.where(up, np.float32(np.inf), np.float32(-np.inf)))))
