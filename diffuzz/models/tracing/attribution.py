"""Which steps a drift of the logits comes from, in shares that add up.

Switching one step at a time to another arithmetic does not add up: each switch reshuffles the noise of all that
follows. Instead the run is kept up to a step, and finished exactly:

    run k       the taps of the dump up to step k, and the steps after it in float64
    run 0       nothing of the dump: the exact logits of these tokens
    last run    all of the dump: its logits

The difference of the logits of two runs that follow one another is what one step adds, and these differences add up to
the drift D, the dump's logits less the exact ones, whatever the steps are.

    share of step k     <difference k, D> / |D|^2: signed, and they add up to 1
    energy of step k    |difference k|^2 over the sum of these: not signed, and they add up to 1

**Energies are stable, signed shares are not.** Differences of steps are about as large in every run of this arithmetic,
but their directions are random, so that a share is as noisy as a coin: see ``Attribution.replica``.

**Cost.** All runs go through a layer together, and after step k there is one more. Steps that move their own result by
less than a thousandth of what the worst step does have no run of their own: what they add is counted to the next step
that has one. The head is a product, so its differences are had from W^T W, without the logits of any run.
"""

from __future__ import annotations

from collections.abc import Sequence as Several
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import attrs
import numpy as np

from diffuzz.models.checking import known
from diffuzz.models.dump import Dump
from diffuzz.models.model import ModelError
from diffuzz.models.operations import weights
from diffuzz.models.operations.attention import Probs, Scores
from diffuzz.models.operations.product import Product
from diffuzz.models.running import Opened
from diffuzz.models.sequence import Sequence
from diffuzz.models.step import Step
from diffuzz.models.tracing import drift

if TYPE_CHECKING:
    from jaxtyping import Bool, Float64

# A step that moves its result by less than this share of what the worst step does has no run of its own.
SMALL = 1e-3
# Bytes of a tap of all runs that go through the model together.
_AT_ONCE = 1 << 26
_THREADS = 2
# Instead of nothing, where a run has no drift.
_TINY = 1e-300


@attrs.frozen(eq=False)
class Attribution:
    """The drift of a dump's logits from the exact ones, by step and token.

    steps      those that have a run of their own
    inner      <difference, D> of each step and token
    squares    |difference|^2 of the same
    drift      |D|^2 of each token, had from the logits themselves
    exact      |exact logits|^2 of each token
    tokens     the tokens whose logits the dump has
    """

    steps: tuple[Step, ...]
    inner: Float64[np.ndarray, "steps n"]
    squares: Float64[np.ndarray, "steps n"]
    drift: Float64[np.ndarray, " n"]
    exact: Float64[np.ndarray, " n"]
    tokens: Bool[np.ndarray, " n"]

    @property
    def shares(self) -> Float64[np.ndarray, " steps"]:
        """Of the drift of all logits; they add up to 1."""
        return np.asarray(self.inner.sum(axis=1) / max(self.drift.sum(), _TINY))

    @property
    def shares_by_token(self) -> Float64[np.ndarray, "steps n"]:
        """The shares of the drift of each token; 0 for a token without one."""
        return np.asarray(self.inner / np.maximum(self.drift, _TINY))

    @property
    def energies(self) -> Float64[np.ndarray, " steps"]:
        """Of all logits; they add up to 1."""
        return np.asarray(self.squares.sum(axis=1) / max(self.squares.sum(), _TINY))

    @property
    def relative(self) -> float:
        """The drift, relative L2 over the logits of all tokens."""
        return float(np.sqrt(self.drift.sum() / max(self.exact.sum(), _TINY)))

    def by(self, numbers: Float64[np.ndarray, " steps"], key: str) -> dict[str, float]:
        """Numbers of steps added up by "op" or by "layer"."""
        added: dict[str, float] = {}
        for step, number in zip(self.steps, numbers.tolist(), strict=True):
            name = step.op if key == "op" or step.layer is None else f"blk.{step.layer}"
            added[name] = added.get(name, 0.0) + number
        return added


def attribute(found: Opened, *dumps: Dump) -> tuple[Attribution, ...]:
    """The attribution of each dump. Steps whose taps it does not have are one with the next one that it has.

    Raises ModelError for a dump without logits, or one that has something that is no number.
    """
    head = _Head.of(found)
    with ThreadPoolExecutor(_THREADS) as pool:
        return tuple(pool.map(lambda dump: _attribute(found, dump, head), dumps))


