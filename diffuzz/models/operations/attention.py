"""Attention in three steps: scores of keys, their softmax, and the sum of values.

Heads share keys and values: head h of H uses number h G // H of G. Scores are those of q . k, neither scaled nor
masked; the softmax scales and masks them.
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence as Several
from types import MappingProxyType
from typing import TYPE_CHECKING

import attrs
import numpy as np

from diffuzz.models.operations import activations
from diffuzz.models.operations.activations import Codes
from diffuzz.models.operations.rounding import FLUSHED, TINY, UNIT, gamma, to, to_within
from diffuzz.models.sequence import Sequence
from diffuzz.models.step import Estimate

if TYPE_CHECKING:
    from jaxtyping import Float, Float64

# Which of two factors are rounded to a narrower format before they are multiplied: the one that comes from the cache,
# or both, as ggml does.
_ROUNDED = {
    "f32": ("f32", "f32"),
    "f16": ("f16", "f16"),
    "bf16": ("bf16", "bf16"),
    "f16 cache": ("f32", "f16"),
    "bf16 cache": ("f32", "bf16"),
}

# The same of engines whose cache holds codes, which are not tried unless all others fail: those of the first factor,
# and of the one from the cache. A scale is for a head of one key, or for 32 elements of it as in ggml's q8_0.
_CODED: Mapping[str, tuple[Codes | None, Codes]] = MappingProxyType({
    "int8 cache": (None, Codes(0, half=False)),
    "q8_0 cache": (None, Codes(32, half=True)),
    "q8_0": (Codes(32, half=True), Codes(32, half=True)),
})  # fmt: skip


def _in_codes(
    codes: Codes | None, x: Float[np.ndarray, " ..."], error: Float[np.ndarray, " ..."] | None, head: int
) -> tuple[Float[np.ndarray, " ..."], Float[np.ndarray, " ..."] | None]:
    """Heads of so many elements side by side, in codes and restored, and how far off each may be."""
    if codes is None:
        return x, error
    seen = activations.quantised(
        codes, x.reshape(-1, head).astype(np.float64), None if error is None else error.reshape(-1, head), choose=False
    )
    return seen.values.reshape(x.shape).astype(x.dtype), None if seen.error is None else seen.error.reshape(x.shape)


def _with_past(parts: Several[Float[np.ndarray, " ..."]], groups: int) -> Float[np.ndarray, "... keys groups c"]:
    """Keys or values of the tokens, after those of the cache if there are any."""
    new = parts[0].reshape(*parts[0].shape[:-1], groups, -1)
    if len(parts) == 1:
        return new
    past = parts[1].reshape(*parts[1].shape[:-1], groups, -1)
    return np.concatenate((np.broadcast_to(past, (*new.shape[:-3], *past.shape[-3:])), new), axis=-3)


@attrs.frozen(eq=False)
class Scores:
    """``scores[h, i, j] = q[i, h] . k[j, g]``.

    arithmetics    f32; f16, bf16: both factors are rounded to it; f16 cache, bf16 cache: only k is
    """

    heads: int
    groups: int
    window: int | None = None

    @property
    def arithmetics(self) -> tuple[str, ...]:
        """See the class."""
        return tuple(_ROUNDED)

    @property
    def unusual(self) -> tuple[str, ...]:
        """Arithmetics of few engines."""
        return tuple(_CODED)

    def _coded(
        self,
        inputs: Several[Float[np.ndarray, " ..."]],
        errors: Several[Float[np.ndarray, " ..."] | None],
        arithmetic: str,
    ) -> tuple[list[Float[np.ndarray, " ..."]], list[Float[np.ndarray, " ..."] | None]]:
        """q and k as they are read from codes, and their errors."""
        head = inputs[0].shape[-1] // self.heads
        made = [
            _in_codes(_CODED[arithmetic][min(index, 1)], x, error, head)
            for index, (x, error) in enumerate(zip(inputs, errors, strict=True))
        ]
        return [x for x, _ in made], [error for _, error in made]

    def _factors(
        self, inputs: Several[Float[np.ndarray, " ..."]]
    ) -> tuple[Float[np.ndarray, "... groups heads/groups n c"], Float[np.ndarray, "... groups 1 c keys"]]:
        q = inputs[0].reshape(*inputs[0].shape[:-1], self.groups, self.heads // self.groups, -1)
        k = _with_past(inputs[1:], self.groups)
        return np.moveaxis(q, -4, -2), np.moveaxis(k, -3, -1)[..., None, :, :]

    def _joined(self, product: Float[np.ndarray, " ..."]) -> Float[np.ndarray, "... heads n keys"]:
        return product.reshape(*product.shape[:-4], self.heads, *product.shape[-2:])

    def value(
        self, inputs: Several[Float[np.ndarray, " ..."]], arithmetic: str, sequence: Sequence
    ) -> Float[np.ndarray, "... heads n keys"]:
        """``inputs`` are q, k and, after a cache, its keys."""
        if arithmetic in _CODED:
            inputs, _ = self._coded(inputs, [None] * len(inputs), arithmetic)
            arithmetic = "f32"
        q, k = self._factors(inputs)
        for_q, for_k = _ROUNDED[arithmetic]
        with np.errstate(all="ignore"):
            return self._joined(to(for_q, q) @ to(for_k, k))

    def estimate(
        self,
        inputs: Several[Float64[np.ndarray, " ..."]],
        errors: Several[Float64[np.ndarray, " ..."] | None],
        arithmetic: str,
        sequence: Sequence,
        got: Float64[np.ndarray, " ..."] | None,
    ) -> Estimate:
        """gamma_{c+8} sum |q k|: some engines scale q or the score, by the logarithm of 2, too, and it is scaled back
        here. Masked places may hold anything.
        """
        if arithmetic in _CODED:
            inputs, errors = self._coded(inputs, errors, arithmetic)
            arithmetic = "f32"
        for_q, for_k = _ROUNDED[arithmetic]
        factors = self._factors(inputs)
        zero = [np.zeros(each.shape) if error is None else error for each, error in zip(inputs, errors, strict=True)]
        of_factors = self._factors(zero) if any(error is not None for error in errors) else (None, None)
        q, of_q = to_within(for_q, factors[0], of_factors[0])
        k, of_k = to_within(for_k, factors[1], of_factors[1])
        with np.errstate(all="ignore"):
            value = self._joined(q @ k)
            rounding = self._joined((np.abs(q) + TINY) @ (np.abs(k) + TINY)) * gamma(q.shape[-1] + 8) + FLUSHED
            allowed = rounding
            if of_q is not None and of_k is not None:
                allowed = allowed + self._joined(of_q @ np.abs(k) + (np.abs(q) + of_q) @ of_k)
        hidden = ~sequence.visible(self.window)
        return Estimate(value, np.where(hidden, np.inf, allowed), rounding)


@attrs.frozen(eq=False)
class Probs:
    """``softmax(scale * scores)`` over the keys that a token attends to; 0 for the others.

    arithmetics    f32
    """

    scale: float
    window: int | None = None

    @property
    def arithmetics(self) -> tuple[str, ...]:
        """See the class."""
        return ("f32",)

    def value(
        self, inputs: Several[Float[np.ndarray, "... heads n keys"]], arithmetic: str, sequence: Sequence
    ) -> Float[np.ndarray, "... heads n keys"]:
        """The largest scaled score is subtracted from all."""
        seen = sequence.visible(self.window)
        with np.errstate(all="ignore"):
            scaled = np.where(seen, inputs[0] * inputs[0].dtype.type(self.scale), -np.inf)
            e = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
            return np.asarray(e / e.sum(axis=-1, keepdims=True))

    def estimate(
        self,
        inputs: Several[Float64[np.ndarray, "heads n keys"]],
        errors: Several[Float64[np.ndarray, "heads n keys"] | None],
        arithmetic: str,
        sequence: Sequence,
        got: Float64[np.ndarray, "heads n keys"] | None,
    ) -> Estimate:
        """An exponent w - max is off by 2 u (|w| + |max|) and an exponential by 4 ULP, so a term by a share r; a sum of
        P terms by the mean of these and gamma_P; a quotient by 5 u more.

        Allowed is more: 6 u (|w| + |max|), because powers of two need two roundings more of w and of max, and the scale
        is rounded, too; and 9 u for each time that terms are rescaled, as where a softmax goes along keys and finds a
        new maximum.
        """
        value = self.value(inputs, arithmetic, sequence)
        seen = sequence.visible(self.window)
        scaled = np.where(seen, inputs[0] * self.scale, 0.0)
        with np.errstate(all="ignore"):
            peak = np.abs(np.where(seen, scaled, -np.inf).max(axis=-1, keepdims=True))
            size = UNIT * (np.abs(scaled) + peak)
            rounding = self._relative(value, 2 * size + 8 * UNIT) + 2 * FLUSHED * seen
            share = 6 * size + 8 * UNIT + 9 * UNIT * _rescaled(np.where(seen, scaled, -np.inf))
            if errors[0] is not None:
                share = share + np.where(seen, errors[0] * abs(self.scale), 0.0)
            allowed = self._relative(value, share) + 2 * FLUSHED * seen
        return Estimate(value, np.where(np.isnan(allowed), np.inf, allowed), rounding)

    def _relative(
        self, value: Float64[np.ndarray, "heads n keys"], exponent: Float64[np.ndarray, "heads n keys"]
    ) -> Float64[np.ndarray, "heads n keys"]:
        """The error of probabilities whose exponents are off by ``exponent``."""
        whole = (value * np.expm1(exponent)).sum(axis=-1, keepdims=True) + gamma(value.shape[-1])
        return np.asarray(value * (np.expm1(exponent) + whole + 5 * UNIT) / np.maximum(1 - whole, 2.0**-10))


def _rescaled(scaled: Float64[np.ndarray, "heads n keys"]) -> Float64[np.ndarray, "heads n 1"]:
    """How often terms are rescaled: at each key that is above all keys before it, or, from the other end, after it; and
    once more where parts of the keys are joined.
    """
    counts = []
    for x in (scaled, scaled[..., ::-1]):
        most = np.maximum.accumulate(x, axis=-1)
        counts.append((most[..., 1:] > most[..., :-1]).sum(axis=-1, keepdims=True))
    return np.asarray(1.0 + np.maximum(*counts))


@attrs.frozen(eq=False)
class Mixture:
    """``attn[i, h] = sum_j probs[h, i, j] v[j, g]``, heads side by side.

    size           elements c of a head
    arithmetics    f32; f16, bf16: both factors are rounded to it; f16 cache, bf16 cache: only v is
    """

    heads: int
    groups: int
    size: int

    @property
    def arithmetics(self) -> tuple[str, ...]:
        """See the class."""
        return tuple(_ROUNDED)

    @property
    def unusual(self) -> tuple[str, ...]:
        """Arithmetics of few engines."""
        return tuple(name for name, (first, _) in _CODED.items() if first is None)

    def _coded(
        self,
        inputs: Several[Float[np.ndarray, " ..."]],
        errors: Several[Float[np.ndarray, " ..."] | None],
        arithmetic: str,
    ) -> tuple[list[Float[np.ndarray, " ..."]], list[Float[np.ndarray, " ..."] | None]]:
        """The probabilities, and v as it is read from codes, and their errors."""
        codes = _CODED[arithmetic][1]
        made = [_in_codes(codes, x, error, self.size) for x, error in zip(inputs[1:], errors[1:], strict=True)]
        return [inputs[0], *(x for x, _ in made)], [errors[0], *(error for _, error in made)]

    def _factors(
        self, inputs: Several[Float[np.ndarray, " ..."]]
    ) -> tuple[Float[np.ndarray, "... groups heads/groups n keys"], Float[np.ndarray, "... groups 1 keys c"]]:
        p, v = inputs[0], _with_past(inputs[1:], self.groups)
        p = p.reshape(*p.shape[:-3], self.groups, self.heads // self.groups, *p.shape[-2:])
        return p, np.moveaxis(v, -3, -2)[..., None, :, :]

    def _joined(self, product: Float[np.ndarray, " ..."]) -> Float[np.ndarray, "... n heads*c"]:
        heads = product.reshape(*product.shape[:-4], self.heads, *product.shape[-2:])
        return np.swapaxes(heads, -3, -2).reshape(*heads.shape[:-3], heads.shape[-2], -1)

    def value(
        self, inputs: Several[Float[np.ndarray, " ..."]], arithmetic: str, sequence: Sequence
    ) -> Float[np.ndarray, "... n heads*c"]:
        """``inputs`` are the probabilities, the values and, after a cache, its values."""
        if arithmetic in _CODED:
            inputs, _ = self._coded(inputs, [None] * len(inputs), arithmetic)
            arithmetic = "f32"
        p, v = self._factors(inputs)
        for_p, for_v = _ROUNDED[arithmetic]
        with np.errstate(all="ignore"):
            return self._joined(to(for_p, p) @ to(for_v, v))

    def estimate(
        self,
        inputs: Several[Float64[np.ndarray, " ..."]],
        errors: Several[Float64[np.ndarray, " ..."] | None],
        arithmetic: str,
        sequence: Sequence,
        got: Float64[np.ndarray, " ..."] | None,
    ) -> Estimate:
        """gamma_{P+2} sum |p v|: an engine that divides by the sum of exponentials at the end has a rounding more.
        Allowed is gamma_{2P+4}: one that goes along keys rescales the sum at each.
        """
        if arithmetic in _CODED:
            inputs, errors = self._coded(inputs, errors, arithmetic)
            arithmetic = "f32"
        for_p, for_v = _ROUNDED[arithmetic]
        factors = self._factors(inputs)
        zero = [np.zeros(each.shape) if error is None else error for each, error in zip(inputs, errors, strict=True)]
        of_factors = self._factors(zero) if any(error is not None for error in errors) else (None, None)
        p, of_p = to_within(for_p, factors[0], of_factors[0])
        v, of_v = to_within(for_v, factors[1], of_factors[1])
        with np.errstate(all="ignore"):
            value = self._joined(p @ v)
            size = self._joined((np.abs(p) + TINY) @ (np.abs(v) + TINY))
            rounding = size * gamma(p.shape[-1] + 2) + FLUSHED
            allowed = size * gamma(2 * p.shape[-1] + 4) + FLUSHED
            if of_p is not None and of_v is not None:
                allowed = allowed + self._joined(of_p @ np.abs(v) + (np.abs(p) + of_p) @ of_v)
        return Estimate(value, allowed, rounding)
