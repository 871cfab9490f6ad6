"""How far a span's result is from what an arithmetic makes of its inputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import attrs
import numpy as np

from diffuzz.models.checking import spans
from diffuzz.models.checking.known import Known
from diffuzz.models.checking.spans import Span
from diffuzz.models.forward import Weights
from diffuzz.models.operations.attention import Scores
from diffuzz.models.operations.product import Product
from diffuzz.models.sequence import Sequence
from diffuzz.models.step import Estimate

if TYPE_CHECKING:
    from jaxtyping import Float64, Int


_LARGEST = float(np.finfo(np.float32).max)


@attrs.frozen(eq=False)
class Judged:
    """A span in one arithmetic.

    worst      the largest error over what is allowed: above 1 it is outside the bound
    share      the largest error over what the roundings of sums and functions may take
    rms        the root of the mean square of the same
    column     how much farther than all others one column is, in all tokens: where a wrong row of weights shows
    number     the same of one number
    relative   the largest relative L2 error of a token (of a head and token for scores and probabilities)
    typical    the median of the same
    ratios     ``worst`` by token
    spread     of a span with replicates: how far it is from its value, in the ways of ``distances``, and how far each
               replicate is
    blank      whether there is nothing to judge, because no number is due: inputs are none
    broken     whether a number is none where one is due
    """

    span: Span
    arithmetics: Mapping[str, str]
    worst: float
    share: float
    rms: float
    relative: float
    typical: float
    ratios: Float64[np.ndarray, " n"]
    spread: tuple[Float64[np.ndarray, " ways"], Float64[np.ndarray, "replicates ways"]] | None = None
    broken: bool = False
    blank: bool = False
    column: float = 0.0
    number: float = 0.0

    @property
    def inside(self) -> bool:
        """Whether no number is outside the bound."""
        return self.worst <= 1


def ratios(got: Known, made: Estimate) -> Float64[np.ndarray, " ..."]:
    """The error of each number over what is allowed; infinity for what is no number where one is due."""
    return _over(got, made.value, made.allowed)


def _over(
    got: Known, value: Float64[np.ndarray, " ..."], most: Float64[np.ndarray, " ..."]
) -> Float64[np.ndarray, " ..."]:
    with np.errstate(all="ignore"):
        most = most if got.error is None else most + got.error
        # What is not known is not promised, and neither is what may be beyond the largest number of float32.
        most = np.where(np.isnan(most) | (np.abs(value) + most > _LARGEST), np.inf, most)
        apart = np.abs(got.value - value)
        share = np.where((got.value == value) | np.isinf(most) | ~np.isfinite(value), 0.0, apart / most)
    return np.where(np.isnan(share), np.inf, share)


def by_token(share: Float64[np.ndarray, " ..."]) -> Float64[np.ndarray, " n"]:
    """The largest of each token; the tokens are the last axis but one."""
    return np.asarray(np.moveaxis(share, -2, 0).reshape(share.shape[-2], -1).max(axis=1))


def apart(value: Float64[np.ndarray, " ..."], got: Known, span: Span, sequence: Sequence) -> float:
    """The median over tokens of the relative L2 distance of a result from a value; places that are hidden from a token
    do not count.
    """
    if value.ndim == 3:
        seen = sequence.visible(getattr(span.last.operation, "window", None))
        value, other = np.where(seen, value, 0.0), np.where(seen, got.value, 0.0)
    else:
        other = got.value
    with np.errstate(all="ignore"):
        share = np.linalg.norm(other - value, axis=-1) / np.maximum(np.linalg.norm(value, axis=-1), 1e-300)
    return float(np.median(np.where(np.isnan(share), np.inf, share)))


def of_estimate(span: Span, arithmetics: Mapping[str, str], got: Known, made: Estimate) -> Judged:
    """What an estimate says of the result."""
    share = ratios(got, made)
    rounded = np.where(np.isinf(made.allowed), 0.0, _over(got, made.value, made.rounding))
    tokens = by_token(share)
    hidden = np.isinf(made.allowed) | ~np.isfinite(made.value)
    apart = np.where(hidden, 0.0, got.value - np.where(hidden, 0.0, made.value))
    size = np.where(hidden, 0.0, made.value)
    with np.errstate(all="ignore"):
        relative = np.linalg.norm(apart, axis=-1) / np.maximum(np.linalg.norm(size, axis=-1), 1e-300)
        rms = float(np.sqrt(np.mean(np.minimum(rounded, 1e100) ** 2)))
    relative = np.where(np.isnan(relative), np.inf, relative)
    column, number = _standing_out(rounded)
    return Judged(
        span, arithmetics, float(share.max(initial=0)), float(rounded.max(initial=0)), rms,
        float(relative.max(initial=0)), float(np.median(relative)), tokens,
        blank=not np.isfinite(made.value).any(), column=column, number=number,
    )  # fmt: skip


def _standing_out(share: Float64[np.ndarray, "... n m"]) -> tuple[float, float]:
    """The largest root mean square of a column over that of all, and the largest number over the same, where each token
    counts alike.
    """
    x = np.minimum(share, 1e100)
    size = np.sqrt(np.mean(x * x, axis=-1, keepdims=True))
    x = np.where(size > 0, x / np.where(size > 0, size, 1.0), 0.0)
    return float(np.sqrt(np.mean(x * x, axis=-2).max())), float(x.max())


def judge(
    span: Span,
    known: Mapping[str, Known],
    arithmetics: Mapping[str, str],
    sequence: Sequence,
    got: Known,
) -> Judged:
    """The span in these arithmetics, by op. Raises UnsupportedError."""
    made = spans.estimate(span, known, arithmetics, sequence, got)
    return of_estimate(span, arithmetics, got, _due(made, span, known, sequence, got))


def _kept(got: Known) -> slice | Int[np.ndarray, " r"]:
    """The tokens that a tap is there for."""
    return slice(None) if got.rows is None else got.rows


def _due(made: Estimate, span: Span, known: Mapping[str, Known], sequence: Sequence, got: Known) -> Estimate:
    """The same, with nothing due of tokens whose inputs are no numbers: engines differ in what they make of these."""
    spoiled = spans.spoiled(span, known, sequence)[_kept(got)]
    if spoiled.any():
        return attrs.evolve(made, value=np.where(spoiled[:, None], np.nan, made.value))
    return made


def judge_all(
    span: Span, known: Mapping[str, Known], sequence: Sequence, got: Known, names: tuple[str, ...] | None = None
) -> list[Judged]:
    """A span of one step in every arithmetic that is usual for it, or in those of these names. Raises
    UnsupportedError.
    """
    step = span.last
    names = step.operation.arithmetics if names is None else names
    inputs = [known[tap] for tap in step.inputs]
    if isinstance(step.operation, Product) and all(spans.rows_equal(each.rows, got.rows) for each in inputs):
        with np.errstate(all="ignore"):
            made = step.operation.estimates(inputs[0].value, inputs[0].error, names, got.value)
        made = [_due(each, span, known, sequence, got) for each in made]
        return [of_estimate(span, {step.op: name}, got, each) for name, each in zip(names, made, strict=True)]
    return [judge(span, known, {step.op: name}, sequence, got) for name in names]


def with_spread(
    judged: Judged, known: Mapping[str, Known], sequence: Sequence, got: Known, weights: Weights, seed: int
) -> Judged:
    """The same with how far replicates are apart; unchanged where that cannot be had."""
    span = judged.span
    # A generator of its own for each span, so that what a span is judged by does not depend on others.
    rng = np.random.default_rng([seed, *span.last.tap.encode()])
    try:
        centre, others = spans.replicates(span, known, judged.arithmetics, sequence, weights, rng)
    except spans.UnsupportedError:
        return judged
    if got.rows is not None:
        centre, others = centre[..., got.rows, :], others[..., got.rows, :]
    # Scores have an axis of heads, and places that may hold anything.
    hidden = np.zeros(got.value.shape, bool)
    if isinstance(span.last.operation, Scores):
        hidden |= ~sequence.visible(span.last.operation.window)
    value, centre, others = (
        _by_token(np.where(hidden, 0.0, each), got.value.ndim) for each in (got.value, centre, others)
    )
    centre = np.where(spans.spoiled(span, known, sequence)[_kept(got), None], np.nan, centre)
    stored = 0.0 if got.error is None else _by_token(np.where(hidden, 0.0, got.error), got.value.ndim)
    broken = bool((np.isfinite(centre) & ~np.isfinite(value)).any())
    return attrs.evolve(
        judged,
        spread=(distances(value, centre, stored), distances(others, centre, 0.0)),
        broken=judged.broken or broken,
    )


def _by_token(x: Float64[np.ndarray, " ..."], ndim: int) -> Float64[np.ndarray, "... n m"]:
    """All numbers of a token in a row."""
    if ndim == 2:
        return x
    turned = np.swapaxes(x, -3, -2)
    return turned.reshape(*turned.shape[:-2], -1)


def distances(
    x: Float64[np.ndarray, "... n m"], centre: Float64[np.ndarray, "n m"], stored: Float64[np.ndarray, "n m"] | float
) -> Float64[np.ndarray, "... ways"]:
    """How far a result is from a value, less what its storage explains, in n + 2 ways, relative to the size of each
    token: the relative L2 distances of the n tokens, the largest first; the largest root mean square of a column, which
    is where a wrong weight shows; and the largest of one number.
    """
    m = centre.shape[-1]
    with np.errstate(all="ignore"):
        size = np.maximum(np.sqrt((centre * centre).sum(axis=-1, keepdims=True)), 1e-300)
        share = np.maximum(np.abs(x - centre) - stored, 0.0) / size
        share = np.where(np.isnan(share), np.where(np.isnan(centre), 0.0, np.inf), share)
        square = np.square(np.minimum(share, 1e100))
    tokens = np.sort(np.sqrt(square.sum(axis=-1)), axis=-1)[..., ::-1]
    columns = np.sqrt(square.mean(axis=-2).max(axis=-1, keepdims=True) * m)
    numbers = np.sqrt(square.max(axis=(-2, -1))[..., None] * m)
    return np.concatenate((tokens, columns, numbers), axis=-1)