def _attribute(found: Opened, dump: Dump, head: _Head) -> Attribution:
    names = known.names(dump)
    last = found.steps[-1]
    if last.tap not in names:
        raise ModelError("attribution needs the logits of the run, which the dump does not have")
    by_tap = {step.tap: step for step in found.steps}
    kept = [step for step in found.steps if step.tap in names]
    for step in kept:
        # What is masked may be anything.
        if step.op != "scores" and not np.isfinite(known.get(dump, step.tap, by_tap).value).all():
            raise ModelError(f"{step.tap} has something that is no number, so that no drift can be attributed")
    chosen = _chosen(found, dump, kept)
    logits, there = drift.whole(dump, last.tap, by_tap)
    count, n = len(chosen) + 1, len(there)
    inner, squares = np.zeros((count, n)), np.zeros((count, n))
    most = max(1, _AT_ONCE // (8 * n * _widest(found, n)))
    previous = _finals(found, dump, chosen, 0, 1)
    exact = head.logits(previous[0])
    whole_drift = logits - exact
    toward = head.back(whole_drift)
    for start in range(1, count, most):
        stop = min(start + most, count)
        runs = np.concatenate((previous, _finals(found, dump, chosen, start, stop)))
        steps = np.diff(runs, axis=0)
        inner[start - 1 : stop - 1] = np.einsum("knd,nd->kn", steps, toward)
        squares[start - 1 : stop - 1] = np.einsum("knd,knd->kn", steps @ head.gram, steps)
        previous = runs[-1:]
    # What the head itself adds, and steps before it that have no run of their own.
    own = logits - head.logits(previous[0])
    inner[-1], squares[-1] = (own * whole_drift).sum(axis=1), (own**2).sum(axis=1)
    apart, size = (whole_drift**2).sum(axis=1), (exact**2).sum(axis=1)
    return Attribution((*chosen, last), inner * there, squares * there, apart * there, size * there, there)


@attrs.frozen(eq=False)
class _Head:
    """The last product, a part of its rows at a time: ``gram`` is W^T W."""

    _product: Product
    gram: Float64[np.ndarray, "d d"]

    @staticmethod
    def of(found: Opened) -> _Head:
        product = found.steps[-1].operation
        assert isinstance(product, Product)
        gram = np.zeros((product.weight.columns, product.weight.columns))
        for part in weights.parts(product.weight):
            values = part.values.astype(np.float64)
            gram += values.T @ values
        return _Head(product, gram)

    def logits(self, x: Float64[np.ndarray, "n d"]) -> Float64[np.ndarray, "n V"]:
        made = [x @ part.values.astype(np.float64).T for part in weights.parts(self._product.weight)]
        return np.concatenate(made, axis=1) + (0.0 if self._product.bias is None else self._product.bias)

    def back(self, drift: Float64[np.ndarray, "n V"]) -> Float64[np.ndarray, "n d"]:
        """``drift @ W``."""
        return np.asarray(sum(drift[:, part.start : part.stop] @ part.values.astype(np.float64)
                              for part in weights.parts(self._product.weight)))  # fmt: skip


def _chosen(found: Opened, dump: Dump, kept: Several[Step]) -> list[Step]:
    """The steps before the head that have a run of their own."""
    exactly = {step.tap: "f32" for step in found.steps}
    own = drift.isolated_in(found, dump, "exact", exactly)
    size = {tap: float(np.nanmax(share, initial=0.0)) for tap, share in own.items()}
    least = SMALL * max((share for share in size.values() if np.isfinite(share)), default=0.0)
    return [step for step in kept if size.get(step.tap, 0.0) > least and step is not found.steps[-1]]


def _widest(found: Opened, n: int) -> int:
    """Numbers that a tap has of a token, at most; of scores a part of them, which are n for each head."""
    rows = [step.operation.weight.rows for step in found.steps[:-1] if isinstance(step.operation, Product)]
    heads = [step.operation.heads * n for step in found.steps if isinstance(step.operation, Scores)]
    return max(rows + heads)


def _finals(found: Opened, dump: Dump, chosen: Several[Step], start: int, stop: int) -> Float64[np.ndarray, "runs n d"]:
    """What the head reads in the runs from ``start`` to before ``stop``: run r keeps the dump up to step r of
    ``chosen``, counted from 1.
    """
    *steps, head = found.steps
    names, by_tap = known.names(dump), {step.tap: step for step in found.steps}
    sequence = known.sequence_of(dump)
    order = {step.tap: index for index, step in enumerate(steps)}
    kept = [-1 if run == 0 else order[chosen[run - 1].tap] for run in range(start, stop)]
    last = {tap: index for index, step in enumerate(found.steps) for tap in step.inputs}
    # Of each tap the runs that have computed it, and then, once for all others, the dump's own.
    held = {tap: value[None] for tap, value in drift.cached(dump, found).items()}
    for index, step in enumerate(steps):
        computing = sum(place < index for place in kept)
        given = drift.whole(dump, step.tap, by_tap) if step.tap in names else None
        whole = given is not None and bool(given[1].all())
        rows = computing if whole else computing + 1
        made = None
        if rows:
            made = _computed(found, step, [_padded(held[tap], rows) for tap in step.inputs], sequence)
            made = np.broadcast_to(
                made, (rows, *made.shape[-3 if isinstance(step.operation, Scores | Probs) else -2 :])
            )
        if given is not None:
            value, there = given
            own = value if made is None or whole else np.where(there[:, None], value, made[-1])
            made = own[None] if made is None else np.concatenate((made[:computing], own[None]))
        assert made is not None
        held[step.tap] = made
        for tap in step.inputs:
            if last[tap] <= index:
                held.pop(tap, None)
    return _padded(held[head.inputs[0]], stop - start)


def _padded(runs: Float64[np.ndarray, "some ..."], count: int) -> Float64[np.ndarray, "count ..."]:
    """As many runs, those that are not there as the last one."""
    if count <= len(runs):
        return runs[:count]
    return np.concatenate((runs, np.broadcast_to(runs[-1:], (count - len(runs), *runs.shape[1:]))))


def _computed(found: Opened, step: Step, inputs: list[np.ndarray], sequence: Sequence) -> np.ndarray:
    operation = step.operation
    if isinstance(operation, Product):
        return found.weights.multiplied(operation, inputs[0], "f32", sequence)
    return np.asarray(operation.value(inputs, "f32", sequence))
