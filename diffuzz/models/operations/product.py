r"""The product of a weight matrix and activations, with a bias where there is one.

    f32              activations as they are
    f16, bf16        rounded to it
    q8               quantised to the 8-bit format that ggml pairs with the weights' format, scales in f16
    q8, f32 scale    the same with scales (and, for q4_1 and q5_1, sums) in float32; q8_K has no other

Of other engines, and not tried unless all of these fail (``unusual``):

    int8 by 64 ...   codes of 8 bits with a scale for so many elements, or by row; f16 scale: stored in f16
    fp8 by row ...   the same with codes in float8 (e4m3)
    f32, bf16 weights ...    dequantised weights are rounded, and activations are f32, f16 or bf16
    tf32             both are rounded to 11 bits

**Bounds.** With activations as they are, a sum of k products whose weights take three roundings is off by gamma_{k+4}
sum |terms x|. Codes are multiplied in integers within a block or a sub-block of 16 or 32, so a product of codes has one
rounding for each of those, and sixteen more: of the scales, the restored activations and weights, and the last sums.
It is off by gamma_{k/16+16} or gamma_{k/32+16} of the same sum. A term is |scale code| or |minimum|, because both are
summed apart, and the bias is one, because some engines begin with it.

**Choices.** An estimate takes those choices of codes (diffuzz.models.operations.activations) that bring it nearer to
the result that is judged; each is one of the arithmetic's own, so the bound need not allow for them.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Sequence as Several
from typing import TYPE_CHECKING

import attrs
import numpy as np

from diffuzz import formats
from diffuzz.kernels import fused
from diffuzz.models.model import Tensor
from diffuzz.models.operations import activations, weights
from diffuzz.models.operations.activations import Choice, Codes, Seen
from diffuzz.models.operations.rounding import FLUSHED, TINY, UNIT, gamma, to, to_within
from diffuzz.models.sequence import Sequence
from diffuzz.models.step import Estimate

if TYPE_CHECKING:
    from jaxtyping import Float, Float32, Float64

_GGML = ("q8", "q8, f32 scale")
# Names of arithmetics in which activations are codes.
CODES = frozenset({*_GGML, *activations.UNUSUAL})
# What activations and weights are rounded to.
_ROUNDED = {
    "f32, bf16 weights": ("f32", "bf16"),
    "bf16, bf16 weights": ("bf16", "bf16"),
    "f32, f16 weights": ("f32", "f16"),
    "f16, f16 weights": ("f16", "f16"),
    "tf32": ("tf32", "tf32"),
}
# Formats whose scales are of 16 elements.
_SIXTEENS = ("q2_K", "q3_K", "q6_K", "iq2_xs", "iq2_s", "nvfp4")
_ROUNDINGS = 16
# Elements that a stored sum of activations is of.
_SUMMED = 32
# So many choices of a token are tried in every combination.
_FEW = 10
# Above the relative error of a float32 sum of up to 2^16 products.
_MORE = 1.01


@attrs.frozen(eq=False)
class Product:
    """``x @ weight.T + bias``."""

    weight: Tensor
    bias: Float32[np.ndarray, " rows"] | None = None

    @property
    def partner(self) -> str | None:
        """The format that ggml quantises activations to, or rounds them to; None for float32 weights."""
        return None if self.weight.format in ("f32", "f64") else formats.get(self.weight.format).activation

    @property
    def arithmetics(self) -> tuple[str, ...]:
        """See the module."""
        if self.partner == "q8_K":
            return ("f32", "q8", "f16", "bf16")
        return ("f32", *_GGML, "f16", "bf16") if self.partner in ("q8_0", "q8_1") else ("f32", "f16", "bf16")

    @property
    def unusual(self) -> tuple[str, ...]:
        """See the module."""
        k = self.weight.shape[1]
        fit = (name for name, codes in activations.UNUSUAL.items() if k % (codes.size or k) == 0 and codes.size != k)
        return (*fit, *_ROUNDED)

    def _codes(self, arithmetic: str) -> Codes | None:
        """The codes of activations; None where they are no codes."""
        if arithmetic in _GGML and self.partner is not None:
            return activations.of_format(self.partner, half=arithmetic == "q8")
        return activations.UNUSUAL.get(arithmetic)

    def value(
        self, inputs: Several[Float[np.ndarray, " ..."]], arithmetic: str, sequence: Sequence
    ) -> Float[np.ndarray, "... rows"]:
        """In the dtype of the activations; sums are NumPy's. The weights are dequantised a part at a time."""
        x = inputs[0]
        pieces = ((part.values, self._paired(part.minimum, arithmetic)) for part in weights.parts(self.weight))
        return self._multiplied(x, arithmetic, pieces)

    def _paired(
        self, minimum: Float32[np.ndarray, "rows b"] | None, arithmetic: str
    ) -> Float32[np.ndarray, "rows b"] | None:
        """Minimums, where activations come with sums for them."""
        return minimum if self.partner == "q8_1" and arithmetic in _GGML else None

    def weight_values(self, dtype: np.dtype) -> tuple[Float[np.ndarray, "rows k"], Float[np.ndarray, "rows b"] | None]:
        """What ``multiplied`` needs: the weights and, for activations of q8_1, the minimums of their blocks."""
        whole = list(weights.parts(self.weight))
        values = np.concatenate([part.values for part in whole]).astype(dtype, copy=False)
        if self.partner != "q8_1" or whole[0].minimum is None:
            return values, None
        return values, np.concatenate([part.minimum for part in whole if part.minimum is not None]).astype(dtype)

    def multiplied(
        self,
        x: Float[np.ndarray, "... k"],
        arithmetic: str,
        weight: tuple[Float[np.ndarray, "rows k"], Float[np.ndarray, "rows b"] | None],
    ) -> Float[np.ndarray, "... rows"]:
        """The product with weights that are at hand, in any dtype; they are converted a part at a time."""
        values, minimum = weight
        step = max(1, weights.PART // values.shape[1])
        rows = [slice(start, start + step) for start in range(0, len(values), step)]
        return self._multiplied(
            x, arithmetic, ((values[some], None if minimum is None else minimum[some]) for some in rows)
        )

    def _multiplied(
        self,
        x: Float[np.ndarray, "... k"],
        arithmetic: str,
        pieces: Iterable[tuple[Float[np.ndarray, "some k"], Float[np.ndarray, "some b"] | None]],
    ) -> Float[np.ndarray, "... rows"]:
        flat = np.ascontiguousarray(x.reshape(-1, x.shape[-1]))
        broken = ~np.isfinite(flat).all(axis=-1) & (arithmetic in CODES)
        flat, short = self._read(np.where(broken[:, None], 0, flat) if broken.any() else flat, arithmetic)
        made = []
        with np.errstate(all="ignore"):
            for values, minimum in pieces:
                made.append(flat @ _weights(values, arithmetic).astype(x.dtype, copy=False).T)
                if short is not None and minimum is not None:
                    made[-1] += short @ minimum.astype(x.dtype, copy=False).T
            result = made[0] if len(made) == 1 else np.concatenate(made, axis=-1)
            if self.bias is not None:
                result += self.bias.astype(x.dtype)
            if broken.any():
                # What codes are of such activations differs between engines.
                result[broken] = np.nan
        return np.asarray(result.reshape(*x.shape[:-1], -1))

    def _read(
        self, flat: Float[np.ndarray, "n k"], arithmetic: str
    ) -> tuple[Float[np.ndarray, "n k"], Float[np.ndarray, "n k/32"] | None]:
        """The activations as they are read, and what stored sums of theirs lack of their sums."""
        if arithmetic not in CODES:
            return to(_ROUNDED.get(arithmetic, (arithmetic,))[0], flat), None
        dtype = flat.dtype
        if arithmetic == "q8" or (self.partner == "q8_K" and arithmetic in _GGML):
            seen, shares = fused.seen(self.partner or "", flat.astype(np.float32))
            values = seen.astype(dtype)
            if self.partner != "q8_1":
                return values, None
            return values, (values - shares.astype(dtype)).reshape(len(flat), -1, _SUMMED).sum(axis=2)
        codes = self._codes(arithmetic)
        assert codes is not None
        exact = activations.quantised(codes, flat.astype(np.float64), None)
        return exact.values.astype(dtype), None

    def estimate(
        self,
        inputs: Several[Float64[np.ndarray, "n k"]],
        errors: Several[Float64[np.ndarray, "n k"] | None],
        arithmetic: str,
        sequence: Sequence,
        got: Float64[np.ndarray, "n rows"] | None,
    ) -> Estimate:
        """See the module."""
        return self.estimates(inputs[0], errors[0], (arithmetic,), got)[0]

    def estimates(
        self,
        x: Float64[np.ndarray, "n k"],
        error: Float64[np.ndarray, "n k"] | None,
        arithmetics: Several[str],
        got: Float64[np.ndarray, "n rows"] | None,
    ) -> list[Estimate]:
        """The estimates of several arithmetics, for which the weights are dequantised once. NaN for a token of whose
        activations one is no number: nothing is promised of it.
        """
        broken = ~np.isfinite(x).all(axis=-1)
        if broken.any():
            x = np.where(broken[:, None], 0.0, x)
            error = None if error is None else np.where(broken[:, None], 0.0, error)
        seen = [self._seen(x, error, arithmetic, got is not None) for arithmetic in arithmetics]
        exact, short = (np.concatenate(each) for each in zip(*map(_exact_rows, seen), strict=True))
        sizes, of_sums = (np.concatenate(each) for each in zip(*map(_size_rows, seen), strict=True))
        with_sums = self.partner == "q8_1" and (short.any() or of_sums.any())
        ends = np.cumsum([0, *(len(x) + len(each.choices) for each in seen)])
        value = np.empty((len(exact), self.weight.rows))
        spread = np.empty((len(sizes), self.weight.rows), np.float32)
        # What roundings usually make is as large as the root of the sum of squared terms, whose signs differ, and as
        # the sums of codes and of minimums, which may be large and cancel.
        square = sizes * sizes
        sums = np.concatenate([_sums(each, self.weight.format) for each in seen])
        usual = np.empty_like(spread)
        with np.errstate(all="ignore"):
            for part in weights.parts(self.weight):
                rows = slice(part.start, part.stop)
                if any(arithmetic in _ROUNDED for arithmetic in arithmetics):
                    for arithmetic, start, end in zip(arithmetics, ends, ends[1:], strict=False):
                        rounded = _weights(part.values, arithmetic).astype(np.float64)
                        value[start:end, rows] = exact[start:end] @ rounded.T
                else:
                    value[:, rows] = exact @ part.values.astype(np.float64).T
                spread[:, rows] = sizes @ part.sizes.T
                usual[:, rows] = np.sqrt(square @ (part.sizes * part.sizes).T)
                if part.minimum is not None:
                    usual[:, rows] += np.abs(sums @ part.minimum.T)
                if with_sums and part.minimum is not None:
                    value[:, rows] += short @ part.minimum.astype(np.float64).T
                    spread[:, rows] += of_sums @ np.abs(part.minimum).T
            found, n = [], len(x)
            for arithmetic, each in zip(arithmetics, seen, strict=True):
                taken, sized = n + len(each.choices), n if each.error is None else 2 * n
                wide, typical = spread[:sized].astype(np.float64), usual[:n].astype(np.float64)
                found.append(self._estimate(arithmetic, each, value[:taken], wide, typical, got))
                value, spread, usual = value[taken:], spread[sized:], usual[sized:]
        for made in found:
            made.value[broken] = np.nan
        return found

    def _seen(
        self, x: Float64[np.ndarray, "n k"], error: Float64[np.ndarray, "n k"] | None, arithmetic: str, choose: bool
    ) -> Seen:
        codes = self._codes(arithmetic)
        if codes is not None:
            return activations.quantised(codes, x, error, choose=choose)
        values, off = to_within(_ROUNDED.get(arithmetic, (arithmetic,))[0], x, error)
        return Seen(values, None, off, None, ())

    def _estimate(
        self,
        arithmetic: str,
        seen: Seen,
        value: Float64[np.ndarray, "n+choices rows"],
        spread: Float64[np.ndarray, "n_or_2n rows"],
        usual: Float64[np.ndarray, "n rows"],
        got: Float64[np.ndarray, "n rows"] | None,
    ) -> Estimate:
        n = len(seen.values)
        centre = value[:n].copy() if self.bias is None else value[:n] + self.bias
        roundings = self.roundings(arithmetic)
        bias = np.zeros(1) if self.bias is None else np.abs(self.bias.astype(np.float64))
        rounding = gamma(roundings) * (spread[:n] + bias) + FLUSHED
        if self.bias is not None:
            rounding += 2 * UNIT * np.abs(centre)
        allowed = rounding if seen.error is None else rounding + spread[n:]
        if got is not None:
            _choose(centre, seen.choices, value[n:], got)
        # Where the bias comes first, each partial sum is as large as it.
        usual = usual + np.abs(centre) + bias * np.sqrt(roundings) / 4
        return Estimate(centre, allowed, UNIT * usual + FLUSHED)

    def roundings(self, arithmetic: str) -> int:
        """How many a sum has, and what goes into it."""
        if arithmetic not in _GGML:
            # Nobody says how codes of other engines are summed.
            return int(self.weight.shape[1]) + (_ROUNDINGS if arithmetic in CODES else 4)
        return int(self.weight.shape[1]) // (16 if self.weight.format in _SIXTEENS else 32) + _ROUNDINGS


def _weights(values: Float[np.ndarray, "rows k"], arithmetic: str) -> Float[np.ndarray, "rows k"]:
    """Weights as they are multiplied."""
    return to(_ROUNDED[arithmetic][1], values) if arithmetic in _ROUNDED else values


def _sums(seen: Seen, format: str) -> Float32[np.ndarray, "n_or_2n sub_blocks"]:
    """The sums of activations that minimums are multiplied with, in as many rows as ``_size_rows``."""
    n, k = seen.values.shape
    size = weights.sub_block(format)
    sums = np.zeros((n if seen.error is None else 2 * n, -(-k // size)), np.float32)
    if k % size == 0:
        sums[:n] = seen.values.reshape(n, -1, size).sum(axis=2)
    return sums


def _exact_rows(seen: Seen) -> tuple[Float64[np.ndarray, "n+choices k"], Float64[np.ndarray, "n+choices k/32"]]:
    """What is multiplied by the weights, and by the minimums of their blocks: activations and then the changes that
    choices make; and by how much each block's sum is above the stored one.
    """
    n, k = seen.values.shape
    rows = np.zeros((n + len(seen.choices), k))
    rows[:n] = seen.values
    for row, choice in zip(rows[n:], seen.choices, strict=True):
        row[choice.start : choice.start + len(choice.change)] = choice.change
    short = np.zeros((len(rows), -(-k // _SUMMED)))
    if seen.sums is not None:
        short = rows.reshape(len(rows), -1, _SUMMED).sum(axis=2)
        short[:n] -= seen.sums
        for row, choice in zip(short[n:], seen.choices, strict=True):
            row[choice.start // _SUMMED] -= choice.change_of_sum
    return rows, short


def _size_rows(seen: Seen) -> tuple[Float32[np.ndarray, "n_or_2n k"], Float32[np.ndarray, "n_or_2n k/32"]]:
    """What the sizes of weights, and of minimums, are multiplied by: activations, and their errors if there are any. A
    little more than it is, because these sums are in float32.
    """
    n, k = seen.values.shape
    size = np.abs(seen.values) + TINY
    if seen.error is not None:
        size = np.concatenate((size, seen.error))
    of_sums = np.zeros((len(size), -(-k // _SUMMED)), np.float32)
    if seen.of_sums is not None and len(size) > n:
        of_sums[n:] = seen.of_sums * _MORE
    return (size * _MORE).astype(np.float32), of_sums


def _choose(
    centre: Float64[np.ndarray, "n rows"],
    choices: tuple[Choice, ...],
    effects: Float64[np.ndarray, "choices rows"],
    got: Float64[np.ndarray, "n rows"],
) -> None:
    """Add to the centre those effects that bring it nearest to ``got``; of many, nearer than with any other two."""
    for token in {choice.token for choice in choices}:
        mine = effects[[i for i, choice in enumerate(choices) if choice.token == token]]
        left = got[token] - centre[token]
        if not np.isfinite(left).all():
            continue
        centre[token] += _taken(mine @ left, mine @ mine.T, 1e-12 * float(left @ left)) @ mine


def _taken(
    along: Float64[np.ndarray, " choices"], products: Float64[np.ndarray, "choices choices"], least: float
) -> Float64[np.ndarray, " choices"]:
    """The z of zeros and ones for which 2 z . along - z . products z is largest: of all of them if there are few
    choices; else where neither one other number nor two make it more than ``least`` larger.
    """
    count = len(along)
    if count <= _FEW:
        every = (np.arange(2**count)[:, None] >> np.arange(count)) & 1
        gains = 2 * every @ along - ((every @ products) * every).sum(axis=1)
        return np.asarray(every[int(np.argmax(gains))], np.float64)
    taken = np.zeros(count)
    while True:
        moves = 1 - 2 * taken
        one = 2 * moves * (along - products @ taken) - np.diag(products)
        best = int(np.argmax(one))
        if one[best] > least:
            taken[best] = 1 - taken[best]
            continue
        two = one[:, None] + one[None, :] - 2 * np.outer(moves, moves) * products
        np.fill_diagonal(two, 0)
        pair = np.array(np.unravel_index(int(np.argmax(two)), two.shape))
        if two[pair[0], pair[1]] <= least:
            return taken
        taken[pair] = 1 - taken[pair]
