"""The passes of a model over one prompt: the APR path, the GGUF path, and the GGUF path beside itself.

A path with 8-bit activations is a step function. So the same path, whose embeddings moved by one unit in the last place
(ULP), ends elsewhere: how far is its floor, and no engine that keeps its arithmetic can promise to be nearer. See
diffuzz.models.tracing.floor for the replicates.

Measures are per token and like for like, unless a claim is about one that is not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import attrs
import numpy as np

from diffuzz import interruption
from diffuzz.models import forward
from diffuzz.models.running import Opened
from diffuzz.models.sequence import Sequence
from diffuzz.models.step import Step
from diffuzz.models.tracing import floor
from diffuzz.targets import distances

if TYPE_CHECKING:
    from jaxtyping import Float32, Float64

# What the claims are about: the gated product, whose standard deviation was published, the residual, and the logits.
KEPT = ("glu", "l_out", "logits")


@attrs.frozen(eq=False)
class Passes:
    """The taps ``blk.L.glu``, ``blk.L.l_out`` and ``logits`` of the passes over n tokens.

    apr      float32[n, ...]
    gguf     float32[1 + replicates, n, ...]: the pass as it is, and those whose embeddings moved
    whole    all taps of the GGUF pass as it is, and of the first replicate
    """

    layers: int
    apr: dict[str, Float32[np.ndarray, "n d"]]
    gguf: dict[str, Float32[np.ndarray, "runs n d"]]
    whole: tuple[dict[str, np.ndarray], dict[str, np.ndarray]] = attrs.field(factory=lambda: ({}, {}))

    def drift(self, tap: str) -> Float64[np.ndarray, " n"]:
        """The relative L2 difference of the paths, by token."""
        return np.asarray(distances.relative_l2(self.gguf[tap][0], self.apr[tap]))

    def floor(self, tap: str) -> Float64[np.ndarray, " n"]:
        """The largest relative L2 difference of the GGUF path from itself, by token."""
        return np.asarray(self._beside(distances.relative_l2, tap).max(axis=0))

    def cosine_gap(self) -> Float64[np.ndarray, " n"]:
        """1 - cosine of the logits of the paths, by token."""
        return np.asarray(1 - distances.cosine(self.gguf["logits"][0], self.apr["logits"]))

    def cosine_floor(self) -> Float64[np.ndarray, "replicates n"]:
        """1 - cosine of the logits of the GGUF path and of itself."""
        return 1 - self._beside(distances.cosine, "logits")

    def _beside(
        self, measure: Callable[[np.ndarray, np.ndarray], Float64[np.ndarray, " ..."]], tap: str
    ) -> Float64[np.ndarray, "replicates n"]:
        # One after another: the logits of a large vocabulary in float64 are large.
        first, *moved = self.gguf[tap]
        return np.stack([measure(first, run) for run in moved])


def taken(found: Opened, tokens: Sequence) -> Passes:
    """The passes of a model over some tokens; the replicates are moved by the same numbers each time."""
    runs = floor.moved(found, tokens, np.random.default_rng(0))
    layers = 1 + max(step.layer for step in found.steps if step.layer is not None)
    whole: tuple[dict[str, np.ndarray], dict[str, np.ndarray]] = ({}, {})
    apr = {step.tap: tap for step, tap in _taps(found, tokens, "apr", runs[0]) if step.op in KEPT}
    gguf = {}
    for step, tap in _taps(found, tokens, "ggml", runs):
        if step.op in KEPT:
            gguf[step.tap] = tap
        for run, taps in enumerate(whole):
            taps[step.tap] = tap[run].copy()
    return Passes(layers, apr, gguf, whole)


def _taps(
    found: Opened, tokens: Sequence, name: str, start: Float32[np.ndarray, "... n d"]
) -> Iterator[tuple[Step, np.ndarray]]:
    first = found.steps[0]
    yield first, start
    for step, result in forward.run(found.steps, tokens, name, weights=found.weights, taps={first.tap: start}):
        interruption.check()
        yield step, result


def deviation(tap: Float32[np.ndarray, "... n d"]) -> Float64[np.ndarray, "... n"]:
    """The standard deviation over the elements of each token."""
    return np.asarray(tap.astype(np.float64).std(axis=-1))


def pooled_ratio(tap: Float32[np.ndarray, "n d"]) -> float:
    """The standard deviation over the elements of all tokens, divided by that of the last token alone."""
    with np.errstate(all="ignore"):
        return float(tap.astype(np.float64).std() / deviation(tap)[-1])
